"""Where README's figures came from: each is one command, `python -m benchmarks.<name>`, run by hand."""
