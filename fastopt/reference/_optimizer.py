"""The optimizer classes in plain NumPy: for each parameter one call of the class's function."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from fastopt._options import DEFAULTS, MODEL_DEFAULTS, ModelOptions, UpdateInfo, call_text, options_of, refuse_unknown
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
        given = {**shared, **MODEL_DEFAULTS, **options}
        self._model = {name: given.pop(name) for name in MODEL_DEFAULTS}
        self._clip_norm, self._skip_nonfinite = self._model["clip_norm"], self._model["skip_nonfinite"]
        self._clip_norm_per_param, self._average_warmup = (
            self._model["clip_norm_per_param"], self._model["average_warmup"])
        self._per_param: Callable[[Any, Array], Mapping[str, Any]] = self._model["per_param"] or _no_hyper
        self._hyper = {**given, **own}
        self.lr: Rate = self._hyper.pop("lr")
        self._taken = {*inspect.signature(self._function).parameters, *options_of(self._function)}
        self.step_count = 0
        self.steps: dict[Any, int] = {}
        self._last: dict[Any, int] = {}     # the last step of the optimizer that a parameter took part in
        self.state: dict[Any, dict[str, Array]] = {}

    def __repr__(self) -> str:
        return call_text(type(self), {**self._hyper, "lr": self.lr, **self._model})

    @property
    def averages(self) -> dict[Any, Array]:
        """The averaged parameters by key."""
        return {key: state["average"] for key, state in self.state.items() if "average" in state}

    def update(self, params: Params, grads: Grads, *, grad_scale: float = 1.0) -> UpdateInfo:
        """Take one step: update every parameter in place."""
        return self._take(self.step_count + 1, list(leaves(params, grads)), grad_scale)

    def update_one(self, key: Any, param: Array, grad: Array | None, *, grad_scale: float = 1.0) -> UpdateInfo:
        """As `fastopt.Optimizer.update_one`: update one parameter in place; one pass over the model is one step."""
        begins = self._last.get(key, 0) == self.step_count
        return self._take(self.step_count + begins, [(key, param, grad)], grad_scale)

    def _take(self, step: int, model: list[tuple[Any, Array, Any]], grad_scale: float) -> UpdateInfo:
        """Take these parameters, each (key, parameter, gradient), through this step."""
        slopes = [None if grad is None else np.asarray(grad, param.dtype) for _, param, grad in model]
        norm, lr = None, _at(self.lr, step)
        if self._clip_norm is not None or self._clip_norm_per_param is not None or self._skip_nonfinite:
            squares = add_in_order(block for grad in slopes if grad is not None for block in block_squares(grad))
            norm = math.sqrt(squares) * abs(grad_scale)
            if self._skip_nonfinite and not math.isfinite(norm):
                return UpdateInfo(self.step_count, lr, norm, True)
            if self._clip_norm is not None:
                grad_scale = _clipped(grad_scale, norm, self._clip_norm)
        for (key, param, _), grad in zip(model, slopes, strict=True):
            self._last[key] = step
            if grad is None:
                self.steps.setdefault(key, 0)
                self.state.setdefault(key, {})
                continue
            hyper = {**self._hyper, "lr": lr, **self._per_param(key, param)}
            hyper["lr"] = _at(hyper["lr"], step)
            if not self.state.get(key):
                self.state[key] = self._new_state(param, hyper)
            elif hyper["average_decay"] is not None:        # state may have been loaded without averages
                self.state[key].setdefault("average", param.copy())
            self.steps[key] = t = self.steps.get(key, 0) + 1
            if self._average_warmup:
                hyper["average_decay"] = min(float(hyper["average_decay"]), (1 + t) / (10 + t))
            scale = grad_scale
            if self._clip_norm_per_param is not None:
                own_norm = math.sqrt(add_in_order(block_squares(grad))) * abs(grad_scale)
                scale = _clipped(grad_scale, own_norm, self._clip_norm_per_param)
            self._call(param, grad, {**hyper, **self.state[key], "step": t, "grad_scale": scale})
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
            if not needed <= entry.keys() and (entry or state_dict["steps"][key]):
                raise ValueError(f"state[{key!r}]: expected arrays named {sorted(needed)}, got {sorted(entry)}")
        self.step_count, self.steps = state_dict["step_count"], dict(state_dict["steps"])
        self._last = dict.fromkeys(self.steps, self.step_count)
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


def leaves(params: Any, grads: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, Array, Any]]:
    """Yield (key, parameter, gradient) of every array in containers that may be nested.

    The gradient may be None, for one array or for an inner container. The key in an inner container is the path.
    """
    if isinstance(params, np.ndarray):
        params, grads = [params], [grads]
    slopes = grads if grads is None or isinstance(grads, Mapping) else list(grads)
    for key, param in params.items() if isinstance(params, Mapping) else enumerate(params):
        grad = None if slopes is None else slopes[key]
        if isinstance(param, (Mapping, list, tuple)):
            yield from leaves(param, grad, (*path, key))
        else:
            yield (*path, key) if path else key, param, grad


def _clipped(grad_scale: float, norm: float, limit: float) -> float:
    """The grad_scale with which gradients, whose norm with this grad_scale is `norm`, are clipped by it."""
    return grad_scale * (limit / (norm + 1e-6)) if limit < norm + 1e-6 else grad_scale


def _no_hyper(key: Any, param: Array) -> Mapping[str, Any]:
    """`per_param` where no hyper-parameter differs."""
    return {}


def _at(lr: Rate, step: int) -> float:
    return lr(step) if callable(lr) else lr
