"""exp and log1p of the kernels: at most 1 unit in the last place. scripts/exp_table.py tries all 2³² inputs."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from helpers import SPECIAL, assert_same_bits, compiled

from fastopt._runtime import arrays, dispatch

TABLE = Path(__file__).parent.parent / "scripts" / "exp_table.py"
FUNCTIONS = {"exp": np.exp, "expm1": np.expm1, "log1p": np.log1p}


def apply(name, x, level):
    y = np.empty_like(x)
    getattr(compiled("elementary", level), name)(arrays.Array(x, "x"), arrays.Array(y, "y", writable=True))
    return y


def inputs(name):
    """Every 4001st bit pattern, the neighbourhoods of where a result changes its kind, and special values."""
    edges = {"exp": [-104, -103.97, -103.28, -87.336, 88.722, 89, 0, 0.34657359, -0.34657359],
             "expm1": [-104, -17.3, 88.722, 89, 0, 0.34657359, -0.34657359, 1.0397208],
             "log1p": [-1, 0, -0.29289323, 0.41421357, 1.8284271, 16777216]}[name]
    steps = np.arange(-3000, 3000, dtype=np.int64)
    around = [(np.float32(edge).view(np.int32) + steps).astype(np.int32).view(np.float32) for edge in edges]
    return np.concatenate([np.arange(0, 1 << 32, 4001, dtype=np.uint64).astype(np.uint32).view(np.float32), *around,
                           SPECIAL])


@pytest.fixture(scope="module")
def table():
    if not TABLE.exists():
        pytest.skip("scripts/ is not here")
    spec = importlib.util.spec_from_file_location("exp_table", TABLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", FUNCTIONS)
def test_largest_error(name, table):
    x = inputs(name)
    with np.errstate(all="ignore"):
        exact = FUNCTIONS[name](x.astype(np.float64))
        gap = table.distance(apply(name, x, "baseline").astype(np.float64), exact)
    # exp(x) − 1 near ±ln 2 / 2 is a difference of rounded parts: what softmax's backward is allowed.
    assert gap.max() <= (2.0 if name == "expm1" else 1.0), x[gap.argmax()]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_bits_at_every_level(name):
    x = inputs(name)
    for level in dispatch.available():
        assert_same_bits(apply(name, x, level), apply(name, x, "baseline"), level)


def test_the_table_sees_an_error(table):
    exact = np.array([1.0, np.inf, np.nan, 0.0, 1e-40])
    right = exact.astype(np.float32).astype(np.float64)
    assert (table.distance(right, exact) <= 0.5).all()
    wrong = np.array([1.0 + 2.0**-22, 1.0, 0.0, np.nan, 0.0])
    assert (table.distance(wrong, exact) > 1.0).all()
