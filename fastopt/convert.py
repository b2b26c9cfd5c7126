"""Optimizer state to and from torch.optim's state_dict layout, so that a training run can switch libraries midway.

torch is not imported: `to_torch` returns NumPy arrays, `from_torch` takes NumPy arrays or torch's tensors. To torch::

    state_dict = fastopt.convert.to_torch(opt, keys=["fc1.weight", "fc1.bias", …])     # in torch's parameter order
    state_dict["state"] = {i: {name: torch.from_numpy(array) for name, array in entry.items()}
                           for i, entry in state_dict["state"].items()}
    torch_optimizer.load_state_dict(state_dict)

and from torch::

    fastopt.convert.from_torch(opt, torch_optimizer.state_dict(), keys=["fc1.weight", "fc1.bias", …])

The caller moves the parameters themselves. If a weight is transposed on the way, so must be its state arrays.

State arrays, with torch 2.13's names for them, and the differences other than rounding:

SGD
    buf: momentum_buffer. torch keeps no step count.
Adagrad
    h: sum. eps_inside_sqrt is not in torch.
RMSprop
    v: square_avg, grad_avg: grad_avg, buf: momentum_buffer. With centered=True, v − ḡ² may round to a negative number:
    it is taken as 0 here and gives NaN in torch. eps_inside_sqrt is not in torch.
Adadelta
    v: square_avg, u: acc_delta.
Adam, AdamW
    m: exp_avg, v: exp_avg_sq, vmax: max_exp_avg_sq. torch divides √v by √(1 − β₂ᵗ) and adds eps; here α and eps are
    multiplied by √(1 − β₂ᵗ) first, which is the same in exact arithmetic. eps_hat and bias_correction are not in torch.

torch may use fused multiply-adds, so one step may differ by a few units in the last place.
Not converted: the averages of average_decay (in fastopt they start again from the parameters; torch has swa_utils);
clip_value, clip_norm and skip_nonfinite (separate calls in torch); a function given as lr (torch gets its value at the
next step). torch stores the step count in float32, which is exact up to 2²⁴.
"""

import contextlib
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastopt._adam import Adam, AdamW
from fastopt._adaptive import Adadelta, Adagrad, RMSprop
from fastopt._models import listed
from fastopt._optimizer import Optimizer
from fastopt._runtime.arrays import is_masked
from fastopt._sgd import SGD
from fastopt._typing import StateDict

__all__ = ["from_torch", "to_torch"]


class _Layout(NamedTuple):
    """What torch.optim's state_dict holds for one optimizer class."""

    names: dict[str, str]
    """From fastopt's names of the state arrays to torch's."""
    hyper: tuple[str, ...]
    """Hyper-parameters with the same name and meaning in both, in addition to lr, weight_decay and maximize."""
    extra: dict[str, Any]
    """Default values of torch's options that fastopt does not have."""
    steps: bool = True
    """Whether torch stores a step count."""


_SWITCHES = {"foreach": None, "differentiable": False}
_ADAM = _Layout({"m": "exp_avg", "v": "exp_avg_sq", "vmax": "max_exp_avg_sq"}, ("betas", "eps", "amsgrad"),
                {**_SWITCHES, "capturable": False, "fused": None, "decoupled_weight_decay": False})
_LAYOUTS: dict[type[Optimizer], _Layout] = {
    SGD: _Layout({"buf": "momentum_buffer"}, ("momentum", "dampening", "nesterov"), {**_SWITCHES, "fused": None},
                 steps=False),
    Adagrad: _Layout({"h": "sum"}, ("lr_decay", "eps", "initial_accumulator_value"), {**_SWITCHES, "fused": None}),
    RMSprop: _Layout({"v": "square_avg", "grad_avg": "grad_avg", "buf": "momentum_buffer"},
                     ("alpha", "eps", "momentum", "centered"), {**_SWITCHES, "capturable": False}),
    Adadelta: _Layout({"v": "square_avg", "u": "acc_delta"}, ("rho", "eps"), {**_SWITCHES, "capturable": False}),
    AdamW: _ADAM,
    Adam: _ADAM,
}
_WITHOUT_COUNTERPART = {"l1": 0.0, "eps_hat": False, "eps_inside_sqrt": False, "decoupled_weight_decay": 0.0,
                        "bias_correction": True}
