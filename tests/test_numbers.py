"""Numbers of any scalar type: fastopt and the reference use them as Python floats and ints, with the same bits.

Arithmetic with a numpy.float32 would be rounded to float32, and one with a numpy.uint8 would wrap around.
"""

import numpy as np
import pytest
from helpers import assert_same_bits
from optimizer_cases import CALLS

import fastopt
from fastopt import reference

SHARED = {"weight_decay": 0.01, "l1": 0.003, "decoupled_weight_decay": 0.1, "clip_value": 0.7, "grad_scale": 0.37,
          "average_decay": 0.9}
INTS = (np.uint8, np.int16, np.int64, np.array)


def converted(value, kind):
    """The numbers in `value` as `kind`, and as the Python floats that they then are; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(zip(*(converted(item, kind) for item in value), strict=True))
    if type(value) is float:
        return kind(value), float(kind(value))
    return value, value


def numbers_of(call, step):
    """All numbers that a call can be given, those with defaults included."""
    parameters = call.row.parameters()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
    options = {**defaults, **SHARED, "lr": 0.1, "step": step, **call.options}
    return {name: value for name, value in options.items()
            if name in call.row.taken and not isinstance(value, (bool, np.ndarray, type(None)))}


def results(module, call, arrays, options):
    arrays = {name: array.copy() for name, array in arrays.items()}
    getattr(module, call.row.function)(**arrays, **options)
    return arrays


def random_arrays(call, rng):
    arrays = {name: rng.standard_normal(70).astype(np.float32) for name in ("param", "grad", *call.states, "average")}
    return {name: array if name in ("param", "grad") else np.abs(array) for name, array in arrays.items()}


@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.longdouble, np.array,
                                  lambda value: np.array(value, np.float32)],
                         ids=["float32", "float64", "longdouble", "0-d", "0-d float32"])
def test_floats_of_an_optimizer(call, kind, rng):
    arrays = random_arrays(call, rng)
    given, floats = {}, {}
    for name, value in numbers_of(call, step=3).items():
        given[name], floats[name] = converted(value, kind)
    expected = results(fastopt, call, arrays, floats)
    for module in (fastopt, reference):
        for name, array in results(module, call, arrays, given).items():
            assert_same_bits(array, expected[name], f"{module.__name__} {name}")


@pytest.mark.parametrize("call", [call for call in CALLS if "step" in call.row.taken], ids=str)
@pytest.mark.parametrize("step", [1, 100, 255])
def test_steps_of_an_optimizer(call, step, rng):
    arrays = random_arrays(call, rng)
    options = numbers_of(call, step)
    expected = results(fastopt, call, arrays, options)
    for kind in INTS:
        for module in (fastopt, reference):
            for name, array in results(module, call, arrays, {**options, "step": kind(step)}).items():
                assert_same_bits(array, expected[name], f"{module.__name__} {kind} {name}")


def test_the_smallest_eps_is_no_division_by_zero():
    for beta2 in (0.999, 1 - 2.0**-47):
        for name in ("adam", "nadam", "radam", "lamb"):
            zeros = [np.zeros(20, np.float32) for _ in range(3)]
            param = np.ones(20, np.float32)
            getattr(fastopt, name)(param, *zeros, step=1, betas=(0.9, beta2), eps=2.0**-126)
            assert np.isfinite(param).all(), name


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.array])
def test_floats_of_batch_norm(kind, rng):
    x = rng.standard_normal((20, 5)).astype(np.float32)
    gamma, beta, mean, var = np.abs(rng.standard_normal((4, 5))).astype(np.float32)
    momentum, eps = kind(0.1), kind(1e-3)
    expected = None
    for module, given in ((fastopt, (float(momentum), float(eps))), (fastopt, (momentum, eps)),
                          (reference, (momentum, eps))):
        running = mean.copy(), var.copy()
        y, _ = module.batch_norm_forward(x, gamma, beta, *running, momentum=given[0], eps=given[1])
        got = [y, *running, module.batch_norm_inference(x, gamma, beta, mean, var, eps=given[1]),
               *module.batch_norm_fold(x, None, *np.abs(x[:4, :1] * np.ones((4, 20), np.float32)), given[1])]
        expected = got if expected is None else expected
        for array, wanted in zip(got, expected, strict=True):
            assert_same_bits(array, wanted, module.__name__)


def test_counts_of_batch_norm(rng):
    x = rng.standard_normal((200, 5)).astype(np.float32)
    ones = np.ones(5, np.float32)
    parts = [(200, *rng.random((2, 5))) for _ in range(3)]
    expected = fastopt.batch_norm_merge(*parts)
    for kind in INTS:
        for module in (fastopt, reference):
            total = module.batch_norm_merge(*((kind(200), mean, m2) for _, mean, m2 in parts))
            assert total.count == 600
            for got, wanted in zip(total[1:], expected[1:], strict=True):
                np.testing.assert_array_equal(got, wanted)
            y, _ = module.batch_norm_forward(x, ones, ones, statistics=(kind(200), *parts[0][1:]))
            assert_same_bits(y, fastopt.batch_norm_forward(x, ones, ones, statistics=parts[0])[0])


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.array])
def test_label_smoothing(kind, rng):
    x, labels = rng.standard_normal((20, 5)).astype(np.float32), np.arange(20) % 5
    smoothing = kind(0.1)
    for module in (fastopt, reference):
        loss, d = module.softmax_cross_entropy(x, labels, label_smoothing=smoothing)
        expected = module.softmax_cross_entropy(x, labels, label_smoothing=float(smoothing))
        assert loss == expected[0]
        assert_same_bits(d, expected[1])
