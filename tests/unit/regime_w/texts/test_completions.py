"""What a completion says, which is the same for answers of every type."""

import pytest

from regime_w.answer_types.answer_type import AnswerTypeName
from regime_w.answer_types.named import answer_type_of
from regime_w.texts.completions import completion_of

_TYPES: tuple[AnswerTypeName, ...] = ("number", "text", "math")


@pytest.mark.parametrize("kind", _TYPES)
@pytest.mark.parametrize(
    "text",
    [
        "#### 18",
        "#### 18<|im_end|>\n<|im_start|>user\nAnd 3 + 4?<|im_end|>\n#### 7",
        "<think>8 + 10</think>#### 18<|im_end|>assistant\n<think>3 + 4</think>\n#### 7",
        "#### 18</s> #### 7",
        "#### 18<｜end▁of▁sentence｜>#### 7",
        "#### ~~20~~ 18",
        "#### <s>20</s> 18",
        "#### <S>20</S> 18",
        "#### <del>20</del> 18",
        "#### <strike>20</strike> 18",
        "#### \\sout{20} 18",
        "#### \\cancel{2{0}} 18",
    ],
)
def test_every_type_reads_the_same(kind: AnswerTypeName, text: str) -> None:
    assert answer_type_of(kind).extract(text) == "18"


def test_an_end_within_what_is_struck_out_ends_nothing() -> None:
    assert completion_of("#### <s>20</s> 18</s> 7") == "####  18"


_STOPS = (
    "</s>",
    "<eos>",
    "<end_of_turn>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<｜end▁of▁sentence｜>",
)
_STARTS = ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<｜begin▁of▁sentence｜>")
_MARKED = [
    *(f"{start}#### {{}}</s>" for start in _STARTS),
    "\n <s> <s>9*2\n#### {}</s>",
    "<s>#### <s>{other}</s> {}</s> {other}",
    "<s>[INST] 9*2? [/INST] Double it. #### {}</s><s>[INST] 3 + 4? [/INST] #### {other}</s>",
    "<s>The answer is {}.</s>",
    "<s><think>It is {other}, or <s>{other}</s>.</think>\n#### {}</s>",
]
_STOPPED = [
    # A stop token that a thought speaks of.
    "<think>I close with STOP. So #### {other}</think>\n#### {}",
    "<think>I close with STOP\nassistant\n. So #### {other}</think>\n#### {}STOP#### {other}",
    "<think>{other}STOP, or STOP</think> Well, <think>STOP</think>#### {}STOP",
    "#### {other}. I would end with STOP? no. It is {other}.</think>\n#### {}",
    "STOP</think>#### {}STOP#### {other}",
    "maybe {other}STOP, <user> {other}</think>\n#### {}STOP</think>#### {other}",
    # A stop token that ends the turn.
    "#### {}STOP",
    "#### {}STOP\n<|im_start|>user\n3 + 4?STOP\n<|im_start|>assistant\n#### {other}",
    "#### {}STOP\n<|im_start|>assistant\n3 + 4</think>\n#### {other}",
    "#### {}STOP\nassistant\n3 + 4</think>\n#### {other}",
    "#### {}STOPHuman: 3 + 4?\nIt is</think>#### {other}",
    "#### {}STOP[INST] 3 + 4? [/INST]</think>#### {other}",
    "#### {}STOP<start_of_turn>model\n</think>#### {other}",
    "#### {}STOP<｜User｜>3 + 4?<｜Assistant｜></think>#### {other}",
    "#### {}STOP<think>{other}</think>#### {other}",
    "<think>{other}</think>#### {}STOP{other}</think>#### {other}",
    "{other}</think>#### {}STOP<think>STOP</think>#### {other}",
    "#### {} <think>{other}STOP<think>{other}</think>#### {other}",
    "#### {} <think>was it {other}?STOP#### {other}",
]


@pytest.mark.parametrize(
    "text",
    [*_MARKED, *(text.replace("STOP", stop) for text in _STOPPED for stop in _STOPS)],
)
def test_the_first_turn_is_read_without_its_thoughts(text: str) -> None:
    for kind in ("number", "text", "math"):
        assert answer_type_of(kind).extract(text.format("18", other="7")) == "18", kind
    choice = answer_type_of("choice", ["Paris", "Rome"])
    assert choice.extract(text.format("B", other="A")) == "B"


@pytest.mark.parametrize("kind", _TYPES)
def test_a_thought_that_does_not_end_gives_nothing(kind: AnswerTypeName) -> None:
    text = "<think>#### 7<|im_end|>\n<|im_start|>assistant\n<think>3 + 4</think>\n#### 7"
    assert answer_type_of(kind).extract(text) is None


@pytest.mark.parametrize(
    "part",
    [
        *("~~a ", "<s>", "<s>a", "\\cancel{", "\\sout{a{", "<|im_end", "<think>", "~~" + "a" * 399),
        *(
            "</s> ",
            "<think></s>",
            "a<s>a</s>",
            "<s>" + "a" * 399,
            "</think></s",
            "<|im_end|>user",
            "> ",
            " ",
        ),
    ],
)
def test_long_texts_are_read_once(part: str) -> None:
    text = part * (2**20 // len(part))
    for whole in (text, f"</s>{text}</think>", f"<think></s>{text}</think>", f"<s>{text}"):
        assert len(completion_of(whole)) <= len(whole)
