"""Checkpoints in NVIDIA's `block_configs` schema, for vLLM's DeciLM loader.

- `export`: writes one, in shapes that the schema has words for.
- `configuration_decilm`: the configuration class that a checkpoint carries.
- `check`: what a fresh process does with it: a reader with the loader's rules.
"""
