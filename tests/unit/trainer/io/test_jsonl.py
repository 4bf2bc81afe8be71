"""Rows on disk: written whole, appended one by one, and mended after a kill."""

import gzip
import json
import resource
import tracemalloc
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import DataError, UsageError
from trainer.io.jsonl import JsonlAppender, cut_off, read_lines, truncated_bytes, write_jsonl
from trainer.io.locks import lock

ROWS = [{"id": i, "text": "two\nlines — ü" * i} for i in range(5)]
SUFFIXES = ["", ".gz", ".zst"]


def rows_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for _, line in read_lines(path)]


def repair(path: Path) -> int:
    num_bytes = truncated_bytes(path)
    cut_off(path, num_bytes)
    return num_bytes


def append(path: Path, rows: list[dict[str, object]]) -> None:
    with JsonlAppender(path) as file:
        for row in rows:
            file.append(row)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_appended_rows_read_back_over_several_sessions(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"rows.jsonl{suffix}"
    append(path, ROWS[:2])
    append(path, ROWS[2:])
    assert rows_of(path) == ROWS
    assert repair(path) == 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_two_processes_do_not_append_to_one_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.jsonl{suffix}"
    with JsonlAppender(path) as file:
        file.append(ROWS[0])
        with pytest.raises(UsageError) as caught:
            append(path, ROWS[:1])
        file.append(ROWS[1])
    assert str(caught.value) == (
        f"another process appends to {path}; stop it, or choose another output"
    )
    append(path, ROWS[2:])
    assert rows_of(path) == ROWS


def test_a_file_that_gets_no_row_is_not_there(tmp_path: Path) -> None:
    path, old = tmp_path / "rows.jsonl", tmp_path / "old.jsonl"
    old.touch()
    append(path, [])
    append(old, [])
    assert list(tmp_path.iterdir()) == [old]


def test_a_link_to_a_file_that_gets_no_row_stays_and_the_file_is_not_there(tmp_path: Path) -> None:
    path, link = tmp_path / "disk" / "rows.jsonl", tmp_path / "rows.jsonl"
    path.parent.mkdir()
    link.symlink_to(path)
    append(link, [])
    assert (link.is_symlink(), path.exists()) == (True, False)
    append(link, ROWS)
    assert rows_of(path) == ROWS


def test_a_file_that_was_removed_before_it_was_locked_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("ab", buffering=0) as file:
        append(path, [])
        path.unlink()
        with pytest.raises(UsageError, match="taken"):
            lock(file, path, taken="taken")


@given(
    suffix=st.sampled_from(SUFFIXES), share=st.floats(0, 1), chunk=st.sampled_from([1, 7, 2**20])
)
def test_wherever_a_kill_tears_it_a_file_is_mended_to_its_whole_rows(
    suffix: str, share: float, chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("torn") / f"rows.jsonl{suffix}"
    ends = [0]
    for row in ROWS:
        append(path, [row])
        ends.append(path.stat().st_size)
    whole = path.read_bytes()
    cut = round(share * len(whole))
    path.write_bytes(whole[:cut])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.io.jsonl._CHUNK_BYTES", chunk)
        num_truncated = repair(path)
    num_rows = sum(end <= cut for end in ends) - 1
    assert (path.stat().st_size, num_truncated) == (ends[num_rows], cut - ends[num_rows])
    append(path, ROWS[num_rows:])
    assert rows_of(path) == ROWS


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """A block in which a write beyond this size is cut short, and the next one fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_row_for_which_there_is_no_space_leaves_the_rows_before_it_and_goes_in_later(
    suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"rows.jsonl{suffix}"
    append(path, ROWS[:2])
    size_bytes = path.stat().st_size
    with JsonlAppender(path) as file:
        with files_of_at_most(size_bytes + 7), pytest.raises(OSError, match="too large"):
            file.append(ROWS[2])
        assert path.stat().st_size == size_bytes
        for row in ROWS[2:]:
            file.append(row)
    assert rows_of(path) == ROWS


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_file_of_another_kind_is_an_error_that_names_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_text('{"plain": "text"}\n')
    for touch in (lambda: list(read_lines(path)), lambda: truncated_bytes(path)):
        with pytest.raises(DataError, match=r"rows\.jsonl") as caught:
            touch()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_model.safetensors", b"\x78\x01\x00{\n weights"),
        ("mine.md", b"# Mine\nand more"),
        ("mine.json", b"[[1, 2]]\n[[3"),
        ("part.tar.gz", gzip.compress(b"rollouts/step-000001.jsonl" * 999)[:-9]),
        ("part.zst", zstandard.compress(b"rollouts/step-000001.jsonl" * 99999)[:-9]),
    ],
)
def test_a_file_of_something_else_has_no_truncated_row(
    name: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: not a file of rows, which begin with \{{"):
        truncated_bytes(tmp_path / name)


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_truncated_file_is_an_error_where_it_is_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.jsonl{suffix}"
    append(path, ROWS)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="truncated"):
        list(read_lines(path))


def test_a_line_of_many_megabytes_and_many_small_frames_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.zst"
    long = b"\n" * 2**22 + b"x" * 2**24 + b"\n"
    short = [f"{n}\n".encode() for n in range(2000)]
    path.write_bytes(zstandard.compress(long) + b"".join(map(zstandard.compress, short)))
    tracemalloc.start()
    try:
        found = [line for _, line in read_lines(path)]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == [b"x" * 2**24, *(line.strip() for line in short)]
    # Some copies of the line, not of the 4 million lines before it.
    assert peak_bytes < 2**28


def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: No such file"):
        list(read_lines(tmp_path / "nowhere"))


@pytest.mark.parametrize("suffix", [".GZ", ".Zst"])
def test_capital_letters_in_a_suffix_change_nothing(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.jsonl{suffix}"
    append(path, ROWS)
    small = path.rename(tmp_path / f"rows.jsonl{suffix.lower()}")
    assert rows_of(small) == ROWS
    small.rename(path)
    assert rows_of(path) == ROWS
    path.write_bytes(path.read_bytes()[:-3])
    assert repair(path) > 0
    assert rows_of(path) == ROWS[:-1]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_mark_before_utf_8_is_no_part_of_a_row(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.jsonl{suffix}"
    lines = [json.dumps(row).encode() + b"\r\n" for row in ROWS]
    # Joined files have one in the middle, too.
    data = BOM_UTF8 + b"".join(lines[:2]) + BOM_UTF8 + b"".join(lines[2:]) + BOM_UTF8
    if suffix == ".gz":
        data = gzip.compress(data)
    elif suffix == ".zst":
        data = zstandard.ZstdCompressor().compress(data)
    path.write_bytes(data)
    assert rows_of(path) == ROWS


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    text = "\ufeff" * (encoding != "utf-16") + json.dumps(ROWS[0])
    path.write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match=r"rows\.jsonl:1: UTF-16; save the file as UTF-8"):
        rows_of(path)


def test_written_rows_read_back_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows: list[dict[str, object]] = [{"text": "two\nlines — ü"}, {"n": 1, "none": None}]
    write_jsonl(path, rows)
    text = path.read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.split("\n")[:-1]] == rows
    assert "ü" in text
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"old": 1}])
    with pytest.raises(TypeError):
        write_jsonl(path, [{"new": 1}, {"new": object()}])
    assert path.read_text() == '{"old": 1}\n'
