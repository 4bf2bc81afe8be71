"""What a collection has added to its file, in numbers."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path

from inference_server.wire.schemas import FinishReason
from trainer.rollouts.groups import ScoredGroup


@dataclass(kw_only=True)
class Collected:
    """Counts of the rows that this collection has added to the file."""

    num_before: int
    """Rows that the file had."""
    num_questions: int = 0
    num_completions: int = 0
    num_tokens: int = 0
    num_correct: int = 0
    num_truncated: int = 0
    rewards: list[float] = field(default_factory=list)
    """Those of the completions that have one."""

    def add(self, group: ScoredGroup) -> None:
        """Count one row."""
        self.num_questions += 1
        self.num_completions += len(group.rewards)
        self.num_tokens += sum(len(arm.token_ids) for arm in group.group.arms)
        self.num_correct += sum(group.scores.correct or ())
        self.num_truncated += sum(
            arm.finish_reason is FinishReason.LENGTH for arm in group.group.arms
        )
        self.rewards += group.earned

    def line(self, output: Path) -> str:
        """The counts as one line for the terminal."""
        text = f"{self.num_before + self.num_questions} questions in {output}"
        if not self.num_completions:
            return text + ", none of them new"
        reward = f"{statistics.fmean(self.rewards):+.3f}" if self.rewards else "none"
        if num_missing := self.num_completions - len(self.rewards):
            reward += f" ({num_missing} of {self.num_completions} completions have none)"
        return text + (
            f", {self.num_questions} of them new: correct {self.num_correct / self.num_completions:.1%}, "
            f"reward {reward}, truncated {self.num_truncated / self.num_completions:.1%}"
        )
