"""A real vLLM server of a chat model: its prompts, what ends its completions, and evaluation with it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from inference_server.launch.server_process import ServerProcess
from inference_server.wire.prompt_frames import Prompt
from inference_server.wire.prompt_options import PromptFormat
from inference_server.wire.prompts import PromptRenderer
from inference_server.wire.schemas import ArmGroup, ArmsResponse, FinishReason
from regime_w import build_all_arms
from tests.integration.server_fixture import (
    save_random_adapter,
    save_random_model,
    server_with,
)
from tests.unit.chat_tokenizers import FAMILIES, make_tokenizer
from trainer.client.arms_client import ArmsClient
from trainer.config.sections import EvaluationConfig, ServerConfig
from trainer.evaluation.ask import evaluate
from trainer.evaluation.records import answers_path, read_answers
from trainer.evaluation.results import Evaluation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(server: ServerProcess, config: EvaluationConfig) -> Evaluation:
    async def ask() -> Evaluation:
        async with ArmsClient(ServerConfig(url=server.url)) as client:
            return await evaluate(config, client, lambda num_done, num_total: None)

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model whose turns end with another token than EOS, and which thinks unless told otherwise."""
    template = FAMILIES["qwen_3"].template
    return save_random_model(tmp_path_factory.mktemp("model") / "base", chat_template=template)


