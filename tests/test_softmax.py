"""Softmax and its relatives: exact to 2 units in the last place on every kind of row, the same bits however run."""

import numpy as np
import pytest
from helpers import AWKWARD, THREADS, assert_same_bits, random_bits, ulps, unaligned
from logits import FAMILIES, exact_row, exact_ulps, log_softmax64

import fastopt
from fastopt import reference
from fastopt._runtime import dispatch

FAMILY = pytest.mark.parametrize("family", FAMILIES)
# The kernels take other ways from 33 and from 3073 elements on.
WIDTHS = (*AWKWARD, 4, 5, 10, 47, 49, 50, 100, 1000, 1023, 1024, 1025, 2064, 3071, 3072, 3073, 3087, 3088, 5000, 6145)


@FAMILY
def test_log_softmax_against_mpmath(family, rng, level):
    for n, rows in ((1, 4), (2, 60), (3, 40), (10, 20), (47, 3), (49, 3), (257, 1), (1030, 1)):
        x = FAMILIES[family](rng, rows, n)
        y = fastopt.log_softmax(x)
        for r in range(rows):
            exact = exact_row(x[r])[0]
            assert exact_ulps(y[r], exact) <= 2.0, (n, x[r])


@FAMILY
def test_reference_is_the_exact_value_rounded(family, rng):
    for n, rows in ((1, 4), (2, 60), (10, 10), (257, 1)):
        x = FAMILIES[family](rng, rows, n)
        y = reference.log_softmax(x)
        for r in range(rows):
            assert exact_ulps(y[r], exact_row(x[r])[0]) <= 0.5 + 1e-6, (n, x[r])


