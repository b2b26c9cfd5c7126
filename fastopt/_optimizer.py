"""What every optimizer class is: hyper-parameters, state, and one native call for a whole model."""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from fastopt._runtime import dispatch
from fastopt._runtime.binding import Binding, Counter
from fastopt._runtime.hyper import Ranges

_clip_norm_range = Ranges(clip_norm="(0, inf]")
_grad_scale_range = Ranges(grad_scale="(-inf, inf)")
_step_count_range = Ranges(step_count="int [0, 9e18]")
_skip_range = Ranges(skip_nonfinite="bool")


class UpdateInfo(NamedTuple):
    """What a call of `update` did."""

    step: int
    """The step's number, from 1; of a skipped one the number of the step before."""
    lr: float
    """The learning rate it used."""
    grad_norm: float | None
    """Euclidean norm of all gradients after grad_scale, before clipping; None unless something asked for it."""
    skipped: bool
    """Whether nothing was changed because a gradient held an inf or NaN."""


class Group(NamedTuple):
    """What parameters have in common that share a rule."""

    own: dict
    """The hyper-parameters that `per_param` gave."""
    late: int
    """Steps of the optimizer in which they took no part: their own step is so much less."""


class Bound(NamedTuple):
    """A model's arrays as they were bound: what a step needs beside the gradients."""

    keys: list
    params: list
    groups: list
    makers: list
    """Of each group: makes its rule from step, lr and grad_scale."""
    members: list
    """For each parameter the index of its group."""
    state: dict
    binding: Binding


