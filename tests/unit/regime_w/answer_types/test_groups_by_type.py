"""Scores and rewards of a group whose answers are not numbers."""

import pytest

from regime_w import (
    ArmOutput,
    CounterfactualGroup,
    RewardConfig,
    answer_type_of,
    compute_regime_w_scores,
    reward_group,
)
from regime_w.algebra import equations
from regime_w.answer_types import mathematics
from regime_w.answer_types.answer_type import AnswerType, merged
from regime_w.answer_types.mathematics import Mathematics
from regime_w.counterfactual.reexecution import with_suffix

CHOICE = answer_type_of("choice", ["Paris", "London", "Rome"])
TEXT = answer_type_of("text")


def outputs(texts: list[str], answer_type: AnswerType) -> list[ArmOutput]:
    names = ("wolfram_0", "wolfram_1", "maudlin_0", "maudlin_1")
    return [
        ArmOutput.from_text(name, text, answer_type)
        for name, text in zip(names, texts, strict=True)
    ]


@pytest.mark.parametrize(
    ("answer_type", "texts", "gold", "answers"),
    [
        (CHOICE, ["#### B", "B) London", "#### London", "#### A"], "London", ("B", "B", "B", "A")),
        (
            TEXT,
            ["#### Lyon", "lyon", "#### LYON.", "Nice"],
            "Lyon",
            ("lyon", "lyon", "lyon", "nice"),
        ),
    ],
    ids=["choice", "text"],
)
def test_agreement_consensus_and_correctness(
    answer_type: AnswerType, texts: list[str], gold: str, answers: tuple[str, ...]
) -> None:
    result = reward_group(outputs(texts, answer_type), gold, answer_type=answer_type)
    scores = result.scores
    assert scores.answers == answers
    assert scores.correct == (True, True, True, False)
    assert scores.consensus == answers[0]
    assert scores.s_end == 3 / 6
    # Equations cannot lead to such an answer: the path abstains, and the others weigh more.
    assert scores.s_path is None
    assert scores.arm_paths is None
    assert "s_path: answers are no numbers" in scores.abstentions
    assert scores.s_cf is not None
    agreement, cross = 2 / 3, scores.s_cf
    right = 1 + 0.7 * (0.4 * agreement + 0.3 * cross) / 0.7
    assert result.rewards == pytest.approx((right, right, right, -0.5))


@pytest.mark.parametrize("credit", ["per_arm", "shared", "difference"])
@pytest.mark.parametrize("formulas", ["cross_checked", "original"])
def test_every_credit_pays_agreement_on_the_right_choice(credit: str, formulas: str) -> None:
    config = RewardConfig.model_validate({"credit": credit, "formulas": formulas})

    def total(*texts: str) -> float:
        return sum(
            reward_group(
                outputs(list(texts), CHOICE), "B", config=config, answer_type=CHOICE
            ).rewards
        )

    assert total("B", "B", "B", "B") > total("B", "A", "C", "B") > total("A", "A", "C", "C")


def test_answers_of_mappings_are_read_by_the_type() -> None:
    arms = [
        {"arm_name": f"arm_{i}", "full_text": "", "reasoning": "", "answer": answer}
        for i, answer in enumerate(["(b)", "London", "7", None])
    ]
    scores = compute_regime_w_scores("?", arms, "B", answer_type=CHOICE)
    assert scores.answers == ("B", "B", None, None)
    assert scores.correct == (True, True, False, False)


def test_different_wrong_answers_do_not_agree() -> None:
    scores = compute_regime_w_scores(
        "?", outputs(["Nice", "Paris", "nice", "Rome"], TEXT), "Lyon", answer_type=TEXT
    )
    assert scores.answers == ("nice", "paris", "nice", "rome")
    assert scores.s_end == 1 / 6


def test_a_gold_answer_that_cannot_be_read_judges_nothing() -> None:
    scores = compute_regime_w_scores(
        "?", outputs(["B", "B", "B", "A"], CHOICE), "Berlin", answer_type=CHOICE
    )
    assert scores.correct is None
    assert scores.consensus == "B"


def test_counterfactual_questions_need_numbers() -> None:
    arms = outputs(["B", "B", "B", "A"], CHOICE)
    changed = with_suffix("?", "7")
    assert changed is not None
    pair = CounterfactualGroup(counterfactual=changed, arm_outputs=arms)
    with pytest.raises(ValueError, match="answers must be numbers, not choice"):
        compute_regime_w_scores("?", arms, "B", counterfactual=pair, answer_type=CHOICE)


