"""BatchNorm: bits against the reference, accuracy against exact arithmetic, gradients, special values, the layer."""

from fractions import Fraction

import numpy as np
import pytest
from helpers import AWKWARD, SPECIAL, THREADS, assert_same_bits, random_bits, ulps, unaligned

import fastopt
from fastopt import reference

f32 = np.float32

SHAPES = [
    # rows of several outer indices, complete or not; one row each; several blocks; tiles
    (5, 3), (1000, 3), (257, 21), (32, 16), (64, 256), (700, 130), (3, 1000), (33, 1), (2, 64), (1100, 65),
    # channels first: runs within rows, several a row; long runs of one block and more
    (4, 3, 49), (20, 5, 49), (70, 300, 3), (40, 1, 1000), (600, 2, 33), (9, 40, 2), (3, 2, 1025), (2, 3, 40000),
    (5, 30, 130), (3, 12, 96),
]


def arguments(rng, shape, *, scale=3.0, offset=5.0):
    channels = shape[1]
    x = (rng.standard_normal(shape) * scale + offset).astype(f32)
    gamma, beta, mean = rng.standard_normal((3, channels)).astype(f32)
    return x, gamma, beta, mean, np.abs(rng.standard_normal(channels)).astype(f32)


def everything(module, x, gamma, beta, mean, var, dy, **options):
    """Every array that a forward and a backward pass give or write, by name."""
    mean, var = mean.copy(), var.copy()
    with np.errstate(all="ignore"):
        y, cache = module.batch_norm_forward(x, gamma, beta, mean, var, **options)
        dx, dgamma, dbeta = module.batch_norm_backward(dy, cache)
    return {"y": y, "mean": cache.mean, "invstd": cache.invstd, "running_mean": mean, "running_var": var, "dx": dx,
            "dgamma": dgamma, "dbeta": dbeta}


def assert_same(actual, expected, what):
    for name, array in expected.items():
        assert_same_bits(actual[name], array, f"{what} {name}")


# The same bits.

@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_bits_of_the_reference(level, training, relu, rng):
    for shape in SHAPES:
        data = (*arguments(rng, shape), rng.standard_normal(shape).astype(f32))
        options = {"training": training, "relu": relu}
        assert_same(everything(fastopt, *data, **options), everything(reference, *data, **options), shape)


def test_bits_of_the_reference_at_awkward_sizes(level, rng):
    for channels in AWKWARD:
        for n in (2, 4, 7, 65):
            shape = (n, channels)
            data = (*arguments(rng, shape), rng.standard_normal(shape).astype(f32))
            assert_same(everything(fastopt, *data, relu=True), everything(reference, *data, relu=True), shape)


@pytest.mark.parametrize("training", [False, True])
def test_bits_of_the_reference_on_any_bits(level, training, rng):
    for shape in [(6, 200), (9, 33, 17), (30, 1100)]:
        x, dy = random_bits(rng, shape), random_bits(rng, shape)
        gamma, beta, mean, var = random_bits(rng, (4, shape[1]))
        x[0, : len(SPECIAL)] = SPECIAL.reshape(-1, *[1] * (len(shape) - 2))
        if not training:
            np.abs(var, out=var)    # a variance below −eps is refused
        for relu in (False, True):
            data, options = (x, gamma, beta, mean, var, dy), {"training": training, "relu": relu}
            assert_same(everything(fastopt, *data, **options), everything(reference, *data, **options), shape)


@pytest.mark.parametrize("relu", [False, True])
def test_bits_do_not_depend_on_threads(level, relu, always_parallel, rng):
    for shape in [(1000, 3), (64, 256), (700, 1100), (3000, 64), (30, 5000), (20, 5, 49), (2, 3, 40000), (5, 300, 20),
                  (9, 20, 200), (40, 3, 300), (100, 1001), (12, 77, 20)]:
        data = (*arguments(rng, shape), rng.standard_normal(shape).astype(f32))
        results = []
        for threads in THREADS:
            with fastopt.num_threads(threads):
                results.append(everything(fastopt, *data, relu=relu))
        for threads, result in zip(THREADS, results, strict=True):
            assert_same(result, results[0], f"{shape} {threads} threads")


