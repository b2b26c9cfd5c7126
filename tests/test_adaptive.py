"""Adagrad, Adadelta, RMSprop and Adan against hand-computed steps."""

import numpy as np
import pytest

import fastopt


def test_adagrad_by_hand():
    """Gradients 3 and 4: h = 9, then 25; steps lr · 1 and lr · 4/5."""
    param, h = np.zeros(1, np.float32), np.zeros(1, np.float32)
    fastopt.adagrad(param, np.full(1, 3.0, np.float32), h, lr=0.1, step=1)
    np.testing.assert_allclose((h[0], param[0]), (9.0, -0.1), rtol=1e-6)
    fastopt.adagrad(param, np.full(1, 4.0, np.float32), h, lr=0.1, step=2)
    np.testing.assert_allclose((h[0], param[0]), (25.0, -0.18), rtol=1e-6)


def test_adagrad_rate_decays_from_the_second_step():
    param, h = np.zeros(1, np.float32), np.zeros(1, np.float32)
    fastopt.adagrad(param, np.ones(1, np.float32), h, lr=0.1, lr_decay=1.0, step=2)
    np.testing.assert_allclose(param, -0.05, rtol=1e-6)


def test_adadelta_by_hand():
    """g = 2, ρ = 0.5, ε = 0.25: v = 2, d = √0.25 / √2.25 · 2 = 2/3, u = 2/9."""
    param, v, u = (np.zeros(1, np.float32) for _ in range(3))
    fastopt.adadelta(param, np.full(1, 2.0, np.float32), v, u, rho=0.5, eps=0.25)
    np.testing.assert_allclose((v[0], u[0], param[0]), (2.0, 2 / 9, -2 / 3), rtol=1e-6)


def test_rmsprop_by_hand():
    """g = 2, α = 0.75: v = 1, step lr · 2 / 1; centred v = 1, ḡ = 0.5, w = 0.75; with momentum b = g / √v."""
    grad = np.full(1, 2.0, np.float32)
    param, v, grad_avg, buf = (np.zeros(1, np.float32) for _ in range(4))
    fastopt.rmsprop(param, grad, v, lr=0.1, alpha=0.75)
    np.testing.assert_allclose((v[0], param[0]), (1.0, -0.2), rtol=1e-6)
    param[:], v[:] = 0.0, 0.0
    fastopt.rmsprop(param, grad, v, grad_avg, lr=0.1, alpha=0.75)
    np.testing.assert_allclose((grad_avg[0], param[0]), (0.5, -0.2 / np.sqrt(0.75)), rtol=1e-6)
    param[:], v[:] = 0.0, 0.0
    for expected in (2.0, 1.5 * 2.0 / np.sqrt(1.75) / 1.5 + 1.0):
        fastopt.rmsprop(param, grad, v, buf=buf, lr=0.1, alpha=0.75, momentum=0.5)
        np.testing.assert_allclose(buf, expected, rtol=1e-6)


def test_centred_rmsprop_survives_constant_gradients():
    """v − ḡ² rounds to both sides of 0 there; a root of the negative side would be NaN."""
    grad = (np.arange(1, 1001) / 1000).astype(np.float32)
    param, v, grad_avg = (np.zeros(1000, np.float32) for _ in range(3))
    negative = 0
    for _ in range(3000):
        fastopt.rmsprop(param, grad, v, grad_avg, alpha=0.9, lr=1e-9)
        negative += int((v - grad_avg * grad_avg < 0).sum())
    assert negative > 0
    assert np.isfinite(param).all()


def test_rmsprop_with_momentum_wants_its_buffer():
    with pytest.raises(TypeError, match="^buf: expected"):
        fastopt.rmsprop(np.zeros(2, np.float32), np.ones(2, np.float32), np.zeros(2, np.float32), momentum=0.9)


def test_adan_by_hand():
    """Gradients 2 and 3: d = 0, then 1; at step 1 u = lr, at step 2 ĝ = 3.5 and n = 0.75 · 4 / 4 + 0.25 · 12.25."""
    param, m, v, n = (np.zeros(1, np.float32) for _ in range(4))
    prev = np.full(1, 7.0, np.float32)      # not read at step 1
    options = dict(lr=0.1, betas=(0.5, 0.5, 0.75), eps=0.0)
    fastopt.adan(param, np.full(1, 2.0, np.float32), m, v, n, prev, step=1, **options)
    np.testing.assert_allclose((m[0], v[0], n[0], prev[0], param[0]), (1.0, 0.0, 1.0, 2.0, -0.1), rtol=1e-6)
    fastopt.adan(param, np.full(1, 3.0, np.float32), m, v, n, prev, step=2, **options)
    np.testing.assert_allclose((m[0], v[0], n[0], prev[0]), (2.0, 0.5, 3.8125, 3.0), rtol=1e-6)
    u = 0.1 * (2.0 / 0.75 + 0.5 * 0.5 / 0.75) / np.sqrt(3.8125 / (1 - 0.75**2))
    np.testing.assert_allclose(param[0], -0.1 - u, rtol=1e-6)


@pytest.mark.parametrize(("no_prox", "expected"), [(False, (2.0 - 0.1) / 1.05), (True, 2.0 * 0.95 - 0.1)])
def test_adan_decays_after_the_step_or_before_it(no_prox, expected):
    param, (m, v, n, prev) = np.full(1, 2.0, np.float32), np.zeros((4, 1), np.float32)
    fastopt.adan(param, np.ones(1, np.float32), m, v, n, prev, step=1, lr=0.1, weight_decay=0.5, no_prox=no_prox)
    np.testing.assert_allclose(param[0], expected, rtol=1e-6)
