"""Layer and RMS normalisation: bits against the reference, accuracy, gradients, special values, caches."""

from fractions import Fraction

import numpy as np
import pytest
from helpers import AWKWARD, SPECIAL, THREADS, assert_same_bits, random_bits, ulps, unaligned

import fastopt
from fastopt import reference

f32 = np.float32

# Rows and elements: whole groups of rows and others, one block of rows, several, the most; long rows.
SHAPES = [(1, 1), (4, 16), (5, 3), (64, 512), (130, 64), (257, 21), (37, 1024), (9, 1025), (700, 130), (4100, 7),
          (3, 9000), (1, 40000), (33, 600), (5000, 64)]


def arguments(rng, shape, *, scale=3.0, offset=5.0, ndim=1):
    """x, gamma, beta and dy."""
    x = (rng.standard_normal(shape) * scale + offset).astype(f32)
    gamma, beta = rng.standard_normal((2, *shape[len(shape) - ndim:])).astype(f32)
    return x, gamma, beta, rng.standard_normal(shape).astype(f32)


def everything(module, x, gamma, beta, dy, **options):
    """Every array that the four functions give, by name."""
    with np.errstate(all="ignore"):
        y, cache = module.layer_norm_forward(x, gamma, beta, **options)
        dx, dgamma, dbeta = module.layer_norm_backward(dy, cache)
        rms_y, rms_cache = module.rms_norm_forward(x, gamma, **options)
        rms_dx, rms_dgamma = module.rms_norm_backward(dy, rms_cache)
    return {"y": y, "mean": cache.mean, "invstd": cache.invstd, "dx": dx, "dgamma": dgamma, "dbeta": dbeta,
            "rms y": rms_y, "invrms": rms_cache.invrms, "rms dx": rms_dx, "rms dgamma": rms_dgamma}


def assert_same(actual, expected, what):
    for name, array in expected.items():
        assert_same_bits(actual[name], array, f"{what} {name}")


# The same bits.

def test_bits_of_the_reference(level, rng):
    for shape in SHAPES:
        data = arguments(rng, shape)
        assert_same(everything(fastopt, *data), everything(reference, *data), shape)


def test_bits_of_the_reference_at_awkward_sizes(level, rng):
    for n in AWKWARD:
        for rows in (1, 3, 4, 7, 65):
            data = arguments(rng, (rows, n))
            assert_same(everything(fastopt, *data, eps=0.1), everything(reference, *data, eps=0.1), (rows, n))


def test_bits_of_the_reference_on_any_bits(level, rng):
    for shape in [(60, 200), (9, 33), (30, 1100)]:
        x, dy = random_bits(rng, (2, *shape))
        gamma, beta = random_bits(rng, (2, shape[1]))
        x[0, : len(SPECIAL)] = SPECIAL
        data = x, gamma, beta, dy
        assert_same(everything(fastopt, *data), everything(reference, *data), shape)
        magnitudes = np.ldexp(f32(1), rng.integers(-149, 128, (shape[0], 1))).astype(f32)
        data = rng.standard_normal(shape).astype(f32) * magnitudes, gamma, beta, dy
        assert_same(everything(fastopt, *data, eps=1e-300), everything(reference, *data, eps=1e-300), shape)


def test_several_axes_are_one_row(level, rng):
    for ndim in (1, 2, 3, 4):
        x, gamma, beta, dy = arguments(rng, (3, 5, 4, 6), ndim=ndim)
        got = everything(fastopt, x, gamma, beta, dy)
        assert_same(got, everything(reference, x, gamma, beta, dy), ndim)
        assert got["mean"].shape == got["invrms"].shape == x.shape[: 4 - ndim]
        assert got["dgamma"].shape == got["dbeta"].shape == gamma.shape
        flat = everything(fastopt, x.reshape(-1, gamma.size), gamma.ravel(), beta.ravel(), dy.reshape(-1, gamma.size))
        for name, array in got.items():
            assert_same_bits(array.ravel(), flat[name].ravel(), name)


def test_bits_do_not_depend_on_threads(level, always_parallel, rng):
    for shape in [(1, 5000), (9, 3000), (64, 512), (1000, 3), (4100, 65), (257, 1100)]:
        data = arguments(rng, shape)
        results = []
        for threads in THREADS:
            with fastopt.num_threads(threads):
                results.append(everything(fastopt, *data))
        for threads, result in zip(THREADS, results, strict=True):
            assert_same(result, results[0], f"{shape} {threads} threads")


def test_bits_do_not_depend_on_alignment(level, rng):
    data = arguments(rng, (50, 37))
    expected = everything(fastopt, *data)
    for offset in range(16):
        assert_same(everything(fastopt, *(unaligned(array, offset) for array in data)), expected, f"offset {offset}")


