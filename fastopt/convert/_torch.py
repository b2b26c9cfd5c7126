"""Optimizer state to and from torch.optim's state_dict layout. The package's docstring lists the differences."""

import reprlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastopt._adam import Adam, Adamax, AdamW, NAdam, RAdam, _nadam_momenta
from fastopt._adaptive import Adadelta, Adagrad, RMSprop
from fastopt._optimizer import Optimizer
from fastopt._runtime.arrays import is_masked
from fastopt._sgd import ASGD, SGD, SGDM, Momentum
from fastopt._sign import Rprop
from fastopt._typing import StateDict
from fastopt.convert._inside import groups, has_overrides, hyper_of, state_names
from fastopt.convert._shared import (
    Hyper,
    Scaled,
    States,
    known,
    layout_of,
    refuse,
    require_all,
    same,
    to_ours,
    to_theirs,
    unique,
    whole,
)

LIBRARY = "torch.optim"
_ORDER = "torch's order"


class _Layout(NamedTuple):
    """What torch.optim's state_dict holds for one optimizer class."""

    states: States
    hyper: tuple[str, ...]
    """Hyper-parameters with the same name and meaning in both, in addition to lr and maximize."""
    extra: dict[str, Any]
    """Default values of torch's options that fastopt does not have."""
    steps: bool = True
    """Whether torch stores a step count."""
    derived: Callable[[int, Hyper], dict[str, float]] = lambda step, hyper: {}
    """Numbers that torch stores for a parameter and that follow from its step count."""
    group: Callable[[Hyper], dict[str, Any]] = lambda hyper: {}
    """Hyper-parameters under another name."""


def _averaging(step: int, hyper: Hyper) -> dict[str, float]:
    """ASGD's rate and weight of the next step."""
    eta = hyper["lr"] / (1.0 + hyper["lambd"] * hyper["lr"] * step) ** hyper["alpha"]
    return {"eta": eta, "mu": 1.0 / max(1.0, step - hyper["t0"])}


def _mu_product(step: int, hyper: Hyper) -> dict[str, float]:
    return {"mu_product": _nadam_momenta(step, hyper["betas"][0], hyper["momentum_decay"])[2]}


_SWITCHES = {"foreach": None, "differentiable": False}
_CAPTURABLE = {**_SWITCHES, "capturable": False}
_FUSED = {**_SWITCHES, "fused": None}
_DECOUPLED = {**_CAPTURABLE, "decoupled_weight_decay": False}
_MOMENTS = same(exp_avg="m", exp_avg_sq="v")
_ADAM = _Layout({**_MOMENTS, **same(max_exp_avg_sq="vmax")}, ("weight_decay", "betas", "eps", "amsgrad"),
                {**_DECOUPLED, "fused": None})
_LAYOUTS: dict[type[Optimizer], _Layout] = {
    SGD: _Layout(same(momentum_buffer="buf"), ("weight_decay", "momentum", "dampening", "nesterov"), _FUSED, False),
    Momentum: _Layout({"momentum_buffer": Scaled("v", lambda hyper: -1.0 / hyper["lr"])},
                      ("weight_decay", "momentum", "nesterov"), {**_FUSED, "dampening": 0.0}, False),
    SGDM: _Layout(same(momentum_buffer="m"), ("weight_decay",), {**_FUSED, "nesterov": False}, False,
                  group=lambda hyper: {"momentum": hyper["beta"], "dampening": hyper["beta"]}),
    ASGD: _Layout(same(ax="ax"), ("weight_decay", "lambd", "alpha", "t0"), _CAPTURABLE, derived=_averaging),
    Adagrad: _Layout(same(sum="h"), ("weight_decay", "lr_decay", "eps", "initial_accumulator_value"), _FUSED),
    RMSprop: _Layout(same(square_avg="v", grad_avg="grad_avg", momentum_buffer="buf"),
                     ("weight_decay", "alpha", "eps", "momentum", "centered"), _CAPTURABLE),
    Adadelta: _Layout(same(square_avg="v", acc_delta="u"), ("weight_decay", "rho", "eps"), _CAPTURABLE),
    AdamW: _ADAM,
    Adam: _ADAM,
    Adamax: _Layout(same(exp_avg="m", exp_inf="u"), ("weight_decay", "betas", "eps"), _CAPTURABLE),
    NAdam: _Layout(_MOMENTS, ("weight_decay", "betas", "eps", "momentum_decay"), _DECOUPLED, derived=_mu_product),
    RAdam: _Layout(_MOMENTS, ("weight_decay", "betas", "eps"), _DECOUPLED),
    Rprop: _Layout(same(prev="prev", step_size="step_size"), ("etas", "step_sizes"), _CAPTURABLE),
}


