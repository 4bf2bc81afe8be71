"""Questions with solutions for SFT to imitate."""

import random
from collections.abc import Callable
from itertools import islice

from trainer.config.data import RecordShape
from trainer.data.source_names import GENERATED, generated, require_source
from trainer.data.sources import Record, load_records
from trainer.data.word_problems import Split, careless_style

_SHAPE = RecordShape()


def load_demonstrations(
    source: str,
    split: Split,
    *,
    num_examples: int,
    seed: int = 0,
    shape: RecordShape = _SHAPE,
    on_more: Callable[[], None] = lambda: None,
) -> list[Record]:
    """Questions with solutions to imitate; the arguments are those of `load_records`.

    The solutions of built-in sources are those of a hurried annotator, who skips second steps here and there; their
    questions are drawn with another seed than training's. The solutions of other sources are their answers.

    Raises:
        DataError: As `load_records` raises it.
    """
    name, part = require_source(source)
    if name not in GENERATED:
        return load_records(
            source, split, num_records=num_examples, seed=seed, shape=shape, on_more=on_more
        )
    split, seed = part or split, seed + 1
    rng = random.Random(f"demonstrations/{seed}")
    return [
        Record(
            id=f"{name}-demonstration-{split}-{i:06d}",
            question=problem.question,
            gold=problem.solution(careless_style(problem, rng)),
        )
        for i, problem in enumerate(islice(generated(name, split, seed), num_examples))
    ]
