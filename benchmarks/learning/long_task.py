"""The task of benchmarks/learning/long_completions.py: chains of sums whose solutions take over 100 tokens.

The sentences and the form of a solution are those of the built-in word problems, which the tiny base knows.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.learning.tasks import FOLLOW_UPS, STARTS
from benchmarks.sft import sft_adapter
from trainer.config.sections import DataConfig, PolicyConfig, SFTConfig, SFTRunConfig
from trainer.data.sources import Record, load_records
from trainer.data.word_problems import NAMES, THINGS, Split
from trainer.io.jsonl import write_jsonl

NUM_SUMS = 12
SKIPPED_SHARE = 0.7
NUM_DEMONSTRATIONS = 2_500
NUM_ROWS = {
    "demonstrations": NUM_DEMONSTRATIONS,
    "train": 2_000,
    "critic": 400,
    "held_out": 400,
}


def problems(seed: str) -> Iterator[dict[str, str]]:
    """Endless records, each with the full solution and a careless one that leaves out the second sum."""
    rng = random.Random(f"long/{seed}")
    while True:
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        number = rng.randint(15, 40)
        text, sums = [], []
        for i in range(NUM_SUMS):
            op, amount = rng.choice("+-"), rng.randint(2, 9)
            if not 10 <= (number + amount if op == "+" else number - amount) <= 60:
                op = "-" if op == "+" else "+"
            template = FOLLOW_UPS[op][1] if i else STARTS[op]
            text.append(template.format(n=name, t=thing, a=number, b=amount))
            sums.append((op, amount))
            if not i:
                first = number
            number += amount if op == "+" else -amount
        question = " ".join([*text, f"How many {thing} does {name} have now?"])
        yield {
            "question": question,
            "answer": solution(first, sums, thing),
            "careless": solution(first, [sums[0], *sums[2:]], thing),
        }


def solution(number: int, sums: Sequence[tuple[str, int]], thing: str) -> str:
    lines = []
    for op, amount in sums:
        result = number + amount if op == "+" else number - amount
        lines.append(f"{number}{op}{amount}={result} {thing}\n")
        number = result
    return f"{''.join(lines)}#### {number}"


@dataclass(frozen=True)
class LongTask:
    """The task's files in a folder."""

    folder: Path
    max_tokens: int = 160

    def write(self) -> None:
        """Write a separate file of problems for each use; most of the demonstrations leave out the second sum."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rng = random.Random("careless")
        for name, num_rows in NUM_ROWS.items():
            rows = []
            for problem, _ in zip(problems(name), range(num_rows), strict=False):
                skips = name == "demonstrations" and rng.random() < SKIPPED_SHARE
                answer = problem["careless" if skips else "answer"]
                rows.append({"question": problem["question"], "answer": answer})
            write_jsonl(self._file(name), rows)

    def source(self, folder: Path, *, seed: int, num_questions: int) -> str:
        """``data.source`` of a run: one file for all of them."""
        return str(self._file("train"))

    def critic_source(self) -> str:
        """``data.source`` of the rollouts to which a critic is fitted."""
        return str(self._file("critic"))

    def held_out(self, num_questions: int) -> Sequence[Record]:
        """The questions of every evaluation."""
        source = str(self._file("held_out"))
        return load_records(source, Split.HELD_OUT, num_records=num_questions)

    def adapter(self, model: Path) -> Path:
        """The SFT adapter that every run starts from."""
        return sft_adapter(
            SFTRunConfig(
                policy=PolicyConfig(base_model=str(model)),
                data=DataConfig(source=str(self._file("demonstrations"))),
                prompt_format="plain",
                sft=SFTConfig(
                    num_examples=NUM_DEMONSTRATIONS,
                    num_epochs=6,
                    learning_rate=2e-3,
                    num_evaluation_examples=0,
                ),
                output=self.folder / "sft",
            )
        )

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"
