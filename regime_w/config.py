"""Every constant of the reward, and the choice between its variants."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Formulas = Literal["cross_checked", "original"]
Credit = Literal["per_arm", "shared", "difference"]
Selection = Literal["all", "best", "random"]


class RewardConfig(BaseModel):
    """The reward's constants; the numbers are the recipe's."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    formulas: Formulas = "cross_checked"
    """Which scores are used: checked across families and against arithmetic, or exactly the recipe's."""
    credit: Credit = "per_arm"
    """How an arm is rewarded: for its own answer, with the group's scalar (the recipe), or with what the group
    would lose without it."""
    selection: Selection = "all"
    """Which completions of a group are trained on: all, the best rewarded, or one at random (the recipe)."""
    correct_bonus: float = 1.0
    """Base reward if the answer is correct."""
    wrong_base: float = -0.5
    """Base reward if it is wrong, missing, or cannot be judged."""
    coherence_weight: float = Field(default=0.7, ge=0)
    """Weight of coherence beside the base reward."""
    w_end: float = Field(default=0.4, ge=0, le=1)
    """Weight of answer agreement within coherence; the three weights sum to 1."""
    w_path: float = Field(default=0.3, ge=0, le=1)
    """Weight of path coherence within coherence."""
    w_cf: float = Field(default=0.3, ge=0, le=1)
    """Weight of the cross-check within coherence."""
    length_penalty_per_word: float = Field(default=0.001, ge=0)
    """Penalty for each generated word above `free_words`."""
    free_words: int = Field(default=400, ge=0)
    """Generated words without penalty."""

    @property
    def score_weights(self) -> dict[str, float]:
        """The weights of the scores, by the names that `regime_w.s_wm_for_question` gives them."""
        return {"w_end": self.w_end, "w_path": self.w_path, "w_cf": self.w_cf}

    @model_validator(mode="after")
    def _weights_sum_to_one(self) -> Self:
        total = self.w_end + self.w_path + self.w_cf
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"w_end + w_path + w_cf must be 1, not {total}")
        return self
