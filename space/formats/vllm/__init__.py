"""vLLM, which serves the checkpoints of `space.formats.hf`: it runs in an environment of its own.

- `environment`: where that is, and how it is made.
- `check`: a checkpoint in vLLM, compared with the model that it came from.
- `vllm_process`: what a fresh process of that environment does.
"""
