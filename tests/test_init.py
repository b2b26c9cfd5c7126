"""Initial weights: their statistics, which axes are inputs and outputs, errors."""

import math
import re

import numpy as np
import pytest

from fastopt import init

HE_XAVIER = [init.he_normal, init.he_uniform, init.xavier_normal, init.xavier_uniform]
ALL = [*HE_XAVIER, init.normal, init.uniform]

# The exact variance of each weight: 2 over the fan, worked out by hand.
VARIANCES = [
    (init.he_normal, (500, 400), {}, 2 / 500),                          # x @ W
    (init.he_normal, (500, 400), {"layout": "out_in"}, 2 / 400),        # x @ W.T
    (init.he_normal, (500, 400), {"fan": "out"}, 2 / 400),
    (init.he_normal, (64, 32, 3, 5), {}, 2 / (32 * 15)),                # (out, in, height, width)
    (init.he_normal, (64, 32, 3, 5), {"fan": "out"}, 2 / (64 * 15)),
    (init.he_normal, (3, 5, 32, 64), {"layout": "in_out"}, 2 / (32 * 15)),
    (init.he_normal, (64, 32, 100), {}, 2 / (32 * 100)),                # (out, in, length)
    (init.he_uniform, (500, 400), {}, 2 / 500),
    (init.he_uniform, (64, 32, 3, 5), {"fan": "out"}, 2 / (64 * 15)),
    (init.xavier_normal, (500, 400), {}, 2 / 900),
    (init.xavier_normal, (500, 400), {"layout": "out_in"}, 2 / 900),
    (init.xavier_normal, (64, 32, 3, 5), {}, 2 / (96 * 15)),
    (init.xavier_uniform, (500, 400), {}, 2 / 900),
    (init.xavier_uniform, (3, 5, 32, 64), {"layout": "in_out"}, 2 / (96 * 15)),
    (init.normal, (200_000,), {}, 1.0),
    (init.normal, (200_000,), {"mean": 5.0, "std": 0.01}, 1e-4),
    (init.uniform, (200_000,), {}, 1 / 12),
    (init.uniform, (200_000,), {"low": -0.3, "high": 0.1}, 0.4**2 / 12),
]


@pytest.mark.parametrize(("function", "shape", "options", "variance"), VARIANCES)
def test_mean_and_variance(function, shape, options, variance, rng):
    """Within five standard errors of the sample mean and of the sample variance."""
    weight = function(shape, rng, **options).astype(np.float64)
    mean = {"mean": 0.0, "low": 0.0, **options}.get("mean", 0.0)
    if function is init.uniform:
        mean = (options.get("low", 0.0) + options.get("high", 1.0)) / 2
    kurtosis = 9 / 5 if function.__name__.endswith("uniform") else 3
    assert abs(weight.mean() - mean) < 5 * math.sqrt(variance / weight.size)
    assert abs(weight.var() / variance - 1) < 5 * math.sqrt((kurtosis - 1) / weight.size)


@pytest.mark.parametrize(("function", "shape", "options", "variance"),
                         [row for row in VARIANCES if row[0].__name__.endswith("uniform")])
def test_uniform_fills_its_interval_and_stays_inside(function, shape, options, variance, rng):
    middle = (options.get("low", 0.0) + options.get("high", 1.0)) / 2 if function is init.uniform else 0.0
    half = math.sqrt(3 * variance)
    weight = function(shape, rng, **options)
    assert np.abs(weight - np.float32(middle)).max() <= half * (1 + 1e-6)
    counts, _ = np.histogram(weight, bins=20, range=(middle - half, middle + half))
    assert counts.min() > 0.9 * weight.size / 20


def test_normal_is_not_truncated(rng):
    """0.27 % of a normal distribution lie beyond three standard deviations, none of one truncated at two."""
    weight = init.he_normal((500, 400), rng)
    beyond = np.mean(np.abs(weight) > 3 * math.sqrt(2 / 500))
    assert 0.002 < beyond < 0.0034


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize("shape", [(7, 5), (4, 3, 2, 2), [7, 5], (np.int64(7), 5), (0, 5), (5, 0)])
def test_returns_new_float32_c_contiguous_arrays_determined_by_the_seed(function, shape):
    weight = function(shape, np.random.default_rng(1))
    assert weight.dtype == np.float32
    assert weight.shape == tuple(shape)
    assert weight.flags.c_contiguous
    assert weight.flags.owndata
    assert weight.flags.writeable
    np.testing.assert_array_equal(weight, function(shape, np.random.default_rng(1)))
    if weight.size:
        assert not np.array_equal(weight, function(shape, np.random.default_rng(2)))