"""Hyper-parameters that torch does not have, and the values that mean what torch does."""


def to_torch(optimizer: Optimizer, keys: Iterable[Hashable] | None = None) -> StateDict:
    """Return the optimizer's state in the layout of ``state_dict()`` of torch.optim's class of the same name.

    Parameters
    ----------
    optimizer : SGD, Adagrad, RMSprop, Adadelta, Adam or AdamW
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
        would continue differently: l1, eps_hat, eps_inside_sqrt, bias_correction=False, decoupled_weight_decay (except
        in Adam without weight_decay). With per_param: the optimizer has not updated all of `keys` since its state was
        loaded.

    Notes
    -----
    The module's docstring lists the differences and what is not converted.
    """
    layout = _layout(optimizer)
    saved = optimizer.state_dict()
    order = _unique(saved["state"] if keys is None else keys)
    unknown = [key for key in order if key not in saved["state"]]
    if unknown:
        raise ValueError(f"keys: expected keys of the optimizer's state, got {unknown[0]!r}")
    state = {}
    for i, key in enumerate(order):
        entry = saved["state"][key]
        arrays = {name: entry[ours] for ours, name in layout.names.items() if ours in entry}
        if layout.steps and saved["steps"][key]:
            arrays = {"step": np.array(saved["steps"][key], np.float32), **arrays}
        if arrays:
            state[i] = arrays
    groups = []
    for own, members in _groups(optimizer, order):
        groups.append({**_group(optimizer, layout, own), "params": members})
    return {"state": state, "param_groups": groups}


def from_torch(optimizer: Optimizer, state_dict: Mapping[str, Any], keys: Iterable[Hashable] | None = None, *,
               step_count: int | None = None) -> None:
    """Load the state of a torch optimizer of the same name, so that training continues where torch's stopped.

    Parameters
    ----------
    optimizer : SGD, Adagrad, RMSprop, Adadelta, Adam or AdamW
        Constructed with the same hyper-parameters: those in `state_dict` are ignored.
    state_dict : dict
        What torch's ``state_dict()`` returns, with float32 tensors on the CPU or NumPy arrays, not masked ones.
    keys : iterable, optional
        For each of torch's parameters, in torch's order, its key in the dict given to `optimizer.update`
        (``list(params)``, for example). Default: the positions 0, 1, …, as for a sequence of parameters. A parameter
        without state in torch (it never had a gradient) starts with new state at its own step 1.
    step_count : int, optional
        For SGD only, for which torch stores no step count. Default: 1 if there are momentum buffers, otherwise 0.

    Raises
    ------
    TypeError, ValueError
        The optimizer is of another class; `state_dict` has another layout or lacks state that these hyper-parameters
        need; `keys` do not match it. The optimizer is unchanged.

    Notes
    -----
    The module's docstring lists the differences and what is not converted.
    """
    layout = _layout(optimizer)
    try:
        indices = [i for group in state_dict["param_groups"] for i in group["params"]]
        entries = dict(state_dict["state"])
    except (TypeError, KeyError, ValueError):
        raise ValueError("state_dict: expected a dict with state and param_groups as torch.optim returns it, got "
                         f"{state_dict!r:.100}") from None
    order = list(range(len(indices))) if keys is None else _unique(keys)
    if len(order) != len(indices):
        raise ValueError(f"keys: expected {len(indices)} keys, one for each of torch's parameters, got {len(order)}")
    missing = [key for key in optimizer.state if key not in order]
    if missing:
        raise ValueError(f"keys: expected to include {missing[0]!r}, which the optimizer has state for, got "
                         f"{listed(order)}")
    ours = {name: our for our, name in layout.names.items()}
    state: dict[Hashable, dict[str, np.ndarray]] = {}
    steps: dict[Hashable, int] = {}
    for i, key in zip(indices, order, strict=True):
        entry = entries.get(i, {})
        if not isinstance(entry, Mapping):
            raise ValueError(f"state_dict: expected a dict of arrays for each parameter, got {entry!r:.100} for {i!r}")
        arrays = {name: value for name, value in entry.items() if value is not None}
        if "step" in arrays and layout.steps:
            steps[key] = _step(i, arrays.pop("step"))
        for name, value in arrays.items():
            if is_masked(value):
                raise TypeError(f"state_dict: expected arrays without a mask, got a {type(value).__name__} for "
                                f"{name!r} of {i!r}")
        unknown = [name for name in arrays if name not in ours]
        if unknown:
            raise ValueError(f"state_dict: expected arrays named {', '.join(ours)} for {type(optimizer).__name__}, "
                             f"got {unknown[0]!r}")
        if arrays:
            state[key] = {ours[name]: np.asarray(value) for name, value in arrays.items()}
            needed = set(filter(None, optimizer._states(optimizer._hyper)))
            if optimizer._per_param is None and set(state[key]) != needed:
                names = ", ".join(layout.names[name] for name in sorted(needed))
                raise ValueError(f"state_dict: expected arrays named {names} with these hyper-parameters, got "
                                 f"{', '.join(arrays)}")
    if layout.steps:
        if step_count is not None:
            raise ValueError(f"step_count: expected None for {type(optimizer).__name__}, whose state_dict has it, got "
                             f"{step_count!r}")
        step_count = max(steps.values(), default=0)
    elif step_count is None:
        step_count = 1 if state else 0
    steps = {key: steps.get(key, step_count) for key in state}
    optimizer.load_state_dict({"step_count": step_count, "steps": steps, "state": state})


