"""One file for each GGUF tensor type: what its bytes mean, and the kernels that read them."""
