"""Whether math-verify is installed, which comes with an extra."""

import importlib.util

import pytest

from regime_w.algebra.math_process import LIBRARY

needs_library = pytest.mark.skipif(
    importlib.util.find_spec(LIBRARY) is None, reason="needs the extra math"
)
