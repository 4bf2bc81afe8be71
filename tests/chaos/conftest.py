"""Whether the tests of faults are short or thorough."""

import pytest


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether to be thorough: tens of minutes instead of a few."""
    return bool(request.config.getoption("--soak"))
