"""Path scores, against the formulas written out pair by pair."""

from fractions import Fraction
from itertools import product
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regime_w.reasoning import ReasoningPath, path_scores, read_path

STEPS = "12 + 7 = 19\n19 - 4 = 15\n"

# (text, answer, quality): V · (1 + C)/2 · min(1, 2U)
QUALITY = [
    ("", "15", 0),
    ("no equations", "15", 0),
    (STEPS, "15", 1),
    (STEPS, "16", 0.5),
    (STEPS, None, 0.5),
    ("12 + 7 = 20\n19 - 4 = 15\n", "15", 0.5 * 1 * 1),  # one false, one of two used
    ("12 + 7 = 20\n20 - 4 = 16\n", "16", 0.5 * 1 * 1),
    ("12 + 7 = 20", "20", 0),  # a false equation closes nothing
    (STEPS + "15 + 4 = 19\n19 - 7 = 12\n", "15", 1),  # checked again: half is used
    (STEPS + "1 + 1 = 2\n2 + 2 = 4\n4 + 4 = 8\n8 + 8 = 16\n", "15", 2 * 2 / 6),
    (STEPS + STEPS, "15", 1),  # repeated: counted once
    ("15 + 0 = 15", "15", 0),  # idle
    ("15 + 0 + 0 = 15", "15", 0),
    ("15 * 1 * 1 = 15", "15", 0),
    ("15 + 1 - 1 = 15", "15", 0),
    ("1 * 15 = 15", "15", 0),
    ("(15) = 15", "15", 0),
    ("30 - 10 - 5 = 15", "15", 1),
    ("20 + 5 - 5 - 5 = 15", "15", 1),
    ("100 * 15 / 100 = 15", "15", 1),  # not idle: 15 % of 100
    ("15 * 1 = 15", "15", 0),
    ("0 + 15 = 15", "15", 0),
    ("15 - 0 = 15", "15", 0),
    ("1 * 15 = 15", "15", 0),
    ("15 / 1 = 15", "15", 0),
    (STEPS + "15 + 0 = 15\n15 * 1 = 15\n15 - 0 = 15", "15", 1),  # neither earns nor costs
    ("12 - 6 = 6", "6", 1),  # not idle, though the result is an operand
    ("2 - 1 = 1", "1", 1),  # nor this: 2 has changed
    ("5 * 0 = 0", "0", 1),
    ("15 + 1 = 15", "15", 0),  # false, which idle ones are not
    (STEPS + "15 + 1 = 15", "15", 2 / 3),
    (STEPS + "15 * 0 = 15", "15", 2 / 3),
    ("1/2 + 1/2 + 1 = 2", "2", 1),
    ("3 / 2 = 1.5", "1.5", 1),
]


@pytest.mark.parametrize(("text", "answer", "quality"), QUALITY)
def test_quality(text: str, answer: str | None, quality: float) -> None:
    assert read_path(text, answer).quality == pytest.approx(quality)


def test_what_a_path_holds() -> None:
    path = read_path(STEPS + "2 + 2 = 5", "15")
    assert path.results == {19, 15}
    assert (path.num_equations, path.num_true) == (3, 2)


GOOD = read_path(STEPS, "15")
ROUTE = read_path("7 - 4 = 3\n12 + 3 = 15", "15")
OTHER = read_path("2 + 2 = 4", "4")
NOTHING = read_path("", "15")
WM = ["w", "m"]


@pytest.mark.parametrize(
    ("paths", "families", "scores"),
    [
        ([], [], []),
        ([GOOD], ["w"], [1]),
        ([GOOD] * 8, ["w"] * 4 + ["m"] * 4, [1] * 8),
        ([GOOD, OTHER], WM, [0.5, 0.5]),  # both valid, nothing in common
        ([GOOD, ROUTE], WM, [0.75, 0.75]),  # one of two results in common
        ([GOOD, NOTHING], WM, [1, 0]),  # nothing to compare with
        ([GOOD, GOOD, OTHER], ["w", "w", "m"], [0.5, 0.5, 0.5]),  # the own family does not count
        ([GOOD, GOOD, OTHER], ["w"] * 3, [0.75, 0.75, 0.5]),  # in one family all others do
        ([GOOD, GOOD, OTHER], ["a", "b", "c"], [0.75, 0.75, 0.5]),
    ],
)
def test_scores_by_hand(
    paths: list[ReasoningPath], families: list[str], scores: list[float]
) -> None:
    assert path_scores(paths, families) == pytest.approx(scores)