def _step(i: Any, value: Any) -> int:
    """A step count of torch's: a number, an array or a tensor of shape ()."""
    step = None
    if getattr(value, "shape", ()) == () and not is_masked(value):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            step = int(value)
    if step is None or step != value:
        raise ValueError(f"state_dict: expected a whole number as the step of {i!r}, got {value!r:.100}")
    return step


def _layout(optimizer: Optimizer) -> _Layout:
    for kind, layout in _LAYOUTS.items():
        if isinstance(optimizer, kind):
            return layout
    raise TypeError(f"optimizer: expected one of {', '.join(kind.__name__ for kind in _LAYOUTS)}, "
                    f"got {type(optimizer).__name__}")


def _unique(keys: Iterable[Hashable]) -> list[Hashable]:
    try:
        order = None if isinstance(keys, (str, bytes)) else list(keys)
        distinct = set(order or ())
    except TypeError:       # not iterable, or keys that are not hashable
        order = None
    if order is None:
        raise TypeError("keys: expected the parameters' keys in torch's order, such as ['w', 'b'], got "
                        f"{type(keys).__name__} {keys!r:.100}")
    if len(distinct) != len(order):
        raise ValueError(f"keys: expected distinct keys, got {listed(order)}")
    return order


def _groups(optimizer: Optimizer, keys: list[Hashable]) -> list[tuple[dict[str, Any], list[int]]]:
    """Each distinct set of overrides that per_param returned, with the positions in `keys` of its parameters."""
    if optimizer._per_param is None:
        return [({}, list(range(len(keys))))]
    bounds = optimizer._progress.snapshot.bounds
    if not bounds or not set(keys) <= bounds.keys():
        raise ValueError("optimizer: with per_param, expected one whose updates included all of keys since its state "
                         f"was loaded, got keys {listed(keys)}")
    groups: list[tuple[dict[str, Any], list[int]]] = []
    for i, key in enumerate(keys):
        bound = bounds[key]
        own = bound.groups[bound.members[bound.keys.index(key)]].own
        for known, members in groups:
            if own == known:
                members.append(i)
                break
        else:
            groups.append((own, [i]))
    return groups


def _group(optimizer: Optimizer, layout: _Layout, own: dict[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of one group under torch's names."""
    hyper = optimizer._hyper_at(optimizer.step_count + 1, own)
    names = ("lr", "weight_decay", "maximize", *layout.hyper)
    group: dict[str, Any] = {**{name: hyper[name] for name in names}, **layout.extra}
    if isinstance(optimizer, AdamW):
        group["decoupled_weight_decay"] = True
    elif isinstance(optimizer, Adam) and hyper["decoupled_weight_decay"] and not hyper["weight_decay"]:
        group["weight_decay"], group["decoupled_weight_decay"] = hyper["decoupled_weight_decay"], True
        hyper["decoupled_weight_decay"] = 0.0
    for name, value in _WITHOUT_COUNTERPART.items():
        if hyper.get(name, value) != value:
            raise ValueError(f"{name}: expected {value!r}, because torch.optim does not have it, got "
                             f"{hyper[name]!r}")
    return group