def many(texts: list[str]) -> list[ArmOutput]:
    return [ArmOutput.from_text("wolfram_0", text, Mathematics()) for text in texts]


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The pairs that computer algebra compared; it finds texts of the same length equal."""
    pairs: list[tuple[str, str]] = []

    def are_equal(a: str, b: str) -> bool:
        pairs.append((a, b))
        return len(a) == len(b)

    monkeypatch.setattr(mathematics, "are_equal", are_equal)
    return pairs


@pytest.mark.parametrize(("gold", "num_with_gold"), [(None, 0), (r"\boxed{y+1}", 41)])
def test_few_pairs_of_wrong_answers_are_compared(
    gold: str | None, num_with_gold: int, compared: list[tuple[str, str]]
) -> None:
    """All pairs of 40 answers are 780; the gold answer is also compared with itself, to see that it can be read."""
    texts = [rf"\boxed{{x+{'y' * number}}}" for number in range(2, 42)]
    scores = compute_regime_w_scores("?", many(texts), gold, answer_type=Mathematics())
    pairs = list(dict.fromkeys(compared))
    assert len([pair for pair in pairs if pair[1] == "y+1"]) == num_with_gold
    assert len(pairs) == num_with_gold + 28
    assert scores.s_end == 0


def test_every_answer_is_compared_with_the_gold(compared: list[tuple[str, str]]) -> None:
    texts = [rf"\boxed{{x+{'y' * number}}}" for number in range(2, 42)]
    texts += [rf"\boxed{{z+{letter}}}" for letter in "abcdefgh"]
    scores = compute_regime_w_scores("?", many(texts), r"\boxed{y+1}", answer_type=Mathematics())
    assert scores.correct == (False,) * 40 + (True,) * 8
    assert scores.consensus == "z+a"


def test_numbers_and_words_are_not_compared_in_pairs(compared: list[tuple[str, str]]) -> None:
    """So none of the pairs that may be compared is lost to them."""
    texts = [rf"\boxed{{{number}}}" for number in range(40)] + [r"\boxed{ten}", r"\boxed{two}"]
    compute_regime_w_scores("?", many(texts), "7", answer_type=Mathematics())
    assert compared == []
    texts = [r"\boxed{x+y}", r"\boxed{y+x}", *texts]
    scores = compute_regime_w_scores("?", many(texts), None, answer_type=Mathematics())
    assert scores.answers[:2] == ("x+y", "x+y")


def test_words_take_none_of_the_pairs_from_expressions(compared: list[tuple[str, str]]) -> None:
    """A word equals no expression, which takes no comparison to tell."""
    words = [rf"\boxed{{{'a' * length}b}}" for length in range(2, 32)]
    texts = [*words, r"\boxed{x+y}", r"\boxed{y+x}"]
    scores = compute_regime_w_scores("?", many(texts), None, answer_type=Mathematics())
    assert scores.answers[-2:] == ("x+y", "x+y")
    assert compared == [("y+x", "x+y")]


def test_right_numbers_are_one_answer_whatever_form_the_gold_has(
    compared: list[tuple[str, str]],
) -> None:
    """Each of these numbers is close enough to π, though as texts they differ."""
    texts = [r"\boxed{3.14}", r"\boxed{3.15}", r"\boxed{7}"]
    scores = compute_regime_w_scores("?", many(texts), r"\boxed{y+z1}", answer_type=Mathematics())
    assert scores.correct == (True, True, False)
    assert scores.consensus == "3.14"
    assert scores.s_end is not None
    assert scores.s_end > 0


LONG_GROUPS = {
    "numbers": ["{}"],
    "words": ["{}_{{ten}}"],
    "expressions": ["x^2+{}"],
    "sets and tuples": [r"\{{1, {}\}}", "(1, {})"],
    "all": ["{}", "{}_{{ten}}", "x^2+{}", r"\{{1, {}\}}", "(1, {})"],
}


@pytest.mark.parametrize("forms", LONG_GROUPS.values(), ids=LONG_GROUPS)
def test_each_answer_is_looked_at_once_however_many_there_are(
    forms: list[str], compared: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the 45,000 pairs, only those that are compared take any work."""
    looked_at: list[str] = []
    monkeypatch.setattr(equations, "has_equation", lambda text: looked_at.append(text))
    calls: list[tuple[str | None, str | None]] = []
    equal = Mathematics.equal

    def counted(answer_type: Mathematics, a: str | None, b: str | None) -> bool:
        calls.append((a, b))
        return equal(answer_type, a, b)

    monkeypatch.setattr(Mathematics, "equal", counted)
    answers = [forms[n % len(forms)].format(10**20 + n) for n in range(300)]
    merged(answers, "x^5", Mathematics())
    assert len(looked_at) <= 300 + 1
    assert 300 <= len(calls) <= 300 + 28
    assert len(compared) <= 300 + 28
