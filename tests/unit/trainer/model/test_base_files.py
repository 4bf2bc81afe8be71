"""A base model that cannot be read: one line that names policy.base_model, and no long silence."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainer.config.sections import PolicyConfig
from trainer.errors import UsageError
from trainer.model.base_files import base_limits, load_tokenizer, require_base_model
from trainer.model.base_model import load_base

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_base, tmp_path / "base")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("~/nope", "'~' is not read"),
        ("./nope", "no such folder"),
        ("/" + "x" * 5000, "no such folder"),
        ("models/nope", "no such folder"),
    ],
)
def test_a_path_without_a_model_is_refused(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"policy\.base_model") as caught:
        require_base_model(name)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500


def test_scaled_positions_are_a_longer_context_as_on_the_server(base: Path) -> None:
    path = base / "config.json"
    config = json.loads(path.read_text())
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    for changes, factor in (({}, 1), ({"rope_parameters": rope}, 4)):
        path.write_text(json.dumps(config | changes))
        longest = base_limits(str(base)).context_tokens
        assert longest == factor * config["max_position_embeddings"]


@pytest.mark.parametrize("offline", ["1", "0"])
@pytest.mark.parametrize("name", ["gpt2", "owner/name", "no model", "x" * 300])
def test_a_hub_id_out_of_reach_is_one_line_within_seconds(
    name: str, offline: str, tmp_path: Path
) -> None:
    environment = {
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": offline,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "PATH": "",
    }
    program = (
        "from trainer.errors import UsageError\n"
        "from trainer.model.base_files import require_base_model\n"
        f"try: require_base_model({name!r})\n"
        "except UsageError as error: print(error)"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert time.monotonic() - started < 30
    assert done.stdout.startswith("policy.base_model "), done.stderr
    assert "neither a folder nor in the Hub's cache" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", truncate),
        ("model.safetensors", lambda path: path.write_bytes(LFS)),
        ("model.safetensors", Path.unlink),
        ("config.json", lambda path: path.write_bytes(LFS)),
        ("config.json", lambda path: path.write_text('{"model_type": "nope"}')),
        ("config.json", lambda path: path.write_text("[]")),
    ],
)
def test_damaged_files_are_one_line(name: str, damage: Callable[[Path], None], base: Path) -> None:
    damage(base / name)
    with pytest.raises(UsageError, match=r"policy\.base_model .*cannot be read") as caught:
        load_base(PolicyConfig(base_model=str(base)), torch.device("cpu"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept_bytes", [0, 7, 1000, -1])
def test_half_a_download_is_found_before_anything_else(kept_bytes: int, base: Path) -> None:
    require_base_model(str(base))
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept_bytes])
    with pytest.raises(
        UsageError, match=r"model\.safetensors: .*; download or copy the model again"
    ):
        require_base_model(str(base))
    weights.write_bytes(LFS)
    with pytest.raises(
        UsageError, match=r"model\.safetensors: .*; download or copy the model again"
    ):
        require_base_model(str(base))


def test_a_base_without_tokenizer_files_is_refused(base: Path) -> None:
    for name in TOKENIZER_FILES:
        (base / name).unlink()
    with pytest.raises(UsageError, match=r"tokenizer makes no tokens of a text"):
        load_tokenizer(str(base))


@pytest.mark.parametrize(
    ("vocab_size", "said"),
    [(507, "tokenizer's pad token has the id 507"), (100, "token has the id")],
)
def test_tokens_beyond_the_embeddings_are_named(vocab_size: int, said: str, base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"vocab_size": vocab_size}))
    with pytest.raises(UsageError, match=said):
        load_tokenizer(str(base))


def test_a_damaged_tokenizer_is_one_line(base: Path) -> None:
    (base / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match=r"policy\.base_model .*cannot be read"):
        load_tokenizer(str(base))