def test_bits_do_not_depend_on_alignment(level, rng):
    for shape in [(50, 37), (7, 5, 49)]:
        data = (*arguments(rng, shape), rng.standard_normal(shape).astype(f32))
        expected = everything(fastopt, *data)
        for offset in range(16):
            moved = [unaligned(array, offset) for array in data]
            assert_same(everything(fastopt, *moved), expected, f"offset {offset}")


def test_out(level, rng):
    for shape in [(50, 37), (7, 5, 49), (3, 12, 130), (2, 3, 1100)]:
        x, gamma, beta, mean, var = arguments(rng, shape)
        dy = rng.standard_normal(shape).astype(f32)
        for relu in (False, True):
            y, cache = fastopt.batch_norm_forward(x, gamma, beta, relu=relu)
            expected = fastopt.batch_norm_backward(dy, cache)
            out = np.empty_like(x)
            assert fastopt.batch_norm_forward(x, gamma, beta, relu=relu, out=out)[0] is out
            assert_same_bits(out, y)

            results = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
            given = fastopt.batch_norm_backward(dy, cache, out=results)
            for array, result, right in zip(given, results, expected, strict=True):
                assert array is result
                assert_same_bits(array, right)
            in_place = dy.copy()
            assert fastopt.batch_norm_backward(in_place, cache, out=in_place)[0] is in_place
            assert_same_bits(in_place, expected[0])

            y = fastopt.batch_norm_inference(x, gamma, beta, mean, var, relu=relu)
            assert_same_bits(y, reference.batch_norm_inference(x, gamma, beta, mean, var, relu=relu))
            in_place = x.copy()
            assert fastopt.batch_norm_inference(in_place, gamma, beta, mean, var, relu=relu, out=in_place) is in_place
            assert_same_bits(in_place, y)


# Accuracy.

@pytest.mark.parametrize("ratio", [0.0, 1.0, 2.0**10, 2.0**20])
@pytest.mark.parametrize("shape", [(700, 37), (9, 70, 49), (6, 5, 3), (40, 3, 2)])
def test_inference_within_units_of_the_larger_term(shape, ratio, level, rng):
    """The larger of |(x − mean) · scale| and |β|."""
    channels = shape[1]
    wide = (channels,) + (1,) * (len(shape) - 2)
    gamma, beta = rng.standard_normal((2, channels)).astype(f32)
    var = np.abs(rng.standard_normal(channels)).astype(f32) + f32(0.5)
    mean = (ratio * np.sqrt(var)).astype(f32)
    x = (mean.reshape(wide) + rng.standard_normal(shape)).astype(f32)
    y = fastopt.batch_norm_inference(x, gamma, beta, mean, var)
    x, *constants = x.astype(np.float64), gamma, beta, mean, var
    gamma, beta, mean, var = (v.astype(np.float64).reshape(wide) for v in constants)
    scale = gamma / np.sqrt(var + 1e-5)
    terms = np.abs((x - mean) * scale), np.broadcast_to(np.abs(beta), shape)
    unit = np.spacing(np.maximum(*terms).astype(f32)).astype(np.float64)
    assert (np.abs(y - ((x - mean) * scale + beta)) <= 3.5 * unit).all()


def test_inference_where_the_scale_is_no_float32(level):
    """Of a constant channel (x − mean) · scale is still 0; relu's gradient is that of the y there was."""
    x, one = np.ones((20, 2), f32), np.ones(2, f32)
    for module in (fastopt, reference):
        y, cache = module.batch_norm_forward(x, one, one, one, 0 * one, training=False, eps=1e-100, relu=True)
        assert (y == 1).all()
        dx, _, dbeta = module.batch_norm_backward(np.full_like(x, 1e-30), cache)
        np.testing.assert_allclose(dx, 1e20, rtol=1e-6)
        np.testing.assert_allclose(dbeta, 2e-29, rtol=1e-6)


