"""Scores rollout files again with another configuration and shows the changes in a table.

The files are JSONL, plain, .gz or .zst, as written by the trainer or the recipe's collector.
"""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from regime_w.algebra.math_process import LibraryMissing
from regime_w.answer_types.answer_type import AnswerTypeName
from regime_w.answer_types.named import answer_type_of
from regime_w.arms import ArmOutput
from regime_w.compressed_lines import DAMAGED, lines_of
from regime_w.config import RewardConfig
from regime_w.counterfactual.pairs import PairedQuestion
from regime_w.reward import GroupReward, reward_group

NUM_SHOWN = 10
"""How many of the groups with the largest changes are listed."""


class RescoreError(Exception):
    """A file cannot be scored; the message names it and the line."""


class _ArmToRescore(BaseModel):
    model_config = ConfigDict(extra="ignore")

    arm_name: str
    full_text: str
    answer: str | None = None
    reward: float | None = None


class _RowToRescore(BaseModel):
    model_config = ConfigDict(extra="ignore")

    id: str = ""
    question: str
    gold_answer: str | None
    answer_type: AnswerTypeName = "number"
    choices: tuple[str, ...] = ()
    counterfactual: PairedQuestion | None = None
    arm_outputs: list[_ArmToRescore] = Field(min_length=1)
    reward: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rescored:
    """One group as it was stored and as it is scored now."""

    stored: _RowToRescore
    result: GroupReward

    @property
    def new_reward(self) -> float:
        """The mean over arms, like the stored one."""
        return sum(self.result.rewards) / len(self.result.rewards)

    @property
    def num_changed_answers(self) -> int:
        """Arms whose answer is now read differently."""
        pairs = zip(self.stored.arm_outputs, self.result.scores.answers, strict=True)
        return sum(arm.answer != answer for arm, answer in pairs)


def rescore_file(path: Path, config: RewardConfig) -> Iterator[Rescored]:
    """Scores the groups of a file, one after the other.

    Raises:
        RescoreError: The file cannot be read, a line of it is not a rollout, or its answers need a library that
            is not installed.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(lines_of(file, path.suffix.lower()), 1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield _rescore(line, f"{path}:{number}", config)
    except OSError as error:
        raise RescoreError(f"{path}: {error.strerror or error}") from error
    except DAMAGED as error:
        raise RescoreError(f"{path}: truncated or not compressed as it is named") from error


def _parse(line: bytes, where: str) -> _RowToRescore:
    try:
        return _RowToRescore.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "line"
        raise RescoreError(
            f"{where}: {field}: {first['msg'].removeprefix('Value error, ')}"
        ) from None


def _rescore(line: bytes, where: str, config: RewardConfig) -> Rescored:
    stored = _parse(line, where)
    try:
        answer_type = answer_type_of(stored.answer_type, stored.choices)
    except LibraryMissing as error:
        raise RescoreError(str(error)) from None
    outputs = [
        ArmOutput.from_text(arm.arm_name, arm.full_text, answer_type) for arm in stored.arm_outputs
    ]
    other = stored.counterfactual
    try:
        result = reward_group(
            outputs,
            stored.gold_answer,
            counterfactual=None
            if other is None
            else other.group([arm.arm_name for arm in stored.arm_outputs]),
            config=config,
            answer_type=answer_type,
        )
    except ValueError as error:
        raise RescoreError(f"{where}: {error}") from None
    return Rescored(stored=stored, result=result)


def report(groups: Sequence[Rescored]) -> str:
    """The table that the command prints."""
    if not groups:
        return "no groups"
    num_arms = sum(len(group.result.rewards) for group in groups)
    old = sum(group.stored.reward for group in groups) / len(groups)
    new = sum(group.new_reward for group in groups) / len(groups)
    correct = sum(sum(group.result.scores.correct or ()) for group in groups)
    changed = [g for g in groups if abs(g.new_reward - g.stored.reward) > 1e-9]
    lines = [
        f"groups            {len(groups)}",
        f"completions       {num_arms}",
        f"correct           {correct} ({correct / num_arms:.1%})",
        f"reward stored     {old:+.4f}",
        f"reward now        {new:+.4f}  ({new - old:+.4f})",
        f"groups changed    {len(changed)}",
        f"answers changed   {sum(group.num_changed_answers for group in groups)}",
    ]
    for name in ("s_end", "s_path", "s_cf", "s_wm"):
        scores = [s for g in groups if (s := getattr(g.result.scores, name)) is not None]
        mean = f"{sum(scores) / len(scores):.4f}" if scores else "-"
        lines.append(f"{name:<17} {mean}  ({len(groups) - len(scores)} abstained)")
    changed.sort(key=lambda g: -abs(g.new_reward - g.stored.reward))
    if changed:
        lines.append("\nlargest changes:")
    for group in changed[:NUM_SHOWN]:
        name = group.stored.id or group.stored.question[:40]
        answers = " ".join(answer or "-" for answer in group.result.scores.answers)
        lines.append(
            f"  {group.stored.reward:+.4f} → {group.new_reward:+.4f}  {name!r}  answers {answers}"
        )
    return "\n".join(lines)
