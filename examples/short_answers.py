"""A reward function of one's own, to be paid beside Regime W.

python -m trainer train --config deploy/configs/demo.toml \
    --reward.functions '["regime_w", "examples/short_answers.py:reward"]' --reward.weights '[1, 0.2]'
"""


def reward(completions: list[str], **columns: object) -> list[float | None]:
    """From 1 for an empty completion to 0 for 60 words; None where there is no answer to shorten."""
    shortness = [max(0.0, 1 - len(text.split()) / 60) for text in completions]
    return [
        score if "####" in text else None
        for text, score in zip(completions, shortness, strict=True)
    ]
