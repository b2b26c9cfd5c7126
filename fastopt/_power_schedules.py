"""Schedules that fall with a power of the step, and what the classes of `fastopt.schedules` share."""

import math
from dataclasses import dataclass
from typing import SupportsIndex

from fastopt._runtime.hyper import integer, number
from fastopt._typing import Schedule

END = 2**64
"""Steps and numbers of steps are below it: a float can hold them."""


def store(schedule: Schedule, **fields: object) -> None:
    """Set fields of a frozen dataclass."""
    for name, value in fields.items():
        object.__setattr__(schedule, name, value)


@dataclass(frozen=True)
class noam:
    """factor · d_model^(-1/2) · min(step^(-1/2), step · warmup_steps^(-3/2)).

    A linear warm-up, then a fall with the square root of the step: Vaswani et al. 2017 (arXiv:1706.03762), equation 3,
    whose step counts from 1 as here. The peak, factor / √(d_model · warmup_steps), is reached in update warmup_steps.

    Parameters
    ----------
    d_model : int
        Width of the model, at least 1.
    warmup_steps : int
        Updates until the peak.
    factor : float
        Multiplies the rate, at least 0.
    """

    d_model: int
    warmup_steps: int
    factor: float = 1.0

    def __post_init__(self) -> None:
        store(self, d_model=integer(self.d_model, "d_model", 1, END),
              warmup_steps=integer(self.warmup_steps, "warmup_steps", 1, END),
              factor=number(self.factor, "factor", "[0, inf)"))

    def __call__(self, step: SupportsIndex) -> float:
        t = integer(step, "step", 1, END)
        return self.factor * self.d_model**-0.5 * min(t**-0.5, t * self.warmup_steps**-1.5)


@dataclass(frozen=True)
class inverse_sqrt:
    """peak · √(warmup_steps / t) with t = step - 1; before, for t < warmup_steps, a linear warm-up.

    The warm-up is initial + (peak - initial) · t / warmup_steps. fairseq's inverse_sqrt (lr, warmup_updates and
    warmup_init_lr): update warmup_steps + 1 gets the peak. With initial=0, the default here and there, the first
    update changes the optimizer's state but no parameter, as with `linear_warmup`.

    Parameters
    ----------
    peak : float
        Learning rate after the warm-up, at least 0.
    warmup_steps : int
        Updates until the peak.
    initial : float
        Learning rate of the first update, at least 0.
    """

    peak: float
    warmup_steps: int
    initial: float = 0.0

    def __post_init__(self) -> None:
        store(self, peak=number(self.peak, "peak", "[0, inf)"),
              warmup_steps=integer(self.warmup_steps, "warmup_steps", 1, END),
              initial=number(self.initial, "initial", "[0, inf)"))

    def __call__(self, step: SupportsIndex) -> float:
        t = integer(step, "step", 1, END) - 1
        if t < self.warmup_steps:
            return self.initial + (self.peak - self.initial) * t / self.warmup_steps
        return self.peak * math.sqrt(self.warmup_steps / t)


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