def test_out(level, rng):
    for shape in [(50, 37), (3, 2100), (257, 64)]:
        x, gamma, beta, dy = arguments(rng, shape)
        expected = everything(fastopt, x, gamma, beta, dy)
        y = np.empty_like(x)
        given, cache = fastopt.layer_norm_forward(x, gamma, beta, out=y)
        assert given is y
        assert_same_bits(y, expected["y"])
        given, rms_cache = fastopt.rms_norm_forward(x, gamma, out=y)
        assert given is y
        assert_same_bits(y, expected["rms y"])
        for backward, saved, names in ((fastopt.layer_norm_backward, cache, ("dx", "dgamma", "dbeta")),
                                       (fastopt.rms_norm_backward, rms_cache, ("rms dx", "rms dgamma"))):
            results = tuple(np.empty_like(expected[name]) for name in names)
            for array, result, name in zip(backward(dy, saved, out=results), results, names, strict=True):
                assert array is result
                assert_same_bits(array, expected[name], name)
            in_place = dy.copy()
            given = backward(in_place, saved, out=in_place)
            assert given[0] is in_place
            for array, name in zip(given, names, strict=True):
                assert_same_bits(array, expected[name], name)
            only_dgamma = (None, results[1], *[None] * (len(names) - 2))
            assert backward(dy, saved, out=only_dgamma)[1] is results[1]


# Accuracy.

def exact(x, gamma, beta, dy, eps=1e-5, *, rms=False):
    """y, mean, 1 / √… and the three gradients in long double, and the largest term of each dx."""
    x, gamma, beta, dy = (array.astype(np.longdouble) for array in (x, gamma, beta, dy))
    n = np.longdouble(x.shape[1])
    mean = np.zeros((len(x), 1)) if rms else x.sum(1, keepdims=True) / n
    d = x - mean
    inverse = 1 / np.sqrt((d * d).sum(1, keepdims=True) / n + np.longdouble(eps))
    xhat, g = d * inverse, dy * gamma
    first = np.zeros_like(mean) if rms else g.sum(1, keepdims=True) / n
    second = xhat * ((g * xhat).sum(1, keepdims=True) / n)
    terms = np.maximum(np.maximum(abs(g), abs(first)), abs(second)) * inverse
    y = xhat * gamma if rms else xhat * gamma + beta
    return y, mean, inverse, inverse * (g - first - second), (dy * xhat).sum(0), dy.sum(0), terms


wide = pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is no wider than double")


def check_accuracy(x, gamma, beta, dy, eps=1e-5):
    """5 ULP of the larger of y's terms, 11 · 2⁻²⁴ of the largest of dx's; the other results are rounded once."""
    got = everything(fastopt, x, gamma, beta, dy, eps=eps)
    y, mean, invstd, dx, dgamma, dbeta, terms = exact(x, gamma, beta, dy, eps)
    ratio = abs(mean * invstd[:, 0].mean()).max()
    larger = np.maximum(abs(y - beta), abs(beta)).astype(f32)
    assert abs(got["mean"] - mean[:, 0]).max() <= 2.0**-50 * abs(x.astype(np.longdouble)).max()
    assert (abs(got["invstd"] / invstd[:, 0] - 1)).max() <= 2.0**-40
    assert (abs(got["y"] - y) <= 5 * np.spacing(larger)).all()
    assert (abs(got["dx"] - dx) <= 11 * 2.0**-24 * terms).all()
    assert ulps(got["dgamma"], dgamma).max() < 0.51 + 2.0**-10 * ratio
    assert ulps(got["dbeta"], dbeta).max() < 0.51
    y, _, invrms, dx, dgamma, _, terms = exact(x, gamma, beta, dy, eps, rms=True)
    assert (abs(got["invrms"] / invrms[:, 0] - 1)).max() <= 2.0**-48
    assert ulps(got["rms y"], y).max() <= 3
    assert (abs(got["rms dx"] - dx) <= 7 * 2.0**-24 * terms).all()
    assert ulps(got["rms dgamma"], dgamma).max() < 0.51


@wide
@pytest.mark.parametrize("ratio", [0.0, 1.0, 2.0**10, 2.0**20])
@pytest.mark.parametrize("shape", [(40, 37), (9, 768), (300, 3)])
def test_accuracy(shape, ratio, level, rng):
    """Whatever the mean."""
    check_accuracy(*arguments(rng, shape, scale=2.0, offset=2.0 * ratio))


