"""Prompts as token ids: as each model's own template has them, and whatever a user writes in them."""

from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from inference_server.wire.prompt_frames import NoChatTemplate, Prompt
from inference_server.wire.prompt_options import PromptFormat
from inference_server.wire.prompts import PromptRenderer
from regime_w import build_prompt
from tests.unit.chat_tokenizers import FAMILIES, make_tokenizer

NAMES = list(FAMILIES)
QUESTIONS = [
    "Ada has 12 pens and buys 7 more. How many pens does Ada have now?",
    " \n leading and trailing\t\n ",
    "\n\nuser\nsystem",
    "Grüße, 1,080 😀 \u2028 {{ bos_token }} {% raw %}",
]
SYSTEM = "You are a precise math reasoner. "
names = pytest.mark.parametrize("name", NAMES)


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    return make_tokenizer(FAMILIES[name])


@cache
def renderer_of(name: str) -> PromptRenderer:
    return PromptRenderer(tokenizer_of(name))


def template_ids(name: str, system_prompt: str, question: str) -> list[int]:
    """What Transformers makes of the messages."""
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    messages = [{"role": "user", "content": question}]
    if system_prompt and family.has_system_role:
        messages.insert(0, {"role": "system", "content": system_prompt})
    elif system_prompt:
        messages[0]["content"] = f"{system_prompt}\n\n{question}"
    ids: list[int] = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False, enable_thinking=False
    )
    return ids


def ids_of(
    name: str, question: str, *, system_prompt: str = SYSTEM, prompt_format: PromptFormat = "chat"
) -> list[int]:
    prompt = Prompt(system_prompt=system_prompt, question=question)
    (ids,) = renderer_of(name).prompts([prompt], prompt_format)
    return ids


def special_strings(name: str) -> list[str]:
    family = FAMILIES[name]
    # The markup of tools is in no prompt here: its tokens are words like others.
    markup = () if name == "tools" else family.markup
    return [*family.special, *markup, *([family.bos] if family.bos else [])]


@names
@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("system_prompt", [SYSTEM, ""])
def test_chat_prompts_are_those_of_the_template(
    name: str, question: str, system_prompt: str
) -> None:
    expected = template_ids(name, system_prompt, question)
    assert ids_of(name, question, system_prompt=system_prompt) == expected


@names
@settings(max_examples=25)
@given(question=st.text(max_size=40), system_prompt=st.text(max_size=20))
def test_ordinary_text_is_encoded_as_the_tokenizer_does(
    name: str, question: str, system_prompt: str
) -> None:
    texts = question + system_prompt
    if any(token in texts for token in special_strings(name)):
        return
    assert ids_of(name, question, system_prompt=system_prompt) == template_ids(
        name, system_prompt, question
    )
    plain = ids_of(name, question, system_prompt=system_prompt, prompt_format="plain")
    assert plain == tokenizer_of(name)(build_prompt(system_prompt, question))["input_ids"]


@names
@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
@settings(max_examples=25)
@given(data=st.data())
def test_text_never_becomes_a_control_token(
    name: str, prompt_format: PromptFormat, data: st.DataObject
) -> None:
    strings = special_strings(name)
    pieces = st.one_of(st.sampled_from(strings), st.sampled_from(["a", " ", "\n", "<", "|", "1"]))
    question, system_prompt = (
        "".join(data.draw(st.lists(pieces, min_size=1, max_size=6))) for _ in range(2)
    )
    tokenizer = tokenizer_of(name)
    control = {tokenizer.convert_tokens_to_ids(token) for token in strings}

    def found(question: str, system_prompt: str) -> Counter[int]:
        ids = ids_of(name, question, system_prompt=system_prompt, prompt_format=prompt_format)
        return Counter(token_id for token_id in ids if token_id in control)

    assert found(question, system_prompt) == found("q", "s")
    ids = ids_of(name, question, system_prompt=system_prompt, prompt_format=prompt_format)
    assert question.strip() in tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@names
def test_bos_stands_once_and_first(name: str) -> None:
    bos = FAMILIES[name].bos or "<s>"
    bos_id = tokenizer_of(name).get_vocab().get(bos, -1)
    for prompt_format in ("plain", "chat"):
        ids = ids_of(name, f"{bos} 1+1?", prompt_format=prompt_format)
        assert [i for i, token_id in enumerate(ids) if token_id == bos_id] == [0] * (bos_id >= 0)


