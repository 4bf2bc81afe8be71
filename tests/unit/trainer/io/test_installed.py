"""Which optional libraries count as installed."""

from pathlib import Path

import pytest

from trainer.io.installed import is_installed


@pytest.mark.parametrize(
    ("files", "installed"),
    [
        (["quite_new_library/latest-run/config.yaml"], False),
        (["quite_new_library/__init__.py"], True),
        (["quite_new_library.py"], True),
        ([], False),
    ],
)
def test_a_mere_folder_of_a_librarys_name_is_no_installation(
    files: list[str], installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert is_installed("quite_new_library") == installed