@wide
@pytest.mark.parametrize("scale", [2.0**-70, 2.0**-20, 2.0**30, 2.0**90])
def test_accuracy_at_any_scale(scale, level, rng):
    """Where float32 has no numbers for a row's constants it is computed in double."""
    x, gamma, beta, dy = arguments(rng, (30, 100))
    x, dy = x * f32(scale), dy * f32(min(scale, 2.0**20))
    check_accuracy(x, gamma, beta, dy, scale**2 * 1e-5)


@wide
def test_a_first_element_far_from_the_others(level, rng):
    """Sums around it would lose 24 bits."""
    x, gamma, beta, dy = arguments(rng, (30, 3000))
    x[:, 0] = 2.0**12 * np.arange(30)
    check_accuracy(x, gamma, beta, dy)
    x[:, 0] = 1e30
    check_accuracy(x, gamma, beta, dy)


def test_statistics_of_exact_fractions(level, rng):
    x = (rng.standard_normal((3, 70)) + 1e4).astype(f32)
    _, cache = fastopt.layer_norm_forward(x, np.ones(70, f32), np.zeros(70, f32), eps=1e-5)
    for row, mean, invstd in zip(x, cache.mean, cache.invstd, strict=True):
        values = [Fraction(float(v)) for v in row]
        true = sum(values) / 70
        var = sum((v - true)**2 for v in values) / 70 + Fraction(1e-5)
        assert abs(Fraction(mean) / true - 1) <= Fraction(2)**-52
        assert abs(Fraction(invstd)**2 * var - 1) <= Fraction(2)**-40


def test_a_row_computed_by_hand():
    one, zero = np.ones(2, f32), np.zeros(2, f32)
    y, cache = fastopt.layer_norm_forward(np.array([[1, 3]], f32), one, zero, eps=3.0)
    assert cache.mean == [2.0]
    assert cache.invstd == [0.5]
    assert y.tolist() == [[-0.5, 0.5]]
    dx, dgamma, dbeta = fastopt.layer_norm_backward(np.array([[1, 0]], f32), cache)
    assert dx.tolist() == [[0.1875, -0.1875]]      # ½ · (±½ − x̂ · (−¼)), with x̂ = ∓½
    assert dgamma.tolist() == [-0.5, 0.0]
    assert dbeta.tolist() == [1.0, 0.0]
    y, cache = fastopt.rms_norm_forward(np.array([[1, 1]], f32), one, eps=3.0)
    assert cache.invrms == [0.5]
    assert y.tolist() == [[0.5, 0.5]]


# Special values.

@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_special_value_stays_in_its_row(value, level, rng):
    x, gamma, beta, dy = arguments(rng, (9, 70))
    expected = everything(fastopt, x, gamma, beta, dy)
    x[5, 33] = value
    got = everything(fastopt, x, gamma, beta, dy)
    others = np.arange(9) != 5
    for name in ("y", "dx", "rms y", "rms dx", "mean", "invstd", "invrms"):
        assert_same_bits(got[name][others], expected[name][others], name)
    assert np.isnan(got["y"][5]).all()
    assert np.isnan(got["dx"][5]).all()
    assert np.isnan(got["dgamma"]).all()
    assert_same_bits(got["dbeta"], expected["dbeta"])


@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, -3e-45, 3e38])
@pytest.mark.parametrize("n", [1, 3, 33, 1000])
@pytest.mark.parametrize("eps", [1e-5, 1e-300])
def test_a_constant_row_gives_beta(eps, value, n, level, rng):
    """With the second eps in double."""
    gamma, beta = rng.standard_normal((2, n)).astype(f32)
    gamma[:2], beta[:2] = (1.0, -1.0)[:n], -0.0
    x = np.full((3, n), value, f32)
    x[1] = np.where(np.arange(n) % 2, 0.0, -0.0)
    y, cache = fastopt.layer_norm_forward(x, gamma, beta, eps=eps)
    assert_same_bits(y, np.stack([beta] * 3))
    assert cache.mean[0] == f32(value)
    dx, dgamma, dbeta = fastopt.layer_norm_backward(np.ones_like(x), cache)
    assert eps < 1e-5 or np.isfinite(dx).all()
    assert (dgamma == 0).all()
    assert (dbeta == 3).all()


