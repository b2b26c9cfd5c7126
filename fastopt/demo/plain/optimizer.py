"""The base of the optimizers: the options that all share, state, and a step."""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from fastopt import UpdateInfo
from fastopt.demo.plain.functions import Array

Rate = float | Callable[[int], float]


class Optimizer:
    """Hyper-parameters, state and a step as those of `fastopt.Optimizer`, for a dict of parameters."""

    _states: ClassVar[tuple[str, ...]] = ()
    """State arrays that start at 0."""
    _decay: ClassVar[str] = "l2"
    """What the class's weight_decay is: l2, decoupled, or a part of the rule."""

    def __init__(self, lr: Rate, *, weight_decay: float = 0.0, decoupled_weight_decay: float = 0.0, l1: float = 0.0,
                 clip_norm: float | None = None, average_decay: float | None = None, average_warmup: bool = False,
                 per_param: Callable[[Any, Array], Mapping[str, float]] | None = None) -> None:
        self.lr, self.clip_norm, self.per_param = lr, clip_norm, per_param
        self.decays = {"weight_decay": weight_decay, "decoupled_weight_decay": decoupled_weight_decay, "l1": l1}
        self.average_decay, self.average_warmup = average_decay, average_warmup
        self.step_count = 0
        self.steps: dict[Any, int] = {}
        self.state: dict[Any, dict[str, Array]] = {}
        self._own_decays: dict[Any, dict[str, float]] = {}

    def update(self, params: Mapping[Any, Array], grads: Mapping[Any, Array]) -> UpdateInfo:
        """Take one step: update every parameter in place."""
        self.step_count += 1
        lr = self.lr(self.step_count) if callable(self.lr) else self.lr
        norm, scale = None, 1.0
        if self.clip_norm is not None:
            norm = math.sqrt(sum(float(np.vdot(grad, grad)) for grad in grads.values()))
            scale = min(1.0, self.clip_norm / (norm + 1e-6))
        for key, p in params.items():
            state = self._state_of(key, p, lr)
            self.steps[key] = t = self.steps[key] + 1
            self._take(p, grads[key] if scale == 1.0 else scale * grads[key], self._decays_of(key, p), lr, t, state)
        return UpdateInfo(self.step_count, lr, norm, False)

    def _take(self, p: Array, g: Array, decays: Mapping[str, float], lr: float, t: int,
              state: Mapping[str, Array]) -> None:
        """Take one parameter through its step t."""
        decay, decoupled = decays["weight_decay"], decays["decoupled_weight_decay"]
        g = self._regularised(p, g, decay if self._decay == "l2" else 0.0, decays["l1"])
        if self._decay == "decoupled":
            decoupled = decay
        if decoupled:
            p *= 1 - lr * decoupled
        own = {"weight_decay": decay} if self._decay == "rule" else {}
        self._rule(p, g, lr, t, **{name: array for name, array in state.items() if name != "average"}, **own)
        if self.average_decay is not None:
            keep = min(self.average_decay, (1 + t) / (10 + t)) if self.average_warmup else self.average_decay
            ema(state["average"], p, keep)

    def _regularised(self, p: Array, g: Array, l2: float, l1: float) -> Array:
        """The gradient plus the derivatives of the L2 and L1 terms."""
        if l2:
            g = g + l2 * p
        return g + l1 * np.sign(p) if l1 else g

    _rule: Callable[..., None]
    """(p, g, lr, t, …): update p and the state arrays, which are further arguments by name, in place."""

    def _new_state(self, p: Array, lr: float) -> dict[str, Array]:
        return {name: np.zeros_like(p) for name in self._states}

    def _state_of(self, key: Any, p: Array, lr: float) -> dict[str, Array]:
        if key not in self.state:
            average = {} if self.average_decay is None else {"average": p.copy()}
            self.state[key], self.steps[key] = self._new_state(p, lr) | average, 0
        return self.state[key]

    def _decays_of(self, key: Any, p: Array) -> dict[str, float]:
        if key not in self._own_decays:
            self._own_decays[key] = self.decays | dict(self.per_param(key, p) if self.per_param else {})
        return self._own_decays[key]

    @property
    def averages(self) -> dict[Any, Array]:
        return {key: state["average"] for key, state in self.state.items() if "average" in state}

    def state_dict(self) -> dict[str, Any]:
        """As `fastopt.Optimizer.state_dict`."""
        state = {key: {name: array.copy() for name, array in entry.items()} for key, entry in self.state.items()}
        return {"step_count": self.step_count, "steps": dict(self.steps), "state": state}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As `fastopt.Optimizer.load_state_dict`."""
        self.step_count, self.steps = state_dict["step_count"], dict(state_dict["steps"])
        self.state = {key: {name: array.copy() for name, array in entry.items()}
                      for key, entry in state_dict["state"].items()}


def ema(average: Array, x: Array, beta: float) -> None:
    """The exponential moving average, in place."""
    average *= beta
    average += (1 - beta) * x
