"""Where figures came from: each is one command, `python -m benchmarks.<name>`, run by hand.

`gpu` is what a GPU has to answer, with its checks in `device`; the tests run it on tiny models.
"""
