"""Arms: the ways in which one question is asked, and the output of each.

The eight arms and the prompt are those of the original recipe, sections 1.1 and 2, to the letter.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from regime_w.answer_types.answer_type import AnswerType
from regime_w.answer_types.number import NUMBER

_WOLFRAM_SYSTEM_PROMPT = (
    "You are a precise math reasoner. "
    "Solve the problem step by step, keep reasoning linear and explicit. "
    "Avoid extra commentary. End with '#### final_answer'."
)
_MAUDLIN_SYSTEM_PROMPT = (
    "You are a reflective math reasoner. "
    "Explain your reasoning and highlight any steps that might be fragile. "
    "End with '#### final_answer'."
)
_NUMBER = re.compile(r"(?<=.)_[0-9]+\Z", re.DOTALL)
_TEMPERATURES = (0.2, 0.3, 0.4, 0.5)
# A small model still writes sentences at the highest; policies are commonly trained at their mean, 0.9.
_EXPLORING_TEMPERATURES = (0.6, 0.8, 1.0, 1.2)


def family_of(arm_name: str) -> str:
    """The family of an arm: its name without the number."""
    return _NUMBER.sub("", arm_name)


class ArmSpec(BaseModel):
    """One arm: a system prompt and how its completions are sampled."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str = Field(min_length=1)
    """Unique in its arm set; ``family_3`` is the fourth arm of ``family``. A family's arms are
    listed from cool to warm: the cross-check compares their halves."""
    system_prompt: str
    """The text before the question; see `build_prompt`."""
    temperature: StrictFloat = Field(gt=0, le=2)
    """Sampling temperature. Never 0: identical greedy arms would agree by construction."""
    top_p: StrictFloat = Field(gt=0, le=1)
    """Nucleus mass; 1 keeps the whole distribution."""

    @model_validator(mode="before")
    @classmethod
    def _read_temp(cls, values: object) -> object:
        if not isinstance(values, Mapping) or "temp" not in values:
            return values
        if "temperature" in values:
            raise ValueError("temp and temperature are one setting; give one of them")
        return {"temperature" if key == "temp" else key: value for key, value in values.items()}

    @property
    def temp(self) -> float:
        """The recipe's name for `temperature`; it is accepted as input, too."""
        return self.temperature

    @property
    def family(self) -> str:
        """The name without its number: ``wolfram`` for ``wolfram_0``, ``solo`` for ``solo``."""
        return family_of(self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmOutput:
    """One arm's output. No field includes the prompt, which contains ``#### 42``."""

    arm_name: str
    full_text: str
    """The completion; its words are counted for the length penalty."""
    reasoning: str
    """The part whose length `s_path_for_question` compares."""
    answer: str | None
    """The answer, canonical or as written (``#### 7``): scoring reads it according to the question's answer type."""

    @classmethod
    def from_text(cls, arm_name: str, text: str, answer_type: AnswerType = NUMBER) -> "ArmOutput":
        """Reads one completion, as the recipe's collector does: all of it is the reasoning.

        Args:
            arm_name: Name of the arm that generated it.
            text: The completion only, without the prompt.
            answer_type: The answer type of the question.
        """
        answer = answer_type.extract(text)
        return cls(arm_name=arm_name, full_text=text, reasoning=text, answer=answer)


_ARM_OUTPUT = TypeAdapter(ArmOutput)


def read_arm_outputs(
    arm_outputs: Sequence[ArmOutput | Mapping[str, object]],
) -> tuple[ArmOutput, ...]:
    """Validates arm outputs as a caller passes them: `ArmOutput` or mappings with its keys.

    ``arm_name`` may be missing in a mapping, as in the recipe; other keys are ignored.

    Raises:
        ValueError: An output lacks a key or has a value of another type; names both.
    """
    return tuple(
        output if isinstance(output, ArmOutput) else _arm_output(index, output)
        for index, output in enumerate(arm_outputs)
    )


def _arm_output(index: int, output: Mapping[str, object]) -> ArmOutput:
    if not isinstance(output, Mapping):
        raise ValueError(
            f"arm_outputs[{index}]: must be an ArmOutput or a mapping, not {type(output).__name__}"
        )
    try:
        return _ARM_OUTPUT.validate_python({"arm_name": "arm", **output})
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"arm_outputs[{index}].{first['loc'][0]}: {first['msg']}") from error


def build_all_arms() -> tuple[ArmSpec, ...]:
    """Builds the eight arms of the recipe: ``wolfram_0..3``, then ``maudlin_0..3``."""
    return _two_families(_TEMPERATURES, wolfram_top_p=0.95, maudlin_top_p=0.9)


def build_exploring_arms() -> tuple[ArmSpec, ...]:
    """Builds eight arms with the recipe's names and prompts, but temperatures of 0.6 to 1.2 and top_p 1."""
    return _two_families(_EXPLORING_TEMPERATURES, wolfram_top_p=1.0, maudlin_top_p=1.0)


ARM_SETS: Mapping[str, Callable[[], tuple[ArmSpec, ...]]] = {
    "recipe": build_all_arms,
    "exploring": build_exploring_arms,
}
"""Sets of arms by name."""


def named_arms(name: str) -> tuple[ArmSpec, ...]:
    """The arms that a name stands for: those of a set (``exploring``), or one of the recipe's (``wolfram_0``).

    Raises:
        ValueError: The name is neither; the message lists both kinds.
    """
    if name in ARM_SETS:
        return ARM_SETS[name]()
    recipe = {arm.name: arm for arm in build_all_arms()}
    if name not in recipe:
        raise ValueError(
            f"unknown arm {name!r}; known are the sets {', '.join(ARM_SETS)} and the arms {', '.join(recipe)}"
        )
    return (recipe[name],)


def _two_families(
    temperatures: Sequence[float], *, wolfram_top_p: float, maudlin_top_p: float
) -> tuple[ArmSpec, ...]:
    families = (
        ("wolfram", _WOLFRAM_SYSTEM_PROMPT, wolfram_top_p),
        ("maudlin", _MAUDLIN_SYSTEM_PROMPT, maudlin_top_p),
    )
    return tuple(
        ArmSpec(
            name=f"{family}_{index}",
            system_prompt=system_prompt,
            temperature=temperature,
            top_p=top_p,
        )
        for family, system_prompt, top_p in families
        for index, temperature in enumerate(temperatures)
    )


def build_prompt(system_prompt: str, question: str) -> str:
    """Builds the rollout prompt of an arm (recipe, section 2)."""
    return (
        system_prompt + "\n\n"
        "Solve the problem step by step and end with the final answer "
        "in the format '#### 42'.\n\n"
        f"Problem:\n{question}\n\nSolution:\n"
    )
