"""What one row of a counterfactual pair keeps of the other's group."""

import pytest

from regime_w.counterfactual.pairs import PairedQuestion

OTHER = PairedQuestion(
    id="o",
    question="3 + 5?",
    gold_answer="3+5=<<3+5=8>>8\n#### 8",
    answers=("8", "7", None, "08.0"),
)


def test_answers_are_compared_exactly_and_silence_is_wrong() -> None:
    assert OTHER.gold == "8"
    assert OTHER.correct == (True, False, False, True)


def test_the_other_group_has_the_arms_of_this_one() -> None:
    names = ["wolfram_0", "wolfram_1", "maudlin_0", "maudlin_1"]
    group = OTHER.group(names)
    assert group.counterfactual.gold == "8"
    assert [(arm.arm_name, arm.answer) for arm in group.arm_outputs] == list(  # type: ignore[union-attr]
        zip(names, OTHER.answers, strict=True)
    )
    with pytest.raises(ValueError, match="4 answers of 2 arms"):
        OTHER.group(names[:2])
