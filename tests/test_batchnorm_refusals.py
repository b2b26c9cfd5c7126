"""BatchNorm: what is refused beyond test_bad_input.py, and calls that an interrupt leaves before or after."""

import ctypes
from array import array as plain_array

import numpy as np
import pytest
from helpers import assert_same_bits, every_instant

import fastopt
from fastopt._runtime import arrays

f32 = np.float32


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 3, 1, 1)])
def test_one_value_per_channel(shape):
    mean, var, out = np.zeros(3, f32), np.ones(3, f32), np.full(shape, 5, f32)
    with pytest.raises(ValueError, match=r"^x: expected more than one value per channel .*, got shape \(1, 3"):
        fastopt.batch_norm_forward(np.ones(shape, f32), np.ones(3, f32), np.zeros(3, f32), mean, var, out=out)
    assert (mean == 0).all()
    assert (var == 1).all()
    assert (out == 5).all()


def test_refused(rng):
    x = rng.standard_normal((4, 3)).astype(f32)
    ones, zeros = np.ones(3, f32), np.zeros(3, f32)
    with pytest.raises(ValueError, match=r"^x: expected at least 2 dimensions, got shape \(3,\)"):
        fastopt.batch_norm_forward(ones, ones, zeros)
    with pytest.raises(TypeError, match=r"^running_mean: expected .*, got None"):
        fastopt.batch_norm_forward(x, ones, zeros, training=False)
    with pytest.raises(TypeError, match=r"^running_var: expected .*, got None"):
        fastopt.batch_norm_forward(x, ones, zeros, zeros.copy())
    with pytest.raises(ValueError, match="^statistics: expected None without training"):
        fastopt.batch_norm_forward(x, ones, zeros, zeros.copy(), ones.copy(), training=False,
                                   statistics=(4, np.zeros(3), np.ones(3)))
    with pytest.raises(ValueError, match=r"^x: expected C-contiguous float32 array, got float32 \(2, 3, 4, 2\), not"):
        fastopt.batch_norm_forward(np.ones((2, 3, 4, 4), f32)[..., ::2], ones, zeros)
    with pytest.raises(ValueError, match=r"^(out|x): expected memory of its own"):
        fastopt.batch_norm_forward(x, ones, zeros, out=x)
    room = np.ones((5, 3), f32)
    with pytest.raises(ValueError, match=r"^out: expected memory of its own or that of x, got .* overlaps x in part"):
        fastopt.batch_norm_inference(room[:4], ones, zeros, zeros, ones, out=room[1:])
    _, cache = fastopt.batch_norm_forward(x, ones, zeros)
    with pytest.raises(TypeError, match=r"^cache: expected what batch_norm_forward returned, got ndarray"):
        fastopt.batch_norm_backward(x, x)
    with pytest.raises(ValueError, match=r"^dy: expected .* of shape \(4, 3\), got float32 \(3, 4\)"):
        fastopt.batch_norm_backward(np.ones((3, 4), f32), cache)
    with pytest.raises(ValueError, match=r"^(out|x): expected memory of its own"):
        fastopt.batch_norm_backward(x.copy(), cache, out=x)
    with pytest.raises(ValueError, match=r"^out: expected memory of its own or that of dy, got .* in part"):
        fastopt.batch_norm_backward(room[:4], cache, out=room[1:])
    with pytest.raises(ValueError, match=r"^dgamma: expected .* of shape \(3,\), got float32 \(4,\)"):
        fastopt.batch_norm_backward(x.copy(), cache, out=(None, np.ones(4, f32), None))
    cache.release()
    with pytest.raises(ValueError, match=r"^cache: expected one that still holds x, got one that was released"):
        fastopt.batch_norm_backward(x, cache)


