"""What belongs to the fingerprint of a base model's files, and what does not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_server.wire.base_files import fingerprint

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of two files of weights, with an index."""
    (tmp_path / "config.json").write_text(
        json.dumps({"hidden_size": 8, "transformers_version": "5.0"})
    )
    for i in (1, 2):
        (tmp_path / f"model-{i}.safetensors").write_bytes(bytes([i]) * 3 * 2**20)
    (tmp_path / INDEX).write_text(
        json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    )
    return tmp_path


def config(**fields: object) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(json.dumps(fields))


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        write("consolidated.safetensors", b"the same weights in one file"),
        write("tokenizer.json", b"{}"),
        config(hidden_size=8, transformers_version="5.1"),
        config(transformers_version="5.0", hidden_size=8),
        config(hidden_size=8),
    ],
)
def test_what_does_not_change_the_model(change: Callable[[Path], object], folder: Path) -> None:
    before = fingerprint(folder)
    change(folder)
    assert fingerprint(folder) == before


@pytest.mark.parametrize(
    "change",
    [
        config(hidden_size=9, transformers_version="5.0"),
        write("config.json", b"no JSON"),
        write("config.json", b"[1]"),
        write("model-1.safetensors", b"\1" * 3 * 2**20 + b"\1"),
        write("model-2.safetensors", b"\3" + b"\2" * (3 * 2**20 - 1)),
        write("model-2.safetensors", b"\2" * (3 * 2**20 - 1) + b"\3"),
        lambda folder: (
            (folder / "model-1.safetensors").rename(folder / "model-0.safetensors")
            and (folder / INDEX).unlink()
        ),
    ],
)
def test_what_changes_it(change: Callable[[Path], object], folder: Path) -> None:
    before = fingerprint(folder)
    change(folder)
    assert fingerprint(folder) != before


@pytest.mark.parametrize(
    "index", [b"", b"[]", b"{}", b'{"weight_map": 1}', b'{"weight_map": {"a": 1}}']
)
def test_without_a_usable_index_every_file_counts(index: bytes, folder: Path) -> None:
    (folder / INDEX).write_bytes(index)
    before = fingerprint(folder)
    (folder / "model-3.safetensors").write_bytes(b"3")
    assert fingerprint(folder) != before
