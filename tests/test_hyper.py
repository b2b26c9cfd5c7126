"""Ranges of hyper-parameters: what is a number, what is in range, and what the messages say."""

import numpy as np
import pytest
from fastopt._runtime.arrays import Array, require_disjoint
from fastopt._runtime.hyper import Ranges, integer

import fastopt

RANGES = Ranges(share="[0, 1)", count="int [1, 9e18]")
LARGEST = float(np.finfo(np.float32).max)
LEAST_INF = 2.0**128 - 2.0**103     # halfway from the largest float32 to 2¹²⁸: rounded to inf
LARGEST_ZERO = 2.0**-150            # halfway from 0 to the smallest float32: rounded to 0


@pytest.mark.parametrize(("share", "count"), [
    (0, 1), (0.0, 9 * 10**18), (-0.0, np.int64(3)), (np.float32(0.5), np.uint8(1)), (np.nextafter(1.0, 0.0), 1),
    (np.array(0.5), 1),
])
def test_in_range(share, count):
    RANGES(share, count)


@pytest.mark.parametrize(("share", "count", "error", "message"), [
    (1.0, 1, ValueError, r"^share: expected a number in \[0, 1\), got 1.0$"),
    (-5e-324, 1, ValueError, "^share"), (float("nan"), 1, ValueError, "^share"), (10**400, 1, ValueError, "^share"),
    (True, 1, TypeError, "^share: expected a number in .*, got bool True"), (np.True_, 1, TypeError, "^share"),
    ("0", 1, TypeError, "^share"), (0j, 1, TypeError, "^share"), (None, 1, TypeError, "^share"),
    (0.5, 0, ValueError, r"^count: expected an int in \[1, 9e18\], got 0$"), (0.5, 2**63, ValueError, "^count"),
    (0.5, 10**400, ValueError, r"^count: expected an int in \[1, 9e18\], got an int of 1329 bits$"),
    (0.5, 1.0, TypeError, "^count"),
    (0.5, np.array(1.0), TypeError, "^count: expected an int in .*, got ndarray"),
    (np.array([0.5]), 1, TypeError, "^share: expected a number in .*, got ndarray"),
    (0.5, True, TypeError, "^count"), (0.5, np.True_, TypeError, "^count"),
])
def test_out_of_range(share, count, error, message):
    with pytest.raises(error, match=message):
        RANGES(share, count)


@pytest.mark.parametrize(("interval", "inside", "outside"), [
    ("[0, inf)", (0.0, 1e-50, LARGEST, np.nextafter(LEAST_INF, 0)), (LEAST_INF, 1e39, 10**39, np.float64(1e300))),
    ("(-inf, inf)", (-LARGEST, 1e-50), (-LEAST_INF, LEAST_INF)),
    ("(0, inf]", (np.nextafter(LARGEST_ZERO, 1), 1e39, float("inf")), (LARGEST_ZERO, 5e-324)),
])
def test_a_number_is_in_the_interval_as_float32_too(interval, inside, outside):
    single, double = Ranges(x=interval), Ranges(x=f"double {interval}")
    for value in inside:
        single(value)
        double(value)
    for value in outside:
        double(value)
        rounded = "0" if abs(value) < 1 else "-inf" if value < 0 else "inf"
        with pytest.raises(ValueError, match=rf"^x: expected a number in .*, got .*, which is {rounded} as float32$"):
            single(value)


def test_zero_beside_an_interval():
    ranges = Ranges(eps="0 or [2**-126, inf)")
    for value in (0, 0.0, -0.0, np.finfo(np.float32).tiny, 1e-8):
        ranges(value)
    for value in (-1e-8, 1e-40, 1e-50, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"^eps: expected 0 or a number in \[2\*\*-126, inf\), got "):
            ranges(value)


def test_one_value_for_each_range():
    for values in ((), (0.5,), (0.5, 1, 1)):
        with pytest.raises(TypeError, match="^values: expected 2, got"):
            RANGES(*values)
    with pytest.raises(ValueError, match="^intervals: expected at most"):
        Ranges(**{f"x{i}": "[0, 1]" for i in range(100)})


def test_0d_arrays_are_numbers_for_every_optimizer():
    for name in ("adam", "nadam"):
        arrays = [np.ones(2, np.float32) for _ in range(4)]
        getattr(fastopt, name)(*arrays, step=1, betas=(np.array(0.9), np.array(0.99)))


