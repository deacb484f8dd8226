"""GGUF files for llama.cpp, and llama.cpp itself.

- `export`: writes a file with its model card.
- `families`: which architecture of llama.cpp holds a subnet, in what equal form, and what it takes for granted.
- `types`: which types a file's matrices have.
- `rounded_layers`: a model's layers rounded so on some text.
- `design`: the file of a supernet's design, with the codes that it is searched with.
- `sizes`: bytes of a file's tensors, without the file.
- `file`: the file's contents.
- `tokenizer`: a transformers tokenizer in the terms of a file.
- `llamacpp`: runs a file in llama.cpp and compares it with the model that it came from.
- `llamacpp_process`: llama.cpp's server with one file; and what a fresh process does that checks one.
"""
