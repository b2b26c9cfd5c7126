"""The base of the optimizer classes: hyper-parameters, state, and one native call for a whole model."""

import functools
import inspect
import math
import operator
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fastopt._models import checked_state, listed, paired, read_only
from fastopt._options import (
    DEFAULTS,
    LR,
    STEP,
    Arguments,
    ModelOptions,
    UpdateInfo,
    as_numbers,
    check_options,
    check_own_decay,
    grad_scale_range,
    refuse_unknown,
    with_grad_scale,
)
from fastopt._runtime import dispatch, driver
from fastopt._runtime.arrays import Array as Validated
from fastopt._runtime.binding import Binding
from fastopt._runtime.hyper import Ranges
from fastopt._runtime.progress import Progress
from fastopt._typing import Float32Array as Array
from fastopt._typing import Grads, Params, State
from fastopt._typing import LearningRate as Rate

_new_tuple = tuple.__new__
_clip_norm_range = Ranges(clip_norm="(0, inf]")
_skip_range = Ranges(skip_nonfinite="bool")
_step_ranges = Ranges(step=STEP, lr=LR)


apply = driver.apply        # of a kernel's rule to one parameter: every optimizer function ends here


@functools.cache
def _own_names(arguments: Callable[..., Any]) -> list[str]:
    """The names of its parameters between (step, lr) and (options, …): a class's own hyper-parameters."""
    names = list(inspect.signature(arguments).parameters)
    return names[2 : names.index("options")]


def _constant(*values: Any) -> bool:
    """Whether none of the numbers, and of the tuples that hold some of them, can be changed in place."""
    return {float, int, bool, tuple}.issuperset(map(type, values))


class Group(NamedTuple):
    """Parameters that share one rule."""

    own: dict[str, Any]
    """The hyper-parameters that `per_param` returned for them."""
    late: int
    """Steps of the optimizer in which they were not updated: their own step number is the optimizer's minus this."""


class Bound(NamedTuple):
    """A model whose arrays are bound: all that a step needs except the gradients."""

    keys: list[Any]
    params: list[Array]
    groups: list[Group]
    makers: list[Callable[..., Any]]
    """For each group a function (step, lr, grad_scale) that makes its rule."""
    members: list[int]
    """For each parameter the index of its group."""
    binding: Any


class Snapshot(NamedTuple):
    """What changes as a whole, and together with the step count: see `Progress`."""

    bound: Bound | None
    steps: dict[Any, int]
    """Of the keys that are not bound."""
    state: State


