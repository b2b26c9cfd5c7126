"""Schedules: values computed by hand, which step gets which value, errors."""

import math
import pickle
import re

import numpy as np
import pytest

from fastopt import schedules

EXAMPLES = [
    schedules.constant(0.1),
    schedules.piecewise_constant([100, 200], [1.0, 0.5, 0.1]),
    schedules.exponential_decay(0.1, 100, 0.5),
    schedules.exponential_decay(0.1, 100, 0.5, staircase=True),
    schedules.inverse_time_decay(0.1, 10, 0.5),
    schedules.inverse_time_decay(0.1, 10, 0.5, staircase=True),
    schedules.cosine(0.1, 1000, alpha=0.1),
    schedules.linear_warmup(0.1, 5),
    schedules.noam(512, 4000, factor=2.0),
    schedules.inverse_sqrt(0.1, 5, initial=0.01),
    schedules.inv_scaling(0.1),
    schedules.inv_scaling(0.1, 0.25, steps_per_epoch=3, samples=500),
    schedules.join([schedules.linear_warmup(0.1, 5), schedules.cosine(0.1, 20)], [5]),
]

VALUES = [
    (schedules.constant(0.1), {1: 0.1, 10**9: 0.1}),
    (schedules.piecewise_constant([100, 200], [1.0, 0.5, 0.1]),
     {1: 1.0, 100: 1.0, 101: 0.5, 200: 0.5, 201: 0.1, 10**9: 0.1}),
    (schedules.piecewise_constant([], [0.3]), {1: 0.3, 7: 0.3}),
    (schedules.exponential_decay(0.1, 100, 0.5), {1: 0.1, 51: 0.1 * math.sqrt(0.5), 101: 0.05, 201: 0.025}),
    (schedules.exponential_decay(0.1, 100, 0.5, staircase=True),
     {1: 0.1, 100: 0.1, 101: 0.05, 200: 0.05, 201: 0.025}),
    (schedules.inverse_time_decay(0.1, 10, 0.5), {1: 0.1, 6: 0.1 / 1.25, 11: 0.1 / 1.5, 21: 0.05}),
    (schedules.inverse_time_decay(0.1, 10, 0.5, staircase=True), {1: 0.1, 10: 0.1, 11: 0.1 / 1.5, 21: 0.05}),
    # cos(π/3) = 1/2 and cos(2π/3) = -1/2: 3/4 and 1/4 of the distance to alpha · initial are left.
    (schedules.cosine(0.1, 300), {1: 0.1, 101: 0.075, 151: 0.05, 201: 0.025, 301: 0.0, 302: 0.0}),
    (schedules.cosine(1.0, 300, alpha=0.2), {1: 1.0, 101: 0.8, 151: 0.6, 201: 0.4, 301: 0.2, 10**9: 0.2}),
    (schedules.cosine(0.5, 300, alpha=0.2), {1: 0.5, 101: 0.4, 151: 0.3, 201: 0.2, 301: 0.1}),
    (schedules.linear_warmup(0.1, 5), {1: 0.0, 2: 0.02, 3: 0.04, 5: 0.08, 6: 0.1, 7: 0.1}),
    (schedules.linear_warmup(0.1, 4, initial=0.02), {1: 0.02, 3: 0.06, 5: 0.1, 10**9: 0.1}),
    # 1 / √64 = 1/8; 4^(-3/2) = 1/8: the peak, 1 / √(64 · 4) = 1/16, is that of update 4.
    (schedules.noam(64, 4), {1: 1 / 64, 2: 2 / 64, 4: 1 / 16, 16: 1 / 32, 64: 1 / 64}),
    (schedules.noam(64, 1, factor=2.0), {1: 0.25, 4: 0.125}),
    (schedules.inverse_sqrt(0.1, 4), {1: 0.0, 2: 0.025, 4: 0.075, 5: 0.1, 17: 0.05, 65: 0.025}),
    (schedules.inverse_sqrt(0.1, 4, initial=0.02), {1: 0.02, 3: 0.06, 5: 0.1, 17: 0.05}),
    (schedules.inv_scaling(0.1), {1: 0.1, 4: 0.05, 16: 0.025}),
    (schedules.inv_scaling(0.1, power=2.0), {1: 0.1, 2: 0.025, 10: 0.001}),
    (schedules.inv_scaling(0.1, power=0.0), {1: 0.1, 10**9: 0.1}),
    (schedules.inv_scaling(1.0, power=1.0, steps_per_epoch=2, samples=3), {1: 1.0, 2: 1.0, 3: 0.25, 4: 0.25, 5: 1 / 7}),
    (schedules.join([schedules.linear_warmup(0.1, 5), schedules.cosine(0.1, 300), schedules.constant(0.01)],
                    [5, 306]),
     {1: 0.0, 5: 0.08, 6: 0.1, 106: 0.075, 206: 0.025, 306: 0.0, 307: 0.01}),
    (schedules.join([float], []), {1: 1.0, 9: 9.0}),
]