def test_normal_and_uniform_take_any_number_of_axes(rng):
    assert init.normal(3, rng).shape == init.uniform((3,), rng).shape == (3,)
    assert init.normal((), rng).shape == ()


def test_weights_of_the_largest_ranges_are_finite(rng):
    assert np.isfinite(init.normal(10**6, rng, mean=-1e38, std=1e37)).all()
    assert np.isfinite(init.uniform(10**6, rng, low=-1e38, high=1e38)).all()


def test_uniform_does_not_round_past_its_ends():
    """0.05 · (1 − 2⁻²⁴) + 0.91 is the float32 after 0.96."""

    class Largest(np.random.Generator):
        def random(self, *args, **kwargs):
            return np.full_like(super().random(*args, **kwargs), 1 - 2.0**-24)

    weight = init.uniform(5, Largest(np.random.PCG64(0)), low=0.91, high=0.96)
    assert (weight == np.float32(0.96)).all()


def test_uniform_of_an_empty_interval(rng):
    np.testing.assert_array_equal(init.uniform(1000, rng, low=0.1, high=0.1), np.float32(0.1))


@pytest.mark.parametrize("function", ALL)
def test_refuses_other_sources_of_random_numbers(function):
    for rng, got in ((0, "int"), (None, "NoneType"), (np.random.RandomState(0), "RandomState")):
        with pytest.raises(TypeError, match=rf"^rng: expected a numpy.random.Generator such as .*, got {got}$"):
            function((3, 4), rng)


@pytest.mark.parametrize("function", ALL)
def test_refuses_invalid_shapes(function, rng):
    for shape in ((3.0, 4), "34", None, 2.5):
        with pytest.raises(TypeError, match=r"^shape: expected an int or a tuple of ints, got "):
            function(shape, rng)
    for length, got in ((-4, "-4"), (2**62, "4611686018427387904"), (10**400, "an int of 1329 bits")):
        with pytest.raises(ValueError, match=rf"^shape: expected an int in \[0, 2\*\*61\), got {got}$"):
            function((3, length), rng)
    with pytest.raises(ValueError, match=r"^shape: expected fewer than 2\*\*61 elements, got \(2147483648, 0, "):
        function((2**31, 0, 2**30), rng)


@pytest.mark.parametrize("function", HE_XAVIER)
def test_a_bias_has_no_fan(function, rng):
    for shape in (3, (3,), ()):
        with pytest.raises(ValueError, match=r"^shape: expected at least two axes, .*bias at zero"):
            function(shape, rng)


@pytest.mark.parametrize(("function", "options", "error", "message"), [
    (init.he_normal, {"layout": "oihw"}, ValueError,
     "layout: expected None, 'in_out' or 'out_in', got 'oihw'"),
    (init.xavier_uniform, {"layout": 1}, ValueError, "layout: expected None, 'in_out' or 'out_in', got 1"),
    (init.he_uniform, {"fan": "both"}, ValueError, "fan: expected 'in' or 'out', got 'both'"),
    (init.normal, {"std": -1.0}, ValueError, "std: expected a number in [0, 1e37], got -1.0"),
    (init.normal, {"std": "1"}, TypeError, "std: expected a number in [0, 1e37], got str '1'"),
    (init.normal, {"std": 3e38}, ValueError, "std: expected a number in [0, 1e37], got 3e+38"),
    (init.normal, {"std": 10**400}, ValueError, "std: expected a number in [0, 1e37], got an int of 1329 bits"),
    (init.uniform, {"low": -3e38, "high": 3e38}, ValueError, "low: expected a number in [-1e38, 1e38], got -3e+38"),
    (init.normal, {"mean": math.nan}, ValueError, "mean: expected a number in [-1e38, 1e38], got nan"),
    (init.uniform, {"low": 1.0, "high": 0.0}, ValueError, "low: expected at most high = 0.0, got 1.0"),
    (init.uniform, {"high": math.inf}, ValueError, "high: expected a number in [-1e38, 1e38], got inf"),
])
def test_error_names_the_argument(function, options, error, message, rng):
    before = rng.bit_generator.state
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        function((3, 4), rng, **options)
    assert rng.bit_generator.state == before        # nothing was drawn
