"""Bias, activation and dropout: bits of the reference, exact values, the bias's gradient, refusals."""

import math
import pickle

import numpy as np
import pytest
from helpers import AWKWARD, SPECIAL, THREADS, assert_same_bits, random_bits, ulps, unaligned

import fastopt
from fastopt import reference
from fastopt._activation import KEEP_X, KINDS
from fastopt.reference._activation import SMOOTH, channel_sums

f32 = np.float32
EXACT = tuple(name for name in KINDS if name not in SMOOTH)     # bit for bit
NAME = pytest.mark.parametrize("name", KINDS)

# Shape and channel axis: one element; rows narrower than a vector, of a vector and one more, longer than a block, with
# and without whole vectors; many rows; few channels of few elements; runs of elements around 64; runs longer than one
# chunk; channels first; runs of one element; nothing.
SHAPES = [
    ((1,), 0), ((5, 3), -1), ((7, 100), 1), ((64, 64), 1), ((130, 1), -1), ((33, 1500), -1), ((6, 1024), 1),
    ((5, 1030), 1), ((3, 5000), -1), ((9000, 3), 1), ((300, 33), -1), ((2, 3, 5, 7), 1), ((700, 2, 3), 1),
    ((2, 4, 63), 1), ((2, 4, 64), 1), ((3, 2, 65), -2), ((4, 6, 16, 16), 1), ((2, 3, 100, 100), 1), ((3, 2, 9), 0),
    ((5, 1, 1), 0), ((2, 1, 8193), 1), ((0, 3), 1), ((3, 0), 1), ((3, 0), 0),
]


def numbers(rng, shape):
    """Normal numbers, a tenth of them with random bits: every exponent, NaN and infinities."""
    x = rng.standard_normal(shape, dtype=f32) * f32(3)
    return np.where(rng.random(shape) < 0.1, random_bits(rng, shape), x).astype(f32)


def run(module, x, name, bias, dy, **options):
    """y, dx and dbias."""
    y, cache = module.activation_forward(x, name, bias, **options)
    return y, *module.activation_backward(dy, cache)


