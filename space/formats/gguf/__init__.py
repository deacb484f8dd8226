"""GGUF files for llama.cpp, and llama.cpp itself."""