def to_torch(optimizer: Optimizer, keys: Iterable[Hashable] | None = None) -> StateDict:
    """Return the optimizer's state in the layout of ``state_dict()`` of torch.optim's class of the same name.

    Momentum and SGDM become torch's SGD.

    Parameters
    ----------
    optimizer : SGD, Momentum, SGDM, ASGD, Adagrad, RMSprop, Adadelta, Adam, AdamW, Adamax, NAdam, RAdam or Rprop
    keys : iterable, optional
        The parameters' keys in torch's order. Default: the order in which the optimizer first updated them.

    Returns
    -------
    dict
        ``{"state": {i: {name: array}}, "param_groups": [dict]}``. Arrays are copies; ``step`` (absent for SGD) is an
        array of shape (). Without per_param there is one group. With it there is one group for each distinct set of
        overrides, ordered by its first parameter; the torch optimizer must be constructed with the same groups.

    Raises
    ------
    TypeError
        The optimizer is of another class.
    ValueError
        A key is unknown or repeated; or a hyper-parameter is in use that torch's class does not have, so that training
        would continue differently: l1, eps_hat, eps_inside_sqrt, decoupled_weight_decay (except in Adam, NAdam and
        RAdam without weight_decay), Rprop's weight_decay; or Momentum's lr is not one constant > 0. With per_param: the
        optimizer's last update did not include all of `keys`.

    Notes
    -----
    `fastopt.convert`'s docstring lists the differences and what is not converted.
    """
    layout = layout_of(optimizer, _LAYOUTS, LIBRARY)
    saved = optimizer.state_dict()
    order = known(saved, keys, _ORDER)
    param_groups, state = [], {}
    for own, members in groups(optimizer, order):
        hyper = hyper_of(optimizer, own)
        param_groups.append({**_group(optimizer, layout, hyper), "params": members})
        for i in members:
            step = saved["steps"][order[i]]
            if not step:
                continue        # torch has no entry before a parameter's first step
            arrays = to_theirs(layout.states, optimizer, hyper, saved["state"][order[i]], LIBRARY)
            if layout.steps:
                numbers = {"step": step, **layout.derived(step, hyper)}
                arrays = {**{name: np.array(number, np.float32) for name, number in numbers.items()}, **arrays}
            if arrays:
                state[i] = arrays
    return {"state": dict(sorted(state.items())), "param_groups": param_groups}


