"""Lion and Rprop against hand-computed steps."""

import numpy as np
import pytest

import fastopt


def test_lion_by_hand():
    """The step is lr whatever the gradient's size, 0 for c = 0; m follows with β₂; decay is decoupled."""
    param, m = np.array([2.0, 2.0, 2.0], np.float32), np.array([1.0, -1.0, 0.0], np.float32)
    fastopt.lion(param, np.array([8.0, -1e-3, 0.0], np.float32), m, lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    np.testing.assert_allclose(param, [1.8, 2.0, 1.9], rtol=1e-6)
    np.testing.assert_allclose(m, [1.07, -0.99001, 0.0], rtol=1e-6)


def test_lion_takes_the_sign_of_the_mixture():
    """c = 0.9 · m + 0.1 · g: −0.9 + 0.8 is negative although the gradient is positive."""
    param, m = np.zeros(2, np.float32), np.array([-1.0, -1.0], np.float32)
    fastopt.lion(param, np.array([8.0, 10.0], np.float32), m, lr=0.1)
    np.testing.assert_allclose(param, [0.1, -0.1], rtol=1e-6)


def test_rprop_by_hand():
    """Step sizes grow by 1.2 while the sign holds, and shrink by 0.5, without a step, when it turns."""
    param, prev, step_size = np.zeros(1, np.float32), np.zeros(1, np.float32), np.full(1, 0.1, np.float32)
    path = [(1.0, -0.1, 0.1), (1.0, -0.22, 0.12), (-1.0, -0.22, 0.06), (-1.0, -0.16, 0.06), (-1.0, -0.088, 0.072)]
    for grad, at, size in path:
        fastopt.rprop(param, np.full(1, grad, np.float32), prev, step_size)
        np.testing.assert_allclose((param[0], step_size[0]), (at, size), rtol=1e-5)


def test_rprop_step_sizes_stay_within_their_limits():
    param, prev, step_size = np.zeros(1, np.float32), np.zeros(1, np.float32), np.full(1, 0.1, np.float32)
    for _ in range(20):
        fastopt.rprop(param, np.ones(1, np.float32), prev, step_size, step_sizes=(0.05, 0.5))
    assert step_size[0] == np.float32(0.5)
    for sign in range(20):
        fastopt.rprop(param, np.full(1, (-1.0) ** (sign // 2), np.float32), prev, step_size, etas=(0.5, 1.01),
                      step_sizes=(0.05, 0.5))
    assert step_size[0] >= np.float32(0.05)


def test_rprop_limits_in_order():
    with pytest.raises(ValueError, match="^step_sizes: expected the smaller one first"):
        fastopt.Rprop(step_sizes=(1.0, 0.1))
