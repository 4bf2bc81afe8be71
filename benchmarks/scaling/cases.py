"""The figures that the simulation is fed with: what was measured, and what was computed from it.

Measured: 1.5B on one H200 (benchmarks/README.md, "A step on a GPU", a whole step), and the demo on a CPU
(`benchmarks.scaling.runs`). Computed: 8B and 70B, from parameters, bytes and floating-point operations.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.scaling.ranks import FAMILIES, Trainer, usual_work
from benchmarks.scaling.servers import Decoder, scaled_to
from benchmarks.scaling.simulation import Case
from benchmarks.scaling.workload import Workload

# One H200: its peak memory bandwidth, and 40 % of its dense bfloat16 peak for matrix products.
MEMORY_BYTES_A_S = 4.8e12
FLOP_A_S = 0.4e15
# Assumed links: 10 Gb/s to the servers, the link between ranks of one box, and Python objects over gloo.
PUSH_BYTES_A_S = 1.25e9
RANK_BYTES_A_S = 1e11
STEP_BYTES_A_S = 1e9
RANK = 16
PROMPT_TOKENS = 180
MEAN_TOKENS, SPREAD, MAX_TOKENS = 256, 0.4, 512
CONTEXT_TOKENS = 300
"""Mean number of tokens that a sequence has in the KV cache while it decodes."""
FIXED_S = 0.008
"""Fixed part of a decoding step at 1.5B, reading the weights included: assumed, since only one batch size was measured."""
ALL_REDUCE_S = 20e-6
"""Seconds of one all-reduce; each layer has two of them where two cards serve together."""
PROVE_S = 0.05
"""Proving a version, after a run's first three: 0.03 to 0.10 s at 135M, on logprobs that the step has computed anyway."""
OPTIMIZER_S = 0.05
"""Seconds per mini-batch at 1.5B: assumed."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder-only model."""

    parameters: float
    layers: int
    hidden: int
    intermediate: int
    key_values: int
    """Width of the keys, and also of the values."""

    @property
    def lora_parameters(self) -> float:
        """Parameters of one adapter of rank 16 on every linear layer."""
        attention = 2 * (self.hidden + self.hidden) + 2 * (self.hidden + self.key_values)
        return RANK * self.layers * (attention + 3 * (self.hidden + self.intermediate))

    @property
    def cache_bytes(self) -> float:
        """Bytes of a token in the KV cache, in bfloat16."""
        return 2 * 2 * self.layers * self.key_values


SHAPES = {
    # Qwen2.5-1.5B, Qwen3-8B, Llama-3.1-70B.
    "1.5B": Shape(parameters=1.54e9, layers=28, hidden=1536, intermediate=8960, key_values=256),
    "8B": Shape(parameters=8.19e9, layers=36, hidden=4096, intermediate=12288, key_values=1024),
    "70B": Shape(parameters=70.6e9, layers=80, hidden=8192, intermediate=28672, key_values=1024),
}
CARDS_A_SERVER = {"1.5B": 1, "8B": 1, "70B": 2}
# A whole step at 1.5B in which server and trainer use the card one after the other (benchmarks/README.md).
GENERATE_S, EXPERIENCE_S, UPDATE_S, PUBLISH_S = 9.7, 4.7, 6.6, 0.62
MEASURED_COMPLETIONS = 512


def measured_decoder(fixed_s: float = FIXED_S) -> Decoder:
    """1.5B: 512 completions of 256 tokens each took 9.7 s, prompts included.

    Args:
        fixed_s: How much of a token's time does not depend on the number of sequences.
    """
    token_s = GENERATE_S / MEAN_TOKENS
    per_sequence_s = (token_s - fixed_s) / MEASURED_COMPLETIONS
    return Decoder(fixed_s=fixed_s, per_sequence_s=per_sequence_s, max_sequences=512)


def computed_decoder(shape: Shape, cards: int) -> Decoder:
    """The measured decoder, slowed by the additional parameters that a larger model reads and multiplies with."""
    small, of_small = SHAPES["1.5B"], measured_decoder()
    more = shape.parameters / cards - small.parameters
    more_cache = CONTEXT_TOKENS * (shape.cache_bytes / cards - small.cache_bytes)
    reduce_s = 2 * shape.layers * ALL_REDUCE_S if cards > 1 else 0.0
    return Decoder(
        fixed_s=of_small.fixed_s + 2 * more / MEMORY_BYTES_A_S + reduce_s,
        per_sequence_s=of_small.per_sequence_s
        + 2 * more / FLOP_A_S
        + more_cache / MEMORY_BYTES_A_S,
        # The arms of a family share their prompt in the server's cache.
        prefill_s=FAMILIES * PROMPT_TOKENS * 2 * more / FLOP_A_S,
        max_sequences=256,
    )


