"""The vocabulary of an export: how text uses tokens, a model without those that it uses least, and what that costs.

- `settings`: what is kept, and what is counted; `counts`: uses of tokens over a text.
- `bits`: bits per byte, in which models with different tokenizers are compared.
- `trim`: all of it for one export.
"""
