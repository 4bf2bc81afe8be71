"""The cross-check, against CHSH written out pair by pair."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regime_w.cross_check import cross_check

FAMILIES = ["w"] * 4 + ["m"] * 4
SETTINGS = [0, 0, 1, 1] * 2


@pytest.mark.parametrize(
    ("outcomes", "score", "chsh"),
    [
        ("77777777", 1.0, (2, 2, 2, 2)),
        ("........", 0.0, (-2, -2, -2, -2)),
        ("77778888", 0.0, (-2, -2, -2, -2)),  # the families disagree
        ("12345678", 0.0, (-2, -2, -2, -2)),
        # One of eight dissents (W, cool): p = 1/2, 1/2, 1, 1.
        ("17777777", (0.75 + 0.5) / 2, (2, 2, 0, 0)),
        # Right when cool alone: p = 1, 0, 0, 0.
        ("77..77..", (0.25 + 0) / 2, (-4, 0, 0, 0)),
        # The settings agree with themselves alone: p = 1, 0, 0, 1.
        ("77887788", (0.5 + 0) / 2, (-2, 2, 2, -2)),
        # A whole family answers nothing, the other all the same.
        ("....7777", 0.0, (-2, -2, -2, -2)),
        # One of M's warm arms gives no answer: p = 1, 1/2, 1, 1/2.
        ("7777777.", (0.75 + 0.5) / 2, (0, 2, 0, 2)),
        # W's warm arms dissent: p = 1, 1, 0, 0; E = 1, 1, -1, -1.
        ("77887777", (0.5 + 0) / 2, (-2, -2, 2, 2)),
        # One warm arm of each family dissents with the other: p = 1, 1/2, 1/2, 1/2.
        ("77787778", (0.625 + 0.25) / 2, (-1, 1, 1, 1)),
        # Two of four in each: p = 1/4 everywhere.
        ("7.7.7.7.", 0.25, (-1, -1, -1, -1)),
    ],
)
def test_by_hand(outcomes: str, score: float, chsh: tuple[float, ...]) -> None:
    found = cross_check([None if o == "." else o for o in outcomes], FAMILIES, SETTINGS)
    assert found.score == pytest.approx(score)
    assert found.chsh == pytest.approx(chsh)
    assert found.abstention is None


@pytest.mark.parametrize("families", [[], ["w"], ["w", "w"], ["a", "b", "c"]])
def test_without_two_families_it_abstains(families: list[str]) -> None:
    found = cross_check(["7"] * len(families), families, [0] * len(families))
    assert (found.score, found.chsh) == (None, None)
    assert found.abstention == f"needs two families, not {len(set(families))}"


@pytest.mark.parametrize(
    ("outcomes", "families", "settings", "score"),
    [
        (["7", "7"], ["w", "m"], [0, 0], 1.0),
        (["7", "8"], ["w", "m"], [0, 0], 0.0),
        (["7", "7"], ["w", "m"], [0, 1], 1.0),
        (["7", "7", "8"], ["w", "m", "m"], [0, 0, 1], (0.5 + 0.0) / 2),
        (["7", "7", "8", "7"], ["w", "m", "m", "m"], [0, 0, 0, 1], (0.75 + 0.5) / 2),
    ],
)
def test_with_fewer_contexts_the_worst_is_the_least(
    outcomes: list[str], families: list[str], settings: list[int], score: float
) -> None:
    found = cross_check(outcomes, families, settings)
    assert found.score == pytest.approx(score)
    assert found.chsh is None


OUTCOMES = st.lists(st.sampled_from(["7", "8", "9", None]), min_size=8, max_size=8)


@given(OUTCOMES)
def test_counting_classes_is_counting_pairs(outcomes: list[str | None]) -> None:
    p = {}
    for x, y in product((0, 1), repeat=2):
        pairs = [
            (a, b)
            for a, f, s in zip(outcomes, FAMILIES, SETTINGS, strict=True)
            for b, g, t in zip(outcomes, FAMILIES, SETTINGS, strict=True)
            if (f, s, g, t) == ("w", x, "m", y)
        ]
        p[x, y] = sum(a is not None and a == b for a, b in pairs) / len(pairs)
    e = {context: 2 * rate - 1 for context, rate in p.items()}
    s = [sum(e.values()) - 2 * correlation for correlation in e.values()]
    worst = min(1, max(0, (min(s) + 2) / 4))
    found = cross_check(outcomes, FAMILIES, SETTINGS)
    assert found.score == pytest.approx((sum(p.values()) / 4 + worst) / 2, abs=1e-12)
    assert found.chsh == pytest.approx(s, abs=1e-12)
    # The same samples stand in all contexts, so the classical bound cannot be broken.
    assert max(s) <= 2 + 1e-12


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["7", "8", None]), st.sampled_from("wm"), st.sampled_from([0, 1])
        ),
        max_size=14,
    )
)
def test_contexts_of_any_size(arms: list[tuple[str | None, str, int]]) -> None:
    found = cross_check([a for a, _, _ in arms], [f for _, f, _ in arms], [s for _, _, s in arms])
    if len({f for _, f, _ in arms}) < 2:
        assert found.score is None
        return
    first = arms[0][1]
    p = []
    for x, y in product((0, 1), repeat=2):
        ours = [a for a, f, s in arms if f == first and s == x]
        theirs = [a for a, f, s in arms if f != first and s == y]
        if ours and theirs:
            agree = [a is not None and a == b for a in ours for b in theirs]
            p.append(sum(agree) / len(agree))
    mean = sum(p) / len(p)
    if len(p) < 4:
        assert found.chsh is None
        assert found.score == pytest.approx((mean + min(p)) / 2, abs=1e-9)
        return
    e = [2 * rate - 1 for rate in p]
    s_k = [sum(e) - 2 * correlation for correlation in e]
    assert found.chsh == pytest.approx(s_k, abs=1e-9)
    worst = min(1, max(0, (min(s_k) + 2) / 4))
    assert found.score == pytest.approx((mean + worst) / 2, abs=1e-9)
    assert max(s_k) <= 2 + 1e-9


def test_no_fixed_answers_pass_the_classical_bound() -> None:
    for outcomes in product(["7", "8", "9", None], repeat=4):
        found = cross_check(outcomes, ["w", "w", "m", "m"], [0, 1, 0, 1])
        assert found.chsh is not None
        assert max(found.chsh) <= 2
        assert found.score is not None
        assert 0 <= found.score <= 1
        # Only families that always say the same earn the whole score.
        assert (found.score == 1) is (len(set(outcomes)) == 1 and None not in outcomes)


def test_of_families_that_never_agree_nothing_is_left() -> None:
    for cool, warm in product(["7", "8"], ["9", None]):
        found = cross_check([cool, cool, warm, warm], ["w", "w", "m", "m"], [0, 1, 0, 1])
        assert found.score == 0


@pytest.mark.parametrize("short", [["7"], [], ["7", "7", "7"]])
def test_one_of_each_for_every_arm(short: list[str]) -> None:
    with pytest.raises(ValueError, match="zip"):
        cross_check(short, ["w", "m"], [0, 1])


@given(OUTCOMES)
def test_the_families_may_change_places(outcomes: list[str | None]) -> None:
    there = cross_check(outcomes, FAMILIES, SETTINGS)
    back = cross_check(outcomes[4:] + outcomes[:4], FAMILIES, SETTINGS)
    assert there.score == pytest.approx(back.score, abs=1e-12)
