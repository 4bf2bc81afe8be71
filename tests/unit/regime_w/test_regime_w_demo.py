"""``python -m regime_w.demo``: the recipe's sanity check, as people run it."""

import subprocess
import sys

import pytest

from regime_w.demo import main


def run_demo(*arguments: str) -> str:
    command = [sys.executable, "-m", "regime_w.demo", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stderr == ""
    return done.stdout


def test_prints_the_rewards(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Reasonings of 5 and 6 words: s_path = 1 / (1 + 0.25 / 5.500001).
    reward = 1 + 0.7 * (0.55 + 0.3 / (1 + 0.25 / 5.500001))
    monkeypatch.setattr("sys.argv", ["demo"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines == run_demo().splitlines()
    assert lines[-1] == f"Regime W demo reward: {reward:.4f}"
    original = lines[lines.index("formulas  original") :]
    for name in ("wolfram_0", "maudlin_0"):
        (row,) = [line for line in original if line.startswith(name)]
        assert row.split() == [name, "7", "yes", f"{reward:.4f}"]
    # Cross-checked: both agree, one shows its working (3 + 4 = 7), the other none.
    for name, path in (("wolfram_0", 1.0), ("maudlin_0", 0.0)):
        (row,) = [line for line in lines[: -len(original)] if line.startswith(name)]
        assert row.split()[-1] == f"{1 + 0.7 * (0.4 + 0.3 * path + 0.3):.4f}"


def test_help() -> None:
    assert "python -m regime_w.demo" in run_demo("--help")


RECIPE = """
from .reward import compute_reward


def main():
    question = "If you have 3 apples and buy 4 more, how many apples?"
    gold = "#### 7"
    arm_outputs = [
        {
            "arm_name": "wolfram_0",
            "full_text": "3 + 4 = 7\\n#### 7",
            "reasoning": "3 + 4 = 7",
            "answer": "#### 7",
        },
        {
            "arm_name": "maudlin_0",
            "full_text": "Start with 3 apples, add 4, total 7.\\n#### 7",
            "reasoning": "Start with 3 apples, add 4",
            "answer": "#### 7",
        },
    ]

    r = compute_reward(question, arm_outputs, gold)
    print("Regime W demo reward:", r)


if __name__ == "__main__":
    main()
"""


def test_the_recipes_own_demo_runs_to_the_letter(capsys: pytest.CaptureFixture[str]) -> None:
    exec(RECIPE, {"__name__": "__main__", "__package__": "regime_w"})
    printed = capsys.readouterr().out
    assert printed.startswith("Regime W demo reward: ")
    assert float(printed.split()[-1]) == pytest.approx(1 + 0.7 * (0.4 + 0.3 * 0.5 + 0.3))
