"""What the tests of conversions share: parameters, gradients, and how near another library's result must be."""

import os
import warnings

import numpy as np
import pytest

SHAPES = {"w": (5, 7), "b": (7,), "scalar": ()}


def draw(rng):
    """One array for each parameter."""
    return {key: np.asarray(rng.standard_normal(shape), np.float32) for key, shape in SHAPES.items()}


def trained(opt, steps, seed=5):
    """Parameters after some steps of an optimizer, and the generator of further gradients."""
    rng = np.random.default_rng(seed)
    params = draw(rng)
    for _ in range(steps):
        opt.update(params, draw(rng))
    return params, rng


def assert_near(theirs, params, before, steps, name=""):
    """Equal up to a few units in the last place of the parameter and of the distance moved, for every step."""
    for array, (key, param) in zip(theirs, params.items(), strict=True):
        unit = np.spacing(np.maximum(np.abs(param), np.abs(before[key])).astype(np.float32))
        moved = np.abs(param - before[key]).max() * 2.0**-23
        assert (np.abs(np.asarray(array) - param) <= steps * (unit + 8 * moved)).all(), (name, key)
        assert (param != before[key]).any(), (name, key)


def assert_same_steps(theirs, opt, params, rng, name, steps=10):
    """Both take the same steps. `theirs` has step(grads) and its parameters' arrays in params()."""
    before = {key: array.copy() for key, array in params.items()}
    for _ in range(steps):
        grads = draw(rng)
        theirs.step(grads)
        opt.update(params, grads)
    assert_near(theirs.params(), params, before, steps, name)


def imported_keras():
    """Keras on JAX, whose imports warn; the test is skipped where one of them is missing."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("jax")
        return pytest.importorskip("keras")
