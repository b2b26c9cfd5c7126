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
    assert schedules.exponential_decay(1.0, 1, 1e-300)(2) == 1e-300
    assert schedules.inverse_time_decay(1.0, 1, 1e300)(2) == 1e-300


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
