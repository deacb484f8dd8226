"""Matrices rounded to the types of GGUF files, by these formats' own arithmetic.

- `rounded`: codes of a matrix, and what they stand for.
- `gram_rounding`: rounding that knows the Gram matrix of a matrix's inputs.
"""