@pytest.mark.parametrize(("schedule", "expected"), VALUES, ids=lambda x: repr(x) if callable(x) else "")
def test_values_computed_by_hand(schedule, expected):
    for step, rate in expected.items():
        assert schedule(step) == pytest.approx(rate, rel=1e-14, abs=1e-17), step


def test_last_value_is_exact():
    """The end points carry no rounding error."""
    assert schedules.linear_warmup(0.1, 3)(4) == 0.1
    assert schedules.cosine(0.1, 7)(8) == 0.0
    assert schedules.cosine(0.3, 7)(1) == 0.3
    assert schedules.inverse_sqrt(0.1, 3)(4) == 0.1


def test_a_boundary_is_a_number_of_updates():
    rates = [schedules.piecewise_constant([3], [1.0, 2.0])(step) for step in range(1, 7)]
    assert rates.count(1.0) == 3
    joined = schedules.join([schedules.constant(1.0), schedules.constant(2.0)], [3])
    assert [joined(step) for step in range(1, 7)] == rates


def test_join_starts_every_schedule_at_step_1():
    calls = []
    schedule = schedules.join([lambda step: calls.append(("a", step)),
                               lambda step: calls.append(("b", step))], [2])
    for step in range(1, 5):
        schedule(step)
    assert calls == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
def test_pickle_repr_and_equality(schedule):
    twin = pickle.loads(pickle.dumps(schedule))
    assert twin == schedule
    assert hash(twin) == hash(schedule)
    assert eval(repr(schedule), vars(schedules)) == schedule
    assert [twin(step) for step in range(1, 50)] == [schedule(step) for step in range(1, 50)]


@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
def test_returns_a_python_float_for_any_integer(schedule):
    for step in (1, 17, np.int64(17), np.uint8(17), 2**31 + 1, 2**63):
        assert type(schedule(step)) is float
    assert schedule(np.int32(17)) == schedule(17)


@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
@pytest.mark.parametrize(("step", "error"), [(0, ValueError), (-1, ValueError), (10**400, ValueError), (1.0, TypeError),
                                             (True, TypeError), (None, TypeError), ("1", TypeError)])
def test_refuses_invalid_steps(schedule, step, error):
    with pytest.raises(error, match=r"^step: expected an int"):
        schedule(step)


@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
def test_the_last_step(schedule):
    assert 0.0 <= schedule(2**64 - 1) < math.inf


def test_a_rate_that_is_a_double():
    assert schedules.inv_scaling(1.0, 1e300)(2) == 0.0      # 2 to this power is above the largest double
    assert schedules.inv_scaling(1.0, 1e300)(1) == 1.0
    assert schedules.exponential_decay(1.0, 1, 1e-300)(2) == 1e-300
    assert schedules.inverse_time_decay(1.0, 1, 1e300)(2) == 1e-300


