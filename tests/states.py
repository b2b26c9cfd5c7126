"""What the tests of state files share: the formats, and the comparison of states."""

import importlib.util

import numpy as np
import pytest

SAFETENSORS = pytest.param(".safetensors", marks=pytest.mark.skipif(
    importlib.util.find_spec("safetensors") is None, reason="safetensors is not installed"))
"""Its suffix as a parameter, which skips the test where the package is not installed."""


def assert_same(actual, expected, where="state"):
    """Compare types, keys and their order, dtypes, shapes and bits."""
    assert type(actual) is type(expected), where
    if isinstance(expected, dict):
        assert [(type(key), key) for key in actual] == [(type(key), key) for key in expected], where
        for key in expected:
            assert_same(actual[key], expected[key], f"{where}[{key!r}]")
    elif isinstance(expected, np.ndarray):
        assert actual.dtype == expected.dtype, where
        assert actual.shape == expected.shape, where
        assert actual.tobytes() == expected.tobytes(), where
        assert actual.flags.writeable, where
        assert actual.flags.c_contiguous, where
        assert actual.flags.aligned, where
    else:
        assert repr(actual) == repr(expected), where
