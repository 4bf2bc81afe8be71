"""Fixtures of the tests without a server."""

from pathlib import Path

import pytest

from tests.tiny import TINY
from trainer.tiny_model.build import build_tiny_model


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a base model with random weights; tests only read it."""
    return build_tiny_model(tmp_path_factory.mktemp("models") / "base", TINY)
