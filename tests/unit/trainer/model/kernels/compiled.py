"""Compiles every kernel for an A100 and an H200, which needs no GPU; a program, since Triton decides once per process."""

from collections.abc import Mapping
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from trainer.model.kernels import elementwise, heads, softmax

CAPABILITIES = (80, 90)
SIZES = {"NUM_Q": 12, "NUM_K": 2, "HALF": 64, "HEADS": 16, "KEYS": 2, "COLUMNS": 64}
KERNELS: tuple[tuple[Any, Mapping[str, Any]], ...] = (
    (elementwise._norm_kernel, {"BLOCK": 2048}),
    (elementwise._norm_gradient_kernel, {"BLOCK": 2048, "ADDS": True}),
    (elementwise._norm_gradient_kernel, {"BLOCK": 2048, "ADDS": False}),
    (elementwise._swiglu_kernel, {"BLOCK": 1024}),
    (elementwise._swiglu_gradient_kernel, {"BLOCK": 1024}),
    (heads._rotate_kernel, SIZES),
    (heads._rotate_gradient_kernel, SIZES),
    (softmax._logprobs_kernel, {"BLOCK": 4096}),
    (softmax._gradient_kernel, {"BLOCK": 4096}),
)
FLOAT32 = ("logits", "temperature", "logprobs", "entropy", "log_sums", "of_logprobs", "scale")


def type_of(name: str) -> str:
    """The type of an argument: sizes and strides are integers, and tensors are bfloat16 unless named here."""
    if name == "epsilon":
        return "fp32"
    if name == "width" or name == "vocabulary" or name.endswith("stride"):
        return "i32"
    if name.endswith(("_row", "_head", "_token")):
        return "i32"
    if name == "token_ids":
        return "*i64"
    return "*fp32" if name in FLOAT32 else "*bf16"


for capability in CAPABILITIES:
    for kernel, constants in KERNELS:
        names = kernel.arg_names
        source = ASTSource(
            fn=kernel,
            signature={n: "constexpr" if n in constants else type_of(n) for n in names},
            constexprs={(names.index(name),): value for name, value in constants.items()},
        )
        triton.compile(source, target=GPUTarget("cuda", capability, 32))
