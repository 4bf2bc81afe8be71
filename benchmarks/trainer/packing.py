"""Cost of attention in a pass over a step's completions, before and after rows were packed by cost; needs no model or GPU.

    python -m benchmarks.trainer.packing

Each row attends to all of itself, as with a dense mask: 4 · H · W² operations per layer for a row of width W. Before:
micro-batches filled to ``ppo.token_budget``. After: `trainer.model.batches.rows.pack`. Alone: each tree in a row of its
own, which is the minimum for a dense mask.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from transformers import PretrainedConfig

from regime_w import build_all_arms
from tests.unit.model_shapes import PRESETS
from trainer.config.loading import load_config
from trainer.config.sections import TrainConfig
from trainer.model.batches.packing import cut
from trainer.model.batches.prefix_tree import common_prefixes, plant
from trainer.model.batches.rows import arrange, pack

CONFIGS = Path(__file__).parents[2] / "deploy/configs"
PROMPT_TOKENS = (50, 77)
"""Shortest and longest prompt, since questions differ in length."""
COMPLETION_TOKENS = 256

Packing = list[list[list[int]]]
"""For each micro-batch its rows, and for each row the indices of its trees."""


def filled(sizes: Sequence[int], *, max_tokens: int, hidden_size: int) -> Packing:
    """Micro-batches as full as the budget allows, each arranged in rows."""
    packed: Packing = []
    part: list[int] = []
    for i, size in enumerate(sizes):
        if part and sum(sizes[j] for j in part) + size > max_tokens:
            packed.append(_arranged(part, sizes, max_tokens, hidden_size))
            part = []
        part.append(i)
    return [*packed, _arranged(part, sizes, max_tokens, hidden_size)]


def _arranged(
    part: Sequence[int], sizes: Sequence[int], max_tokens: int, hidden_size: int
) -> list[list[int]]:
    layout = arrange([sizes[i] for i in part], max_tokens=max_tokens, hidden_size=hidden_size)
    return [[part[i] for i in row] for row in layout.rows]


def alone(sizes: Sequence[int], *, max_tokens: int, hidden_size: int) -> Packing:
    """Each tree in a row and a micro-batch of its own."""
    return [[[i]] for i in range(len(sizes))]


PACKINGS: dict[str, Callable[..., Packing]] = {"before": filled, "after": pack, "alone": alone}


def trees(num_questions: int, *, budget: int, hidden_size: int, varied: bool) -> list[int]:
    """Nodes of a mini-batch's prefix trees, in descending order."""
    rng = random.Random(0)
    sequences = []
    for _ in range(num_questions):
        prompts: dict[str, list[int]] = {}
        prompt_tokens = rng.randint(*PROMPT_TOKENS)
        for arm in build_all_arms():
            prompt = prompts.setdefault(
                arm.system_prompt, rng.choices(range(5_000), k=prompt_tokens)
            )
            least = COMPLETION_TOKENS // 3 if varied else COMPLETION_TOKENS
            length = rng.randint(least, COMPLETION_TOKENS)
            sequences.append([*prompt, *rng.choices(range(150_000), k=length - 1)])
    ordered = [np.array(sequence) for sequence in sorted(sequences)]
    shared = common_prefixes(ordered)
    lengths = np.array([len(sequence) for sequence in ordered])
    runs = cut(lengths, shared, max_nodes=budget, hidden_size=hidden_size)
    return sorted((len(plant(ordered[r], shared[r]).tokens) for r in runs), reverse=True)


def rows(preset: str, shape: PretrainedConfig, *, varied: bool) -> Iterator[tuple[str, ...]]:
    """A preset's rows of the table."""
    path = CONFIGS / f"{preset}.toml"
    config = load_config(TrainConfig, ["--config", str(path)], prog="packing")
    budget, num_mini_batches = (
        config.ppo.token_budget,
        config.rollout.questions_per_step // config.ppo.questions_per_mini_batch,
    )
    sizes = trees(
        config.ppo.questions_per_mini_batch,
        budget=budget,
        hidden_size=shape.hidden_size,
        varied=varied,
    )
    for name, packing in PACKINGS.items():
        start_s = time.perf_counter()
        packed = packing(sizes, max_tokens=budget, hidden_size=shape.hidden_size)
        took_s = time.perf_counter() - start_s
        widths = [(len(m), max(sum(sizes[i] for i in row) for row in m)) for m in packed]
        flops = sum(4 * shape.num_hidden_layers * shape.hidden_size * n * w**2 for n, w in widths)
        yield (
            preset,
            "85 to 256" if varied else "256",
            name,
            str(num_mini_batches * len(packed)),
            f"{num_mini_batches * sum(n * w for n, w in widths):,}",
            f"{num_mini_batches * flops / 1e12:.1f}",
            f"{num_mini_batches * took_s:.2f}",
        )


def main() -> None:
    table = Table(title="a pass over a step's completions", title_justify="left")
    for heading in ("preset", "tokens a completion", "packing", "micro-batches"):
        table.add_column(heading)
    for heading in ("tokens with padding", "attention, TFLOP", "packing, s"):
        table.add_column(heading, justify="right")
    for preset, shape in PRESETS.items():
        for varied in (False, True):
            for row in rows(preset, shape, varied=varied):
                table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
