"""LARS and LAMB against hand-computed steps."""

import numpy as np
import pytest
from helpers import assert_same_bits

import fastopt
from fastopt.reference._formula import norm


def test_norm_is_right(rng):
    for n in (0, 1, 15, 16, 17, 8192, 8193, 50_000):
        x = rng.standard_normal(n).astype(np.float32)
        np.testing.assert_allclose(norm(x), np.linalg.norm(x.astype(np.float64)), rtol=1e-14)


def test_lars_by_hand():
    """‖p‖ = 5, ‖g‖ = 10, λ = 1: r = 0.5 · 5 / (10 + 5) = 1/6, v = lr / 6 · (g + p)."""
    param, grad, v = np.array([3.0, 4.0], np.float32), np.array([6.0, 8.0], np.float32), np.zeros(2, np.float32)
    fastopt.lars(param, grad, v, lr=0.6, trust_coefficient=0.5, weight_decay=1.0, eps=0.0)
    np.testing.assert_allclose(v, [0.9, 1.2], rtol=1e-6)
    np.testing.assert_allclose(param, [2.1, 2.8], rtol=1e-6)


def test_lamb_by_hand():
    """Step 1 without decay: d = sign(g), ‖d‖ = √2, ‖p‖ = 5: p − lr · 5/√2 · sign(g)."""
    param, grad = np.array([3.0, 4.0], np.float32), np.array([0.01, -7.0], np.float32)
    m, v = np.zeros(2, np.float32), np.zeros(2, np.float32)
    fastopt.lamb(param, grad, m, v, step=1, lr=0.1, weight_decay=0.0, eps=0.0)
    np.testing.assert_allclose(param, [3.0 - 0.5 / np.sqrt(2), 4.0 + 0.5 / np.sqrt(2)], rtol=1e-6)


def test_a_zero_parameter_or_gradient_has_ratio_one():
    zero, one = np.zeros(2, np.float32), np.ones(2, np.float32)
    param, v = zero.copy(), zero.copy()
    fastopt.lars(param, one, v, lr=0.1)
    np.testing.assert_allclose(param, -0.1, rtol=1e-6)
    param, m, v = zero.copy(), zero.copy(), zero.copy()
    fastopt.lamb(param, one, m, v, step=1, lr=0.1, eps=0.0)
    np.testing.assert_allclose(param, -0.1, rtol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_a_zero_gradient(weight_decay, level):
    """lars: ratio 1, not trust_coefficient / λ. lamb with no decay: no direction at all, and not 0 · ‖p‖ / 0."""
    zero = np.zeros(20, np.float32)
    for name, states, options in (("lars", ("v",), {}), ("lamb", ("m", "v"), {"step": 1})):
        ours, theirs = ({"param": np.arange(20, dtype=np.float32), **{state: zero.copy() for state in states}}
                        for _ in range(2))
        for module, arrays in ((fastopt, ours), (fastopt.reference, theirs)):
            getattr(module, name)(grad=zero.copy(), lr=0.25, weight_decay=weight_decay, **arrays, **options)
        assert_same_bits(ours["param"], theirs["param"], name)
        if not weight_decay:
            assert_same_bits(ours["param"], np.arange(20, dtype=np.float32), name)
        elif name == "lars":
            np.testing.assert_allclose(ours["param"], np.arange(20) * 0.875, rtol=1e-6)


def test_norms_do_not_overflow_or_underflow():
    """Squares of 1e30 and 1e-30 are outside float32; the sums are in double."""
    for scale in (1e30, 1e-30):
        param = np.full(100, scale, np.float32)
        v = np.zeros(100, np.float32)
        fastopt.lars(param, np.full(100, scale, np.float32), v, lr=1.0, trust_coefficient=0.5, eps=0.0)
        np.testing.assert_allclose(param, scale * 0.5, rtol=1e-6)


def test_a_tensors_norm_does_not_depend_on_its_place_in_the_model(rng, always_parallel):
    """Blocks are counted from each tensor's own start."""
    shapes = [(3,), (20_000,), (8192,), (100, 90)]
    alone = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    together, reversed_ = [p.copy() for p in alone], [p.copy() for p in alone]
    grads = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    fastopt.LAMB(lr=0.1).update(together, grads)
    fastopt.LAMB(lr=0.1).update(reversed_[::-1], grads[::-1])
    for param, grad in zip(alone, grads, strict=True):
        fastopt.LAMB(lr=0.1).update(param, grad)
    for i, param in enumerate(alone):
        assert_same_bits(together[i], param)
        assert_same_bits(reversed_[i], param)
