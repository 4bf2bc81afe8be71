r"""Inequalities that are joined by "or" are unions, and sets of them are what stands in them."""

import pytest

from regime_w.algebra.inequalities import joined


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x < -1 or x > 2", r"(-\infty, -1) \cup (2, \infty)"),
        (r"x \le -1 \text{ or } x \ge 2", r"(-\infty, -1] \cup [2, \infty)"),
        (r"x \leq -1 \lor 2 < x", r"(-\infty, -1] \cup (2, \infty)"),
        (r"-1 > x, or 2 \le x", r"(-\infty, -1) \cup [2, \infty)"),
        ("0 < x < 1 or x > 2", r"(0, 1) \cup (2, \infty)"),
        (r"1 \ge x > 0 or x > 2", r"(0, 1] \cup (2, \infty)"),
        (
            r"x < 0 or 1 < x < 2 or x > \frac{7}{2}",
            r"(-\infty, 0) \cup (1, 2) \cup (\frac{7}{2}, \infty)",
        ),
        (r"\{x | x > 2\}", "x > 2"),
        (r"\{x \mid x > 2\}", "x > 2"),
        (r"\{ x : 0 < x \}", "0 < x"),
        (r"\{x \in \mathbb{R} : x \ge 2\}", r"x \ge 2"),
        (r"\{x \mid x < 0 or x > 2\}", r"(-\infty, 0) \cup (2, \infty)"),
        # What is none of this stays.
        ("x > 2", "x > 2"),
        ("x < -1 or y > 2", "x < -1 or y > 2"),
        ("x = 1 or x = 2", "x = 1 or x = 2"),
        ("x < 1 or x = 2", "x < 1 or x = 2"),
        ("0 < x > 1 or x > 2", "0 < x > 1 or x > 2"),
        ("x < 1, x > 2", "x < 1, x > 2"),
        (r"\{x | x = 2\}", r"\{x | x = 2\}"),
        (r"\{1, 2\}", r"\{1, 2\}"),
        ("|x| < 2", "|x| < 2"),
        ("", ""),
    ],
)
def test_inequalities_are_joined(text: str, expected: str) -> None:
    assert joined(text) == expected
