"""Scores a group: the arms that answered one question are read once and scored together.

From arm outputs to `ReadArm`s, and from these to `GroupScores`. Any subset of the read arms can be
scored again, which gives an arm's contribution to its group.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from regime_w.answer_types.answer_type import AnswerType, merged
from regime_w.answer_types.number import NUMBER
from regime_w.arms import ArmOutput, family_of, read_arm_outputs
from regime_w.config import Formulas, RewardConfig
from regime_w.counterfactual.reexecution import Counterfactual
from regime_w.cross_check import CrossCheck, cross_check, settings_of
from regime_w.numbers.numerals import canonical
from regime_w.reasoning import ReasoningPath, path_scores, read_path
from regime_w.scores import (
    ORIGINAL_S_CF,
    num_agreeing_pairs,
    num_pairs,
    s_end_for_question,
    s_path_for_question,
    s_wm_for_question,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CounterfactualGroup:
    """The same arms on a question that differs from the first in one number."""

    counterfactual: Counterfactual
    arm_outputs: Sequence[ArmOutput | Mapping[str, object]]
    """One per arm of the first question, in the same order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadArm:
    """One arm's output, read for scoring."""

    output: ArmOutput
    family: str
    setting: int
    """0 for the first (cooler) half of its family's arms, 1 for the second."""
    answer: str | None
    """The canonical answer."""
    is_correct: bool | None
    """None without a gold answer that can be read."""
    path: ReasoningPath | None
    """None under the original formulas, and if the group's answers are not numbers."""
    num_words: int
    """Generated words, which the length penalty counts."""
    outcomes: tuple[str | None, ...]
    """What the cross-check compares: the answer, or the answers to question and counterfactual."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupScores:
    """Scores of one group; a score that abstains is None."""

    s_end: float | None
    s_path: float | None
    s_cf: float | None
    s_wm: float | None
    answers: tuple[str | None, ...]
    """Canonical answer of each arm, None if it gave none."""
    correct: tuple[bool, ...] | None
    """Whether each arm is correct; None without a gold answer that can be read."""
    arm_paths: tuple[float, ...] | None
    """Path score of each arm, whose mean is `s_path`; None under the original formulas, and if it abstains."""
    num_correct_paths: int | None
    """How many different ways lead to the answer: the distinct sets of results of true equations, over the correct arms
    that show any. None without a gold answer that can be read, and without paths."""
    consensus: str | None
    """The most frequent answer, the earliest if tied; None if no arm answered."""
    within_family_agreement: float | None
    """Fraction of agreeing pairs among arms of one family; None if no family has two."""
    cross_family_agreement: float | None
    """Fraction of agreeing pairs among arms of different families; None for a single family."""
    chsh: tuple[float, float, float, float] | None
    """See `CrossCheck`; logged, never rewarded."""
    abstentions: tuple[str, ...]
    """A line for each score that abstained, with the reason."""

    def __getitem__(self, name: str) -> Any:
        """A score by its name, as the recipe reads it; the recipe's ``correct_flags`` are `correct`, or empty."""
        if name == "correct_flags":
            return list(self.correct or ())
        return {field.name: getattr(self, field.name) for field in fields(self)}[name]

    __iter__ = None  # else `in` and `list` would call `__getitem__` with 0, 1, …


def read_group(
    arm_outputs: Sequence[ArmOutput | Mapping[str, object]],
    gold_answer: str | None,
    counterfactual: CounterfactualGroup | None,
    formulas: Formulas,
    answer_type: AnswerType = NUMBER,
) -> tuple[ReadArm, ...]:
    """Reads answers, paths and settings of all arms.

    Raises:
        ValueError: An arm output is invalid, or the counterfactual group does not hold the same arms or has
            answers that are not numbers.
    """
    outputs = read_arm_outputs(arm_outputs)
    new_outputs = read_arm_outputs(counterfactual.arm_outputs) if counterfactual else ()
    names = [output.arm_name for output in outputs]
    if counterfactual and [output.arm_name for output in new_outputs] != names:
        raise ValueError("the counterfactual group must hold the same arms in the same order")
    if counterfactual and answer_type != NUMBER:
        raise ValueError(f"counterfactual: answers must be numbers, not {answer_type.name}")
    gold = None if gold_answer is None else answer_type.read_gold(gold_answer)
    settings = settings_of(names)
    answers = merged([_answer_of(output, answer_type) for output in outputs], gold, answer_type)
    has_paths = formulas != "original" and answer_type.is_numeric
    arms = []
    for index, (output, answer) in enumerate(zip(outputs, answers, strict=True)):
        is_correct = None if gold is None else answer_type.equal(answer, gold)
        arms.append(
            ReadArm(
                output=output,
                family=family_of(output.arm_name),
                setting=settings[output.arm_name],
                answer=answer,
                is_correct=is_correct,
                path=read_path(output.reasoning, answer) if has_paths else None,
                num_words=len(output.full_text.split()),
                # Agreement on an answer that is known to be wrong does not count.
                outcomes=(None if is_correct is False else answer,)
                if counterfactual is None
                else _paired_outcomes(
                    answer,
                    gold,
                    _answer_of(new_outputs[index], NUMBER),
                    counterfactual.counterfactual,
                ),
            )
        )
    return tuple(arms)


