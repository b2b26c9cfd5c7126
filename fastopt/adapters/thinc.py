"""thinc's models, trained by an optimizer of fastopt: ``model.finish_update(Optimizer(opt))``."""

from collections.abc import Callable
from typing import Any

from fastopt import _optimizer
from fastopt._typing import Float32Array

__all__ = ["Optimizer"]

Key = tuple[int, str]


class Optimizer:
    """What ``finish_update`` of a thinc model takes: an optimizer of fastopt, asked parameter by parameter.

    ::

        optimizer = fastopt.adapters.thinc.Optimizer(fastopt.Adam(lr=1e-3, eps_hat=True))
        model.finish_update(optimizer)
        with model.use_params(optimizer.averages):      # with average_decay
            …

    Parameters
    ----------
    opt : fastopt.Optimizer
        Its lr may be a function of the step, `fastopt.schedules`' for example; each ``finish_update`` is a step. With a
        thinc schedule: ``lr=lambda step: schedule(step - 1)``.

    Attributes
    ----------
    opt : fastopt.Optimizer
        Its state and averages are kept under thinc's keys, (node id, name).

    Notes
    -----
    thinc is not imported. A model needs thinc's NumpyOps, with float32 parameters, which are updated in place. The same
    steps as thinc's ``Adam(lr, grad_clip=0.0)``: ``fastopt.Adam(lr=lr, eps_hat=True)``. thinc's grad_clip is
    clip_norm_per_param; use_averages is ``average_decay=0.9999, average_warmup=True``; L2 is weight_decay, and with
    L2_is_weight_decay decoupled_weight_decay, which is applied before the step instead of after it.
    """

    def __init__(self, opt: _optimizer.Optimizer) -> None:
        if not isinstance(opt, _optimizer.Optimizer):
            raise TypeError(f"opt: expected an optimizer of fastopt, such as fastopt.Adam(), got {type(opt).__name__}")
        self.opt = opt
        self._step = 0
        self._last_score: tuple[int, float] | None = None

    def __call__(self, key: Key, weights: Float32Array, gradient: Float32Array, *,
                 lr_scale: float = 1.0) -> tuple[Float32Array, Float32Array]:
        """Update one parameter in place, set its gradient to zero and return both; `lr_scale` multiplies lr."""
        if gradient.size:
            if not gradient.flags.writeable:        # before the update, which would be half a call
                raise ValueError("gradient: expected a writable array, which is set to zero, got a read-only one")
            if lr_scale == 1.0:
                self.opt.update_one(key, weights, gradient)
            else:
                lr = self.opt.lr
                self.opt.lr = _scaled(lr, lr_scale)
                try:
                    self.opt.update_one(key, weights, gradient)
                finally:
                    self.opt.lr = lr
            gradient.fill(0.0)
        return weights, gradient

    def step_schedules(self) -> None:
        """Count a step of the training loop, as thinc's optimizer does. fastopt's schedules count by themselves."""
        self._step += 1

    @property
    def step(self) -> int:
        """How often `step_schedules` was called."""
        return self._step

    @property
    def last_score(self) -> tuple[int, float] | None:
        """The step and the score that was assigned last."""
        return self._last_score

    @last_score.setter
    def last_score(self, score: float) -> None:
        self._last_score = self._step, score

    @property
    def averages(self) -> dict[Any, Float32Array]:
        """The averaged parameters by key for ``model.use_params``; empty without average_decay."""
        return self.opt.averages


def _scaled(lr: float | Callable[[int], float], scale: float) -> float | Callable[[int], float]:
    return (lambda step: lr(step) * scale) if callable(lr) else lr * scale
