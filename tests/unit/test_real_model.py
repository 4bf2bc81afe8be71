"""scripts/real_model.py: the tokenizer it builds, what it refuses; the converted model where there is one."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from scripts import real_model
from scripts.real_model import PACKAGES, check, manifest, pip_reason
from scripts.smollm_tokenizer import build_tokenizer, check_tokenizer

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def tokenizer(**changes: Any) -> Any:
    """Bytes, and merges that would join digits if they could."""
    merged = ["12", "is", "Ġ12"]
    return build_tokenizer(
        [*SPECIAL, *sorted(ByteLevel.alphabet()), *merged],
        ["1 2", "i s", "Ġ 12"],
        special=SPECIAL,
        **{
            "chat_template": TEMPLATE,
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "model_max_length": 99,
            **changes,
        },
    )


def test_every_digit_is_a_token_and_text_comes_back() -> None:
    made = tokenizer()
    assert made.tokenize("12 is 127") == ["1", "2", "Ġ", "is", "Ġ", "1", "2", "7"]
    assert check_tokenizer(made) == []
    assert made.model_max_length == 99


def test_the_turn_ends_with_one_special_token() -> None:
    made = tokenizer()
    (end,) = made("<|im_end|>").input_ids
    assert end == made.eos_token_id == 2
    ids = made.apply_chat_template(
        [{"role": "user", "content": "is"}], add_generation_prompt=True, return_dict=False
    )
    assert ids[0] == 1
    assert ids.count(2) == 1
    assert made.decode(ids) == "<|im_start|>user\nis<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"eos_token": "<|endoftext|>"}, "the end token is '<|endoftext|>'"),
        ({"chat_template": None}, "no chat template"),
    ],
)
def test_a_tokenizer_that_is_wrong_is_found_out(changes: dict[str, Any], problem: str) -> None:
    assert check_tokenizer(tokenizer(**changes)) == [problem]


def test_digits_that_are_merged_are_found_out() -> None:
    made = tokenizer()
    made.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    (problem,) = check_tokenizer(made)
    assert problem.startswith("digits are not tokens of their own: ")


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (
            "WARNING: x\nERROR: No version\nERROR: No matching distribution.\n",
            "No matching distribution",
        ),
        ("python: No module named pip\n", "python: No module named pip"),
        ("", "no reason given"),
    ],
)
def test_the_reason_is_one_line_of_pips(stderr: str, reason: str) -> None:
    assert pip_reason(stderr) == reason


# --- the command -----------------------------------------------------------------------------------


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["real_model.py", *arguments])
    code = real_model.main()
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_an_index_without_the_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    output, cache = tmp_path / "model", tmp_path / "cache"
    code, _, err = run(monkeypatch, capsys, "--output", str(output), "--cache", str(cache))
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith(f"real_model: error: pip could not install {' '.join(PACKAGES)}: ")
    assert "PIP_INDEX_URL" in line
    assert not output.exists()


def test_a_folder_that_is_something_else_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(monkeypatch, capsys, "--output", str(tmp_path))
    assert code == 2
    assert f"--output {tmp_path} exists and was not made by this script" in err
    (tmp_path / "real_model.json").write_text(json.dumps(manifest("bfloat16")))
    code, _, err = run(monkeypatch, capsys, "--output", str(tmp_path))
    assert code == 2
    assert "in bfloat16; choose another folder" in err


def test_a_finished_folder_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "real_model.json").write_text(json.dumps(manifest("float32")))
    code, out, _ = run(monkeypatch, capsys, "--output", str(tmp_path))
    assert code == 0
    assert out.startswith(f"{tmp_path} is there already")


@pytest.mark.slow
@pytest.mark.skipif(
    "REGIME_W_REAL_MODEL" not in os.environ,
    reason="REGIME_W_REAL_MODEL names no folder that scripts/real_model.py has made",
)
def test_the_converted_model_answers_a_question() -> None:
    assert check(Path(os.environ["REGIME_W_REAL_MODEL"])) == []
