"""What OpenAI's chat route renders prompts with."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from inference_server.launch.template_variables import set_template_variables
from inference_server.wire.settings.errors import SettingsError
from tests.unit.chat_tokenizers import FAMILIES, make_tokenizer


def arguments(model: Path, given: object = None) -> argparse.Namespace:
    return argparse.Namespace(
        model=str(model),
        tokenizer=None,
        revision=None,
        tokenizer_revision=None,
        default_chat_template_kwargs=given,
    )


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("qwen_3", None, {"enable_thinking": False}),
        ("qwen_3", {"other": 1}, {"enable_thinking": False, "other": 1}),
        ("qwen_3", {"enable_thinking": True}, {"enable_thinking": True}),
        # A parser of thoughts would take theirs for the answer.
        ("always_thinking", None, {}),
        ("chatml", {"other": 1}, {"other": 1}),
    ],
)
def test_what_the_template_reads_is_set_unless_the_user_did(
    name: str, given: dict[str, Any] | None, expected: dict[str, Any], tmp_path: Path
) -> None:
    make_tokenizer(FAMILIES[name]).save_pretrained(tmp_path)
    args = arguments(tmp_path, given)
    set_template_variables(args)
    assert args.default_chat_template_kwargs == expected


def test_a_folder_without_a_tokenizer_is_left_to_vllm(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    set_template_variables(args)
    assert args.default_chat_template_kwargs == {}


def test_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match="--default-chat-template-kwargs: must be a JSON object"
    ):
        set_template_variables(arguments(tmp_path, [1]))
