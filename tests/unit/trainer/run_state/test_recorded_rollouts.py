"""A run from a file resumes on the rows that it began with, and on no others."""

import re
from pathlib import Path

import pytest

from trainer.errors import DataError
from trainer.run_state.recorded_rollouts import ROLLOUTS_FILE, require_same_rollouts

# Line 3 is blank.
ROWS = [(1, b"a"), (2, b"b"), (4, b"c"), (5, b"d")]


def check(folder: Path, rows: list[tuple[int, bytes]], *, has_begun: bool = True) -> None:
    require_same_rollouts(folder, Path("rows.jsonl"), rows, has_begun=has_begun)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*ROWS, (6, b"e")], "4 rows then, 5 now, the first 4 as they were. Put the file back"),
        (ROWS[:3], "4 rows then, 3 now, the first 3 as they were. "),
        ([*ROWS[:2], (4, b"C"), ROWS[3]], "line 4 is the first that differs (4 rows then, 4 now)"),
        (ROWS[1:], "line 2 is the first that differs (4 rows then, 3 now)"),
        (ROWS[::-1], "line 5 is the first that differs (4 rows then, 4 now)"),
    ],
)
def test_other_rows_are_refused_until_the_file_is_put_back(
    rows: list[tuple[int, bytes]], words: str, tmp_path: Path
) -> None:
    check(tmp_path, ROWS, has_begun=False)
    for _ in range(2):
        with pytest.raises(DataError, match=re.escape(words)) as caught:
            check(tmp_path, rows)
        assert str(caught.value).startswith(f"rows.jsonl was changed since {tmp_path} began")
        assert "\n" not in str(caught.value)
    # Blank lines are no rows.
    check(tmp_path, [(number + 1, line) for number, line in ROWS])


def test_a_run_without_a_checkpoint_begins_anew_with_the_rows_of_now(tmp_path: Path) -> None:
    check(tmp_path, ROWS, has_begun=False)
    check(tmp_path, ROWS[:2], has_begun=False)
    check(tmp_path, ROWS[:2])


@pytest.mark.parametrize("damaged", [None, b"", b"{}"])
def test_a_run_begun_without_a_record_resumes_and_has_one_from_then_on(
    damaged: bytes | None, tmp_path: Path
) -> None:
    if damaged is not None:
        (tmp_path / ROLLOUTS_FILE).write_bytes(damaged)
    check(tmp_path, ROWS)
    with pytest.raises(DataError):
        check(tmp_path, ROWS[:2])
