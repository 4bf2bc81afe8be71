"""The recipe's sanity check: two arms that agree on the right answer, scored and rewarded.

Run it with ``python -m regime_w.demo``.
"""

import argparse
from typing import get_args

from regime_w.arms import ArmOutput
from regime_w.config import Formulas, RewardConfig
from regime_w.piped_output import ending_with_the_reader
from regime_w.reward import arm_rewards, compute_regime_w_scores, compute_reward

_QUESTION = "If you have 3 apples and buy 4 more, how many apples?"
_GOLD_ANSWER = "#### 7"
_ARM_OUTPUTS = (
    ArmOutput(
        arm_name="wolfram_0",
        full_text="3 + 4 = 7\n#### 7",
        reasoning="3 + 4 = 7",
        answer="#### 7",
    ),
    ArmOutput(
        arm_name="maudlin_0",
        full_text="Start with 3 apples, add 4, total 7.\n#### 7",
        reasoning="Start with 3 apples, add 4",
        answer="#### 7",
    ),
)


_SCORES = ("s_end", "s_path", "s_cf", "s_wm")


@ending_with_the_reader()
def main() -> None:
    """Prints scores and rewards of the recipe's two-arm example, under both formula sets."""
    parser = argparse.ArgumentParser(
        prog="python -m regime_w.demo", description=__doc__, allow_abbrev=False
    )
    parser.parse_args()

    print(f"question  {_QUESTION}")
    print(f"gold      {_GOLD_ANSWER}")
    for formulas in get_args(Formulas):
        config = RewardConfig(formulas=formulas)
        scores = compute_regime_w_scores(_QUESTION, _ARM_OUTPUTS, _GOLD_ANSWER, config=config)
        rewards = arm_rewards(_QUESTION, _ARM_OUTPUTS, _GOLD_ANSWER, config=config)
        print(f"\nformulas  {formulas}")
        print(f"{'arm':<12}{'answer':>8}{'correct':>9}{'reward':>9}")
        for output, answer, is_correct, reward in zip(
            _ARM_OUTPUTS, scores.answers, scores.correct or (), rewards, strict=True
        ):
            mark = "yes" if is_correct else "no"
            print(f"{output.arm_name:<12}{answer or '-':>8}{mark:>9}{reward:>9.4f}")
        print("  ".join(f"{name} {getattr(scores, name):.4f}" for name in _SCORES))
    reward = compute_reward(_QUESTION, _ARM_OUTPUTS, _GOLD_ANSWER, formulas="original")
    print(f"\nRegime W demo reward: {reward:.4f}")


if __name__ == "__main__":
    main()
