"""Where README's figures came from: each file is one command, run by hand."""
