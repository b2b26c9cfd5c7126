"""Schedules that begin with a warm-up, and what the classes of `fastopt.schedules` share."""

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
class linear_warmup:
    """initial + (peak - initial) · t / warmup_steps with t = min(step - 1, warmup_steps).

    The gradual warm-up of Goyal et al. 2017 (arXiv:1706.02677) in the form of optax.linear_schedule and of
    Keras' warmup_steps: the first update gets `initial`, update warmup_steps + 1 and all later ones get `peak`.
    With initial=0, the default here and there, the first update changes the optimizer's state but no parameter; pass
    ``initial=peak / warmup_steps``, for example, to make the first update count.
    ``join([linear_warmup(peak, n), cosine(peak, m)], [n])`` gets the peak in update n + 1 alone.

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
        t = min(integer(step, "step", 1, END) - 1, self.warmup_steps)
        if t == self.warmup_steps:
            return self.peak            # initial + (peak - initial) may round
        return self.initial + (self.peak - self.initial) * t / self.warmup_steps


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
class inverse_sqrt(linear_warmup):
    """peak · √(warmup_steps / t) with t = step - 1; before, for t < warmup_steps, `linear_warmup`.

    fairseq's inverse_sqrt (lr, warmup_updates and warmup_init_lr): update warmup_steps + 1 gets the peak.

    Parameters
    ----------
    peak, warmup_steps, initial
        As in `linear_warmup`.
    """

    def __call__(self, step: SupportsIndex) -> float:
        t = integer(step, "step", 1, END) - 1
        return super().__call__(step) if t < self.warmup_steps else self.peak * math.sqrt(self.warmup_steps / t)
