"""Graphs of a pruned model for ONNX Runtime and OpenVINO: tokens and a mask in, logits and a key-value cache out.

- `export`: writes a directory with a graph, its tokenizer and model card, which the engine has run before it appears.
- `engines`: what each engine is: its files, what it is checked for, how its card says that it is used.
- `graph`: a model as a module with an explicit cache, and its tracing by transformers' exporters.
- `check`: has the engine run a graph, and compares it with the model that it came from.
- `engine_process`: what a fresh process does with graphs: check one, or time some against each other.
"""
