"""Triton kernels for a GPU: parts of a decoder layer, and logprobs from logits.

Each kernel makes one pass over its inputs and outputs. PyTorch's own operations on halves of a tensor take 3 to 5
times as long, since they do not read or write such views in whole vectors. With torch.compile, calling the same
functions took as long as running them. Intermediate numbers are float32 and are rounded once, at the end.
"""