def from_torch(optimizer: Optimizer, state_dict: Mapping[str, Any], keys: Iterable[Hashable] | None = None, *,
               step_count: int | None = None) -> None:
    """Load the state of a torch optimizer of the same name, so that training continues where torch's stopped.

    Parameters
    ----------
    optimizer : SGD, Momentum, SGDM, ASGD, Adagrad, RMSprop, Adadelta, Adam, AdamW, Adamax, NAdam, RAdam or Rprop
        Constructed with the same hyper-parameters: those in `state_dict` are ignored.
    state_dict : dict
        What torch's ``state_dict()`` returns, with float32 tensors on the CPU or NumPy arrays, not masked ones.
    keys : iterable, optional
        For each of torch's parameters, in torch's order, its key in the dict given to ``opt.update``
        (``list(params)``, for example). Default: the positions 0, 1, …, as for a sequence of parameters. A parameter
        without state in torch (it never had a gradient) starts with new state at its own step 1.
    step_count : int, optional
        For SGD, Momentum and SGDM only, for which torch stores no step count. Default: 1 if there are momentum buffers,
        otherwise 0.

    Raises
    ------
    TypeError, ValueError
        The optimizer is of another class; `state_dict` has another layout or lacks state that these hyper-parameters
        need; `keys` do not match it. The optimizer is unchanged.

    Notes
    -----
    `fastopt.convert`'s docstring lists the differences and what is not converted.
    """
    layout = layout_of(optimizer, _LAYOUTS, LIBRARY)
    try:
        indices = [i for group in state_dict["param_groups"] for i in group["params"]]
        entries = dict(state_dict["state"])
    except (TypeError, LookupError, ValueError):
        raise ValueError("state_dict: expected a dict with state and param_groups as torch.optim returns it, got "
                         f"{state_dict!r:.100}") from None
    order = list(range(len(indices))) if keys is None else unique(keys, _ORDER)
    if len(order) != len(indices):
        raise ValueError(f"keys: expected {len(indices)} keys, one for each of torch's parameters, got {len(order)}")
    require_all(optimizer, order)
    hyper = hyper_of(optimizer)
    state: dict[Hashable, dict[str, np.ndarray]] = {}
    steps: dict[Hashable, int] = {}
    for i, key in zip(indices, order, strict=True):
        entry = entries.get(i, {})
        if not isinstance(entry, Mapping):
            raise ValueError(f"state_dict: expected a dict of arrays for each parameter, got {entry!r:.100} for "
                             f"{reprlib.repr(i)}")
        arrays = {name: value for name, value in entry.items() if value is not None}
        if "step" in arrays and layout.steps:
            steps[key] = whole("state_dict", f"the step of {reprlib.repr(i)}", arrays.pop("step"))
            _check_derived(layout.derived(steps[key], hyper), arrays, i)
        for name, value in arrays.items():
            if is_masked(value):
                raise TypeError(f"state_dict: expected arrays without a mask, got a {type(value).__name__} for "
                                f"{reprlib.repr(name)} of {reprlib.repr(i)}")
        unknown = [name for name in arrays if name not in layout.states]
        if unknown:
            raise ValueError(f"state_dict: expected arrays named {', '.join(layout.states)} for "
                             f"{type(optimizer).__name__}, got {reprlib.repr(unknown[0])}")
        if arrays:
            arrays = {name: np.asarray(value) for name, value in arrays.items()}
            state[key] = to_ours(layout.states, optimizer, hyper, arrays, LIBRARY)
            needed = state_names(optimizer)
            if not has_overrides(optimizer) and set(state[key]) != set(needed):
                names = ", ".join(name for name, scaled in layout.states.items() if scaled.name in needed)
                raise ValueError(f"state_dict: expected arrays named {names} with these hyper-parameters, got "
                                 f"{', '.join(arrays)}")
    if layout.steps:
        if step_count is not None:
            raise ValueError(f"step_count: expected None for {type(optimizer).__name__}, whose state_dict has it, got "
                             f"{reprlib.repr(step_count)}")
        step_count = max(steps.values(), default=0)
    elif step_count is None:
        step_count = 1 if state else 0
    steps = {key: steps.get(key, step_count) for key in state}
    optimizer.load_state_dict({"step_count": step_count, "steps": steps, "state": state})


def _check_derived(expected: dict[str, float], arrays: dict[str, Any], i: Any) -> None:
    """Take the numbers that follow from the step count out of `arrays`; NAdam's product must be the one expected."""
    for name, number in expected.items():
        given = float(arrays.pop(name, number))
        if name == "mu_product" and not abs(given - number) <= 1e-4 * number + 1e-15:
            raise ValueError(f"state_dict: expected {number:.7g} as the mu_product of {reprlib.repr(i)}, which follows "
                             f"from its step, betas and momentum_decay, got {given:.7g}")


def _group(optimizer: Optimizer, layout: _Layout, hyper: dict[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of one group under torch's names."""
    group = {**{name: hyper[name] for name in ("lr", "maximize", *layout.hyper)}, **layout.extra,
             **layout.group(hyper)}
    if isinstance(optimizer, AdamW):
        group["decoupled_weight_decay"] = True
    elif "decoupled_weight_decay" in group and hyper["decoupled_weight_decay"] and not hyper["weight_decay"]:
        group["weight_decay"], group["decoupled_weight_decay"] = hyper["decoupled_weight_decay"], True
        hyper = {**hyper, "decoupled_weight_decay": 0.0}
    refuse(hyper, (*layout.hyper, "maximize"), LIBRARY)
    return group
