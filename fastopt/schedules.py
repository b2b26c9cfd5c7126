"""Learning-rate schedules: callables from the step, an int that starts at 1, to the learning rate.

An optimizer takes one in place of a number, ``fastopt.Adam(lr=schedules.cosine(1e-3, 5000))``, and calls it once per
update; any other function of the step works as well.

Keras and optax count from 0: their t is the number of updates already made. Here t = step - 1, so the first update gets
the initial value, and ``schedule(step)`` equals theirs at ``step - 1``. A boundary or a length in steps is a number of
updates: with ``piecewise_constant([100], ...)`` exactly the first 100 updates use the first value.

Schedules are immutable, compare by value, can be pickled, and their repr is the call that creates them.
"""

import math
import reprlib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import SupportsIndex, TypeVar

from fastopt._runtime.hyper import boolean, integer, number
from fastopt._typing import Schedule
from fastopt._warmup_schedules import END, inverse_sqrt, linear_warmup, noam, store

__all__ = ["constant", "cosine", "exponential_decay", "inv_scaling", "inverse_sqrt", "inverse_time_decay", "join",
           "linear_warmup", "noam", "piecewise_constant"]

_Entry = TypeVar("_Entry")


def _entries(values: Iterable[_Entry], name: str, of: str) -> tuple[_Entry, ...]:
    """The entries of the argument called `name`, a sequence of what `of` says."""
    dimensionless = getattr(values, "shape", None) == ()       # an array that has __iter__ and raises
    if not isinstance(values, Iterable) or isinstance(values, str) or dimensionless:
        raise TypeError(f"{name}: expected a sequence of {of}, got {type(values).__name__}")
    return tuple(values)


def _boundaries(values: Iterable[SupportsIndex], count: int, what: str) -> tuple[int, ...]:
    """`values` as a tuple of strictly increasing ints, one fewer than the `count` of the argument named `what`."""
    values = _entries(values, "boundaries", "ints")
    boundaries = tuple(integer(value, f"boundaries[{i}]", 1, END) for i, value in enumerate(values))
    if len(boundaries) != count - 1:
        raise ValueError(f"boundaries: expected one fewer than {what} ({count - 1}), got {len(boundaries)}")
    if any(a >= b for a, b in pairwise(boundaries)):
        raise ValueError(f"boundaries: expected strictly increasing ints, got {reprlib.repr(list(boundaries))}")
    return boundaries


@dataclass(frozen=True)
class constant:
    """The same learning rate at every step.

    Parameters
    ----------
    value : float
        Learning rate, at least 0.
    """

    value: float

    def __post_init__(self) -> None:
        store(self, value=number(self.value, "value", "[0, inf)"))

    def __call__(self, step: SupportsIndex) -> float:
        integer(step, "step", 1, END)
        return self.value


@dataclass(frozen=True)
class piecewise_constant:
    """One value up to and including a boundary, the next value after it.

    ``values[k]`` for ``boundaries[k-1] < step <= boundaries[k]``: the first boundaries[0] updates use values[0].
    optax.piecewise_constant_schedule changes at the same update (but takes factors, not values); Keras'
    PiecewiseConstantDecay, which counts from 0, changes one update later.

    Parameters
    ----------
    boundaries : sequence of int
        Steps, strictly increasing.
    values : sequence of float
        Learning rates, one more than boundaries.
    """

    boundaries: Sequence[int]
    values: Sequence[float]

    def __post_init__(self) -> None:
        given = _entries(self.values, "values", "numbers")
        values = tuple(number(value, f"values[{i}]", "[0, inf)") for i, value in enumerate(given))
        if not values:
            raise ValueError("values: expected at least one number, got none")
        store(self, values=values, boundaries=_boundaries(self.boundaries, len(values), "values"))

    def __call__(self, step: SupportsIndex) -> float:
        return self.values[bisect_left(self.boundaries, integer(step, "step", 1, END))]


@dataclass(frozen=True)
class exponential_decay:
    """initial · decay_rate^(t / decay_steps) with t = step - 1; t / decay_steps rounded down if `staircase`.

    The form of Keras' ExponentialDecay and optax.exponential_decay (whose transition_steps is decay_steps).

    Parameters
    ----------
    initial : float
        Learning rate of the first update, at least 0.
    decay_steps : int
        Updates over which the rate falls by the factor `decay_rate`.
    decay_rate : float
        In (0, 1].
    staircase : bool
        Decrease once every `decay_steps` updates instead of at each.
    """

    initial: float
    decay_steps: int
    decay_rate: float
    staircase: bool = False

    def __post_init__(self) -> None:
        store(self, initial=number(self.initial, "initial", "[0, inf)"),
              decay_steps=integer(self.decay_steps, "decay_steps", 1, END),
              decay_rate=number(self.decay_rate, "decay_rate", "double (0, 1]"),
              staircase=boolean(self.staircase, "staircase"))

    def __call__(self, step: SupportsIndex) -> float:
        t = integer(step, "step", 1, END) - 1
        periods = t // self.decay_steps if self.staircase else t / self.decay_steps
        return self.initial * self.decay_rate**periods


