"""Checkpoints: a subnet written in the format of those who serve it, and shown to be right before it appears.

- `registry`: the formats by name; `requirements`: what is asked of one before any work.
- `checkpoint`: what of a subnet goes into a checkpoint of any format.
- `trimmed`: a subnet with fewer tokens, for any of the formats.
- `equal_forms`: layers written larger without changing what they compute, for formats without a word for their shape.
- `llama_arithmetic`: what engines take for granted of a Llama.
- `greedy`: what other engines continue greedily, compared with the checkpoint.
- `reveal`: a directory that appears when it is complete.
- `reference`: what a checkpoint is compared with.
- `verify`: a checkpoint for transformers, reloaded and compared.
- `greedy`: what other engines continue, compared with the checkpoint.
- `child`, `child_process`: the two sides of a question to a fresh process that cannot import this project.
- `model_card`: README.md; `picture`: what is left of each layer, which it shows.
- `push`: an export on the model hub.


Packages: `hf` (transformers), `vllm` (which runs these), `deci` (vLLM, SGLang), `gguf` (llama.cpp), `traced` (ONNX
Runtime, OpenVINO).
"""
