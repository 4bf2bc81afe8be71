"""A question and its counterfactual, given to the same arms: what the row of one keeps about the other's group."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, field_validator

from regime_w.answer_types.number import NUMBER
from regime_w.arms import ArmOutput
from regime_w.counterfactual.reexecution import Counterfactual
from regime_w.group import CounterfactualGroup


class PairedQuestion(BaseModel):
    """The other question of a counterfactual pair, and how the same arms answered it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    gold_answer: str
    answers: tuple[str | None, ...]
    """Answer of each arm, in the order of the group; None if it gave none."""

    @field_validator("gold_answer")
    @classmethod
    def _gold_can_be_read(cls, gold: str) -> str:
        if NUMBER.read_gold(gold) is None:
            raise ValueError(f"has no number: {gold[:40]!r}")
        return gold

    @property
    def gold(self) -> str:
        """The right answer, canonical."""
        return NUMBER.read_gold(self.gold_answer) or self.gold_answer

    @property
    def correct(self) -> tuple[bool, ...]:
        """Whether each arm's answer is right."""
        gold = self.gold
        read = (None if answer is None else NUMBER.read(answer) for answer in self.answers)
        return tuple(NUMBER.equal(answer, gold) for answer in read)

    def group(self, arm_names: Sequence[str]) -> CounterfactualGroup:
        """The group with which the cross-check compares the arms.

        Args:
            arm_names: Names of the arms, one for each answer.

        Raises:
            ValueError: There are more names than answers, or fewer.
        """
        if len(arm_names) != len(self.answers):
            raise ValueError(
                f"counterfactual: {len(self.answers)} answers of {len(arm_names)} arms"
            )
        return CounterfactualGroup(
            counterfactual=Counterfactual(
                question=self.question, gold=self.gold, offset=None, change=None
            ),
            arm_outputs=[
                ArmOutput(arm_name=name, full_text="", reasoning="", answer=answer)
                for name, answer in zip(arm_names, self.answers, strict=True)
            ],
        )
