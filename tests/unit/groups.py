"""Made-up groups of completions: which arm is right, and how each completion ended."""

from collections.abc import Sequence

from inference_server.wire.schemas import (
    ArmCompletion,
    ArmGroup,
    FinishReason,
)
from regime_w import RewardConfig
from trainer.data.sources import Record

RECORDS = [Record(id=f"r{i}", question=f"What is {i} + 1?", gold=f"#### {i + 1}") for i in range(7)]
REWARD = RewardConfig(formulas="original")


def completion(arm: str, text: str, finish_reason: FinishReason) -> ArmCompletion:
    return ArmCompletion(
        arm=arm,
        sample=0,
        text=text,
        finish_reason=finish_reason,
        temperature=0.25,
        top_p=0.9,
        seed=None,
        prompt_token_ids=[1, 2],
        token_ids=[3, 4, 5],
        logprobs=[-0.5, -0.25, -1.0],
    )


def group_of(
    record: Record,
    version: int | None,
    *reasons: FinishReason,
    wrong: str = "#### 1000",
    names: Sequence[str] = (),
) -> ArmGroup:
    """A group with one arm for each reason; the first arm answers correctly, the others answer ``wrong``."""
    texts = [record.gold, *[wrong] * (len(reasons) - 1)]
    names = names or [f"arm_{i}" for i in range(len(reasons))]
    return ArmGroup(
        id=record.id,
        question=record.question,
        policy_version=version,
        arms=[
            completion(name, text, reason)
            for name, text, reason in zip(names, texts, reasons, strict=True)
        ],
    )
