"""What ``auto`` stands for with a base model's tokenizer, and what is said of it."""

import pytest

from inference_server.wire.prompt_frames import Prompt
from inference_server.wire.prompt_options import PromptFormat
from inference_server.wire.prompts import PromptRenderer
from tests.unit.chat_tokenizers import FAMILIES, make_tokenizer
from trainer.model import prompts
from trainer.model.prompts import most_prompt_tokens, prompt_format_of


@pytest.mark.parametrize(
    ("template", "expected", "reason"),
    [
        (FAMILIES["chatml"].template, "chat", None),
        (None, "plain", None),
        ("{{ 1 / 0 }}", "plain", "division by zero"),
        ("{% for m in %}", "plain", "Expected an expression"),
        ("{{ messages[0].role }}", "plain", "does not show the user's message"),
        ("{{ messages[0].content | upper }}", "plain", "user's message"),
    ],
)
def test_a_template_that_cannot_be_used_is_said_in_one_line(
    template: str | None, expected: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, said = make_tokenizer(FAMILIES["chatml"]), list[str]()
    tokenizer.chat_template = template
    monkeypatch.setattr(prompts, "load_tokenizer", lambda base_model: tokenizer)
    assert prompt_format_of("base", said.append) == expected
    renderer = PromptRenderer(tokenizer)
    assert renderer.resolve("auto") == expected
    assert [line for line in [renderer.unusable_template] if line] == said
    assert [reason is not None and reason in line for line in said] == [True] * len(said)
    assert len(said) == (reason is not None)
    assert all("\n" not in line for line in said)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt_format", ["chat", "plain"])
def test_the_bound_without_a_tokenizer_holds(prompt_format: PromptFormat, family: str) -> None:
    renderer = PromptRenderer(make_tokenizer(FAMILIES[family]))
    systems, question = ["", "Be brief.", "Réponds en français : 你好"], "Wie viele Äpfel? 🍎" * 3
    rendered = renderer.prompts(
        [Prompt(system_prompt=system, question=question) for system in systems], prompt_format
    )
    bound = most_prompt_tokens(systems, question, prompt_format)
    assert max(map(len, rendered)) <= bound <= most_prompt_tokens(systems, question, "auto")
