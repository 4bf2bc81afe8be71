"""Rollout files: what is refused or left out, and the tokens of rows that are text alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from inference_server.wire.prompts import PromptRenderer
from regime_w import build_all_arms, build_prompt
from tests.unit.chat_tokenizers import FAMILIES, make_tokenizer
from trainer.config.sections import RolloutConfig
from trainer.errors import DataError
from trainer.model.base_files import BaseLimits
from trainer.rollouts.files import Retokeniser, RowLimits, StoredRollouts
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


CONTEXT, VOCAB_SIZE = 2000, 500


def row(text: str = "#### 2", **changes: Any) -> dict[str, Any]:
    arm = {
        "arm_name": ARM.name,
        "full_text": text,
        "prompt_token_ids": [1, 2],
        "token_ids": [3, 4],
        "sampler_logprobs": [-1.0, -0.5],
        **changes,
    }
    return {"question": "1+1?", "gold_answer": "#### 2", "arm_outputs": [arm]}


def of_tokens(count: int) -> dict[str, Any]:
    return row(token_ids=[3] * count, sampler_logprobs=[-1.0] * count)


def text_alone(text: str) -> dict[str, Any]:
    return row(text, prompt_token_ids=[], token_ids=[], sampler_logprobs=[])


def stored(path: Path, *rows: dict[str, Any], token_budget: int = CONTEXT) -> StoredRollouts:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    renderer = PromptRenderer(make_tokenizer(FAMILIES["chatml"]))
    limits = RowLimits(
        base=BaseLimits(vocab_size=VOCAB_SIZE, context_tokens=CONTEXT), token_budget=token_budget
    )
    retokeniser = Retokeniser.of(renderer, RolloutConfig())
    return StoredRollouts(path, retokeniser, num_groups=None, limits=limits)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"temperature": -1.0}, "arm_outputs.0.temperature: "),
        ({"temperature": 0.0}, "arm_outputs.0.temperature: "),
        ({"temperature": float("inf")}, "arm_outputs.0.temperature: "),
        ({"top_p": 0.0}, "arm_outputs.0.top_p: "),
        ({"top_p": float("nan")}, "arm_outputs.0.top_p: "),
        ({"token_ids": [3, -1]}, "arm_outputs.0.token_ids.1: "),
        ({"token_ids": [3, 4, 5]}, "arm_outputs.0: 2 sampler_logprobs for 3 token_ids"),
        ({"sampler_logprobs": [-1.0]}, "arm_outputs.0: 1 sampler_logprobs for 2 token_ids"),
        ({"sampler_logprobs": [-1.0, float("nan")]}, "arm_outputs.0.sampler_logprobs.1: "),
        (
            {"token_ids": [3, VOCAB_SIZE]},
            f"{ARM.name}: token id {VOCAB_SIZE}, and policy.base_model",
        ),
        ({"anything": float("nan")}, "'anything' is NaN, which JSON does not have"),
        ({"prompt_token_ids": [99_999]}, f"{ARM.name}: token id 99999, and policy.base_model"),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_refused_with_its_place(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(DataError) as caught:
        stored(path, row(), row(**changes))
    assert f"{path}:2: {said}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "long", [of_tokens(20_000), text_alone("12 " * 20_000)], ids=["ids", "text"]
)
def test_a_row_longer_than_the_context_is_left_out_with_a_line(
    long: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    found = stored(path, of_tokens(CONTEXT - 2), long, text_alone("#### 2"))
    assert len(found.records) == 2
    (line,) = found.left_out
    assert line.startswith(f"1 questions of {path} left out, {path}:2 with ")
    assert f"context of {CONTEXT} of policy.base_model" in line
    with pytest.raises(DataError, match=r"rows\.jsonl: no rollouts; 1 questions of .*:1 with"):
        stored(path, long)


def test_a_row_longer_than_the_budget_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    stored(path, of_tokens(98), token_budget=100)
    with pytest.raises(DataError) as caught:
        stored(path, row(), of_tokens(99), token_budget=100)
    assert f"{path}:2: {ARM.name}: 101 tokens, more than ppo.token_budget = 100" in str(
        caught.value
    )


def test_a_row_whose_gold_is_not_one_number_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:2: gold_answer: '5 or 6' is not one number"):
        stored(tmp_path / "rows.jsonl", row(), {**row(), "gold_answer": "5 or 6"})


def test_the_dtype_of_the_server_is_read_back(tmp_path: Path) -> None:
    found = stored(tmp_path / "rows.jsonl", row() | {"dtype": "bfloat16"}, row())
    assert found.dtypes == {"bfloat16": 1, None: 1}


def test_only_rows_that_say_the_same_of_the_same_question_are_repeated(tmp_path: Path) -> None:
    later, other = row() | {"policy_version": 2}, row() | {"question": "2+0?"}
    # Two collections at once gave the same answers, but not the same last digits.
    again = row(sampler_logprobs=[-1.0, -0.50001]) | {"id": "q1"}
    found = stored(
        tmp_path / "rows.jsonl", row() | {"id": "q1"}, later, again, other, row("#### 4")
    )
    assert (len(found.records), found.num_repeated) == (5, 1)
