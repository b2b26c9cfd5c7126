"""Gradient descent with and without momentum against hand-computed steps."""

import numpy as np
import pytest

import fastopt


@pytest.mark.parametrize("form", ["sgd", "momentum"])
def test_momentum_on_a_parabola(form):
    """w²/2 from 1 with momentum 0.9 and lr 0.1 steps 0.1, then 0.18: 0.9 · 0.1 + 0.1 · 0.9."""
    w, state = np.ones(1, np.float32), np.zeros(1, np.float32)
    path = [1.0]
    for step in (1, 2):
        options = {"step": step} if form == "sgd" else {}
        getattr(fastopt, form)(w, w.copy(), state, lr=0.1, momentum=0.9, **options)
        path.append(float(w[0]))
    np.testing.assert_allclose(-np.diff(path), [0.1, 0.18], rtol=1e-6)


def test_nesterov_on_a_parabola():
    """By hand: v = −0.1, step μ·v − lr·g = −0.19; then w = 0.81, v = −0.09 − 0.081, step −0.1539 − 0.081."""
    w, v = np.ones(1, np.float32), np.zeros(1, np.float32)
    path = [1.0]
    for _ in range(2):
        fastopt.momentum(w, w.copy(), v, lr=0.1, momentum=0.9, nesterov=True)
        path.append(float(w[0]))
    np.testing.assert_allclose(-np.diff(path), [0.19, 0.2349], rtol=1e-6)


def test_minimum_of_a_parabola():
    """(w − 5)² by gradient descent at lr 0.01 for 1000 steps ends at 5 within 1e-4."""
    w = np.zeros(1, np.float32)
    for _ in range(1000):
        fastopt.sgd(w, 2.0 * (w - np.float32(5.0)), lr=0.01)
    assert abs(w[0] - 5.0) < 1e-4


def test_the_first_step_fills_the_buffer_with_the_gradient():
    """torch's form: dampening does not apply to step 1, and what the buffer held does not matter."""
    grad = np.array([1.0, -2.0], np.float32)
    buf = np.full(2, np.nan, np.float32)
    fastopt.sgd(np.zeros(2, np.float32), grad, buf, lr=0.1, momentum=0.9, dampening=0.5)
    assert (buf == grad).all()


def test_without_momentum_the_buffer_is_not_touched():
    buf = np.full(2, 7.0, np.float32)
    fastopt.sgd(np.zeros(2, np.float32), np.ones(2, np.float32), buf, lr=0.1)
    assert (buf == 7.0).all()


@pytest.mark.parametrize("options", [{"momentum": 0.0}, {"momentum": 0.9, "dampening": 0.1}])
def test_nesterov_wants_momentum_and_no_dampening(options):
    with pytest.raises(ValueError, match="^nesterov: expected momentum > 0 and dampening = 0"):
        fastopt.sgd(np.zeros(2, np.float32), np.ones(2, np.float32), np.zeros(2, np.float32), lr=0.1, nesterov=True,
                    **options)


def test_regularisation_is_added_to_the_gradient():
    """p = 2, g = 0, l2 = 0.1, l1 = 0.5: g = 0.2 + 0.5; at −2 the same with the other sign; at 0 none."""
    param = np.array([2.0, -2.0, 0.0], np.float32)
    fastopt.sgd(param, np.zeros(3, np.float32), lr=1.0, weight_decay=0.1, l1=0.5)
    np.testing.assert_allclose(param, [1.3, -1.3, 0.0], rtol=1e-6)


def test_the_average_of_gradients_by_hand():
    """β = 0.9, gradients 1 and 1: m = 0.1, then 0.19."""
    param, m = np.zeros(1, np.float32), np.zeros(1, np.float32)
    fastopt.sgdm(param, np.ones(1, np.float32), m, lr=1.0)
    np.testing.assert_allclose((m[0], param[0]), (0.1, -0.1), rtol=1e-6)
    fastopt.sgdm(param, np.ones(1, np.float32), m, lr=1.0)
    np.testing.assert_allclose((m[0], param[0]), (0.19, -0.29), rtol=1e-6)


def test_sgdm_and_momentum_take_the_same_steps_at_a_constant_rate(rng):
    a, b = np.ones(5, np.float32), np.ones(5, np.float32)
    m, v = np.zeros(5, np.float32), np.zeros(5, np.float32)
    for _ in range(20):
        grad = rng.standard_normal(5, dtype=np.float32)
        fastopt.sgdm(a, grad, m, lr=0.1, beta=0.9)
        fastopt.momentum(b, grad, v, lr=0.1 * (1 - 0.9), momentum=0.9)
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_asgd_by_hand():
    """lr = 1, λ = 0.5, α = 1, t₀ = 1: η = 1, 2/3, 1/2; μ = 1, 1, 1 and then 1/2 at step 4."""
    param, ax = np.ones(1, np.float32), np.zeros(1, np.float32)
    p, a = 1.0, 0.0
    for step in range(1, 5):
        eta, mu = 1.0 / (1.0 + 0.5 * (step - 1)), 1.0 / max(1, step - 1 - 1)
        p = p * (1.0 - 0.5 * eta) - eta * 0.25
        a = p if mu == 1.0 else a + mu * (p - a)
        fastopt.asgd(param, np.full(1, 0.25, np.float32), ax, step=step, lr=1.0, lambd=0.5, alpha=1.0, t0=1.0)
        np.testing.assert_allclose((param[0], ax[0]), (p, a), rtol=1e-6, atol=1e-7)
    assert mu == 0.5