def test_any_object_with_a_buffer(rng):
    """A memoryview has a shape, an array.array has none but the buffer's."""
    x, ones, zeros = rng.standard_normal((4, 3)).astype(f32), np.ones(3, f32), np.zeros(3, f32)
    y, cache = fastopt.batch_norm_forward(memoryview(x), plain_array("f", ones), zeros)
    assert_same_bits(y, fastopt.batch_norm_forward(x, ones, zeros)[0])
    assert np.shares_memory(cache.x, x)
    with pytest.raises(ValueError, match=r"^x: expected at least 2 dimensions, got shape \(2,\)"):
        fastopt.batch_norm_forward(plain_array("f", [1, 2]), ones, zeros)
    empty = np.empty((0, 3), f32)
    _, cache = fastopt.batch_norm_forward(empty, ones, zeros)
    dgamma, dbeta = plain_array("f", ones), plain_array("f", ones)
    fastopt.batch_norm_backward(empty, cache, out=(None, dgamma, dbeta))
    assert list(dgamma) == list(dbeta) == [0, 0, 0]


def test_running_statistics_without_out_overlap_nothing(rng):
    x, room = rng.standard_normal((4, 3)).astype(f32), np.ones(8, f32)
    for training in (True, False):
        for other in range(3):
            for shift in (0, 1, 2):
                arrays = [np.ones(3, f32) for _ in range(4)]
                arrays[other], arrays[3] = room[:3], room[shift : shift + 3]
                if training:
                    with pytest.raises(ValueError, match="^running_var: expected memory of its own"):
                        fastopt.batch_norm_forward(x, *arrays)
                else:
                    fastopt.batch_norm_forward(x, *arrays, training=False)
    assert (room == 1).all()


# The statistics.

def test_a_negative_sum_of_squares(rng):
    x, ones = rng.standard_normal((4, 3)).astype(f32), np.ones(3, f32)
    mean, var, out = np.zeros(3, f32), np.ones(3, f32), np.full((4, 3), 7, f32)
    with pytest.raises(ValueError, match=r"^statistics.m2: expected .* at least 0, got statistics.m2\[1\] = -1e-300$"):
        fastopt.batch_norm_forward(x, ones, ones, mean, var, out=out,
                                   statistics=(8, np.zeros(3), np.array([1, -1e-300, 1])))
    assert (out == 7).all()
    assert (mean == 0).all()
    y, _ = fastopt.batch_norm_forward(x, ones, ones, statistics=(8, np.zeros(3), np.array([-0.0, np.nan, np.inf])))
    assert np.isnan(y[:, 1]).all()


INFERENCE = {
    "forward": ("running_var", lambda x, var, eps, out: fastopt.batch_norm_forward(
        x, *np.ones((3, x.shape[1]), f32), var, training=False, eps=eps, out=out)),
    "inference": ("var", lambda x, var, eps, out: fastopt.batch_norm_inference(
        x, *np.ones((3, x.shape[1]), f32), var, eps=eps, out=out)),
    "fold": ("var", lambda x, var, eps, out: fastopt.batch_norm_fold(
        x, None, *np.ones((3, x.shape[1]), f32), var, eps, output_axis=1, out=(out, None))),
}


@pytest.mark.parametrize("name", INFERENCE)
@pytest.mark.parametrize("channels", [3, 100])
def test_a_variance_of_minus_eps_or_less(name, channels, rng):
    """1 / √(var + eps) is finite just above −eps."""
    argument, call = INFERENCE[name]
    x, out = rng.standard_normal((4, channels)).astype(f32), np.full((4, channels), 7, f32)
    for eps in (1e-5, 0.5, 1e-50):
        exact = f32(-eps)       # the float32 numbers on both sides of −eps, and −eps if it is one
        allowed = [value for value in (np.nextafter(exact, f32(-1)), exact, np.nextafter(exact, f32(1)))
                   if float(value) > -eps]
        for value in (f32(-np.inf), f32(-1), np.nextafter(exact, f32(-1))):
            var = np.ones(channels, f32)
            var[2] = value
            with pytest.raises(ValueError, match=rf"^{argument}: expected variances above -eps = .*{argument}\[2\] = "):
                call(x, var, eps, out)
            assert (out == 7).all()
        for value in allowed:
            assert np.isfinite(call(x, np.full(channels, value), eps, np.empty_like(out))[0]).all()
    call(x, np.full(channels, np.nan, f32), 1e-5, out)