class Optimizer:
    """Base of the optimizer classes; the keyword arguments below are those that all classes share.

    Parameters
    ----------
    own : dict
        The hyper-parameters that the class defines, by name. Only subclasses pass it.
    options : dict
        The keyword arguments that follow. Only subclasses pass it as a dict.
    weight_decay, decoupled_weight_decay, l1, maximize, clip_value
        As in `fastopt.Options`.
    clip_norm : float, optional
        Largest Euclidean norm of all gradients together, > 0: where clip_norm / (norm + 1e-6) is below 1, the
        gradients are multiplied by it, before clip_value applies. It costs one more pass over the gradients; the norm
        is a sum in double precision in a fixed order. A norm of NaN clips nothing.
    skip_nonfinite : bool
        Change nothing, the step count included, when a gradient holds an inf or NaN.
    average_decay : float, optional
        Keep an exponential moving average of every parameter in `averages`, updated after each step as in
        `fastopt.Options`; it starts as the parameter before its first step.
    per_param : callable, optional
        ``per_param(key, array)`` returns a dict of the hyper-parameters that differ for that parameter ({} for
        none). Weight decay on matrices only: ``lambda key, p: {} if p.ndim > 1 else {"weight_decay": 0.0}``. It is
        called when arrays are bound, not at every step.

    Attributes
    ----------
    lr : float or callable
        The learning rate of all parameters for which `per_param` returns no other. It can be assigned; a callable
        gets the step's number (1-based).
    step_count : int
        Steps taken.
    steps : dict
        For each key the number of steps that its parameter took part in.
    state : dict
        The state arrays by key and name. An array can be written to; the entries are read-only, because steps use the
        arrays that are bound: `load_state_dict` replaces them.

    Notes
    -----
    One call at a time: while `update`, `state_dict`, `load_state_dict` or a copy (by copy or pickle) runs, another of
    them from a second thread raises a RuntimeError and changes nothing; so does `update` or `load_state_dict` from
    within a schedule or `per_param`. In a process that was forked by one thread while another updated, every call does,
    until `load_state_dict` restores the optimizer.
    """

    _rule: ClassVar[tuple[str, Callable[..., Arguments]]]
    """The name in `dispatch.active` of the kernel that makes the rule, and the function that makes its arguments from
    (step, lr, the class's own hyper-parameters, options), of which the shared ones are checked."""
    _varies: ClassVar[bool] = False
    """Whether the own numbers among these arguments depend on the step."""
    _state_names: ClassVar[tuple[str, ...]] = ()
    """Every state array that the optimizer can have, in the rule's order."""
    _not_decoupled: ClassVar[str] = ""
    """Why the class takes no decoupled_weight_decay; empty if it takes it."""
    _decay: ClassVar[str] = "weight_decay"
    """The shared option that the class's weight_decay sets."""

    def __init__(self, own: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        if self._not_decoupled and "decoupled_weight_decay" in options:
            raise TypeError(f"{type(self).__name__} takes no decoupled_weight_decay ({self._not_decoupled}), got "
                            f"{reprlib.repr(options['decoupled_weight_decay'])}")
        if not options.keys() <= ModelOptions.__annotations__.keys():
            refuse_unknown(type(self), options)
        per_param = options.get("per_param")
        if per_param is not None and not callable(per_param):
            raise TypeError(f"per_param: expected a function (key, array) -> dict, got {type(per_param).__name__}")
        left_out = {*own, *(["decoupled_weight_decay"] if self._not_decoupled else [])}
        self._shared = tuple(name for name in DEFAULTS if name in ModelOptions.__annotations__.keys() - left_out)
        self._hyper = {**own, **{name: options.get(name, DEFAULTS[name]) for name in self._shared}}
        self._clip_norm = options.get("clip_norm")
        if self._clip_norm is not None:
            _clip_norm_range(self._clip_norm)
            self._clip_norm = float(self._clip_norm)
        self._skip_nonfinite = options.get("skip_nonfinite", False)
        _skip_range(self._skip_nonfinite)
        self._per_param = per_param
        self._progress = Progress(0, Snapshot(None, {}, read_only({})))
        self._check(1, self._hyper["lr"])

    @property
    def step_count(self) -> int:
        return self._progress.step_count

    @property
    def lr(self) -> Rate:
        return self._hyper["lr"]

    @lr.setter
    def lr(self, lr: Rate) -> None:
        self._check(self.step_count + 1, lr)
        self._hyper["lr"] = lr

    @property
    def state(self) -> State:
        return self._progress.snapshot.state

    @property
    def steps(self) -> dict[Any, int]:
        """For each key the number of its own steps: a parameter that joins later starts with its own step 1."""
        count, (bound, steps, _) = self._progress.now()
        if bound is None:
            return dict(steps)
        own = [count - bound.groups[member].late for member in bound.members]
        return {**steps, **dict(zip(bound.keys, own, strict=True))}

    @property
    def averages(self) -> dict[Any, Array]:
        """The averaged parameters by key; empty before the first step and without average_decay."""
        return {key: state["average"] for key, state in self.state.items() if "average" in state}

    def update(self, params: Params, grads: Grads, *, grad_scale: float = 1.0) -> UpdateInfo:
        """Take one step: update every parameter in place, in one native call.

        Parameters
        ----------
        params : dict, sequence or array
            float32 C-contiguous arrays. They are bound at the first update, and again whenever others are given or one
            has been resized, reshaped or retyped in place, which no other thread may do during the call. State is kept
            under the dict's keys or the positions. They may be other parameters than in the last step: each has its own
            step count, on which bias corrections depend, as in PyTorch; a schedule gets the optimizer's.
        grads : dict, sequence or array
            One gradient for each parameter, under the same keys or in the same order; never written. A gradient of
            another float type or memory layout is converted into a temporary array.
        grad_scale : float
            Multiplies every gradient first (1 / loss scale, 1 / number of accumulated batches).

        Returns
        -------
        UpdateInfo
            (step, lr, grad_norm, skipped).

        Raises
        ------
        TypeError, ValueError
            An array or number that is not as described. Nothing has changed then, neither a parameter nor the step.
        RuntimeError
            Another call of this optimizer runs; nothing has changed.
        """
        return self._progress.run("update", self._with_bound, params, grads, "grads", self._step, grad_scale)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: copies of the state, and nothing bound: the next update binds the arrays again."""
        saved = self._progress.read("copy", self._state_dict)
        progress = saved["step_count"], saved["steps"], saved["state"]
        return {**self.__dict__, "_hyper": dict(self._hyper), "_progress": progress}

    def __setstate__(self, state: dict[str, Any]) -> None:
        count, steps, arrays = state["_progress"]
        self.__dict__.update(state, _progress=Progress(count, Snapshot(None, steps, read_only(arrays))))

    def state_dict(self) -> dict[str, Any]:
        """Return {"step_count": int, "steps": {key: int}, "state": {key: {name: array}}}; the arrays are copies.

        It does not hold the hyper-parameters, which are the constructor's. `fastopt.save_state` writes it to a file.
        """
        return self._progress.read("state_dict", self._state_dict)

    def _state_dict(self) -> dict[str, Any]:
        state = {key: {name: array.copy() for name, array in entry.items()} for key, entry in self.state.items()}
        return {"step_count": self.step_count, "steps": self.steps, "state": state}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned. The arrays are copied; the parameters are the caller's to restore.

        Raises
        ------
        TypeError, ValueError
            Anything but such a dict with this optimizer's state arrays. Nothing has changed then.
        """
        self._progress.load("load_state_dict", self._loaded, state_dict)

    def _loaded(self, state_dict: Mapping[str, Any]) -> tuple[int, Snapshot]:
        """The step count and the snapshot out of a state dict."""
        needed = () if self._per_param else tuple(filter(None, self._states(self._hyper)))
        count, steps, state = checked_state(state_dict, needed, (*self._state_names, "average"))
        return count, Snapshot(None, steps, read_only(state))

    def _with_bound(self, params: Params, grads: Grads, source: str, act: Callable[..., Any], *arguments: Any) -> Any:
        """Return act(snapshot, gradients in the order bound, step, lr, *arguments) for these arrays, bound.

        Where `act` returns None, because an array has changed in place, they are bound anew first.
        """
        progress, keys = self._progress, None
        arrays: list[Array] = []
        snapshot, step = progress.snapshot, progress.step_count + 1
        bound = snapshot.bound
        ordered = None if bound is None else bound.binding.gradients_of(params, grads)
        if ordered is None:
            keys, arrays, ordered = paired(params, grads, source)
        lr = self._hyper["lr"]
        if type(lr) is not float:
            lr = self._lr_at(step)
        if keys is not None and (bound is None or keys != bound.keys or not bound.binding.holds(arrays)):
            snapshot = self._bind(keys, arrays, step, lr)
        result = act(snapshot, ordered, step, lr, *arguments)
        if result is None:
            snapshot = self._bind(snapshot.bound.keys, snapshot.bound.params, step, lr)
            result = act(snapshot, ordered, step, lr, *arguments)
        if result is None:
            raise RuntimeError("params: expected arrays that keep their memory, type and shape during the call, got "
                               "some that per_param, a schedule or another thread changes")
        return result

    def _step(self, snapshot: Snapshot, ordered: list[Any], step: int, lr: float,
              grad_scale: float) -> UpdateInfo | None:
        """Take a step, or return None if an array has changed since it was bound."""
        bound: Any = snapshot.bound
        norm = None
        if self._clip_norm is not None or self._skip_nonfinite:
            grad_scale_range(grad_scale)
            grad_scale = float(grad_scale)      # a NumPy scalar would give products of its own precision
            squares = bound.binding.measure(dispatch.active.layerwise.squares(), ordered)
            if squares is None:
                return None
            norm = math.sqrt(squares) * abs(grad_scale)     # not finite if a gradient is not
            if self._skip_nonfinite and not math.isfinite(norm):
                return UpdateInfo(step - 1, lr, norm, True)
            if self._clip_norm is not None and self._clip_norm < norm + 1e-6:
                grad_scale = grad_scale * (self._clip_norm / (norm + 1e-6))
        makers = bound.makers
        if len(makers) == 1:
            rules = [makers[0](step, lr, grad_scale)]
        else:
            rules = [make(step, lr, grad_scale) for make in makers]
        if not bound.binding.apply(rules, ordered, "grads", self._progress, snapshot):
            return None
        return _new_tuple(UpdateInfo, (step, lr, norm, False))      # as UpdateInfo(…), in half the time

    def _lr_at(self, step: int) -> float:
        """The learning rate of one step. A schedule is called once per step, for all groups and UpdateInfo."""
        lr = self._hyper["lr"]
        return lr(step) if callable(lr) else lr

    def _hyper_at(self, step: int, own: Mapping[str, Any], lr: float | None = None) -> dict[str, Any]:
        """The hyper-parameters of one group at one step; `lr` is the result of `_lr_at`, if it is known."""
        hyper = {**self._hyper, "lr": self._lr_at(step) if lr is None else lr, **own}
        if "lr" in own and callable(own["lr"]):
            hyper["lr"] = own["lr"](step)
        return hyper

    def _check(self, step: int, lr: Rate) -> None:
        """Raise an error for hyper-parameters that are not valid at this step, with this learning rate."""
        self._maker(Group({}, 0))(step, lr(step) if callable(lr) else lr, 1.0)

    def _maker(self, group: Group) -> Callable[..., Any]:
        """A function (step, lr, grad_scale) that makes the group's rule from the optimizer's step and lr."""
        hyper = {**self._hyper, **group.own}
        own_lr, has_lr, late = hyper.pop("lr"), "lr" in group.own, group.late
        options = {name: hyper.pop(name) for name in self._shared}
        if options["average_decay"] is not None:
            options["average"] = True
        if self._decay != "weight_decay":
            checked = check_own_decay(type(self), options, options.pop("weight_decay"), self._decay)
        else:
            checked = check_options(type(self), options)
        checked = as_numbers(checked)
        scale = checked[0]
        name, arguments = self._rule    # not self: the cycle would keep the arrays until the next garbage collection
        kernel, varies = operator.attrgetter(name)(dispatch.active), self._varies
        values = tuple(hyper[name] for name in _own_names(arguments))   # by position, which takes half as long
        numbers: Arguments | None = None    # constants, once checked: further steps check step and lr only

        def make(step: int, lr: float, grad_scale: float) -> Any:
            nonlocal numbers
            if has_lr:
                lr = own_lr(step) if callable(own_lr) else own_lr
            same = type(grad_scale) is float and grad_scale == scale
            options = checked if same else with_grad_scale(checked, grad_scale)
            if numbers is not None:
                _step_ranges(step - late, lr)
                return kernel(step - late, lr, *numbers, options)
            made = arguments(step - late, lr, *values, options)
            if not varies and _constant(*values, *made[2:-1]):
                numbers = made[2:-1]
            return kernel(*made)

        return make

    def _bind(self, keys: list[Any], params: list[Array], step: int, lr: float) -> Snapshot:
        """Bind these arrays, with the state they have or new state. The optimizer itself is not changed."""
        streams = ("average", *self._state_names)
        groups, members, state, arrays, steps = [], [], {}, [], self.steps
        for key, param in zip(keys, params, strict=True):
            Validated(param, ("params", key), writable=True)    # before it reaches per_param and NumPy
        for key, param in zip(keys, params, strict=True):
            group = Group(self._own(key, param), self.step_count - steps.get(key, 0))
            if group not in groups:
                groups.append(group)
            members.append(groups.index(group))
            hyper = self._hyper_at(step, group.own, lr)
            state[key] = {name: self._state_of(key, name, param, hyper) for name in self._states(hyper) if name}
            if hyper["average_decay"] is not None:
                state[key]["average"] = self._state_of(key, "average", param, hyper)
            arrays.append((param, None, *map(state[key].get, streams)))
        binding = Binding(keys, arrays, self._state_names, members)
        bound = Bound(keys, params, groups, [self._maker(group) for group in groups], members, binding)
        return Snapshot(bound, steps, read_only({**self.state, **state}))

    def _own(self, key: Any, param: Array) -> dict[str, Any]:
        """The hyper-parameters that differ for this parameter."""
        if self._per_param is None:
            return {}
        own = self._per_param(key, param)
        if not isinstance(own, Mapping):
            raise TypeError(f"per_param({key!r}, …): expected a dict, got {type(own).__name__}")
        allowed = [name for name in self._hyper if name != "average_decay"]
        unknown = [name for name in own if name not in allowed]
        if unknown:
            raise ValueError(f"per_param({key!r}, …): expected hyper-parameters among {', '.join(allowed)}, "
                             f"got {listed(unknown)}")
        return dict(own)

    def _state_of(self, key: Any, name: str, param: Array, hyper: Mapping[str, Any]) -> Array:
        """The state array kept under `key`, or a new one."""
        kept = self.state.get(key, {}).get(name)
        if kept is not None:
            return kept
        if name == "average":
            return np.array(param, np.float32)
        return np.full(np.shape(param), self._initial(name, hyper), np.float32)

    @classmethod
    def _states(cls, hyper: Mapping[str, Any]) -> tuple[str | None, ...]:
        """Names of the state arrays that these hyper-parameters need, in the rule's order; None for one not needed."""
        return cls._state_names

    @staticmethod
    def _initial(name: str, hyper: Mapping[str, Any]) -> float:
        """The value of every element of a state array before the first step."""
        return 0.0