def exact_statistics(column):
    """Mean and biased variance of float32 numbers as fractions."""
    _, exponents = np.frexp(column[column != 0])
    shift = 24 - int(exponents.min())
    integers = [int(v) for v in np.ldexp(column.astype(np.float64), shift)]
    n, s, q = len(integers), sum(integers), sum(v * v for v in integers)
    return Fraction(s, n) / Fraction(2) ** shift, Fraction(n * q - s * s, n * n) / Fraction(4) ** shift


def within_one_ulp(x, name):
    """Running statistics at momentum 1 are the batch's, rounded once."""
    channels = x.shape[1]
    ones, zeros = np.ones(channels, f32), np.zeros(channels, f32)
    mean, var = zeros.copy(), zeros.copy()
    _, cache = fastopt.batch_norm_forward(x, ones, zeros, mean, var, momentum=1.0, unbiased=False)
    assert (var >= 0).all(), name
    for c in range(channels):
        exact_mean, exact_var = exact_statistics(x[:, c].ravel())
        invstd = 1.0 / np.sqrt(float(exact_var) + 1e-5)
        for what, got, exact in (("mean", mean[c], exact_mean), ("var", var[c], exact_var),
                                 ("invstd", f32(cache.invstd[c]), invstd)):
            assert ulps(got, float(exact)) <= 1, f"{name} channel {c} {what}: {got!r}, exact {float(exact)!r}"


@pytest.mark.parametrize("n", [2, 3, 5, 17, 64, 257, 1000, 4099, 2**16])
def test_statistics_against_exact_rationals(level, n, rng):
    ratios = 2.0 ** np.arange(0, 21, 2)
    x = (rng.standard_normal((n, len(ratios))) + ratios).astype(f32)
    x[0, ::2] += 4 * f32(1.0)  # the value that shifts the others is far from their mean in every second channel
    within_one_ulp(x, f"n {n}")
    within_one_ulp(np.ascontiguousarray(-x.T[np.newaxis]), f"n {n}, one run")


def test_statistics_of_a_million_values(rng):
    x = (rng.standard_normal((2**20, 3)) + 2.0 ** np.array([0, 10, 20])).astype(f32)
    within_one_ulp(x, "n 2**20")
    within_one_ulp(x[: 2**19, 2].reshape(1, 1, -1).copy(), "one run of 2**19")


def test_an_outlier_first(level):
    """(K − mean)² is largest, n · var, when K is the only outlier."""
    for n in (2, 100, 5000, 2**16):
        x = np.full((n, 2), 1000.0, f32)
        x[0] = [1000.0001, 3e5]
        within_one_ulp(x, f"n {n}")


def oracle(x, gamma, beta, dy, eps=1e-5, relu=False):
    """y, dx, dgamma, dbeta in long double, and the largest term of each element's sums; x is (n, channels)."""
    x, gamma, beta, dy = (a.astype(np.longdouble) for a in (x, gamma, beta, dy))
    n = len(x)
    d = x - x.sum(0) / n
    invstd = 1 / np.sqrt((d * d).sum(0) / n + eps)
    xhat = d * invstd
    y = xhat * gamma + beta
    if relu:
        dy, y = np.where(y > 0, dy, 0), np.maximum(y, 0)
    dbeta, dgamma = dy.sum(0), (dy * xhat).sum(0)
    terms = gamma * invstd * dy, gamma * invstd * dbeta / n, gamma * invstd * xhat * dgamma / n
    largest = np.maximum(abs(xhat * gamma), abs(beta)), np.max(np.abs(np.broadcast_arrays(*terms)), axis=0)
    return (y, terms[0] - terms[1] - terms[2], dgamma, dbeta), largest


