"""What a completion says, which is the same for answers of every type."""

import pytest

from regime_w.answer_types.answer_type import AnswerTypeName
from regime_w.answer_types.named import answer_type_of
from regime_w.numbers.completions import completion_of

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
    assert completion_of("<s>20</s> 18</s> 7") == " 18"


@pytest.mark.parametrize(
    "part", ["~~a ", "<s>", "\\cancel{", "\\sout{a{", "<|im_end", "<think>", "~~" + "a" * 399]
)
def test_long_texts_are_read_once(part: str) -> None:
    text = part * (2**20 // len(part))
    assert len(completion_of(text)) <= len(text)
