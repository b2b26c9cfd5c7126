"""What every optimizer class is: hyper-parameters, state, and one native call for a whole model."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fastopt._runtime.driver import Binding


class UpdateInfo(NamedTuple):
    """What a step did: its number (1-based) and the learning rate it used."""

    step: int
    lr: float


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
        Of all parameters but those whose own `per_param` gives. Assign it to change the learning rate; a callable gets the step's number (1-based).
    step_count : int
        Steps taken.
    state : dict
        The state arrays by key and name.
    """

    def __init__(self, hyper, *, weight_decay=0.0, decoupled_weight_decay=0.0, l1=0.0, maximize=False,
                 clip_value=None, average_decay=None, per_param=None):
        if per_param is not None and not callable(per_param):
            raise TypeError(f"per_param: expected a function (key, array) -> dict, got {type(per_param).__name__}")
        self._hyper = dict(hyper, weight_decay=weight_decay, decoupled_weight_decay=decoupled_weight_decay, l1=l1,
                           maximize=maximize, clip_value=clip_value, average_decay=average_decay)
        self._per_param = per_param
        self._binding = None
        self._keys = []
        self._groups = [self._hyper]
        self.step_count = 0
        self.state = {}
        self._rules(1, 1.0)

    @property
    def lr(self):
        return self._hyper["lr"]

    @lr.setter
    def lr(self, lr):
        before, self._hyper["lr"] = self._hyper["lr"], lr
        try:
            self._rules(self.step_count + 1, 1.0)
        except (TypeError, ValueError):
            self._hyper["lr"] = before
            raise

    @property
    def averages(self):
        """The averaged parameters by key, once there are any; empty without average_decay."""
        return {key: state["average"] for key, state in self.state.items() if "average" in state}

    def update(self, params, grads, *, grad_scale=1.0):
        """Take one step: update every parameter in place, in one native call.

        Parameters
        ----------
        params : dict, sequence or array
            float32 C-contiguous arrays. They are bound at the first update and again whenever others come; state is
            kept under the dict's keys or the positions.
        grads : the same with the same keys or length
            Never written. A gradient of another float type or layout is converted (by index) into a temporary.
        grad_scale : float
            Multiplies every gradient first (1 / loss scale, 1 / number of accumulated batches).

        Returns
        -------
        UpdateInfo
            (step, lr).

        Raises
        ------
        TypeError, ValueError
            Any array or number that will not do. Nothing at all has changed then: not one parameter, nor the step.
        """
        keys, params, grads = _paired(params, grads)
        if self._binding is None or keys != self._keys or not self._binding.holds(params):
            self._bind(keys, params)
        step = self.step_count + 1
        self._step(step, grad_scale, grads)
        self.step_count = step
        return UpdateInfo(step, self._lr(self._hyper, step))

    def _step(self, step, grad_scale, grads):
        self._binding.apply(self._rules(step, grad_scale), grads)

    @staticmethod
    def _lr(hyper, step):
        lr = hyper["lr"]
        return lr(step) if callable(lr) else lr

    def _rules(self, step, grad_scale):
        """The rule of each group of parameters that share their hyper-parameters."""
        return [
            self._rule(step=step, grad_scale=grad_scale, average=hyper["average_decay"] is not None,
                       **{**hyper, "lr": self._lr(hyper, step)})
            for hyper in self._groups
        ]

    def _bind(self, keys, params):
        """Bind these arrays, with the state they have or new state. Nothing changes unless all of it succeeds."""
        groups, members, state, arrays = [], [], {}, []
        for key, param in zip(keys, params, strict=True):
            hyper = self._hyper_of(key, param)
            if hyper not in groups:
                groups.append(hyper)
            members.append(groups.index(hyper))
            names = [name for name in self._states(hyper) if name]
            if hyper["average_decay"] is not None:
                names.append("average")
            state[key] = {name: self._state_of(key, name, param) for name in names}
            arrays.append((param, None, *map(state[key].get, (*self._state_names, "average"))))
        binding = Binding(keys, arrays, ("param", "grad", *self._state_names, "average"), members)
        before, self._groups = self._groups, groups or [self._hyper]
        try:
            self._rules(self.step_count + 1, 1.0)
        except (TypeError, ValueError):
            self._groups = before
            raise
        self._keys, self._params, self._members, self._binding = keys, params, members, binding
        self.state = {**self.state, **state}

    def _hyper_of(self, key, param):
        """This parameter's hyper-parameters."""
        if self._per_param is None:
            return self._hyper
        own = self._per_param(key, param)
        if not isinstance(own, Mapping):
            raise TypeError(f"per_param({key!r}, …): expected a dict, got {type(own).__name__}")
        unknown = sorted(set(own) - set(self._hyper))
        if unknown:
            raise ValueError(f"per_param({key!r}, …): expected hyper-parameters among {', '.join(self._hyper)}, "
                             f"got {', '.join(unknown)}")
        return {**self._hyper, **own}

    def _state_of(self, key, name, param):
        """The state array kept under `key`, or a new one."""
        kept = self.state.get(key, {}).get(name)
        if kept is not None:
            return kept
        return np.array(param, np.float32) if name == "average" else np.zeros(np.shape(param), np.float32)

    @classmethod
    def _states(cls, hyper):
        """Names of the state arrays that these hyper-parameters need, in the rule's order; None: one left out."""
        return cls._state_names


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
    if isinstance(grads, (Mapping, np.ndarray)):
        raise TypeError(f"grads: expected a sequence like params, got {type(grads).__name__}")
    params, grads = list(params), list(grads)
    if len(params) != len(grads):
        raise ValueError(f"grads: expected {len(params)} arrays, one for each of params, got {len(grads)}")
    return list(range(len(params))), params, grads
