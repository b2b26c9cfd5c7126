"""Adam and its kin against the formula and hand-computed steps."""

import math

import numpy as np
import pytest

import fastopt


def test_first_step_is_lr_times_the_sign():
    """m̂ = g and √v̂ = |g| at step 1, whatever β: Kingma and Ba, section 2.1."""
    param, grad = np.zeros(4, np.float32), np.array([3.0, -0.02, 1e-3, -50.0], np.float32)
    fastopt.adam(param, grad, np.zeros(4, np.float32), np.zeros(4, np.float32), step=1, lr=0.1)
    np.testing.assert_allclose(param, -0.1 * np.sign(grad), rtol=2e-5)


@pytest.mark.parametrize("eps_hat", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_paper_in_double(eps_hat, amsgrad, rng):
    """The algorithm as printed, with its bias-corrected moments, in double precision over 50 steps."""
    lr, (beta1, beta2), eps, wd = 0.01, (0.9, 0.999), 1e-3, 0.1
    p = rng.standard_normal(100)
    m = v = vmax = np.zeros(100)
    ours = {name: np.zeros(100, np.float32) for name in ("m", "v", *(["vmax"] if amsgrad else []))}
    param = p.astype(np.float32)
    for t in range(1, 51):
        g = rng.standard_normal(100)
        fastopt.adam(param, g.astype(np.float32), **ours, step=t, lr=lr, eps=eps, eps_hat=eps_hat,
                     decoupled_weight_decay=wd)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        vmax = np.maximum(vmax, v)
        m_hat, v_hat = m / (1 - beta1**t), (vmax if amsgrad else v) / (1 - beta2**t)
        eps_t = eps / math.sqrt(1 - beta2**t) if eps_hat else eps
        p = p * (1 - lr * wd) - lr * m_hat / (np.sqrt(v_hat) + eps_t)
    np.testing.assert_allclose(param, p, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("eps_hat", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_without_bias_correction_in_double(eps_hat, amsgrad, rng):
    """m / (√v + eps) with the moments as they are; where eps is added makes no difference."""
    lr, (beta1, beta2), eps = 0.01, (0.9, 0.99), 1e-2
    p = rng.standard_normal(100)
    m = v = vmax = np.zeros(100)
    ours = {name: np.zeros(100, np.float32) for name in ("m", "v", *(["vmax"] if amsgrad else []))}
    param = p.astype(np.float32)
    for t in range(1, 51):
        g = rng.standard_normal(100) / t
        fastopt.adam(param, g.astype(np.float32), **ours, step=t, lr=lr, betas=(beta1, beta2), eps=eps, eps_hat=eps_hat,
                     bias_correction=False)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        vmax = np.maximum(vmax, v)
        p = p - lr * m / (np.sqrt(vmax if amsgrad else v) + eps)
    np.testing.assert_allclose(param, p, rtol=1e-5, atol=1e-6)


def test_bias_correction_does_not_stop_at_2_to_the_24():
    """A float32 step counter sticks there: β₂ᵗ must have become 0, the corrections exactly 1, and no NaN."""
    for step in (2**24 + 1, 2**31 + 1, 2**62):
        param, m, v = np.zeros(3, np.float32), np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)
        fastopt.adam(param, np.full(3, 0.5, np.float32), m, v, step=step, lr=0.1, eps=0.0)
        np.testing.assert_allclose(param, -0.1, rtol=1e-6)


def test_beta2_close_to_one_keeps_its_correction():
    """f32(1) − f32(0.999999) would be off by 5 %; the correction comes from double."""
    param, m, v = np.zeros(1, np.float32), np.zeros(1, np.float32), np.zeros(1, np.float32)
    fastopt.adam(param, np.ones(1, np.float32), m, v, step=1, lr=1.0, betas=(0.9, 0.9999999), eps=0.0)
    np.testing.assert_allclose(param, -1.0, rtol=1e-6)


def test_eps_zero_and_v_zero_is_nan():
    param = np.ones(2, np.float32)
    zero = np.zeros(2, np.float32)
    fastopt.adam(param, zero.copy(), zero.copy(), zero.copy(), step=1, eps=0.0)
    assert np.isnan(param).all()


def test_nadam_momenta_are_the_references_in_any_order():
    from fastopt._adam import _nadam_momenta
    from fastopt.reference._adam import nadam_momenta

    for step in (1, 2, 3, 50, 49, 2, 10_000, 421, 420, 1, 2**31 + 1):
        for beta1, decay in ((0.9, 4e-3), (0.5, 0.1), (0.0, 0.0)):
            assert _nadam_momenta(step, beta1, decay) == nadam_momenta(step, beta1, decay)


def test_radam_takes_plain_momentum_steps_while_the_variance_is_young():
    """ρ is below 5 for the first five steps at β₂ = 0.999: m / (1 − β₁ᵗ) alone, which is g for a constant g."""
    param, m, v = (np.zeros(1, np.float32) for _ in range(3))
    for step in range(1, 6):
        fastopt.radam(param, np.full(1, 0.5, np.float32), m, v, step=step, lr=0.1)
        np.testing.assert_allclose(param, -0.05 * step, rtol=1e-6)
    fastopt.radam(param, np.full(1, 0.5, np.float32), m, v, step=6, lr=0.1)
    assert param[0] > -0.05 * 6


def test_adamax_keeps_the_largest_gradient():
    """By hand: u = 4 after a gradient of 4, then 0.999 · 4 after one of 1."""
    param, m, u = (np.zeros(1, np.float32) for _ in range(3))
    fastopt.adamax(param, np.full(1, 4.0, np.float32), m, u, step=1, lr=0.1)
    np.testing.assert_allclose((param[0], u[0]), (-0.1, 4.0), rtol=1e-6)
    fastopt.adamax(param, np.ones(1, np.float32), m, u, step=2, lr=0.1)
    np.testing.assert_allclose(u, 3.996, rtol=1e-6)
    np.testing.assert_allclose(param, -0.1 - 0.1 / (1 - 0.81) * (0.9 * 0.4 + 0.1) / 3.996, rtol=1e-5)


def test_nadam_by_hand():
    """Without momentum_decay μ = β₁ / 2 = 0.4 at every step: g = 2, m = 0.4, the step is lr · (2 + 0.16 / 0.84) / 2."""
    param, m, v = (np.zeros(1, np.float32) for _ in range(3))
    fastopt.nadam(param, np.full(1, 2.0, np.float32), m, v, step=1, lr=0.1, betas=(0.8, 0.75), eps=0.0,
                  momentum_decay=0.0)
    np.testing.assert_allclose((m[0], v[0], param[0]), (0.4, 1.0, -0.1 * (1.0 + 0.08 / 0.84)), rtol=1e-6)
