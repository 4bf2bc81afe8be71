"""The rollouts of a critic: they need the run's tokenizer and prompt format, and other arms are reported."""

from pathlib import Path
from typing import Any

import pytest

from inference_server.wire.prompt_frames import Prompt
from inference_server.wire.prompts import PromptRenderer
from inference_server.wire.schemas import ArmCompletion, ArmGroup, FinishReason
from regime_w import ArmSpec, build_all_arms
from tests.unit.chat_tokenizers import FAMILIES, make_tokenizer
from trainer.config.sections import OfflineRunConfig, TrainConfig
from trainer.errors import DataError
from trainer.rollouts import critic_rollouts
from trainer.rollouts.critic_rollouts import sampling_warnings

FILE = Path("rollouts.jsonl")
TOKENIZER = make_tokenizer(FAMILIES["chatml"])
ARMS = build_all_arms()


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critic_rollouts, "load_tokenizer", lambda base_model: TOKENIZER)


def group(
    *arms: ArmSpec,
    prompt_format: Any = "chat",
    tokenizer: Any = TOKENIZER,
    has_logprobs: bool = True,
) -> ArmGroup:
    question, renderer = "Ada has 12 pens. How many?", PromptRenderer(tokenizer)
    asked = [Prompt(system_prompt=arm.system_prompt, question=question) for arm in arms]
    completions = [
        ArmCompletion(
            arm=arm.name,
            sample=0,
            text="#### 12",
            finish_reason=FinishReason.STOP,
            temperature=arm.temperature,
            top_p=arm.top_p,
            seed=None,
            prompt_token_ids=token_ids,
            token_ids=[1],
            logprobs=[-0.5] * has_logprobs,
        )
        for arm, token_ids in zip(arms, renderer.prompts(asked, prompt_format), strict=True)
    ]
    return ArmGroup(
        id="q", question=question, policy_version=1, prompt_format=prompt_format, arms=completions
    )


def changed(**changes: Any) -> ArmSpec:
    return ARMS[0].model_copy(update=changes)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([group(*ARMS)], []),
        ([group(*ARMS[:2])], []),
        ([group(changed(name="solo"))], ["arms that this run does not have (solo)"]),
        ([group(changed(temperature=1.5))], ["another temperature or top_p (wolfram_0)"]),
        ([group(changed(system_prompt="Hm."))], ["another system prompt (wolfram_0)"]),
        (
            [group(*ARMS), group(changed(name="solo")), group(changed(top_p=0.5), ARMS[1])],
            ["arms that this run does not have (solo), another temperature or top_p (wolfram_0)"],
        ),
        # Text alone is tokenised here, as the run asks.
        ([group(changed(name="solo"), prompt_format="plain", has_logprobs=False)], []),
    ],
)
def test_what_differs_of_the_arms_is_one_line(found: list[ArmGroup], said: list[str]) -> None:
    lines = sampling_warnings(FILE, found, TrainConfig())
    assert lines == [f"warning: ppo.critic_rollouts {FILE}: sampled with {line}" for line in said]
    assert sampling_warnings(FILE, found, OfflineRunConfig(rollouts=FILE)) == []


def test_another_prompt_format_is_refused() -> None:
    with pytest.raises(DataError, match="sampled with plain prompts, and this run asks with chat"):
        sampling_warnings(FILE, [group(*ARMS, prompt_format="plain")], TrainConfig())
    plain = TrainConfig.model_validate({"rollout": {"prompt_format": "plain"}})
    assert sampling_warnings(FILE, [group(*ARMS, prompt_format="plain")], plain) == []
    # Rows from before there was another than plain do not say.
    old = group(*ARMS, prompt_format="plain").model_copy(update={"prompt_format": None})
    assert sampling_warnings(FILE, [old], plain) == []


def test_another_tokenizer_is_refused() -> None:
    found = group(ARMS[0])
    (arm,) = found.arms
    other = arm.model_copy(update={"prompt_token_ids": [i + 1 for i in arm.prompt_token_ids]})
    with pytest.raises(DataError, match="not those of models/tiny-base's tokenizer"):
        sampling_warnings(FILE, [found.model_copy(update={"arms": [other]})], TrainConfig())