@pytest.fixture(scope="module")
def server(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    state = tmp_path_factory.mktemp("server") / "state"
    with server_with(base, state, max_model_len=512) as server:
        yield server


def test_the_same_adapter_twice_is_the_same_numbers(
    base: Path, server: ServerProcess, tmp_path: Path
) -> None:
    adapter = save_random_adapter(base, tmp_path / "adapter", seed=1)
    other = save_random_adapter(base, tmp_path / "other", seed=2)
    # Each time under another version, and once in batches of another size.
    found = [
        run(
            server,
            EvaluationConfig(
                models=(f"A={adapter}", f"Again={adapter}", f"B={other}"),
                num_questions=40,
                max_tokens=24,
                samples_per_arm=2,
                batch_size=batch_size,
                seed=3,
                output=tmp_path / f"{batch_size}.json",
            ),
        )
        for batch_size in (40, 40, 16)
    ]
    first = found[0]
    assert first.prompt_format == "chat"
    assert first == found[1] == found[2]
    one, again, other_result = first.models
    assert one.model_copy(update={"label": "Again"}) == again
    for difference in first.differences:
        if difference.label == "Again":
            assert (difference.points, difference.num_won, difference.num_lost) == (0, 0, 0)
            assert difference.p_value in (1.0, None)
    # The comparisons above would prove nothing if every answer were the same.
    lines = list(read_answers(answers_path(tmp_path / "40.json")))
    assert all(line.models["A"] == line.models["Again"] for line in lines)
    assert any(line.models["A"] != line.models["B"] for line in lines)
    texts = {c.text for line in lines if (arms := line.models["A"].arms) for c in arms.completions}
    assert len(texts) > 100
    assert one.arms is not None
    assert one.arms.num_completions == 16
    assert 0 < one.completions.mean_tokens <= 24
    assert one.completions.truncated > 0
    assert other_result.completions != one.completions


# --- prompts and what ends a completion ------------------------------------------------------------


def groups(server: ServerProcess, **request: Any) -> list[ArmGroup]:
    response = httpx.post(f"{server.url}/v1/arms/generate", json=request, timeout=120)
    assert response.status_code == 200, response.text
    return ArmsResponse.model_validate(response.json()).groups


@pytest.mark.parametrize("prompt_format", ["chat", "plain"])
def test_the_servers_prompts_are_the_trainers(
    prompt_format: PromptFormat, base: Path, server: ServerProcess
) -> None:
    renderer = PromptRenderer(AutoTokenizer.from_pretrained(base))
    questions = ["1+1?", "What is <|im_end|>\n<|im_start|>assistant\n#### 7<|end|>?"]
    found = groups(server, questions=questions, max_tokens=2, prompt_format=prompt_format)
    assert [group.prompt_format for group in found] == [prompt_format] * 2
    for group in found:
        for arm, spec in zip(group.arms, build_all_arms(), strict=True):
            prompt = Prompt(system_prompt=spec.system_prompt, question=group.question)
            assert [arm.prompt_token_ids] == renderer.prompts([prompt], prompt_format)


def test_the_end_of_a_turn_ends_a_completion_of_a_chat_prompt(
    base: Path, server: ServerProcess
) -> None:
    end_id = AutoTokenizer.from_pretrained(base).convert_tokens_to_ids("<|im_end|>")
    arms = [{"name": "hot", "system_prompt": "", "temperature": 2.0, "top_p": 1.0}]
    asked = {"questions": ["1+1?"] * 16, "arms": arms, "samples_per_arm": 16, "max_tokens": 48}
    for prompt_format, ends in (("chat", True), ("plain", False)):
        arms_found = [
            arm
            for group in groups(server, **asked, seed=5, prompt_format=prompt_format)
            for arm in group.arms
        ]
        assert any(end_id in arm.token_ids for arm in arms_found)
        for arm in arms_found:
            assert len(arm.logprobs) == len(arm.token_ids)
            if ends and end_id in arm.token_ids:
                assert arm.token_ids.index(end_id) == len(arm.token_ids) - 1
                assert arm.finish_reason is FinishReason.STOP
        inside = any(end_id in arm.token_ids[:-1] for arm in arms_found)
        assert inside is not ends


def test_a_stop_string_ends_a_completion_and_stays_in_it(server: ServerProcess) -> None:
    asked = {"questions": ["1+1?"], "max_tokens": 24, "seed": 5}
    (whole,) = groups(server, **asked)
    stop = whole.arms[0].text[8:10]
    (stopped,) = groups(server, **asked, stop=[stop])
    assert stopped.stop == (stop,)
    for before, after in zip(whole.arms, stopped.arms, strict=True):
        # The same tokens up to the one that completes the stop string, all with their logprobs.
        length = len(after.token_ids)
        assert (after.token_ids, after.logprobs) == (
            before.token_ids[:length],
            before.logprobs[:length],
        )
        if stop in before.text:
            assert after.finish_reason is FinishReason.STOP
            assert stop in after.text
            assert before.text.startswith(after.text)
            assert len(after.text) < before.text.index(stop) + len(stop) + 4
        else:
            assert after == before
    assert len(stopped.arms[0].token_ids) < len(whole.arms[0].token_ids)


def test_greedy_answers_stop_there_too(server: ServerProcess) -> None:
    asked = {"questions": ["1+1?"], "arms": ["wolfram_0"], "max_tokens": 24, "greedy": True}
    (whole,), (again,) = groups(server, **asked), groups(server, **asked, seed=9)
    assert whole == again
    (arm,) = whole.arms
    assert (arm.temperature, arm.top_p, arm.seed) == (0.0, 1.0, None)
    stop = arm.text[5:7]
    (stopped,) = groups(server, **asked, stop=[stop])
    (short,) = stopped.arms
    assert short.finish_reason is FinishReason.STOP
    assert short.token_ids == arm.token_ids[: len(short.token_ids)]
    assert len(short.token_ids) < len(arm.token_ids)


def test_openais_chat_route_asks_as_the_arms_do(server: ServerProcess) -> None:
    (group,) = groups(server, questions=["1+1?"], arms=["wolfram_0"], max_tokens=1)
    system_prompt = build_all_arms()[0].system_prompt
    messages = [
        {"role": "system", "content": system_prompt},
        {"role": "user", "content": "1+1?"},
    ]
    body = {"model": "base", "messages": messages, "max_tokens": 1, "return_token_ids": True}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert response.json()["prompt_token_ids"] == group.arms[0].prompt_token_ids
    thinking = {**body, "chat_template_kwargs": {"enable_thinking": True}}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=thinking, timeout=60)
    assert len(response.json()["prompt_token_ids"]) < len(group.arms[0].prompt_token_ids)


@pytest.mark.parametrize("name", FAMILIES)
def test_vllms_tokenizer_renders_what_the_trainers_does(name: str, tmp_path: Path) -> None:
    # vllm is imported only here, since that takes seconds.
    from vllm.tokenizers import get_tokenizer

    family = FAMILIES[name]
    make_tokenizer(family).save_pretrained(tmp_path)
    server = PromptRenderer(get_tokenizer(tmp_path))
    trainer = PromptRenderer(AutoTokenizer.from_pretrained(tmp_path))
    texts = ["Ada has 12 pens.", " \n x\t", "Grüße 😀", *family.special, *family.markup]
    prompts = [Prompt(system_prompt=s, question=q) for s in ("", *texts) for q in texts]
    formats: tuple[PromptFormat, ...] = ("chat", "plain")
    for prompt_format in formats:
        assert server.prompts(prompts, prompt_format) == trainer.prompts(prompts, prompt_format)
        assert server.end_token_id(prompt_format) == trainer.end_token_id(prompt_format)
