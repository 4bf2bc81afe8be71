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
    s = [sum(e.values()) - 2 * e[context] for context in product((0, 1), repeat=2)]
    worst = min(1, max(0, (min(s) + 2) / 4))
    found = cross_check(outcomes, FAMILIES, SETTINGS)
    assert found.score == pytest.approx((sum(p.values()) / 4 + worst) / 2, abs=1e-12)
    assert found.chsh == pytest.approx(s, abs=1e-12)
    # The same samples stand in all contexts, so the classical bound cannot be broken.
    assert max(s) <= 2 + 1e-12


@given(OUTCOMES)
def test_the_families_may_change_places(outcomes: list[str | None]) -> None:
    there = cross_check(outcomes, FAMILIES, SETTINGS)
    back = cross_check(outcomes[4:] + outcomes[:4], FAMILIES, SETTINGS)
    assert there.score == pytest.approx(back.score, abs=1e-12)