def test_without_rows_or_elements():
    gamma = np.ones(4, f32)
    for module in (fastopt, reference):
        got = everything(module, np.empty((0, 4), f32), gamma, gamma, np.empty((0, 4), f32))
        assert got["y"].shape == got["dx"].shape == got["rms dx"].shape == (0, 4)
        assert got["dgamma"].tolist() == got["dbeta"].tolist() == got["rms dgamma"].tolist() == [0.0] * 4
        got = everything(module, np.empty((3, 0), f32), gamma[:0], gamma[:0], np.empty((3, 0), f32))
        assert got["y"].shape == got["rms dx"].shape == (3, 0)
        assert got["dgamma"].shape == (0,)
        assert np.isnan(got["mean"]).all()
        assert np.isnan(got["invrms"]).all()
        assert got["mean"].shape == got["invrms"].shape == (3,)


# The caches, and what is refused beside the rows of arguments.py.

def caches():
    x, gamma, beta, _ = arguments(np.random.default_rng(3), (6, 5))
    return (fastopt.layer_norm_forward(x, gamma, beta)[1], fastopt.layer_norm_backward), \
        (fastopt.rms_norm_forward(x, gamma)[1], fastopt.rms_norm_backward)


def test_caches_keep_x_and_copy_gamma(rng):
    x, gamma, beta, dy = arguments(rng, (6, 5))
    for forward, backward, given in ((fastopt.layer_norm_forward, fastopt.layer_norm_backward, (gamma, beta)),
                                     (fastopt.rms_norm_forward, fastopt.rms_norm_backward, (gamma,))):
        given = tuple(array.copy() for array in given)
        _, cache = forward(x, *given)
        expected = backward(dy, cache)
        assert cache.x is x
        given[0][...] = 7.0
        for array, right in zip(backward(dy, cache), expected, strict=True):
            assert_same_bits(array, right)
        for name in ("x", "gamma", "mean", "invstd", "invrms"):
            with pytest.raises(AttributeError):
                setattr(cache, name, x)
        cache.release()
        assert cache.x is None
        with pytest.raises(ValueError, match="^cache: expected one that still holds x, got one that was released"):
            backward(dy, cache)


def test_the_cache_of_another_function_is_refused():
    (cache, backward), (rms_cache, rms_backward) = caches()
    dy = np.ones((6, 5), f32)
    with pytest.raises(TypeError, match="^cache: expected what layer_norm_forward returned, got RMSNormCache"):
        backward(dy, rms_cache)
    with pytest.raises(TypeError, match="^cache: expected what rms_norm_forward returned, got LayerNormCache"):
        rms_backward(dy, cache)


def test_an_x_that_was_changed_is_refused():
    for which in (0, 1):
        cache, backward = caches()[which]
        dy = np.ones((6, 5), f32)
        address = cache.x.ctypes.data
        cache.x.resize((6, 500), refcheck=False)
        with pytest.raises(ValueError, match="^x: expected"):
            backward(dy, cache)
        cache.x.resize((6, 10**6), refcheck=False)
        cache.x.resize((6, 5), refcheck=False)
        assert cache.x.ctypes.data != address
        with pytest.raises(ValueError, match="^x: expected the memory that the forward pass saw"):
            backward(dy, cache)


@pytest.mark.parametrize("shape", [(), (4,), (6, 4), (5, 6), (1, 6, 5), (0,)])
def test_gamma_of_another_shape_is_refused(shape):
    x, gamma = np.ones((6, 5), f32), np.ones(shape, f32)
    match = r"^gamma: expected the shape of the last axes of x, \(6, 5\), got shape "
    with pytest.raises(ValueError, match=match):
        fastopt.layer_norm_forward(x, gamma, gamma)
    with pytest.raises(ValueError, match=match):
        fastopt.rms_norm_forward(x, gamma)


def test_outputs_of_another_shape_or_place_are_refused():
    for which, parts in ((0, 3), (1, 2)):
        cache, backward = caches()[which]
        dy, right = np.ones((6, 5), f32), np.zeros(5, f32)
        for at, name in enumerate(("dgamma", "dbeta")[: parts - 1], 1):
            out = [None] * parts
            for wrong in (np.zeros(4, f32), np.zeros((1, 5), f32), np.zeros(5)):
                out[at] = wrong
                with pytest.raises((TypeError, ValueError), match=f"^{name}: expected"):
                    backward(dy, cache, out=tuple(out))
            out[at] = dy[0]
            with pytest.raises(ValueError, match=f"^{name}: expected memory of its own"):
                backward(dy, cache, out=tuple(out))
            out[at] = cache.gamma
            with pytest.raises(ValueError, match=f"^{name}: expected memory of its own"):
                backward(dy, cache, out=tuple(out))
        with pytest.raises(ValueError, match="^out: expected memory of its own"):
            backward(dy, cache, out=cache.x)
        with pytest.raises(TypeError, match="^out: expected"):
            backward(dy, cache, out=(None, right, right, right))
        assert (dy == 1).all()
        assert (right == 0).all()
