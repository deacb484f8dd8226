"""Checkpoints in NVIDIA's `block_configs` schema, for the DeciLM loaders of vLLM, SGLang and TensorRT-LLM.

- `export`: writes one, in shapes that the schema has words for.
- `configuration_decilm`: the configuration class that a checkpoint carries.
- `check`: what a fresh process does with it: a reader with the loaders' rules.
"""
