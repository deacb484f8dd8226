"""Checkpoints for transformers.

- `export`: writes one, plain where all layers are equal and with a modelling file where they are not.
- `reload_check`: what a fresh process does with it.
"""
