"""Checkpoints in NVIDIA's block_configs schema, for vLLM's DeciLM loader."""
