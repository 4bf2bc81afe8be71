"""How long the tests of faults go on."""

import pytest


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether to be thorough: tens of minutes instead of a few."""
    return bool(request.config.getoption("--soak"))
