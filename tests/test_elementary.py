"""Elementary functions of the kernels: at most a few ULP. scripts/elementary_table.py tries all 2³² inputs."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from helpers import SPECIAL, assert_same_bits, compiled

from fastopt._runtime import arrays, dispatch

TABLE = Path(__file__).parent.parent / "scripts" / "elementary_table.py"
LARGEST_ERRORS = {
    # exp(x) − 1 near ±ln 2 / 2 is a difference of rounded parts: what softmax's backward is allowed.
    "exp": 1.0, "expm1": 2.0, "log1p": 1.0,
    "sigmoid": 2.0, "tanh": 1.4, "silu": 2.05, "gelu": 2.4, "gelu_tanh": 2.1,
    "silu_slope": 2.7, "gelu_slope": 2.5, "gelu_tanh_slope": 2.8,
    "sigmoid_slope_of": 1.5, "tanh_slope_of": 1.5,
}
"""Bounds of the errors over all inputs in ULP."""
EDGES = {
    "exp": [-104, -103.97, -103.28, -87.336, 88.722, 89, 0, 0.34657359, -0.34657359],
    "expm1": [-104, -17.3, 88.722, 89, 0, 0.34657359, -0.34657359, 1.0397208],
    "log1p": [-1, 0, -0.29289323, 0.41421357, 1.8284271, 16777216],
    "sigmoid": [-104, -103.28, -87.336, -16.6, 16.6, 40, 0, 0.34657359, -0.34657359],
    "tanh": [0, 0.625, -0.625, 9.01, 10, -10],
    "silu": [-110, -108.66, -91.88, -64, 0, 16.6, 40, 0.34657359, -0.34657359],
    "gelu": [-14.5, -14.4, -13.1, -1.125, 0, 1.125, 5.4, 14.5],
    "gelu_tanh": [-11.25, -10.7, -10.1, -9, -0.25, 0, 0.25, 5, 7],
    "silu_slope": [-110, -108.66, -91.88, -1.2784645, 0, 1.2784645, 110],
    "gelu_slope": [-14.75, -13.3, -0.75179154, -0.5625, 0, 0.5625, 14.75],
    "gelu_tanh_slope": [-11.25, -10.25, -0.75239855, 0, 0.75239855, 11.25],
    "sigmoid_slope_of": [0, 0.5, 1],
    "tanh_slope_of": [-1, 0, 1],
}
"""Where a result changes its kind, or its formula."""
LIMITS = {  # at −inf, −0, 0, inf
    "sigmoid": (0.0, 0.5, 0.5, 1.0), "tanh": (-1.0, -0.0, 0.0, 1.0),
    "silu": (-0.0, -0.0, 0.0, np.inf), "gelu": (-0.0, -0.0, 0.0, np.inf), "gelu_tanh": (-0.0, -0.0, 0.0, np.inf),
    "silu_slope": (-0.0, 0.5, 0.5, 1.0), "gelu_slope": (-0.0, 0.5, 0.5, 1.0), "gelu_tanh_slope": (-0.0, 0.5, 0.5, 1.0),
}


def apply(name, x, level):
    y = np.empty_like(x)
    getattr(compiled("elementary", level), name)(arrays.Array(x, "x"), arrays.Array(y, "y", writable=True))
    return y


def inputs(name):
    """Every 4001st bit pattern, the neighbourhoods of EDGES, numbers of ordinary size, and special values."""
    steps = np.arange(-3000, 3000, dtype=np.int64)
    around = [(np.float32(edge).view(np.int32) + steps).astype(np.int32).view(np.float32) for edge in EDGES[name]]
    return np.concatenate([np.arange(0, 1 << 32, 4001, dtype=np.uint64).astype(np.uint32).view(np.float32), *around,
                           np.linspace(-16, 16, 100_001, dtype=np.float32), SPECIAL])


@pytest.fixture(scope="module")
def table():
    if not TABLE.exists():
        pytest.skip("scripts/ is not here")
    spec = importlib.util.spec_from_file_location("elementary_table", TABLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", LARGEST_ERRORS)
def test_largest_error(name, table):
    x = inputs(name)
    gap, _ = table.errors(name, x, apply(name, x, "baseline"))
    assert gap.max() <= LARGEST_ERRORS[name], x[gap.argmax()]


@pytest.mark.parametrize("name", LARGEST_ERRORS)
def test_same_bits_at_every_level(name):
    x = inputs(name)
    for level in dispatch.available():
        assert_same_bits(apply(name, x, level), apply(name, x, "baseline"), level)


@pytest.mark.parametrize("name", LIMITS)
def test_limits_and_signs_of_zero(name):
    x = np.array([-np.inf, -0.0, 0.0, np.inf] * 16, np.float32)
    assert_same_bits(apply(name, x, "baseline"), np.array(LIMITS[name] * 16, np.float32), name)


def test_the_table_sees_an_error(table):
    exact = np.array([1.0, np.inf, np.nan, 0.0, 1e-40])
    right = exact.astype(np.float32).astype(np.float64)
    assert (table.distance(right, exact) <= 0.5).all()
    wrong = np.array([1.0 + 2.0**-22, 1.0, 0.0, np.nan, 0.0])
    assert (table.distance(wrong, exact) > 1.0).all()
    assert table.distance(1e-8, np.float64(0.0), 0.125) < 1.0 < table.distance(1e-8, np.float64(0.0))
