"""Questions that several benchmarks ask."""

from collections.abc import Iterator

from trainer.data.sources import Record, load_records
from trainer.data.word_problems import Split


def fresh_questions() -> Iterator[Record]:
    """Questions that no cache has seen: every measurement takes new ones."""
    for seed in range(10**6):
        yield from load_records("word-problems", Split.TRAIN, num_records=5000, seed=seed)