def units(value):
    """The last place of float32 numbers of this size."""
    return np.ldexp(1.0, np.maximum(np.frexp(value.astype(np.float64))[1], -125) - 24)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 2.0**10, 2.0**20])
@pytest.mark.parametrize("n", [2, 32, 3000])
def test_results_against_long_double(level, n, ratio, relu, rng):
    x, gamma, beta, _, _ = arguments(rng, (n, 40), scale=1.0, offset=ratio)
    dy = rng.standard_normal(x.shape).astype(f32)
    y, cache = fastopt.batch_norm_forward(x, gamma, beta, relu=relu)
    dx, dgamma, dbeta = fastopt.batch_norm_backward(dy, cache)
    (exact_y, exact_dx, exact_dgamma, exact_dbeta), (y_term, dx_term) = oracle(x, gamma, beta, dy, relu=relu)
    assert (abs(y - exact_y) <= 4 * units(y_term)).all()
    assert (abs(dx - exact_dx) <= 11 * 2.0**-24 * dx_term).all()
    terms = np.where(y > 0, dy, 0) if relu else dy
    well = abs(exact_dbeta) > 1e-3 * abs(terms).sum(0)
    assert (abs(dbeta - exact_dbeta) <= units(exact_dbeta))[well].all()
    well = abs(exact_dgamma) > 1e-3 * abs(terms * (x - cache.mean) * cache.invstd).sum(0)
    assert (abs(dgamma - exact_dgamma) <= units(exact_dgamma))[well].all()


@pytest.mark.parametrize("beta_is", [None, 0.0])
@pytest.mark.parametrize("ratio", [1.0, 2.0**20])
def test_results_of_many_values_against_long_double(ratio, beta_is, rng):
    """y of 100 000 values a channel is within 3 units of the channel's largest term.

    It cannot hold relative to each element's own terms: among so many values, one can be arbitrarily near to the mean.
    """
    x, gamma, beta, _, _ = arguments(rng, (100_000, 8), scale=1.0, offset=ratio)
    if beta_is is not None:
        beta[:] = beta_is
    dy = rng.standard_normal(x.shape).astype(f32)
    y, cache = fastopt.batch_norm_forward(x, gamma, beta)
    dx, _, _ = fastopt.batch_norm_backward(dy, cache)
    (exact_y, exact_dx, _, _), (y_term, dx_term) = oracle(x, gamma, beta, dy)
    assert (abs(y - exact_y) <= 3 * units(y_term.max(0))).all()
    assert (abs(dx - exact_dx) <= 11 * 2.0**-24 * dx_term).all()


# Powers of two for (x, dy, γ, β): float32's subnormal and largest numbers, products beyond its range.
MAGNITUDES = [(0, 0, 0, 0), (-140, 0, 0, 0), (-130, -20, 0, 0), (-130, -100, 0, 60), (-126, -126, 0, 0), (124, 0, 0, 0),
              (124, 126, 0, 0), (124, -120, -100, -100), (0, 126, 0, 0), (0, -140, 0, 0), (0, -110, -10, 0),
              (0, 0, 125, 125), (0, -60, 125, 126), (0, 0, -140, 0), (0, 60, -140, -140), (-60, -60, 80, 80),
              (60, 60, 60, 60), (60, -60, -130, -130), (-100, -30, 30, 0), (100, -30, -30, 0), (0, 0, 0, 127)]


def of_magnitudes(rng, n, inner=None):
    """x, gamma, beta and dy with a channel for each of MAGNITUDES."""
    x_scale, dy_scale, gamma_scale, beta_scale = np.ldexp(1.0, np.array(MAGNITUDES).T)
    shape = (n, len(MAGNITUDES)) if inner is None else (n, len(MAGNITUDES), inner)
    x, dy = rng.uniform(-1, 1, (2, *shape))
    wide = (-1,) if inner is None else (-1, 1)
    gamma, beta = rng.uniform(0.5, 1, (2, len(MAGNITUDES)))
    return [(array * factor.reshape(wide if array.ndim > 1 else -1)).astype(f32)
            for array, factor in ((x, x_scale), (gamma, gamma_scale), (beta, beta_scale), (dy, dy_scale))]