@dataclass(frozen=True)
class inverse_time_decay:
    """initial / (1 + decay_rate · (t / decay_steps)) with t = step - 1.

    t / decay_steps is rounded down if `staircase`. The form of Keras' InverseTimeDecay.

    Parameters
    ----------
    initial : float
        Learning rate of the first update, at least 0.
    decay_steps : int
        Updates after which the denominator has grown by `decay_rate`.
    decay_rate : float
        At least 0.
    staircase : bool
        Decrease once every `decay_steps` updates instead of at each.
    """

    initial: float
    decay_steps: int
    decay_rate: float
    staircase: bool = False

    def __post_init__(self) -> None:
        store(self, initial=number(self.initial, "initial", "[0, inf)"),
              decay_steps=integer(self.decay_steps, "decay_steps", 1, END),
              decay_rate=number(self.decay_rate, "decay_rate", "double [0, inf)"),
              staircase=boolean(self.staircase, "staircase"))

    def __call__(self, step: SupportsIndex) -> float:
        t = integer(step, "step", 1, END) - 1
        periods = t // self.decay_steps if self.staircase else t / self.decay_steps
        return self.initial / (1.0 + self.decay_rate * periods)


@dataclass(frozen=True)
class inv_scaling:
    """initial / step^power, or the form of scikit-learn: initial / (1 + samples · epoch)^power.

    scikit-learn's MLP classes with learning_rate="invscaling" count samples and change the rate after each epoch: with
    n training examples (after the validation split, if there is one) ``inv_scaling(learning_rate_init, power_t,
    steps_per_epoch=math.ceil(n / batch_size), samples=n)`` returns their rates. Then epoch = (step - 1) //
    steps_per_epoch; with 1 for both, the default, the two forms are the same.

    Parameters
    ----------
    initial : float
        Learning rate of the first update, at least 0.
    power : float
        At least 0.
    steps_per_epoch : int
        Updates during which the rate stays the same.
    samples : int
        What the denominator's base grows by after them.
    """

    initial: float
    power: float = 0.5
    steps_per_epoch: int = 1
    samples: int = 1

    def __post_init__(self) -> None:
        store(self, initial=number(self.initial, "initial", "[0, inf)"),
              power=number(self.power, "power", "double [0, inf)"),
              steps_per_epoch=integer(self.steps_per_epoch, "steps_per_epoch", 1, END),
              samples=integer(self.samples, "samples", 1, END))

    def __call__(self, step: SupportsIndex) -> float:
        epoch = (integer(step, "step", 1, END) - 1) // self.steps_per_epoch
        try:
            return self.initial / float(1 + self.samples * epoch) ** self.power
        except OverflowError:       # the denominator is above the largest double
            return 0.0


@dataclass(frozen=True)
class cosine:
    """initial · ((1 - alpha) · (1 + cos(π t / decay_steps)) / 2 + alpha) with t = min(step - 1, decay_steps).

    Half a cosine period from `initial` down to alpha · initial, then constant: Loshchilov and Hutter 2016
    (arXiv:1608.03983) without restarts, in the form of Keras' CosineDecay and optax.cosine_decay_schedule.
    The last value is reached at step decay_steps + 1.

    Parameters
    ----------
    initial : float
        Learning rate of the first update, at least 0.
    decay_steps : int
        Updates until the last value.
    alpha : float
        Last value as a fraction of the first, in [0, 1].
    """

    initial: float
    decay_steps: int
    alpha: float = 0.0

    def __post_init__(self) -> None:
        store(self, initial=number(self.initial, "initial", "[0, inf)"),
              decay_steps=integer(self.decay_steps, "decay_steps", 1, END),
              alpha=number(self.alpha, "alpha", "[0, 1]"))

    def __call__(self, step: SupportsIndex) -> float:
        t = min(integer(step, "step", 1, END) - 1, self.decay_steps)
        fall = 0.5 * (1.0 + math.cos(math.pi * t / self.decay_steps))
        return self.initial * ((1.0 - self.alpha) * fall + self.alpha)


@dataclass(frozen=True)
class join:
    """One schedule up to and including a boundary, the next one after it, each with its own steps from 1.

    ``schedules[k](step - boundaries[k-1])`` for ``boundaries[k-1] < step <= boundaries[k]``, as
    optax.join_schedules does.

    Parameters
    ----------
    schedules : sequence of callables
        Functions of the step, from this module or others.
    boundaries : sequence of int
        Steps, strictly increasing, one fewer than schedules.
    """

    schedules: Sequence[Schedule]
    boundaries: Sequence[int]

    def __post_init__(self) -> None:
        schedules = _entries(self.schedules, "schedules", "functions")
        for i, schedule in enumerate(schedules):
            if not callable(schedule):
                got = type(schedule).__name__
                raise TypeError(f"schedules[{i}]: expected a function of the step, got {got}; "
                                "for a fixed rate use constant(lr)")
        if not schedules:
            raise ValueError("schedules: expected at least one function, got none")
        store(self, schedules=schedules,
              boundaries=_boundaries(self.boundaries, len(schedules), "schedules"))

    def __call__(self, step: SupportsIndex) -> float:
        count: int = integer(step, "step", 1, END)
        k = bisect_left(self.boundaries, count)
        return self.schedules[k](count - self.boundaries[k - 1] if k else count)
