"""Rollouts that are text alone: their tokens are those that the model was asked with."""

import pytest

from inference_server.wire.prompts import PromptRenderer
from regime_w import build_all_arms, build_prompt
from tests.unit.chat_tokenizers import FAMILIES, make_tokenizer
from trainer.config.sections import RolloutConfig
from trainer.rollouts.files import Retokeniser
from trainer.rollouts.rows import RolloutCompletion

ARM = build_all_arms()[0]


@pytest.mark.parametrize("with_prompt", [False, True], ids=["completion", "prompt and completion"])
@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
@pytest.mark.parametrize("name", ["with_bos", "mistral", "chatml"])
def test_text_is_scored_under_the_bos_that_its_tokenizer_adds(
    name: str, prompt_format: str, with_prompt: bool
) -> None:
    tokenizer = make_tokenizer(FAMILIES[name])
    rollout = RolloutConfig.model_validate({"prompt_format": prompt_format})
    retokeniser = Retokeniser.of(PromptRenderer(tokenizer), rollout)
    prompt = build_prompt(ARM.system_prompt, "1+1?")
    text = "1+1=2\n#### 2"
    stored = RolloutCompletion(arm_name=ARM.name, full_text=prompt * with_prompt + text)
    found = retokeniser.completion(stored, "1+1?", "r.jsonl:1")
    assert found.full_text == text
    bos = FAMILIES[name].bos
    if bos is not None:
        bos_id = tokenizer.convert_tokens_to_ids(bos)
        assert found.prompt_token_ids[0] == bos_id
        assert (found.prompt_token_ids + found.token_ids).count(bos_id) == 1
    if prompt_format == "plain":
        assert found.prompt_token_ids == tokenizer(prompt)["input_ids"]