def test_an_empty_array_overlaps_nothing():
    room = np.zeros(8, np.float32)
    empty = room[4:5][:0]       # in the middle of room, where room[4:4] would start with it
    require_disjoint(Array(room, "room", writable=True), Array(empty, "empty", writable=True))
    require_disjoint(Array(empty, "empty", writable=True), Array(room, "room", writable=True))
    with pytest.raises(ValueError, match="^one: expected memory of its own"):
        require_disjoint(Array(room, "room", writable=True), Array(room[4:5], "one"))


@pytest.mark.parametrize("written", [(True, False), (False, True), (True, True)])
def test_arrays_that_overlap_are_refused_whichever_is_written(written):
    room = np.zeros(8, np.float32)
    one, other = Array(room[:5], "one", writable=written[0]), Array(room[4:], "other", writable=written[1])
    for arrays in ((one, other), (None, one, None, other)):
        with pytest.raises(ValueError, match="^other: expected memory of its own, got an array that overlaps one$"):
            require_disjoint(*arrays)
    require_disjoint(Array(room, "one"), Array(room, "other"))


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
def test_flags_may_be_numpys(value):
    Ranges(flag="bool")(value)


def test_an_int_of_more_digits_than_python_prints():
    with pytest.raises(ValueError, match="^count: expected an int"):
        RANGES(0.5, 10**5000)


@pytest.mark.parametrize("value", [2, np.int64(2), np.uint8(2), np.array(2)])
def test_integer_returns_a_python_int(value):
    result = integer(value, "n", 0, 3)
    assert type(result) is int
    assert result == 2


@pytest.mark.parametrize(("value", "limits", "error", "message"), [
    (3, (0, 3), ValueError, r"^n: expected an int in \[0, 3\), got 3$"),
    (np.int8(-4), (-3, 3), ValueError, r"^n: expected an int in \[-3, 3\), got -4$"),
    (0, (1,), ValueError, "^n: expected an int of at least 1, got 0$"),
    (2**63, (-2**63, 2**63), ValueError, r"^n: expected an int in \[-2\*\*63, 2\*\*63\), got 9223372036854775808$"),
    (10**400, (0, 3), ValueError, "^n: expected an int in .*, got an int of 1329 bits$"),
    (2.0, (0, 3), TypeError, "^n: expected an int, got float 2.0$"),
    (True, (0, 3), TypeError, "^n: expected an int, got bool"),
    (np.array([1]), (0, 3), TypeError, r"^n: expected an int, got ndarray array\(\[1\]\)$"),
    (np.array(1.5), (0, 3), TypeError, r"^n: expected an int, got ndarray array\(1.5\)$"),
    (np.True_, (0, 3), TypeError, "^n"), ("2", (0, 3), TypeError, "^n"), (None, (0,), TypeError, "^n"),
])
def test_integer_refuses(value, limits, error, message):
    with pytest.raises(error, match=message):
        integer(value, "n", *limits)


AXES = {
    "axis": lambda axis: fastopt.log_softmax(np.ones((2, 3, 4), np.float32), axis),
    "channel_axis": lambda axis: fastopt.batch_norm_forward(
        np.ones((2, 3, 4), np.float32), *np.ones((2, 3), np.float32), channel_axis=axis),
    "channel_axis of a channels-last view": lambda axis: fastopt.batch_norm_forward(
        np.ones((2, 4, 3), np.float32).transpose(0, 2, 1), *np.ones((2, 3), np.float32), channel_axis=axis),
    "channel_axis of inference": lambda axis: fastopt.batch_norm_inference(
        np.ones((2, 3, 4), np.float32), *np.ones((4, 3), np.float32), channel_axis=axis),
    "channel_axis of statistics": lambda axis: fastopt.batch_norm_statistics(np.ones((2, 3, 4), np.float32), axis),
    "channel_axis of a layer": lambda axis: fastopt.BatchNorm(3, channel_axis=axis).forward(
        np.ones((2, 3, 4), np.float32)),
    "output_axis": lambda axis: fastopt.batch_norm_fold(
        np.ones((2, 3, 4), np.float32), None, *np.ones((4, 3), np.float32), output_axis=axis),
}


@pytest.mark.parametrize("name", AXES)
def test_one_rule_for_every_axis(name):
    call, argument = AXES[name], name.split()[0]
    for axis in (1, -2, np.int64(1), np.int8(-2), np.array(1)):
        call(axis)
    for axis in (True, np.True_, 1.0, "1", None, np.array([1]), np.array(1.0)):
        with pytest.raises(TypeError, match=f"^{argument}: expected an int, got ") as caught:
            call(axis)
        assert caught.value.__context__ is None
    for axis in (3, -4, np.int64(3), 10**400):
        with pytest.raises(ValueError, match=rf"^{argument}: expected an int in \[") as caught:
            call(axis)
        assert caught.value.__context__ is None