@names
def test_an_answer_ends_with_the_token_that_ends_a_turn(name: str) -> None:
    renderer, tokenizer, family = renderer_of(name), tokenizer_of(name), FAMILIES[name]
    assert renderer.end_token_id("chat") == tokenizer.convert_tokens_to_ids(family.end_of_turn)
    assert renderer.end_token_id("plain") == tokenizer.convert_tokens_to_ids(family.eos)


@names
@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
@settings(max_examples=25)
@given(answer=st.text(max_size=30) | st.sampled_from(["<|im_end|>", "</s>", "\n\n#### 7"]))
def test_a_demonstration_goes_on_from_its_prompt(
    name: str, prompt_format: PromptFormat, answer: str
) -> None:
    prompt = Prompt(system_prompt=SYSTEM, question="1+1?")
    renderer, tokenizer = renderer_of(name), tokenizer_of(name)
    asked, answered = renderer.demonstration(prompt, answer, prompt_format)
    assert asked == ids_of(name, "1+1?", prompt_format=prompt_format)
    assert renderer.end_token_id("chat") not in answered
    whole = tokenizer.decode(asked + answered, clean_up_tokenization_spaces=False)
    assert whole.endswith(answer)


@pytest.mark.parametrize(
    ("answer", "goes_on"),
    [
        ("#### 7", "\n</think>\n\n#### 7"),
        ("<think>\n3 + 4</think>#### 7", "3 + 4</think>#### 7"),
        ("<think>3 + 4</think>#### 7", "3 + 4</think>#### 7"),
        ("3 + 4</think>#### 7", "3 + 4</think>#### 7"),
        # As the server gives a completion that was cut off.
        ("<think>\n\n3 +", "\n3 +"),
    ],
)
def test_an_answer_goes_on_from_the_thought_that_a_template_began(
    answer: str, goes_on: str
) -> None:
    prompt = Prompt(system_prompt="", question="</think>#### 3 + 4?")
    renderer, tokenizer = renderer_of("always_thinking"), tokenizer_of("always_thinking")
    assert renderer.opened_thought == "<think>\n"
    asked, answered = renderer.demonstration(prompt, answer, "chat")
    assert tokenizer.decode(asked).endswith("<think>\n")
    assert tokenizer.decode(answered) == goes_on
    ends = tokenizer.convert_tokens_to_ids("</think>")
    assert ends not in asked
    assert answered.count(ends) == goes_on.count("</think>")
    plain = renderer.demonstration(prompt, "#### 7", "plain")
    assert tokenizer.decode(plain[1]) == "#### 7"


def test_a_thought_whose_end_no_text_shows_is_not_begun() -> None:
    family = FAMILIES["always_thinking"]
    hidden = replace(family, special=(*family.special, *family.markup), markup=())
    assert PromptRenderer(make_tokenizer(hidden)).opened_thought == ""


@pytest.mark.parametrize("name", [name for name in NAMES if name != "always_thinking"])
def test_other_templates_begin_no_thought(name: str) -> None:
    assert renderer_of(name).opened_thought == ""


def test_a_tokenizer_without_a_template_has_plain_prompts_alone() -> None:
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.chat_template = None
    renderer = PromptRenderer(tokenizer)
    assert not renderer.has_chat_template
    assert renderer.resolve("auto") == "plain"
    with pytest.raises(NoChatTemplate, match="chat_template"):
        renderer.prompts([Prompt(system_prompt="", question="?")], "chat")
    assert renderer_of("chatml").resolve("auto") == "chat"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content | replace(' ', '_') }}{% endfor %}",
        "{% for m in messages %}{{ m.content | tojson }}{% endfor %}",
        "{{ messages[0].content }}{{ 1 // 0 }}",
        "{{ messages[0].content }}{{ 10.0 ** 400 }}",
    ],
)
def test_a_template_that_changes_texts_or_raises_is_none(template: str) -> None:
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.chat_template = template
    renderer = PromptRenderer(tokenizer)
    assert renderer.resolve("auto") == "plain"
    with pytest.raises(NoChatTemplate):
        renderer.prompts([Prompt(system_prompt="", question="?")], "chat")


@pytest.mark.parametrize("template", ["{{ nothing.at.all }}", "hello", "{% for %}"])
def test_a_template_that_does_not_show_the_question_is_none(template: str) -> None:
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.chat_template = template
    assert not PromptRenderer(tokenizer).has_chat_template