@pytest.mark.parametrize("n", [2, 3, 40, 1000])
def test_results_of_any_magnitude(level, n, rng):
    """The bounds hold wherever the terms themselves are no larger than float32 numbers."""
    x, gamma, beta, dy = of_magnitudes(rng, n)
    y, cache = fastopt.batch_norm_forward(x, gamma, beta, eps=1e-200)
    dx, _, _ = fastopt.batch_norm_backward(dy, cache)
    (exact_y, exact_dx, _, _), (y_term, dx_term) = oracle(x, gamma, beta, dy, eps=1e-200)
    least = 2.0**-149               # the smallest subnormal
    finite = y_term < 2.0**127
    assert finite.mean() > 0.9
    assert (abs(y - exact_y) <= 4 * units(y_term))[finite].all()
    finite = dx_term < 2.0**127
    assert finite.mean() > 0.6
    assert (abs(dx - exact_dx) <= 11 * 2.0**-24 * dx_term + least)[finite].all()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_bits_of_the_reference_at_any_magnitude(level, training, relu, rng):
    """Some channels are computed in double: no other channel's bits depend on that."""
    for shape in [(50, None), (1, None), (9, 5), (5, 49), (3, 130), (2, 1100)]:
        if training and shape == (1, None):
            continue
        x, gamma, beta, dy = of_magnitudes(rng, *shape)
        statistics = beta, np.abs(gamma)
        options = {"training": training, "relu": relu, "eps": 1e-200}
        got = everything(fastopt, x, gamma, beta, *statistics, dy, **options)
        assert_same(got, everything(reference, x, gamma, beta, *statistics, dy, **options), shape)
        _, cache = fastopt.batch_norm_forward(x, gamma, beta, *map(np.copy, statistics), **options)
        in_place = dy.copy()
        fastopt.batch_norm_backward(in_place, cache, out=in_place)
        assert_same_bits(in_place, got["dx"])
        x[:, 1:], dy[:, 1:], gamma[1:], beta[1:] = 1, 1, 1, 1
        plain = everything(fastopt, x, gamma, beta, *statistics, dy, **options)
        assert_same_bits(got["y"][:, 0], plain["y"][:, 0], shape)
        assert_same_bits(got["dx"][:, 0], plain["dx"][:, 0], shape)


@pytest.mark.parametrize("relu", [False, True])
def test_nan_where_double_has_nan(level, relu, rng):
    """y and dx by the formulas in double."""
    for _ in range(20):
        x, dy = random_bits(rng, (2, 6, 200))
        gamma, beta = random_bits(rng, (2, 200))
        x[:, 50:] = rng.standard_normal((6, 150))
        dy[:, 100:] = rng.standard_normal((6, 100))
        special = rng.integers(0, 6, 300), rng.integers(0, 200, 300)
        dy[special] = SPECIAL[rng.integers(0, len(SPECIAL), 300)]
        with np.errstate(all="ignore"):
            y, cache = fastopt.batch_norm_forward(x, gamma, beta, relu=relu)
            dx, _, _ = fastopt.batch_norm_backward(dy, cache)
            sum_dy, sum_dy_d = fastopt.batch_norm_backward_sums(dy, cache)
            mean, invstd, scale, beta = cache.saved
            wide = ((x - mean) * scale + beta).astype(f32)
            g = np.where(wide <= 0, 0, dy.astype(np.float64)) if relu else dy.astype(np.float64)
            slope = -(scale * (invstd * invstd * (sum_dy_d / 6)))
            right = scale * g + ((x - mean) * slope - scale * (sum_dy / 6))
        np.testing.assert_array_equal(np.isnan(y), np.isnan(wide))
        np.testing.assert_array_equal(np.isnan(dx), np.isnan(right))
