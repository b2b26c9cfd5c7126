"""BatchNorm: what it means, special values."""

import numpy as np
import pytest
from helpers import assert_same_bits

import fastopt
from fastopt import reference

f32 = np.float32


def column(*values):
    return np.array(values, f32)[:, np.newaxis]


BOTH = pytest.mark.parametrize("module", [fastopt, reference], ids=["fastopt", "reference"])


@BOTH
@pytest.mark.parametrize(("unbiased", "var"), [(True, 1.1), (False, 1.0)])
def test_running_statistics_by_hand(module, unbiased, var):
    """x = 1, 3: mean 2, var 1, unbiased 2. PyTorch: 0.9 · 1 + 0.1 · 2; Keras: 0.9 · 1 + 0.1 · 1."""
    mean_, var_ = np.zeros(1, f32), np.ones(1, f32)
    y, _ = module.batch_norm_forward(column(1, 3), np.ones(1, f32), np.zeros(1, f32), mean_, var_, unbiased=unbiased)
    np.testing.assert_allclose(y, column(-1, 1), rtol=1e-5)
    np.testing.assert_allclose([mean_[0], var_[0]], [0.2, var], rtol=1e-6)


@BOTH
def test_gradients_by_hand(module):
    """x = 1, 3 without eps: xhat = −1, 1; dy = 1, 0: dbeta 1, dgamma −1, and dx = 2 · (dy − 1/2 + xhat/2) = 0, 0."""
    _, cache = module.batch_norm_forward(column(1, 3), np.full(1, 2, f32), np.zeros(1, f32), eps=1e-30)
    dx, dgamma, dbeta = module.batch_norm_backward(column(1, 0), cache)
    assert (dgamma[0], dbeta[0]) == (-1, 1)
    np.testing.assert_array_equal(dx, column(0, 0))


@BOTH
def test_without_training_the_given_statistics_are_used(module, rng):
    x, gamma, beta = rng.standard_normal((6, 4)).astype(f32), *rng.standard_normal((2, 4)).astype(f32)
    mean, var = np.arange(4, dtype=f32), np.arange(1, 5, dtype=f32)
    before = mean.copy(), var.copy()
    y, cache = module.batch_norm_forward(x, gamma, beta, mean, var, training=False)
    assert_same_bits(y, module.batch_norm_inference(x, gamma, beta, mean, var))
    assert_same_bits(mean, before[0])
    assert_same_bits(var, before[1])
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5) * gamma + beta, rtol=1e-5, atol=1e-6)

    dy = rng.standard_normal((6, 4)).astype(f32)
    dx, dgamma, dbeta = module.batch_norm_backward(dy, cache)
    np.testing.assert_allclose(dx, dy * gamma / np.sqrt(var + 1e-5), rtol=1e-5)
    np.testing.assert_allclose(dgamma, (dy * (x - mean) / np.sqrt(var + 1e-5)).sum(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dbeta, dy.sum(0), rtol=1e-4, atol=1e-5)


def test_one_value_is_enough_without_training(level):
    ones, zeros = np.ones(2, f32), np.zeros(2, f32)
    y, cache = fastopt.batch_norm_forward(np.array([[3, -1]], f32), ones, zeros, ones, ones, training=False, eps=3)
    np.testing.assert_array_equal(y, [[1, -1]])
    np.testing.assert_array_equal(fastopt.batch_norm_backward(np.ones((1, 2), f32), cache)[0], [[0.5, 0.5]])


def test_relu(level, rng):
    """Fused: the same as max(y, 0) after, and dy masked by y > 0 before."""
    x, gamma, beta = rng.standard_normal((200, 37)).astype(f32), *rng.standard_normal((2, 37)).astype(f32)
    beta[0], gamma[0] = 0, 0    # y is 0 everywhere in this channel: no gradient
    dy = rng.standard_normal(x.shape).astype(f32)
    y, cache = fastopt.batch_norm_forward(x, gamma, beta)
    fused, fused_cache = fastopt.batch_norm_forward(x, gamma, beta, relu=True)
    np.testing.assert_array_equal(fused, np.maximum(y, 0))
    expected = fastopt.batch_norm_backward(np.where(y > 0, dy, f32(0)), cache)
    for got, right in zip(fastopt.batch_norm_backward(dy, fused_cache), expected, strict=True):
        assert_same_bits(got, right)
    assert fused_cache.relu
    assert fastopt.batch_norm_backward(dy, fused_cache)[2][0] == 0


def test_relu_of_results_that_round_to_0(level):
    """y of 0.3 is a third of the smallest subnormal: 0 in float32, so that no gradient goes through."""
    x, gamma, beta = np.float32([[-1.0], [1.0], [0.3]]), np.float32([1e-45]), np.zeros(1, f32)
    y, cache = fastopt.batch_norm_forward(x, gamma, beta, relu=True)
    assert y.ravel().tolist() == [0.0, np.float32(1e-45), 0.0]
    assert fastopt.batch_norm_backward(np.ones_like(x), cache)[2].tolist() == [1.0]


# Special values.

@BOTH
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 1e-38, 1.0, -3.3, 16777217.0, 1e30, -3.4028235e38])
def test_a_constant_channel_gives_beta_bit_for_bit(module, value, level):
    beta = np.array([0.0, -0.0, 1e-45, -0.7, 1e30, 5.0, 3.0], f32)
    for gamma in (1.0, -2.5, 0.0):
        for n in (2, 3, 1000):
            for shape in [(n, 7), (n, 7, 5), (3, 7, 2000)]:
                x, g, var = np.full(shape, value, f32), np.full(7, gamma, f32), np.full(7, 9, f32)
                y, _ = module.batch_norm_forward(x, g, beta, np.zeros(7, f32), var, momentum=1.0)
                expected = beta.reshape(-1, *[1] * (len(shape) - 2))
                assert_same_bits(y, np.broadcast_to(expected, shape), f"{shape}")
                np.testing.assert_array_equal(var, 0)