@FAMILY
@pytest.mark.parametrize("n", [1, 2, 3, 10, 32, 33, 49, 100, 1000, 3073, 32000, 262144])
def test_log_softmax_at_every_width(family, n, rng, level):
    x = FAMILIES[family](rng, max(1, min(2000, 60000 // n)), n)
    with np.errstate(all="ignore"):
        worst = ulps(fastopt.log_softmax(x), log_softmax64(x))
    assert np.nanmax(worst) <= 2.0
    assert_same_bits(np.isinf(fastopt.log_softmax(x)).astype(np.float32), np.isinf(x).astype(np.float32))


def test_a_hundred_thousand_rows(rng):
    x = rng.standard_normal((100_000, 10), dtype=np.float32)
    assert ulps(fastopt.log_softmax(x), log_softmax64(x)).max() <= 2.0


def test_from_the_literature():
    y = np.exp(fastopt.log_softmax(np.float32([5, 2, -1, 3]).reshape(1, 4)))
    np.testing.assert_allclose(y, [[0.842, 0.042, 0.002, 0.114]], atol=5e-4)


@pytest.mark.parametrize("n", [1, 2, 10, 16, 32, 33, 64, 100, 1000, 3073, 5000])
def test_special_rows(n, level):
    row = np.linspace(-2, 3, n, dtype=np.float32)
    rows = np.stack([row] * 7)
    rows[1] = -np.inf
    rows[2, n // 2] = np.inf
    rows[3, n // 3] = np.nan
    rows[4, -1], rows[4, 0] = np.nan, -np.inf
    rows[5] = np.inf
    y = fastopt.log_softmax(rows)
    assert np.isnan(y[1:6]).all()
    assert_same_bits(y[6], y[0])
    assert np.isfinite(y[0]).all()
    if n > 1:
        rows[0, 1:] = -np.inf
        y = fastopt.log_softmax(rows)
        assert_same_bits(y[0], np.float32([0.0] + [-np.inf] * (n - 1)))
        assert_same_bits(y[6], fastopt.log_softmax(rows[6:])[0])


def test_log_softmax_of_any_bits(rng, level):
    """Against the reference: what is NaN, what is infinite, and the values."""
    for n in (2, 3, 17, 64, 130):
        x = random_bits(rng, (500, n))
        x[::2] = np.where(np.abs(x[::2]) < 1e30, x[::2], np.float32(1.0))
        with np.errstate(all="ignore"):
            y, expected = fastopt.log_softmax(x), reference.log_softmax(x)
            assert_same_bits(np.isnan(y).astype(np.float32), np.isnan(expected).astype(np.float32))
            finite = np.isfinite(expected)
            assert (ulps(y[finite], expected[finite].astype(np.float64)) <= 2.5).all()
            assert (y[~finite & ~np.isnan(y)] == -np.inf).all()


@pytest.mark.parametrize("n", WIDTHS)
def test_same_bits_at_every_level(n, rng):
    for family in FAMILIES.values():
        x = family(rng, 150 if n < 100 else 3, n)
        results = []
        before = dispatch.active
        try:
            for level in dispatch.available():
                dispatch.active = dispatch.load(level)
                results.append(fastopt.log_softmax(x))
        finally:
            dispatch.active = before
        for result in results[1:]:
            assert_same_bits(result, results[0])


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (16, 3), (17, 3), (33, 7), (700, 10), (1000, 32), (333, 33),
                                   (333, 49), (70, 1000), (3, 70000)])
def test_same_bits_for_any_threads_alignment_and_run(shape, rng, level, always_parallel):
    x = rng.standard_normal(shape, dtype=np.float32)
    expected = fastopt.log_softmax(x)
    for threads in THREADS:
        with fastopt.num_threads(threads):
            assert_same_bits(fastopt.log_softmax(x), expected, f"{threads} threads")
    for offset in range(16):
        out = unaligned(np.zeros_like(x), 15 - offset)
        assert_same_bits(fastopt.log_softmax(unaligned(x, offset), out=out), expected, f"offset {offset}")
    inplace = x.copy()
    assert fastopt.log_softmax(inplace, out=inplace) is inplace
    assert_same_bits(inplace, expected, "in place")
    assert_same_bits(fastopt.log_softmax(x[:1]), expected[:1], "one row alone")


SHAPES = [(3, 5), (2, 10, 7), (2, 3, 4, 5), (40, 65), (1000, 3), (2, 33, 130), (4, 1, 3), (1, 300, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_other_axes(shape, rng, level, always_parallel):
    x = 3 * rng.standard_normal(shape, dtype=np.float32)
    x.ravel()[::7] = -np.inf
    for axis in range(-len(shape), len(shape)):
        with np.errstate(all="ignore"):
            expected = log_softmax64(x, axis)
            y = fastopt.log_softmax(x, axis)
            assert np.array_equal(np.isnan(y), np.isnan(expected))
            good = np.isfinite(expected)
            assert (ulps(y[good], expected[good]) <= 2.0).all()
        for threads in THREADS:
            with fastopt.num_threads(threads):
                assert_same_bits(fastopt.log_softmax(x, axis=axis), y)
        inplace = x.copy()
        assert_same_bits(fastopt.log_softmax(inplace, axis, out=inplace), y)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (2, 0, 3)])
def test_empty(shape):
    x = np.empty(shape, np.float32)
    for axis in range(len(shape)):
        assert fastopt.log_softmax(x, axis).shape == shape
        assert reference.log_softmax(x, axis).shape == shape


def test_partial_overlap_is_refused(rng):
    room = rng.standard_normal(41, dtype=np.float32)
    before = room.copy()
    with pytest.raises(ValueError, match="^out: expected memory of its own"):
        fastopt.log_softmax(room[:40].reshape(4, 10), out=room[1:].reshape(4, 10))
    assert_same_bits(room, before)


FORWARD = pytest.mark.parametrize("name", ["log_softmax", "softmax", "hardmax"])
BACKWARD = pytest.mark.parametrize("name", ["log_softmax_backward", "softmax_backward"])


@FAMILY
def test_softmax_against_mpmath(family, rng, level):
    for n, rows in ((1, 4), (2, 60), (3, 40), (10, 20), (48, 3), (49, 3), (257, 1), (1030, 1)):
        x = FAMILIES[family](rng, rows, n)
        y = fastopt.softmax(x)
        for r in range(rows):
            assert exact_ulps(y[r], exact_row(x[r])[1]) <= 3.0, (n, x[r])


@FAMILY
@pytest.mark.parametrize("n", [1, 2, 3, 10, 32, 33, 49, 100, 1000, 3073, 32000, 262144])
def test_softmax_at_every_width(family, n, rng, level):
    x = FAMILIES[family](rng, max(1, min(2000, 60000 // n)), n)
    y = fastopt.softmax(x)
    assert ulps(y, np.exp(log_softmax64(x))).max() <= 3.0
    assert y.max() <= 1.0
    assert (y[x == -np.inf] == 0).all()
    np.testing.assert_allclose(y.sum(1, dtype=np.float64), 1.0, atol=2e-7)


@pytest.mark.parametrize("n", [1, 2, 10, 32, 33, 64, 1000])
def test_special_rows_of_softmax(n, level):
    rows = np.stack([np.linspace(-2, 3, n, dtype=np.float32)] * 6)
    rows[1] = -np.inf
    rows[2, n // 2] = np.inf
    rows[3, n // 3] = np.nan
    rows[4, 1:] = -np.inf
    y = fastopt.softmax(rows)
    assert np.isnan(y[1:4]).all()
    assert_same_bits(y[4], np.eye(1, n, dtype=np.float32)[0])
    assert_same_bits(y[5], y[0])


@pytest.mark.parametrize("n", [1, 2, 10, 32, 33, 64, 1000])
def test_hardmax(n, rng, level):
    x = rng.integers(-3, 4, (200, n)).astype(np.float32)
    x[::5, n // 2] = np.nan
    x[1::5, 0] = np.inf
    x[2::5, -1] = -np.inf
    x[3] = -np.inf
    assert_same_bits(fastopt.hardmax(x), reference.hardmax(x))
    for axis in (0, 1):
        cube = x.reshape(20, 10, n)
        assert_same_bits(fastopt.hardmax(cube, axis), reference.hardmax(cube, axis))


def upstream(rng, family, rows, n, name):
    """(dy, y) as they come in training: y a result of the forward, dy one-hot or dense."""
    y = getattr(reference, name.removesuffix("_backward"))(FAMILIES[family](rng, rows, n))
    dy = rng.standard_normal((rows, n), dtype=np.float32)
    dy[::2] = 0.0
    np.put_along_axis(dy[::2], y[::2].argmax(1)[:, None], -1.0, 1)
    return dy, y


@FAMILY
@BACKWARD
@pytest.mark.parametrize("n", [1, 2, 10, 32, 33, 49, 100, 1025, 40000])
def test_backward(name, family, n, rng, level):
    dy, y = upstream(rng, family, max(1, min(500, 60000 // n)), n, name)
    dx = getattr(fastopt, name)(dy, y)
    wide, total = dy.astype(np.float64), dy.sum(1, keepdims=True, dtype=np.float64)
    if name == "softmax_backward":
        total = (wide * y).sum(1, keepdims=True)
        expected, parts = y * (wide - total), y * np.maximum(np.abs(wide), np.abs(total))
    else:
        power = np.exp(y.astype(np.float64))
        expected = np.where(power > 0.5, (wide - total) - np.expm1(y.astype(np.float64)) * total, wide - power * total)
        parts = np.maximum(np.abs(wide), np.abs(power * total))
        confident = np.abs(expected[::2]) == np.abs(expected[::2]).max(1, keepdims=True)  # dyⱼ is the whole sum there
        assert ulps(dx[::2][confident], expected[::2][confident]).max() <= 2.0
    error = np.abs(dx - expected)
    assert (error <= 2 * np.spacing(np.maximum(parts, 1e-37).astype(np.float32))).all()


@pytest.mark.parametrize("name", ["log_softmax", "softmax", "hardmax", "log_softmax_backward", "softmax_backward"])
def test_few_rows_have_the_bits_of_many(name, rng, level):
    """A few narrow rows are computed along the row, more of them with one row per lane."""
    forward = getattr(fastopt, name.removesuffix("_backward"))
    for n in range(1, 34):
        for family in FAMILIES.values():
            x = family(rng, 40, n)
            x[3::7, n // 2] = -np.inf
            x[5::11, n // 3] = np.nan
            x[1::5] = np.round(x[1::5])                 # ties
            arrays = [x]
            if name.endswith("_backward"):
                arrays = [rng.standard_normal(x.shape, np.float32), forward(x)]
            expected = getattr(fastopt, name)(*arrays)
            for rows in range(1, 21):
                some = [array[rows:2 * rows] for array in arrays]
                assert_same_bits(getattr(fastopt, name)(*some), expected[rows:2 * rows], f"{rows} rows of {n}")
                moved = [array.copy() for array in some]
                getattr(fastopt, name)(*moved, out=moved[-1])
                assert_same_bits(moved[-1], expected[rows:2 * rows], f"{rows} rows of {n}, in place")


RUNS = [(1, 1), (5, 3), (700, 10), (333, 49), (70, 1000), (3, 40000), (3, 20, 70), (30, 3, 5)]


@pytest.mark.parametrize("shape", RUNS)
@pytest.mark.parametrize("name", ["softmax", "hardmax", "log_softmax_backward", "softmax_backward"])
def test_same_bits_however_run(name, shape, rng, always_parallel):
    """Levels, threads, alignment, axis moved to the end or not, in place or not."""
    function = getattr(fastopt, name)
    x = rng.standard_normal(shape, dtype=np.float32)
    arrays = [x] if not name.endswith("backward") else [x, getattr(reference, name.removesuffix("_backward"))(x + 1)]
    before = dispatch.active
    for axis in range(len(shape)):
        expected = function(*arrays, axis=axis)
        try:
            for level in dispatch.available():
                dispatch.active = dispatch.load(level)
                for threads in THREADS:
                    with fastopt.num_threads(threads):
                        assert_same_bits(function(*arrays, axis=axis), expected, f"{level}, {threads} threads")
                for offset in (0, 1, 7, 15):
                    moved = [unaligned(array, offset) for array in arrays]
                    out = unaligned(x, 15 - offset)
                    assert function(*moved, axis=axis, out=out) is out
                    assert_same_bits(out, expected, f"{level}, offset {offset}")
                for i in range(len(arrays)):
                    copies = [array.copy() for array in arrays]
                    function(*copies, axis=axis, out=copies[i])
                    assert_same_bits(copies[i], expected, f"{level}, in place of argument {i}")
        finally:
            dispatch.active = before


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (2, 0, 3)])
@pytest.mark.parametrize("name", ["softmax", "hardmax", "log_softmax_backward", "softmax_backward"])
def test_empty_arrays(name, shape):
    arrays = [np.empty(shape, np.float32)] * (1 + name.endswith("backward"))
    for axis in range(len(shape)):
        assert getattr(fastopt, name)(*arrays, axis=axis).shape == shape
        assert getattr(reference, name)(*arrays, axis=axis).shape == shape


@FORWARD
def test_no_dimension(name):
    with pytest.raises(ValueError, match=r"^x: expected at least one dimension, got shape \(\)"):
        getattr(fastopt, name)(np.array(1, np.float32))


@pytest.mark.parametrize("shape", [(5, 3), (17, 3), (8, 21), (63, 32), (3, 33), (70, 49), (5, 1000), (2, 3073),
                                   (700, 10), (2, 20, 70), (3, 5, 65)])
@pytest.mark.parametrize("name", ["log_softmax", "softmax", "hardmax", "log_softmax_backward", "softmax_backward"])
def test_writes_nothing_else(name, shape, rng, level, always_parallel):
    """What stands before and behind out stays: in a kernel's own memory groups of rows and their ends are padded."""
    count = 2 if name.endswith("backward") else 1
    arrays = [rng.standard_normal(shape, dtype=np.float32) for _ in range(count)]
    for axis in range(len(shape)):
        room = np.full(arrays[0].size + 5000, 7.0, np.float32)
        out = room[2500:-2500].reshape(shape)
        getattr(fastopt, name)(*arrays, axis=axis, out=out)
        assert (room[:2500] == 7.0).all()
        assert (room[-2500:] == 7.0).all()
        assert_same_bits(out, getattr(fastopt, name)(*arrays, axis=axis))


@BACKWARD
def test_out_over_a_part_of_an_input_is_refused(name, rng):
    for which in range(2):
        room = rng.standard_normal(41, dtype=np.float32)
        before = room.copy()
        arrays = [rng.standard_normal((4, 10), dtype=np.float32) for _ in range(2)]
        arrays[which] = room[:40].reshape(4, 10)
        argument = ("dy", "y")[which]
        with pytest.raises(ValueError, match=f"^out: expected memory of its own or that of {argument}, got .* in part"):
            getattr(fastopt, name)(*arrays, out=room[1:].reshape(4, 10))
        assert_same_bits(room, before)