# What a cache holds.

def cached(rng, shape=(8, 3)):
    x = rng.standard_normal(shape).astype(f32)
    return x, fastopt.batch_norm_forward(x, np.ones(3, f32), np.zeros(3, f32))[1]


BACKWARD = pytest.mark.parametrize("backward", [fastopt.batch_norm_backward, fastopt.batch_norm_backward_sums])


@pytest.fixture(params=["heads", "buffers"])
def way(request):
    """How arrays are compared with what they were in the forward pass."""
    before = arrays.swap_reads_heads(request.param == "heads")
    yield
    arrays.swap_reads_heads(before)


@BACKWARD
def test_an_unchanged_cache_serves_many_times(backward, way, rng):
    x, cache = cached(rng)
    first = backward(x, cache)
    cache.saved.flags.writeable = False
    for again in (backward(x, cache), backward(x, cache)):
        for a, b in zip(again, first, strict=True):
            np.testing.assert_array_equal(a, b)


@BACKWARD
def test_a_cache_is_immutable(backward, way, rng):
    x, cache = cached(rng)
    for name in ("saved", "layout", "count", "training", "relu", "mean", "x", "another"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(cache, name, np.zeros(1))
    cache.saved.shape = (2, 6)
    with pytest.raises(ValueError, match=r"^cache.saved: expected shape \(4, 3\), got"):
        backward(x, cache)
    cache.saved.resize((4, 1), refcheck=False)
    with pytest.raises(ValueError, match=r"^cache.saved: expected shape \(4, 3\), got"):
        backward(x, cache)
    cache.saved.resize((1, 3), refcheck=False)
    with pytest.raises(ValueError, match=r"^cache.saved: expected shape \(4, 3\), got"):
        backward(x, cache)
    with pytest.raises(TypeError, match="one call of __init__"):
        cache.layout.__init__(x, 1)


@BACKWARD
@pytest.mark.parametrize("change", ["size", "shape", "dtype", "dtype of a channels-last view"])
@pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning")    # NumPy is about to forbid some of this
def test_x_changed_since_forward(backward, change, way, rng):
    x, cache = cached(rng)
    if change == "size":
        x.resize(10**7, refcheck=False)
    elif change == "shape":
        x.shape = 2, 12
    else:
        if "view" in change:
            x = rng.standard_normal((2, 4, 3)).astype(f32).transpose(0, 2, 1)
            cache = fastopt.batch_norm_forward(x, np.ones(3, f32), np.zeros(3, f32))[1]
        x.dtype = np.int32
    with pytest.raises((TypeError, ValueError), match="^x: expected C-contiguous float32 of shape .*, got"):
        backward(np.ones((8, 3), f32), cache)


@BACKWARD
def test_x_moved_since_forward(backward, way, rng):
    """Of the same shape, elsewhere: what resizing it there and back may do, depending on malloc."""
    x, cache = cached(rng)
    other = x.copy()
    pointer = ctypes.c_void_p.from_address(id(x) + object.__basicsize__)    # the first field of numpy.ndarray
    before, pointer.value = pointer.value, other.ctypes.data
    try:
        assert x.ctypes.data == other.ctypes.data
        with pytest.raises(ValueError, match="^x: expected the memory that the forward pass saw"):
            backward(np.ones((8, 3), f32), cache)
    finally:
        pointer.value = before


# Interrupts.

def test_an_interrupt_of_a_fold():
    ones = np.ones(3, f32)
    every_instant(lambda: (np.full((3, 2), 2, f32), np.full(3, 3, f32)),
                  lambda out: fastopt.batch_norm_fold(*out, 2 * ones, ones, ones, ones, out=out), lambda out: [*out])


def test_an_interrupt_of_forward():
    x, ones = np.arange(12, dtype=f32).reshape(4, 3), np.ones(3, f32)
    every_instant(lambda: (np.zeros(3, f32), np.ones(3, f32), np.zeros((4, 3), f32)),
                  lambda a: fastopt.batch_norm_forward(x, ones, ones, a[0], a[1], out=a[2]), lambda a: [*a])
