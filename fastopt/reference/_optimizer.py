"""The optimizer classes in plain NumPy: for each parameter one call of the class's function."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from fastopt._options import DEFAULTS, ModelOptions, UpdateInfo, options_of, refuse_unknown
from fastopt._typing import Grads, Params
from fastopt._typing import LearningRate as Rate
from fastopt.reference._formula import Array, add_in_order, block_squares


class Optimizer:
    """Base of the classes: hyper-parameters, state, and a step as `fastopt.Optimizer` describes them.

    Parameters may be float32 or float64; state has their type. Numbers and arrays are not checked.
    """

    _function: ClassVar[Callable[..., None]]

    def __init__(self, own: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        refuse_unknown(type(self), options)
        shared = {name: default for name, default in DEFAULTS.items() if name in ModelOptions.__annotations__}
        given = {**shared, "clip_norm": None, "skip_nonfinite": False, "per_param": None, **options}
        self._clip_norm, self._skip_nonfinite = given.pop("clip_norm"), given.pop("skip_nonfinite")
        self._per_param: Callable[[Any, Array], Mapping[str, Any]] = given.pop("per_param") or _no_hyper
        self._hyper = {**given, **own}
        self.lr: Rate = self._hyper.pop("lr")
        self._taken = {*inspect.signature(self._function).parameters, *options_of(self._function)}
        self.step_count = 0
        self.steps: dict[Any, int] = {}
        self.state: dict[Any, dict[str, Array]] = {}

    @property
    def averages(self) -> dict[Any, Array]:
        """The averaged parameters by key."""
        return {key: state["average"] for key, state in self.state.items() if "average" in state}

    def update(self, params: Params, grads: Grads, *, grad_scale: float = 1.0) -> UpdateInfo:
        """Take one step: update every parameter in place."""
        if isinstance(params, np.ndarray):
            params, grads = [params], [np.asarray(grads)]
        by_key = dict(params if isinstance(params, Mapping) else enumerate(params))
        given = dict(grads if isinstance(grads, Mapping) else enumerate(grads))
        slopes = {key: np.asarray(given[key], param.dtype) for key, param in by_key.items()}
        step, norm = self.step_count + 1, None
        lr = _at(self.lr, step)
        if self._clip_norm is not None or self._skip_nonfinite:
            squares = add_in_order(block for grad in slopes.values() for block in block_squares(grad))
            norm = math.sqrt(squares) * abs(grad_scale)
            if self._skip_nonfinite and not math.isfinite(norm):
                return UpdateInfo(self.step_count, lr, norm, True)
            if self._clip_norm is not None and self._clip_norm < norm + 1e-6:
                grad_scale = grad_scale * (self._clip_norm / (norm + 1e-6))
        for key, param in by_key.items():
            hyper = {**self._hyper, "lr": lr, **self._per_param(key, param)}
            hyper["lr"] = _at(hyper["lr"], step)
            if key not in self.state:
                self.state[key] = self._new_state(param, hyper)
            elif hyper["average_decay"] is not None:        # state may have been loaded without averages
                self.state[key].setdefault("average", param.copy())
            self.steps[key] = self.steps.get(key, 0) + 1
            self._call(param, slopes[key], {**hyper, **self.state[key], "step": self.steps[key],
                                           "grad_scale": grad_scale})
        self.step_count = step
        return UpdateInfo(step, lr, norm, False)

    def state_dict(self) -> dict[str, Any]:
        """As `fastopt.Optimizer.state_dict`."""
        state = {key: {name: array.copy() for name, array in entry.items()} for key, entry in self.state.items()}
        return {"step_count": self.step_count, "steps": dict(self.steps), "state": state}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As `fastopt.Optimizer.load_state_dict`: state that the hyper-parameters need must be there."""
        needed = set() if self._per_param is not _no_hyper else {*self._states(self._hyper)}
        for key, entry in state_dict["state"].items():
            if not needed <= entry.keys():
                raise ValueError(f"state[{key!r}]: expected arrays named {sorted(needed)}, got {sorted(entry)}")
        self.step_count, self.steps = state_dict["step_count"], dict(state_dict["steps"])
        self.state = {key: {name: array.copy() for name, array in entry.items()}
                      for key, entry in state_dict["state"].items()}

    def _call(self, param: Array, grad: Array, arguments: dict[str, Any]) -> None:
        """Call the function with those of the arguments that it takes."""
        if arguments["average_decay"] is None:
            arguments = {name: value for name, value in arguments.items() if name != "average"}
        self._function(param, grad, **{name: value for name, value in arguments.items() if name in self._taken})

    def _new_state(self, param: Array, hyper: Mapping[str, Any]) -> dict[str, Array]:
        state = {name: np.full_like(param, self._initial(hyper, name)) for name in self._states(hyper)}
        return state if hyper["average_decay"] is None else {**state, "average": param.copy()}

    def _states(self, hyper: Mapping[str, Any]) -> Sequence[str]:
        """Names of the state arrays: the arrays that the function requires besides param and grad."""
        parameters = inspect.signature(self._function).parameters.values()
        return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty][2:]

    def _initial(self, hyper: Mapping[str, Any], name: str) -> float:
        """The value of every element of a state array before the first step."""
        return 0.0


def _no_hyper(key: Any, param: Array) -> Mapping[str, Any]:
    """`per_param` where no hyper-parameter differs."""
    return {}


def _at(lr: Rate, step: int) -> float:
    return lr(step) if callable(lr) else lr