@BOTH
@pytest.mark.parametrize("scale", [2.0**-140, 2.0**-100, 2.0**100, 2.0**124])
def test_any_magnitude_normalises(module, scale, rng):
    """At 1e30 the variance overflows float32, its inverse root does not; at 1e-38 only eps is larger."""
    x = rng.standard_normal((50, 6)).astype(f32)
    ones, zeros = np.ones(6, f32), np.zeros(6, f32)
    expected, cache = module.batch_norm_forward(x, ones, zeros, eps=1e-30)
    y, scaled = module.batch_norm_forward(x * f32(scale), ones, zeros, eps=1e-200)
    tolerance = 1e-6 if scale > 2.0**-120 else 1e-2    # subnormals have few bits
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
    assert np.isfinite(scaled.invstd).all()
    dy = rng.standard_normal(x.shape).astype(f32)
    right, got = (module.batch_norm_backward(dy, c) for c in (cache, scaled))
    np.testing.assert_allclose(got[1], right[1], rtol=tolerance, atol=tolerance)


@BOTH
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_channel(module, bad, level, rng):
    for shape in [(20, 5), (300, 70), (4, 5, 30), (3, 4, 1500)]:
        x, dy = rng.standard_normal((2, *shape)).astype(f32)
        ones, zeros = np.ones(shape[1], f32), np.zeros(shape[1], f32)

        def run(x, dy, ones=ones, zeros=zeros):
            mean, var = zeros.copy(), zeros.copy()
            y, cache = module.batch_norm_forward(x, ones, zeros, mean, var)
            dx, dgamma, dbeta = module.batch_norm_backward(dy, cache)
            return np.moveaxis(y, 1, 0), np.moveaxis(dx, 1, 0), mean, var, dgamma, dbeta

        clean = run(x, dy)
        x[1, 2] = bad
        for got, right in zip(run(x, dy), clean, strict=True):
            assert_same_bits(np.delete(got, 2, 0), np.delete(right, 2, 0), f"{shape}")
        assert np.isnan(run(x, dy)[0][2]).all()


@BOTH
@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 0), (2, 3, 0), (0, 3, 2, 2)])
def test_nothing_to_do(module, shape):
    channels = shape[1]
    x, gamma, beta = np.empty(shape, f32), np.ones(channels, f32), np.zeros(channels, f32)
    mean, var = np.full(channels, 7, f32), np.full(channels, 8, f32)
    y, cache = module.batch_norm_forward(x, gamma, beta, mean, var)
    dx, dgamma, dbeta = module.batch_norm_backward(x, cache)
    assert y.shape == dx.shape == shape
    assert module.batch_norm_inference(x, gamma, beta, mean, var).shape == shape
    assert (mean == 7).all()
    assert (var == 8).all()
    assert (dgamma == 0).all()
    assert (dbeta == 0).all()
    assert dgamma.shape == dbeta.shape == (channels,)