@pytest.mark.parametrize("early_stopping", [False, True])
def test_inv_scaling_is_scikit_learns(early_stopping):
    """The rate of every update in its own training, bit by bit: 150 or 135 examples in batches of 40."""
    network = pytest.importorskip("sklearn.neural_network")
    optimizers = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    rates = []

    class Recorded(network.MLPClassifier):
        def _backprop(self, *args, **kwargs):
            rates.append(self._optimizer.learning_rate)
            return super()._backprop(*args, **kwargs)

    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((150, 3)), np.arange(150) % 2
    clf = Recorded((4,), solver="sgd", learning_rate="invscaling", learning_rate_init=0.3, power_t=0.4, batch_size=40,
                   max_iter=5, tol=0.0, n_iter_no_change=100, early_stopping=early_stopping, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        clf.fit(x, labels)
    assert type(clf._optimizer) is optimizers.SGDOptimizer
    n = 135 if early_stopping else 150
    schedule = schedules.inv_scaling(0.3, 0.4, steps_per_epoch=math.ceil(n / 40), samples=n)
    assert rates == [schedule(step) for step in range(1, 21)]


def test_immutable():
    boundaries = [100]
    schedule = schedules.piecewise_constant(boundaries, [1.0, 0.5])
    boundaries[0] = 1
    assert schedule(50) == 1.0
    with pytest.raises(AttributeError):
        schedule.boundaries = (1,)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: schedules.constant("0.1"), TypeError, "value: expected a number in [0, inf), got str '0.1'"),
    (lambda: schedules.constant(True), TypeError, "value: expected a number in [0, inf), got bool True"),
    (lambda: schedules.constant(-0.1), ValueError, "value: expected a number in [0, inf), got -0.1"),
    (lambda: schedules.constant(NAN), ValueError, "value: expected a number in [0, inf), got nan"),
    (lambda: schedules.constant(10**400), ValueError, "value: expected a number in [0, inf), got an int of 1329 bits"),
    (lambda: schedules.constant(1e39), ValueError,
     "value: expected a number in [0, inf), got 1e+39, which is inf as float32"),
    (lambda: schedules.piecewise_constant([10**400], [1.0, 2.0]), ValueError,
     "boundaries[0]: expected an int in [1, 2**64), got an int of 1329 bits"),
    (lambda: schedules.linear_warmup(0.1, 10**400), ValueError,
     "warmup_steps: expected an int in [1, 2**64), got an int of 1329 bits"),
    (lambda: schedules.cosine(0.1, 10**400), ValueError,
     "decay_steps: expected an int in [1, 2**64), got an int of 1329 bits"),
    (lambda: schedules.constant(INF), ValueError, "value: expected a number in [0, inf), got inf"),
    (lambda: schedules.piecewise_constant([1, 2], [1.0, 2.0]), ValueError,
     "boundaries: expected one fewer than values (1), got 2"),
    (lambda: schedules.piecewise_constant([], [1.0, 2.0]), ValueError,
     "boundaries: expected one fewer than values (1), got 0"),
    (lambda: schedules.piecewise_constant([2, 2], [1.0, 2.0, 3.0]), ValueError,
     "boundaries: expected strictly increasing ints, got [2, 2]"),
    (lambda: schedules.piecewise_constant([0], [1.0, 2.0]), ValueError,
     "boundaries[0]: expected an int in [1, 2**64), got 0"),
    (lambda: schedules.piecewise_constant([1.5], [1.0, 2.0]), TypeError,
     "boundaries[0]: expected an int, got float 1.5"),
    (lambda: schedules.piecewise_constant(100, [1.0, 2.0]), TypeError,
     "boundaries: expected a sequence of ints, got int"),
    (lambda: schedules.piecewise_constant([100], 0.1), TypeError,
     "values: expected a sequence of numbers, got float"),
    (lambda: schedules.piecewise_constant([], []), ValueError,
     "values: expected at least one number, got none"),
    (lambda: schedules.piecewise_constant([1], [1.0, -2.0]), ValueError,
     "values[1]: expected a number in [0, inf), got -2.0"),
    (lambda: schedules.exponential_decay(0.1, 0, 0.5), ValueError,
     "decay_steps: expected an int in [1, 2**64), got 0"),
    (lambda: schedules.exponential_decay(0.1, 10.0, 0.5), TypeError,
     "decay_steps: expected an int, got float 10.0"),
    (lambda: schedules.exponential_decay(0.1, 10, 0.0), ValueError,
     "decay_rate: expected a number in (0, 1], got 0.0"),
    (lambda: schedules.exponential_decay(0.1, 10, 1.5), ValueError,
     "decay_rate: expected a number in (0, 1], got 1.5"),
    (lambda: schedules.exponential_decay(0.1, 10, 0.5, staircase=1), TypeError,
     "staircase: expected True or False, got int 1"),
    (lambda: schedules.inverse_time_decay(0.1, 10, -0.5), ValueError,
     "decay_rate: expected a number in [0, inf), got -0.5"),
    (lambda: schedules.inverse_time_decay(-0.1, 10, 0.5), ValueError,
     "initial: expected a number in [0, inf), got -0.1"),
    (lambda: schedules.cosine(0.1, 10, alpha=1.1), ValueError,
     "alpha: expected a number in [0, 1], got 1.1"),
    (lambda: schedules.cosine(0.1, -10), ValueError, "decay_steps: expected an int in [1, 2**64), got -10"),
    (lambda: schedules.linear_warmup(0.1, 0), ValueError,
     "warmup_steps: expected an int in [1, 2**64), got 0"),
    (lambda: schedules.linear_warmup(INF, 5), ValueError,
     "peak: expected a number in [0, inf), got inf"),
    (lambda: schedules.linear_warmup(0.1, 5, initial=-1), ValueError,
     "initial: expected a number in [0, inf), got -1"),
    (lambda: schedules.noam(0, 5), ValueError, "d_model: expected an int in [1, 2**64), got 0"),
    (lambda: schedules.noam(512.0, 5), TypeError, "d_model: expected an int, got float 512.0"),
    (lambda: schedules.noam(512, 0), ValueError, "warmup_steps: expected an int in [1, 2**64), got 0"),
    (lambda: schedules.noam(512, 5, -1.0), ValueError, "factor: expected a number in [0, inf), got -1.0"),
    (lambda: schedules.inverse_sqrt(-0.1, 5), ValueError, "peak: expected a number in [0, inf), got -0.1"),
    (lambda: schedules.inverse_sqrt(0.1, 0), ValueError, "warmup_steps: expected an int in [1, 2**64), got 0"),
    (lambda: schedules.inverse_sqrt(0.1, 5, NAN), ValueError, "initial: expected a number in [0, inf), got nan"),
    (lambda: schedules.inv_scaling(INF), ValueError, "initial: expected a number in [0, inf), got inf"),
    (lambda: schedules.inv_scaling(0.1, -0.5), ValueError, "power: expected a number in [0, inf), got -0.5"),
    (lambda: schedules.inv_scaling(0.1, steps_per_epoch=2.5), TypeError,
     "steps_per_epoch: expected an int, got float 2.5"),
    (lambda: schedules.inv_scaling(0.1, samples=0), ValueError, "samples: expected an int in [1, 2**64), got 0"),
    (lambda: schedules.join([0.1], []), TypeError,
     "schedules[0]: expected a function of the step, got float; for a fixed rate use constant(lr)"),
    (lambda: schedules.join(schedules.constant(1.0), []), TypeError,
     "schedules: expected a sequence of functions, got constant"),
    (lambda: schedules.join([], []), ValueError, "schedules: expected at least one function, got none"),
    (lambda: schedules.join([float, float], [3, 4]), ValueError,
     "boundaries: expected one fewer than schedules (1), got 2"),
])
def test_error_names_the_argument(make, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        make()