def _answer_of(output: ArmOutput, answer_type: AnswerType) -> str | None:
    return None if output.answer is None else answer_type.read(output.answer)


def _paired_outcomes(
    answer: str | None, gold: str | None, new_answer: str | None, counterfactual: Counterfactual
) -> tuple[str | None, str | None]:
    """Outcomes on the question and its counterfactual; they are equal if the two answers agree."""
    if gold is not None:
        return (
            "right" if NUMBER.equal(answer, gold) else None,
            "right" if NUMBER.equal(new_answer, counterfactual.gold) else None,
        )
    if counterfactual.offset is None or answer is None:
        return (None, new_answer if NUMBER.equal(new_answer, counterfactual.gold) else None)
    moved = canonical(Fraction(answer) + Fraction(counterfactual.offset))
    return (moved, new_answer)


def score_arms(arms: Sequence[ReadArm], formulas: Formulas, config: RewardConfig) -> GroupScores:
    """Scores read arms: all of a group, or a subset."""
    answers = tuple(arm.answer for arm in arms)
    families = [arm.family for arm in arms]
    s_end: float | None = s_end_for_question(answers)
    s_path: float | None = None
    arm_paths: tuple[float, ...] | None = None
    abstentions: list[str] = []
    if formulas == "original":
        check = CrossCheck(ORIGINAL_S_CF, None, None)
        s_path = s_path_for_question([arm.output.reasoning for arm in arms])
    else:
        check = _cross_check(arms)
        paths = [arm.path for arm in arms if arm.path is not None]
        if len(paths) == len(arms):
            arm_paths = path_scores(paths, families)
            s_path = sum(arm_paths) / len(arm_paths) if arm_paths else None
        if len(arms) < 2:
            s_end = None
            abstentions.append(f"s_end: needs two arms, not {len(arms)}")
        if s_path is None:
            abstentions.append(f"s_path: {'answers are no numbers' if arms else 'no arms'}")
        if check.abstention is not None:
            abstentions.append(f"s_cf: {check.abstention}")
    within, across = _agreements(answers, families)
    counts = Counter(answer for answer in answers if answer is not None)
    return GroupScores(
        s_end=s_end,
        s_path=s_path,
        s_cf=check.score,
        s_wm=s_wm_for_question(s_end, s_path, check.score, **config.score_weights),
        answers=answers,
        correct=_correct(arms),
        arm_paths=arm_paths,
        num_correct_paths=_num_correct_paths(arms),
        consensus=counts.most_common(1)[0][0] if counts else None,
        within_family_agreement=within,
        cross_family_agreement=across,
        chsh=check.chsh,
        abstentions=tuple(abstentions),
    )


def _correct(arms: Sequence[ReadArm]) -> tuple[bool, ...] | None:
    flags = tuple(arm.is_correct for arm in arms if arm.is_correct is not None)
    return flags if len(flags) == len(arms) else None


def _num_correct_paths(arms: Sequence[ReadArm]) -> int | None:
    if not arms or any(arm.is_correct is None or arm.path is None for arm in arms):
        return None
    return len({a.path.results for a in arms if a.is_correct and a.path and a.path.results})


def _cross_check(arms: Sequence[ReadArm]) -> CrossCheck:
    paired = any(len(arm.outcomes) > 1 for arm in arms)
    return cross_check(
        [outcome for arm in arms for outcome in arm.outcomes],
        [arm.family for arm in arms for _ in arm.outcomes],
        [i if paired else arm.setting for arm in arms for i, _ in enumerate(arm.outcomes)],
    )


def _agreements(
    answers: Sequence[str | None], families: Sequence[str]
) -> tuple[float | None, float | None]:
    """Fractions of agreeing pairs within families and across them."""
    by_family: dict[str, list[str | None]] = {}
    for answer, family in zip(answers, families, strict=True):
        by_family.setdefault(family, []).append(answer)
    pairs_within = sum(num_pairs(len(group)) for group in by_family.values())
    agreeing_within = sum(map(num_agreeing_pairs, by_family.values()))
    pairs_across = num_pairs(len(answers)) - pairs_within
    agreeing_across = num_agreeing_pairs(answers) - agreeing_within
    within = agreeing_within / pairs_within if pairs_within else None
    return within, agreeing_across / pairs_across if pairs_across else None