class Optimizer:
    """Base of the optimizer classes; the keyword arguments here are what each of them takes beside its own.

    Parameters
    ----------
    weight_decay, l1 : float
        L2 and L1 regularisation, added to the gradient: weight_decay · p and l1 · sign(p).
    decoupled_weight_decay : float
        The parameter shrinks by lr · decoupled_weight_decay before the step.
    maximize : bool
        Follow the gradient uphill.
    clip_value : float, optional
        Largest magnitude of a gradient's element.
    clip_norm : float, optional
        Largest Euclidean norm of all gradients together: they are multiplied by clip_norm / (norm + 1e-6) where that
        is below 1 (before clip_value). Costs one more read of the gradients; the norm is a sum in double in a fixed
        order. If it is NaN nothing is clipped.
    skip_nonfinite : bool
        Change nothing at all, the step count included, when a gradient holds an inf or NaN.
    average_decay : float, optional
        Keep an exponential moving average of every parameter (d · a + (1 − d) · p after each step, from the
        parameter as it was before the first): see `averages`.
    per_param : callable, optional
        ``per_param(key, array)`` returns a dict of the hyper-parameters that differ for that parameter ({} for
        none). Weight decay on matrices only: ``lambda key, p: {} if p.ndim > 1 else {"weight_decay": 0.0}``. It is
        asked when arrays are bound, not at every step.

    Attributes
    ----------
    lr : float or callable
        Of all parameters but those to which `per_param` gives their own. Assign it to change it; a callable gets the
        step's number (1-based).
    step_count : int
        Steps taken.
    steps : dict
        Steps that each parameter took part in, by key.
    state : dict
        The state arrays by key and name.
    """

    _rule = None
    """Makes the kernel's rule from the step and the hyper-parameters."""
    _state_names = ()
    """Every state array the optimizer can have, in its rule's order."""
    _decoupled = True
    """Whether decoupled_weight_decay is a hyper-parameter: elsewhere weight_decay is, or nothing multiplies it."""

    def __init__(self, hyper, *, weight_decay=0.0, decoupled_weight_decay=None, l1=0.0, maximize=False,
                 clip_value=None, clip_norm=None, skip_nonfinite=False, average_decay=None, per_param=None):
        if per_param is not None and not callable(per_param):
            raise TypeError(f"per_param: expected a function (key, array) -> dict, got {type(per_param).__name__}")
        self._hyper = dict(hyper, weight_decay=weight_decay, l1=l1, maximize=maximize, clip_value=clip_value,
                           average_decay=average_decay)
        if self._decoupled:
            self._hyper["decoupled_weight_decay"] = 0.0 if decoupled_weight_decay is None else decoupled_weight_decay
        elif decoupled_weight_decay is not None:
            raise TypeError(f"decoupled_weight_decay: expected none for {type(self).__name__}, got "
                            f"{decoupled_weight_decay!r}")
        if clip_norm is not None:
            _clip_norm_range(clip_norm)
        self._clip_norm = clip_norm
        _skip_range(skip_nonfinite)
        self._skip_nonfinite = skip_nonfinite
        self._per_param = per_param
        self._bound = None
        self._counter = Counter()
        self._steps = {}  # of the keys that are not bound now
        self.state = {}
        self._check(1)

    @property
    def step_count(self):
        return self._counter.value

    @property
    def lr(self):
        return self._hyper["lr"]

    @lr.setter
    def lr(self, lr):
        before, self._hyper["lr"] = self._hyper["lr"], lr
        try:
            self._check(self.step_count + 1)
        except (TypeError, ValueError):
            self._hyper["lr"] = before
            raise

    @property
    def steps(self):
        """For each key the steps that it took part in: a parameter that joins later starts with its own step 1."""
        bound = {}
        if self._bound is not None:
            late = [self._bound.groups[member].late for member in self._bound.members]
            bound = {key: self.step_count - late for key, late in zip(self._bound.keys, late, strict=True)}
        return {**self._steps, **bound}

    @property
    def averages(self):
        """The averaged parameters by key, once there are any; empty without average_decay."""
        return {key: state["average"] for key, state in self.state.items() if "average" in state}

    def update(self, params, grads, *, grad_scale=1.0):
        """Take one step: update every parameter in place, in one native call.

        Parameters
        ----------
        params : dict, sequence or array
            float32 C-contiguous arrays. They are bound at the first update and again whenever others come (and must
            not be made read-only or reinterpreted in between); state is kept under the dict's keys or the positions.
            They may be others than at the last step: each parameter has its own step count for what depends on it,
            as in PyTorch; schedules see the optimizer's.
        grads : the same with the same keys or length
            Never written. A gradient of another float type or layout is converted (by index) into a temporary.
        grad_scale : float
            Multiplies every gradient first (1 / loss scale, 1 / number of accumulated batches).

        Returns
        -------
        UpdateInfo
            (step, lr, grad_norm, skipped).

        Raises
        ------
        TypeError, ValueError
            Any array or number that will not do. Nothing at all has changed then: not one parameter, nor the step.
        """
        bound, before, keys = self._bound, self.step_count, None
        ordered = None if bound is None else bound.binding.gradients_of(params, grads)
        if ordered is None:
            keys, params, ordered = _paired(params, grads)
        lr = self._lr_at(before + 1)
        if keys is not None and (bound is None or keys != bound.keys or not bound.binding.holds(params)):
            bound = self._bind(keys, params, before + 1, lr)
        norm = None
        if self._clip_norm is not None or self._skip_nonfinite:
            _grad_scale_range(grad_scale)
            norm = math.sqrt(self._squares(bound, ordered)) * abs(grad_scale)
            if self._skip_nonfinite and not math.isfinite(norm):
                return UpdateInfo(before, lr, norm, True)
            if self._clip_norm is not None and self._clip_norm < norm + 1e-6:
                grad_scale = grad_scale * (self._clip_norm / (norm + 1e-6))
        kept = self._bound, self._steps, self.state
        try:
            if bound is not self._bound:
                self._bound, self._steps, self.state = bound, self.steps, {**self.state, **bound.state}
            self._step(bound, before + 1, lr, grad_scale, ordered)
        except BaseException:
            if self.step_count == before:  # an interrupt can come just behind the native call too
                self._bound, self._steps, self.state = kept
            raise
        return UpdateInfo(before + 1, lr, norm, False)

    def __getstate__(self):
        """For pickle and copy: all but what is bound, which the next update binds anew; a count of one's own."""
        counter = Counter()
        counter.value = self.step_count
        return {**self.__dict__, "_bound": None, "_steps": self.steps, "_counter": counter}

    def _step(self, bound, step, lr, grad_scale, grads):
        """Change parameters and state and count the step, or raise and change nothing."""
        bound.binding.apply(self._rules(bound.groups, bound.makers, step, lr, grad_scale), grads, self._counter)

    def _squares(self, bound, grads):
        """The sum of the gradients' squares; not finite if one of them is not."""
        return bound.binding.measure(dispatch.active.layerwise.squares(), grads)

    def state_dict(self):
        """Return {"step_count": int, "steps": {key: int}, "state": {key: {name: array}}}, copies all.

        Hyper-parameters are the constructor's and not in it. `fastopt.save_state` writes it to a file.
        """
        state = {key: {name: array.copy() for name, array in entry.items()} for key, entry in self.state.items()}
        return {"step_count": self.step_count, "steps": self.steps, "state": state}

    def load_state_dict(self, state_dict):
        """Continue from what `state_dict` returned: the arrays are copied; parameters are the caller's to restore.

        Raises
        ------
        TypeError, ValueError
            Anything but such a dict with this optimizer's state arrays. Nothing has changed then.
        """
        if not (isinstance(state_dict, Mapping) and {"step_count", "steps", "state"} == set(state_dict)):
            got = sorted(map(str, state_dict)) if isinstance(state_dict, Mapping) else type(state_dict).__name__
            raise ValueError(f"state_dict: expected a dict of step_count, steps and state, got {got}")
        count, steps = state_dict["step_count"], state_dict["steps"]
        _step_count_range(count)
        for name in ("steps", "state"):
            if not isinstance(state_dict[name], Mapping):
                raise TypeError(f"{name}: expected a dict, got {type(state_dict[name]).__name__}")
        if steps.keys() != state_dict["state"].keys():
            raise ValueError(f"steps: expected the keys of state, got {list(steps)}")
        for key, taken in steps.items():
            _step_count_range(taken)
            if taken > count:
                raise ValueError(f"steps[{key!r}]: expected at most step_count {count}, got {taken}")
        state = {key: self._loaded(key, entry) for key, entry in state_dict["state"].items()}
        self._counter.value = int(count)
        self._bound, self._steps, self.state = None, {key: int(taken) for key, taken in steps.items()}, state

    def _loaded(self, key, entry):
        """Copies of one parameter's state arrays, checked by name, type and shape among themselves."""
        allowed = {*self._state_names, "average"}
        needed = set() if self._per_param else set(filter(None, self._states(self._hyper)))
        if not isinstance(entry, Mapping) or not needed <= set(entry) <= allowed:
            got = sorted(map(str, entry)) if isinstance(entry, Mapping) else type(entry).__name__
            raise ValueError(f"state[{key!r}]: expected arrays named {sorted(needed)}, got {got}")
        arrays = {}
        for name, array in entry.items():
            if not isinstance(array, np.ndarray) or array.dtype != np.float32:
                got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
                raise TypeError(f"state[{key!r}][{name!r}]: expected a float32 array, got {got}")
            arrays[name] = np.array(array, np.float32, order="C")
        if len({array.shape for array in arrays.values()}) > 1:
            raise ValueError(f"state[{key!r}]: expected arrays of one shape, got "
                             f"{sorted({array.shape for array in arrays.values()})}")
        return arrays

    def _lr_at(self, step):
        """The learning rate of one step; asked once a step, so that all groups and the info have the same."""
        lr = self._hyper["lr"]
        return lr(step) if callable(lr) else lr

    def _hyper_at(self, step, own, lr=None):
        """The hyper-parameters of one group at one step; `lr`: what `_lr_at` said, if it has been asked."""
        hyper = {**self._hyper, "lr": self._lr_at(step) if lr is None else lr, **own}
        if "lr" in own and callable(own["lr"]):
            hyper["lr"] = own["lr"](step)
        return hyper

    def _check(self, step):
        """Refuse hyper-parameters that would not do at this step."""
        group = Group({}, 0)
        self._rules([group], [self._maker(group)], step, self._lr_at(step), 1.0)

    def _maker(self, group):
        hyper = {**self._hyper, **group.own}
        del hyper["lr"]
        return functools.partial(self._rule, average=self._hyper["average_decay"] is not None, **hyper)

    @staticmethod
    def _rules(groups, makers, step, lr, grad_scale):
        """The rule of each group."""
        rules = []
        for (own, late), make in zip(groups, makers, strict=True):
            rate = own.get("lr", lr)
            rules.append(make(step=step - late, lr=rate(step) if callable(rate) else rate, grad_scale=grad_scale))
        return rules

    def _bind(self, keys, params, step, lr):
        """Bind these arrays, with the state they have or new state. The optimizer itself stays as it is."""
        groups, members, state, arrays, steps = [], [], {}, [], self.steps
        for key, param in zip(keys, params, strict=True):
            group = Group(self._own(key, param), self.step_count - steps.get(key, 0))
            if group not in groups:
                groups.append(group)
            members.append(groups.index(group))
            hyper = self._hyper_at(step, group.own, lr)
            state[key] = {name: self._state_of(key, name, param, hyper) for name in self._states(hyper) if name}
            if hyper["average_decay"] is not None:
                state[key]["average"] = self._state_of(key, "average", param, hyper)
            arrays.append((param, None, *map(state[key].get, ("average", *self._state_names))))
        binding = Binding(keys, arrays, self._state_names, members)
        return Bound(keys, params, groups, [self._maker(group) for group in groups], members, state, binding)

    def _own(self, key, param):
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
                             f"got {', '.join(map(repr, unknown))}")
        return dict(own)

    def _state_of(self, key, name, param, hyper):
        """The state array kept under `key`, or a new one."""
        kept = self.state.get(key, {}).get(name)
        if kept is not None:
            return kept
        if name == "average":
            return np.array(param, np.float32)
        return np.full(np.shape(param), self._initial(name, hyper), np.float32)

    @classmethod
    def _states(cls, hyper):
        """Names of the state arrays that these hyper-parameters need, in the rule's order; None: one left out."""
        return cls._state_names

    @staticmethod
    def _initial(name, hyper):
        """What a state array holds before the first step."""
        return 0.0


def _paired(params, grads):
    """Return keys, parameters and gradients as lists of one length."""
    if isinstance(params, Mapping):
        if not isinstance(grads, Mapping):
            raise TypeError(f"grads: expected a dict like params, got {type(grads).__name__}")
        if params.keys() != grads.keys():
            missing, extra = [key for key in params if key not in grads], [key for key in grads if key not in params]
            raise ValueError("grads: expected the keys of params, got "
                             + " and ".join([f"none for {key!r}" for key in missing]
                                            + [f"{key!r}, which params has not" for key in extra]))
        keys = list(params)
        return keys, list(params.values()), [grads[key] for key in keys]
    if isinstance(params, np.ndarray):
        return [0], [params], [grads]
    if not isinstance(params, Iterable):
        raise TypeError(f"params: expected a dict, a sequence or an array, got {type(params).__name__}")
    if isinstance(grads, (Mapping, np.ndarray)) or not isinstance(grads, Iterable):
        raise TypeError(f"grads: expected a sequence like params, got {type(grads).__name__}")
    params, grads = list(params), list(grads)
    if len(params) != len(grads):
        raise ValueError(f"grads: expected {len(params)} arrays, one for each of params, got {len(grads)}")
    return list(range(len(params))), params, grads
