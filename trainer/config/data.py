"""The questions to train and to evaluate on."""

from typing import Annotated

from pydantic import Field

from trainer.config.base import Section, Seed


class DataConfig(Section):
    """The questions to train and to evaluate on."""

    source: str = "word-problems"
    """`word-problems` or `one-step-problems` (built in), a JSONL file of {"question", "answer"} records, or
    a Hub dataset such as `openai/gsm8k:main`. SOURCE#train and SOURCE#held_out are two disjoint parts of it."""
    evaluation_source: str = "word-problems"
    """The same for the held-out questions of run.evaluate_every, of SFT's evaluation loss and of `eval`."""
    num_questions: Annotated[int, Field(ge=1)] = 20_000
    """Most distinct questions to use; a new shuffle begins when all were asked."""
    seed: Seed = 0
    """Seed of the generator and of the shuffles."""
    curriculum: Annotated[int, Field(ge=1)] | None = None
    """How many times in a row all arms must solve a question before it is asked less often: in every
    second epoch, then in every fourth, then in every eighth, until one of them fails. Null asks every
    question equally often."""
