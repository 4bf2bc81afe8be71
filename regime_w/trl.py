"""Regime W as a reward function for TRL's own trainers (``reward_funcs`` of GRPOTrainer, RLOOTrainer).

Completions of one question are one group. The dataset determines what a group contains:

- One row for each question: TRL samples ``num_generations`` completions of its prompt, always together in
  a batch, and these are the group. All come from one prompt, so they are one family and the
  cross-check between families abstains.
- One row for each arm of a question, with columns ``question`` and ``arm``: the group spans rows.
  TRL shuffles rows, so whole groups come together only with ``shuffle_dataset=False``, rows sorted by
  question, and a generation batch (``per_device_train_batch_size · steps_per_generation``) that
  holds all arms times ``num_generations``, on one process. Completions that are not together are scored separately.

TRL samples every arm at one temperature; the trainer of this project does not.
Neither torch nor TRL is imported here.
"""

from collections.abc import Callable, Mapping, Sequence
from numbers import Number
from typing import Any

from regime_w.arms import ArmOutput
from regime_w.config import RewardConfig
from regime_w.numbers.answers import extract_gold
from regime_w.reward import arm_rewards
from regime_w.texts.completions import opened_thought

Text = str | list[dict[str, Any]]
"""A prompt or completion: plain text or chat messages, whose content is text or a list of parts."""
Gold = str | int | float | None
"""A gold answer: a solution that ends in ``#### 18``, a number (as text or not), or None if there is none."""


def regime_w_reward(config: RewardConfig | None = None) -> Callable[..., list[float]]:
    """Makes a reward function that fits TRL's ``reward_funcs``.

    It reads the dataset's columns ``answer`` (the gold answer as a solution or a number, required),
    ``question`` (rows with the same question are a group; without it, those with the same prompt) and
    ``arm`` (names such as ``wolfram_0``; without it all completions of a group are one family), and
    ignores all others. Give it ``credit="per_arm"``
    or ``"difference"``; under ``"shared"`` all completions of a group earn the same and GRPO learns nothing.

    Example:
        >>> reward = regime_w_reward()
        >>> reward(prompts=["2+2?"] * 2, completions=["#### 4", "#### 5"], answer=["#### 4"] * 2)
        [1.0, -0.5]

    Args:
        config: The reward's constants; None for the defaults.
    """
    chosen = RewardConfig() if config is None else config

    def regime_w(
        *,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        answer: Sequence[Gold] | None = None,
        question: Sequence[str] | None = None,
        arm: Sequence[str] | None = None,
        **ignored: object,
    ) -> list[float]:
        """Each completion's reward, in order.

        Raises:
            ValueError: There are no gold answers; one is not a single number or differs from that of its group (the
                message names the row); or a list is not as long as the completions.
        """
        if answer is None:
            raise ValueError("the dataset has no column 'answer': add one with the gold answers")
        golds = [_gold(row, value) for row, value in enumerate(answer)]
        keys = [str(key) for key in (prompts if question is None else question)]
        columns = {"prompts": prompts, "answer": golds, "question": keys, "arm": arm}
        _require_rows(len(completions), columns)
        indices: dict[str, list[int]] = {}
        for index, key in enumerate(keys):
            indices.setdefault(key, []).append(index)
        rewards = [0.0] * len(completions)
        for key, group in indices.items():
            _require_one(golds, group)
            outputs = [
                ArmOutput.from_text(
                    f"arm_{number}" if arm is None else arm[index],
                    _begun(prompts[index]) + _text(completions[index]),
                )
                for number, index in enumerate(group)
            ]
            earned = arm_rewards(key, outputs, golds[group[0]], config=chosen)
            for index, reward in zip(group, earned, strict=True):
                rewards[index] = reward
        return rewards

    return regime_w


def _require_rows(number: int, columns: Mapping[str, Sequence[object] | None]) -> None:
    for name, column in columns.items():
        if column is not None and len(column) != number:
            raise ValueError(f"{name}: {len(column)} rows for {number} completions")


def _require_one(golds: Sequence[str | None], group: Sequence[int]) -> None:
    """Refuse a group whose rows have different gold answers."""
    first = golds[group[0]]
    for index in group:
        if golds[index] != first:
            raise ValueError(
                f"answer: row {index} of the batch: {golds[index]!r} for a question whose first answer is "
                f"{first!r}"
            )


def _begun(prompt: Text) -> str:
    """The start of a completion's thought, if a text prompt ends with it; how TRL renders a chat is unknown here."""
    return opened_thought(prompt) if isinstance(prompt, str) else ""


def _text(completion: Text) -> str:
    """The completion's text; for a chat, the assistant's messages."""
    if isinstance(completion, str):
        return completion
    said = [message.get("content") for message in completion if message.get("role") == "assistant"]
    return "\n".join(text for content in said if (text := _content(content)) is not None)


def _content(content: object) -> str | None:
    """A message's text: its content, or the texts of its parts; None if it has none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return None
    parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    return "".join(part for part in parts if isinstance(part, str))


def _gold(row: int, value: object) -> str | None:
    """The gold answer of a row as text."""
    if value is None:
        return None
    is_number = isinstance(value, Number) and not isinstance(value, bool)
    if is_number or isinstance(value, str):
        gold = extract_gold(str(value))
        if gold is not None:
            return gold
    raise ValueError(
        f"answer: row {row} of the batch: {str(value)[-60:]!r} is not one number: give the number alone, or a "
        "solution that ends in '#### 18'"
    )
