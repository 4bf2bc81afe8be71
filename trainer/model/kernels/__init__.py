"""Triton kernels for a GPU: parts of a decoder layer, and logprobs from logits.

Each is one pass over its inputs and outputs. PyTorch's own operations on halves of a tensor take 3 to 5 times as
long, since they do not read or write such views in whole vectors; the same functions compiled by torch.compile took as
long to be called as to run. Numbers are float32 in between and rounded once, at the end.
"""
