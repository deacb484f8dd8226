"""What can be pruned: the dense model, the search space over it, the permuted supernet and the export.

Torch-free: `spec`, `families`, `candidate`, `size`, `space` (with its parts `blocks` and `repair`), `errors`;
what all write with: `files`, `directory_lock`.
The dense model: `embedded` (default model and text), `hub`, `loading`.
Prefix views with a least-squares refit: `calibration`, `importance`, `compensation`, `merging`, `surgery`, `stored`,
`supernet`, `preparation`.
The checkpoint: `formats`, `reveal`, `model_card`, `equal_forms`, `llama_arithmetic`.
For transformers: `pruned_modeling`, `export`, `verify`, `reload_check`.
For vLLM: `configuration_decilm`, `deci`, `deci_check`.
For llama.cpp: `gguf_tokenizer`, `gguf_file`, `gguf_export`, `llamacpp`, `llamacpp_process`.
"""