def test_copies_of_a_route_against_another_and_a_lone_arm() -> None:
    two_routes = [GOOD] * 4 + [OTHER] * 4
    assert path_scores(two_routes, ["w"] * 4 + ["m"] * 4) == pytest.approx([0.5] * 8)
    # Mixed over the families, half of the peers share all: (1 + 1/2) / 2.
    assert path_scores(two_routes, ["w", "w", "m", "m"] * 2) == pytest.approx([0.75] * 8)
    assert path_scores([NOTHING], ["w"]) == (0,)
    assert path_scores([GOOD, NOTHING, NOTHING], ["w"] * 3) == (1, 0, 0)
    # Peers are weighed by their quality: (1 + 1/(1 + 1/2)) / 2, and (1 + 0) / 2 of a half.
    weak = read_path("2 + 2 = 4", "9")
    assert weak.quality == 0.5
    assert path_scores([GOOD, GOOD, weak], ["w", "m", "m"]) == pytest.approx([5 / 6, 1, 0.25])


def test_false_working_has_quality_0_and_counts_for_nobody() -> None:
    wrong = read_path("2 + 2 = 5", "5")
    assert (wrong.quality, wrong.results, wrong.num_equations) == (0, frozenset(), 1)
    assert path_scores([GOOD, wrong, GOOD], ["w", "m", "m"]) == pytest.approx([1, 0, 1])


@given(
    st.text(st.sampled_from("0123456789+-*/=()%., \n")), st.sampled_from(["1", "-5", "1/3", None])
)
def test_quality_is_a_share(text: str, answer: str | None) -> None:
    path = read_path(text, answer)
    assert 0 <= path.quality <= 1
    assert len(path.results) <= path.num_true <= path.num_equations
    assert (path.quality > 0) <= (path.num_true > 0)
    assert path_scores([path] * 4, ["w", "w", "m", "m"]) == pytest.approx([path.quality] * 4)


@given(st.integers(0, 20))
def test_half_of_the_steps_may_be_checks(num_more: int) -> None:
    checks = "".join(f"{1000 + i} + 1 = {1001 + i}\n" for i in range(0, 2 * num_more, 2))
    quality = read_path(checks + STEPS, "15").quality  # two steps are needed, the others not
    assert quality == pytest.approx(min(1, 2 * 2 / (2 + num_more)))


PATHS = st.builds(
    lambda quality, results: ReasoningPath(
        quality=quality if results else 0.0,
        results=frozenset(map(Fraction, results)),
        num_equations=3,
        num_true=3,
    ),
    st.sampled_from([0.0, 0.125, 0.5, 0.75, 1.0]),
    st.sets(st.integers(0, 6), max_size=5),
)


@given(st.lists(st.tuples(PATHS, st.sampled_from("wmx")), max_size=12))
def test_sums_of_vectors_are_sums_over_pairs(arms: list[tuple[ReasoningPath, str]]) -> None:
    several = len({family for _, family in arms}) > 1
    expected = [p.quality for p, _ in arms]
    overlaps, weights = [0.0] * len(arms), [0.0] * len(arms)
    for (i, (a, f)), (j, (b, g)) in product(enumerate(arms), repeat=2):
        if i != j and (f != g or not several):
            weights[i] += b.quality
            if a.results and b.results:
                cosine = len(a.results & b.results) / sqrt(len(a.results) * len(b.results))
                overlaps[i] += b.quality * cosine
    for i, weight in enumerate(weights):
        if weight and arms[i][0].results:
            expected[i] *= (1 + overlaps[i] / weight) / 2
    found = path_scores([p for p, _ in arms], [f for _, f in arms])
    assert found == pytest.approx(expected, abs=1e-9)
    assert all(0 <= score <= 1 for score in found)
