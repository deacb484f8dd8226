"""Smaller vocabularies: which tokens a model keeps, and the tokenizer that cuts text into these alone; free of torch.

- `kinds`: the kinds of tokenizers, a row each: what every level keeps, what a token is merged from.
- `levels`: all tokens in the order in which levels keep them, so that a level is a prefix.
- `trimmed`: the contents of a tokenizer.json with some tokens alone.
- `check`: a trimmed tokenizer beside the whole one, on text.
"""