def cancelling(rng, shape, axis):
    """Slopes up to 2⁹⁰ whose sums cancel in each channel: what is left are the roundings, which tell the order."""
    rows = rng.standard_normal((shape[axis], math.prod(shape) // max(shape[axis], 1)), dtype=f32)
    half = rows.shape[1] // 2
    rows[:, :half] *= f32(2.0) ** rng.integers(0, 90, (len(rows), half)).astype(f32)
    rows[:, half : 2 * half] = -rows[:, :half]
    rest = [n for i, n in enumerate(shape) if i != range(len(shape))[axis]]
    return np.ascontiguousarray(np.moveaxis(rng.permuted(rows, axis=1).reshape(shape[axis], *rest), 0, axis))


LINEAR = {name: 0.0 if name in ("sigmoid", "tanh") else 20.0 for name in KINDS}
"""An x where the derivative is a power of 2."""


def exact_z(x, bias, axis):
    """x + bias, rounded to float32, in double."""
    with np.errstate(all="ignore"):
        return (x + bias.reshape(-1, *[1] * (x.ndim - range(x.ndim)[axis] - 1))).astype(np.float64)


# Bits

@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("biased", [True, False])
def test_bits_of_the_reference(name, p, biased, rng, level):
    for shape, axis in SHAPES:
        x, dy = numbers(rng, shape), numbers(rng, shape)
        bias = numbers(rng, shape[axis]) if biased else None
        options = {"dropout": p, "rng": 7, "channel_axis": axis, "negative_slope": 0.3}
        for actual, expected in zip(run(fastopt, x, name, bias, dy, **options),
                                    run(reference, x, name, bias, dy, **options), strict=True):
            assert (actual is None) == (expected is None) == (not biased and actual is None)
            if actual is not None:
                assert_same_bits(actual, expected, (shape, axis))


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_within_two_ulp_of_exact(name, p, rng, level):
    """y, for the float32 sum x + bias; dx within the larger term's roundings. Dropout rounds once more."""
    smooth = SMOOTH[name]
    for shape, axis in SHAPES:
        x = rng.standard_normal(shape, dtype=f32) * f32(4)
        bias, dy = (rng.standard_normal(n, dtype=f32) for n in (shape[axis], shape))
        options = {"dropout": p, "rng": 9, "channel_axis": axis}
        y, dx, _ = run(fastopt, x, name, bias, dy, **options)
        z = exact_z(x, bias, axis)
        mask = fastopt.dropout_forward(np.ones(shape, f32), p, 9)[0].astype(np.float64)
        assert (ulps(y, smooth.value(z) * mask) <= 2 + (p > 0)).all(), shape
        assert not y[mask == 0].any()
        if smooth.from_y:       # the derivative from y without dropout; with it, y has been rounded three times more
            h = run(fastopt, x, name, bias, dy, channel_axis=axis)[0].astype(np.float64)
            exact = dy * smooth.slope(h) * mask
            largest = np.abs(dy * mask) if p else np.abs(exact)
        else:                   # f(z) = z · g(z), f' = g + z · g'
            exact, g = dy * smooth.slope(z) * mask, smooth.value(z) / z
            largest = np.abs(dy * mask) * np.maximum(np.abs(g), np.abs(smooth.slope(z) - g))
        subnormal = (1 + np.abs(dy)) * 2.0**-148        # a derivative that is rounded to one, times dy
        assert (np.abs(dx - exact) <= 6 * 2.0**-24 * largest + subnormal).all(), shape


@NAME
def test_special_values(name, level):
    """The limits at infinities, NaN, zeros, subnormals; +1 and −1 as dy."""
    x = np.concatenate([SPECIAL, [f32(200), f32(-200)]])
    for dy in (np.ones_like(x), -np.ones_like(x)):
        y, dx, _ = run(fastopt, x, name, None, dy)
        expected, slope, _ = run(reference, x, name, None, dy)
        for actual, right in ((y, expected), (dx, slope)):
            assert (np.isnan(actual) == np.isnan(x)).all() or name in EXACT
            np.testing.assert_array_equal(np.isfinite(actual), np.isfinite(right))
            finite = np.isfinite(right)
            np.testing.assert_array_equal(actual[~finite], right[~finite])
            np.testing.assert_allclose(actual[finite], right[finite], rtol=5e-7, atol=2.0**-148)
    assert np.isnan(fastopt.activation_forward(np.array([np.nan], f32), name)[0])


@NAME
@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.usefixtures("always_parallel")
def test_threads(name, p, rng, level):
    for shape, axis in (((1200, 70), 1), ((3, 70_001), 1), ((4, 3, 50, 60), 1), ((40_000, 2), 1)):
        x, dy = np.full(shape, LINEAR[name], f32), cancelling(rng, shape, axis)
        x += f32(p) * rng.standard_normal(shape, dtype=f32)
        bias = np.zeros(shape[axis], f32)
        results = []
        for threads in THREADS:
            with fastopt.num_threads(threads):
                results.append(run(fastopt, x, name, bias, dy, dropout=p, rng=3, channel_axis=axis))
        for result in results[1:]:
            for actual, expected in zip(result, results[0], strict=True):
                assert_same_bits(actual, expected, shape)


@NAME
def test_same_bits_at_every_level(name, rng, monkeypatch):
    from fastopt._runtime import dispatch
    x, dy = numbers(rng, (257, 99)), numbers(rng, (257, 99))
    bias = numbers(rng, 99)
    results = []
    for level in dispatch.available():
        monkeypatch.setattr(dispatch, "active", dispatch.load(level))
        results.append(run(fastopt, x, name, bias, dy, dropout=0.2, rng=3))
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            assert_same_bits(actual, expected)


@NAME
def test_alignment_and_sizes(name, rng, level):
    """An element's result does not depend on where it stands. (What one has alone is what it has in a vector.)"""
    x, dy = (rng.standard_normal(2000, dtype=f32) * f32(3) for _ in range(2))
    y, dx, _ = run(fastopt, x, name, None, dy)
    for size in (*AWKWARD, 1023, 1024, 1025):
        for actual, expected in zip(run(fastopt, x[:size], name, None, dy[:size]), (y, dx), strict=False):
            assert_same_bits(actual, expected[:size], size)
    for offset in range(16):
        shifted, slope = unaligned(x, offset), unaligned(dy, (5 * offset) % 16)
        out, _ = fastopt.activation_forward(shifted, name, out=unaligned(x, 3))
        assert_same_bits(out, y)
        _, cache = fastopt.activation_forward(shifted, name)
        assert_same_bits(fastopt.activation_backward(slope, cache, out=unaligned(dy, offset))[0], dx)


@NAME
@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_in_place(name, p, rng, level):
    for shape, axis in (((50, 130), 1), ((3, 4, 90), 1), ((2, 3000), 1)):
        x, dy = (rng.standard_normal(shape, dtype=f32) for _ in range(2))
        bias = rng.standard_normal(shape[axis], dtype=f32)
        options = {"dropout": p, "rng": 3, "channel_axis": axis}
        y, cache = fastopt.activation_forward(x, name, bias, **options)
        dx, dbias = fastopt.activation_backward(dy, cache)
        slope, target = dy.copy(), np.empty_like(bias)
        returned = fastopt.activation_backward(slope, cache, out=(slope, target))
        assert returned[0] is slope
        assert returned[1] is target
        assert_same_bits(slope, dx)
        assert_same_bits(target, dbias)
        own = x.copy()
        if name in KEEP_X:
            with pytest.raises(ValueError, match="^out: expected memory of its own, got an array that overlaps x"):
                fastopt.activation_forward(own, name, bias, **options, out=own)
            assert_same_bits(own, x)
        else:
            made, cache = fastopt.activation_forward(own, name, bias, **options, out=own)
            assert made is own
            assert_same_bits(own, y)
            assert_same_bits(fastopt.activation_backward(dy, cache)[0], dx)


# The bias and its gradient

@NAME
def test_no_bias_keeps_every_bit_of_x(name, level):
    """−0 is −0: it is not added to +0."""
    x = np.array([-0.0] * 70, f32)
    with_zero, _ = fastopt.activation_forward(x, name, np.zeros(70, f32))
    y, _ = fastopt.activation_forward(x, name)
    if name == "sigmoid":
        assert (y == 0.5).all()
    else:
        assert np.signbit(y).all()
        assert not np.signbit(with_zero).any()


@NAME
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_order_of_the_sums(name, p, rng, level):
    """dbias is the sum of dx in double, in the stated order, rounded once. The last shapes have several blocks."""
    for shape, axis in [*SHAPES, ((40_000, 3), 1), ((300, 701), 1)]:
        x, dy = np.full(shape, LINEAR[name], f32), cancelling(rng, shape, axis)
        x += f32(p) * rng.standard_normal(shape, dtype=f32)
        bias = np.zeros(shape[axis], f32)
        _, dx, dbias = run(fastopt, x, name, bias, dy, dropout=p, rng=3, channel_axis=axis)
        inner = math.prod(shape[range(len(shape))[axis] + 1 :])
        assert_same_bits(dbias, channel_sums(dx, shape[axis], inner).astype(f32), shape)


@pytest.mark.parametrize(("shape", "axis"), [((100_000, 2), 1), ((2, 1, 100_000), 1), ((20_000, 3, 5), 1)])
def test_sums_in_double(shape, axis, rng, level):
    """1 ULP of exact, where float32 sums would lose everything: large terms that cancel."""
    dy = rng.standard_normal(shape, dtype=f32)
    half = shape[0] // 2 if shape[0] > 2 else 0
    if half:
        dy[half:] = -dy[:half] + f32(1e-3) * rng.standard_normal(dy[half:].shape, dtype=f32)
    dy *= f32(1e6)
    _, cache = fastopt.activation_forward(np.ones(shape, f32), "relu", np.zeros(shape[axis], f32), channel_axis=axis)
    dbias = fastopt.activation_backward(dy, cache)[1]
    rows = np.moveaxis(dy, axis, 0).reshape(shape[axis], -1)
    exact = np.array([math.fsum(row) for row in rows])
    assert (ulps(dbias, exact) <= 0.51).all()


@pytest.mark.parametrize("module", [fastopt, reference])
def test_an_infinite_gradient_of_an_inactive_element(module, level):
    """relu and dropout give +0, not inf · 0."""
    x = np.tile(np.array([-1.0, 2.0], f32), 64)
    dy = np.full(128, -np.inf, f32)
    y, cache = module.activation_forward(x, "relu", dropout=0.5, rng=1)
    dx = module.activation_backward(dy, cache)[0]
    assert not dx[y == 0].view(np.uint32).any()
    assert np.isneginf(dx[y > 0]).all()
    for name in KINDS:
        cache = module.activation_forward(x, name, dropout=0.5, rng=1)[1]
        dropped = module.dropout_forward(np.ones(128, f32), 0.5, 1)[0] == 0
        assert not module.activation_backward(dy, cache)[0][dropped].view(np.uint32).any()


def test_leaky_relu_with_a_slope_of_0_is_relu(rng, level):
    x, dy, bias = (numbers(rng, n) for n in ((40, 50), (40, 50), 50))
    for actual, expected in zip(run(fastopt, x, "leaky_relu", bias, dy, negative_slope=0.0),
                                run(fastopt, x, "relu", bias, dy), strict=True):
        finite = np.isfinite(actual) & np.isfinite(expected)
        np.testing.assert_array_equal(actual[finite], expected[finite])


# Dropout

@NAME
def test_the_mask_is_that_of_dropout(name, rng, level):
    x = np.abs(rng.standard_normal((37, 91), dtype=f32)) + f32(0.5)
    y, cache = fastopt.activation_forward(x, name, dropout=0.3, rng=np.random.default_rng(5))
    key = int(np.random.default_rng(5).integers(2**64, dtype=np.uint64))
    assert (cache.key, cache.dropout) == (key, 0.3)
    mask = fastopt.dropout_forward(np.ones_like(x), 0.3, key)[0]
    plain = fastopt.activation_forward(x, name)[0]
    assert_same_bits(y, plain * mask)
    dx = fastopt.activation_backward(np.ones_like(x), cache)[0]
    assert ((dx == 0) == (mask == 0)).all()


@NAME
def test_everything_is_dropped(name, rng, level):
    x, bias = random_bits(rng, (40, 30)), random_bits(rng, 30)
    y, dx, dbias = run(fastopt, x, name, bias, x, dropout=1.0, rng=1)
    assert not any(array.view(np.uint32).any() for array in (y, dx, dbias))


def test_the_generator(rng):
    """One key is drawn if there is dropout, in a valid call; otherwise none."""
    x, generator, twin = rng.standard_normal((3, 4), dtype=f32), np.random.default_rng(1), np.random.default_rng(1)
    fastopt.activation_forward(x, "relu", dropout=0.0, rng=generator)
    for name, options in (("relu", {"out": x[:2]}), ("gelu", {"out": x}), ("rely", {}), ("relu", {"bias": x[0, :3]})):
        with pytest.raises(ValueError, match=": expected "):
            fastopt.activation_forward(x, name, **{"dropout": 0.5, "rng": generator, **options})
    assert generator.bit_generator.state == twin.bit_generator.state
    fastopt.activation_forward(x, "relu", dropout=0.5, rng=generator)
    twin.integers(2**64, dtype=np.uint64)
    assert generator.bit_generator.state == twin.bit_generator.state


# The cache and arguments

@NAME
def test_the_cache(name, rng):
    x, bias = rng.standard_normal((6, 5), dtype=f32), rng.standard_normal(5, dtype=f32)
    y, cache = fastopt.activation_forward(x, name, bias, dropout=0.25, rng=3, negative_slope=0.2)
    assert (cache.activation, cache.dropout, cache.key, cache.negative_slope) == (name, 0.25, 3, 0.2)
    assert (cache.shape, cache.channels) == ((6, 5), 5)
    assert cache.saved is (None if name == "identity" else x if name in KEEP_X else y)
    for field in ("activation", "saved", "key", "mask"):
        with pytest.raises(AttributeError):
            setattr(cache, field, 1)
    dx, dbias = fastopt.activation_backward(y, cache)
    old = bias.copy()
    bias += 1                                       # an optimizer's step
    for again in (cache, pickle.loads(pickle.dumps(cache))):
        for actual, expected in zip(fastopt.activation_backward(y, again), (dx, dbias), strict=True):
            assert_same_bits(actual, expected)
    if name in KEEP_X:
        assert_same_bits(cache.bias, old)
    cache.release()
    with pytest.raises(ValueError, match="^cache: expected one that still holds its array, got one that was released"):
        fastopt.activation_backward(y, cache)


def test_an_array_that_was_resized_since():
    for name in ("relu", "gelu"):
        x = np.ones((4, 3), f32)
        y, cache = fastopt.activation_forward(x, name)
        held = y if name == "relu" else x
        held.resize((2, 3), refcheck=False)
        with pytest.raises(ValueError, match=rf"^{'y' if name == 'relu' else 'x'}: expected"):
            fastopt.activation_backward(np.ones((4, 3), f32), cache)


@pytest.mark.parametrize("name", ["relu6", "", "RELU", None, 1, b"relu", ["relu"]], ids=repr)
def test_unknown_activations_are_refused(name):
    with pytest.raises(ValueError, match="^activation: expected one of identity, relu, .*, silu, got "):
        fastopt.activation_forward(np.ones(4, f32), name)


def test_a_bias_needs_an_axis():
    x = np.ones((), f32)
    assert fastopt.activation_forward(x, "tanh")[0].shape == ()
    with pytest.raises(ValueError, match="^x: expected at least 1 dimension with a bias, got shape "):
        fastopt.activation_forward(x, "tanh", np.ones(1, f32))
    for axis in (2, -3, 0.5, None, True):
        with pytest.raises((TypeError, ValueError), match="^channel_axis: expected"):
            fastopt.activation_forward(np.ones((2, 3), f32), "tanh", np.ones(3, f32), channel_axis=axis)


def test_there_is_no_gradient_of_no_bias():
    dy = np.ones((2, 3), f32)
    _, cache = fastopt.activation_forward(dy, "relu")
    assert fastopt.activation_backward(dy, cache)[1] is None
    with pytest.raises(ValueError, match="^dbias: expected None after a forward pass without a bias, got an array"):
        fastopt.activation_backward(dy, cache, out=(None, np.ones(3, f32)))


@NAME
def test_backward_needs_the_shape_of_forward(name):
    x = np.ones((4, 3), f32)
    _, cache = fastopt.activation_forward(x, name, np.ones(3, f32))
    with pytest.raises(ValueError, match=r"^dy: expected C-contiguous float32 (array )?of shape \(4, 3\), got"):
        fastopt.activation_backward(np.ones((3, 4), f32), cache)


def test_the_gradient_of_the_bias_has_memory_of_its_own():
    for name in ("relu", "gelu"):
        x, dy, dx = (np.ones((4, 3), f32) for _ in range(3))
        y, cache = fastopt.activation_forward(x, name, np.ones(3, f32))
        for other in (dy, dx, y if name == "relu" else x):
            before = other.copy()
            with pytest.raises(ValueError, match="^(dbias|out): expected memory of its own, got an array that "):
                fastopt.activation_backward(dy, cache, out=(dx, other[1]))
            assert_same_bits(other, before)