def gpu_case(name: str, *, fixed_s: float = FIXED_S) -> Case:
    """A model on H200s with the settings of its preset; 70B has those of the 8B preset."""
    shape, small = SHAPES[name], SHAPES["1.5B"]
    is_small = shape is small
    # The share of the measured step's 64 questions, and the cost of recomputing activations in the update, which
    # is needed where there is no room for them.
    share, recompute = (1.0, 1.0) if is_small else (0.5, 4 / 3)
    times = shape.parameters / small.parameters * share
    adapters = shape.lora_parameters / small.lora_parameters
    return Case(
        name=name,
        decoder=measured_decoder(fixed_s)
        if is_small
        else computed_decoder(shape, CARDS_A_SERVER[name]),
        workload=Workload(
            questions=round(64 * share),
            per_mini_batch=round(16 * share),
            prompt_tokens=PROMPT_TOKENS,
            mean_tokens=MEAN_TOKENS,
            spread=SPREAD,
            max_tokens=MAX_TOKENS,
            token_budget=16_384 if is_small else 8_192,
            hidden_size=shape.hidden,
        ),
        trainer=Trainer(
            experience_s=EXPERIENCE_S * times,
            update_s=UPDATE_S * times * recompute,
            optimizer_s=OPTIMIZER_S * adapters,
            publish_s=PUBLISH_S * adapters,
            prove_s=PROVE_S,
            adapter_bytes=2 * shape.lora_parameters,
            # Policy and critic in float32.
            gradient_bytes=2 * 4 * shape.lora_parameters,
            step_bytes=4 * shape.lora_parameters,
            push_bytes_a_s=PUSH_BYTES_A_S,
            rank_bytes_a_s=RANK_BYTES_A_S,
            step_bytes_a_s=STEP_BYTES_A_S,
        ),
    )


# --- the demo on a CPU -----------------------------------------------------------------------------

CPU_SEQUENCES_OF_FIXED = 31.0
"""The number of sequences that doubles the time of a decoding step over its fixed part. A step takes 7.5, 14, 35 and 55 ms
for 8, 32, 128 and 256 sequences (benchmarks/README.md, "The server", tokens/s with 1, 4, 16 and 64 groups in flight)."""
MINI_BATCHES = 4
ONE_RANK = "servers=1,ranks=1,staleness=0"
SMALL_PASSES = f"{ONE_RANK},small passes"
"""The same with micro-batches as small as those of two ranks, which shows the fixed time of a pass."""


def cpu_case(measured: Mapping[str, Any]) -> Case:
    """The demo, fed with the phases of one server and one rank without overlap, at two token budgets.

    Args:
        measured: What `benchmarks.scaling.runs` has written.
    """
    row, small = measured["rows"][ONE_RANK], measured["rows"][SMALL_PASSES]
    workload = Workload(
        questions=16,
        per_mini_batch=16 // MINI_BATCHES,
        prompt_tokens=measured["prompt_tokens"],
        mean_tokens=0.0,
        spread=0.0,
        max_tokens=40,
        token_budget=row["token_budget"],
        hidden_size=128,
        measured=tuple(tuple(group) for group in measured["lengths"]),
    )
    decoder = Decoder(fixed_s=CPU_SEQUENCES_OF_FIXED, per_sequence_s=1.0)
    usual = usual_work(workload)
    divided = usual_work(replace(workload, token_budget=small["token_budget"]))
    together_s = MINI_BATCHES * measured["optimizer_s"]

    def pass_s(usual_s: float, divided_s: float) -> float:
        """Fixed seconds per pass, such that the same seconds per cost and per pass explain both measurements."""
        found = (divided_s * usual.cost - usual_s * divided.cost) / (
            divided.passes * usual.cost - usual.passes * divided.cost
        )
        return max(0.0, found)

    return Case(
        name="demo",
        decoder=scaled_to(decoder, workload, row["time/wait_s"]),
        workload=workload,
        trainer=Trainer(
            experience_s=row["time/experience_s"],
            update_s=row["time/update_s"],
            experience_pass_s=pass_s(row["time/experience_s"], small["time/experience_s"]),
            update_pass_s=pass_s(
                row["time/update_s"] - together_s, small["time/update_s"] - together_s
            ),
            optimizer_s=measured["optimizer_s"],
            publish_s=row["time/publish_s"],
            prove_s=row["time/prove_s"],
            journal_s=row["time/journal_s"],
        ),
    )


def read_measured(path: Path) -> dict[str, Any]:
    """What `benchmarks.scaling.runs` has written."""
    measured: dict[str, Any] = json.loads(path.read_text())
    return measured
