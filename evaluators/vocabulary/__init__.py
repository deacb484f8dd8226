"""Smaller vocabularies: how text uses tokens, models without those that it uses least, and what that costs.

- `settings`: what is kept, and what is counted; `counts`: uses of tokens over a text.
- `ranked`: the tokens of a model in the order in which they are kept, and tokenizers of some alone.
- `bits`: bits per byte, in which models with different tokenizers are compared.
- `pieces`: what stands for dropped tokens; `contexts`: where text uses these; `spelling`: blocks learn to write them.
- `trim`: all of it for one export.
- `of_run`: the vocabularies that the designs of a run choose from; `judged`: these designs in bits per byte.
"""
