"""Optimizer state to and from torch.optim's state_dict layout, so that training can move over in the middle.

The arrays are NumPy's on both sides and torch is not imported. To torch::

    given = fastopt.convert.to_torch(opt, keys=["fc1.weight", "fc1.bias", …])      # in torch's order of parameters
    given["state"] = {i: {name: torch.from_numpy(array) for name, array in entry.items()}
                      for i, entry in given["state"].items()}
    torch_optimizer.load_state_dict(given)

and from torch, whose tensors can be given as they are::

    fastopt.convert.from_torch(opt, torch_optimizer.state_dict(), keys=["fc1.weight", "fc1.bias", …])

Parameters are moved by the caller, shapes and all: where a layer's weights are transposed, so must its state arrays be.

State arrays, in torch 2.13's names, and what differs beside the rounding:

SGD
    buf: momentum_buffer. torch keeps no step count.
Adagrad
    h: sum. eps_inside_sqrt is not in torch.
RMSprop
    v: square_avg, grad_avg: grad_avg, buf: momentum_buffer. Centred, v − ḡ² rounded below 0 is 0 here and gives NaN in
    torch. eps_inside_sqrt is not in torch.
Adadelta
    v: square_avg, u: acc_delta.
Adam, AdamW
    m: exp_avg, v: exp_avg_sq, vmax: max_exp_avg_sq. torch divides √v by √(1 − β₂ᵗ) and adds eps; here α and eps are
    multiplied by √(1 − β₂ᵗ) first, which is the same in exact arithmetic. eps_hat is not in torch.

Everywhere torch may fuse a multiplication with an addition, so that a step differs by a few units of its last place.
Not carried over: the averages of average_decay (here they start again from the parameters; torch has swa_utils),
clip_value, clip_norm and skip_nonfinite (calls of their own in torch), and a function as lr (torch gets the next step's
value). torch counts steps in float32, which ends at 2²⁴.
"""

from typing import NamedTuple

import numpy as np

from fastopt._adam import Adam, AdamW
from fastopt._adaptive import Adadelta, Adagrad, RMSprop
from fastopt._sgd import SGD

__all__ = ["from_torch", "to_torch"]


class _Layout(NamedTuple):
    """How torch.optim lays out one class."""

    names: dict
    """Our state arrays' names: torch's."""
    hyper: tuple
    """Hyper-parameters of the same name and meaning, beside lr, weight_decay and maximize."""
    extra: dict
    """torch's switches that have no counterpart, as they are by default."""
    steps: bool = True
    """Whether torch counts the steps."""


_SWITCHES = {"foreach": None, "differentiable": False}
_ADAM = _Layout({"m": "exp_avg", "v": "exp_avg_sq", "vmax": "max_exp_avg_sq"}, ("betas", "eps", "amsgrad"),
                {**_SWITCHES, "capturable": False, "fused": None, "decoupled_weight_decay": False})
_LAYOUTS = {
    SGD: _Layout({"buf": "momentum_buffer"}, ("momentum", "dampening", "nesterov"), {**_SWITCHES, "fused": None},
                 steps=False),
    Adagrad: _Layout({"h": "sum"}, ("lr_decay", "eps", "initial_accumulator_value"), {**_SWITCHES, "fused": None}),
    RMSprop: _Layout({"v": "square_avg", "grad_avg": "grad_avg", "buf": "momentum_buffer"},
                     ("alpha", "eps", "momentum", "centered"), {**_SWITCHES, "capturable": False}),
    Adadelta: _Layout({"v": "square_avg", "u": "acc_delta"}, ("rho", "eps"), {**_SWITCHES, "capturable": False}),
    AdamW: _ADAM,
    Adam: _ADAM,
}
_WITHOUT_COUNTERPART = ("l1", "eps_hat", "eps_inside_sqrt", "decoupled_weight_decay")


def to_torch(optimizer, keys=None):
    """Return the optimizer's state as torch.optim's ``state_dict()`` of the class of the same name.

    Parameters
    ----------
    optimizer : SGD, Adagrad, RMSprop, Adadelta, Adam or AdamW
    keys : sequence, optional
        The keys of the parameters in torch's order; without it the order in which the optimizer met them.

    Returns
    -------
    dict
        ``{"state": {i: {name: array}}, "param_groups": [dict]}``, arrays copied, ``step`` (all but SGD) an array of
        shape (). One group, or with per_param one for each set of hyper-parameters that it gave, in the order of
        their first parameters: the torch optimizer must be made with the same groups.

    Raises
    ------
    TypeError
        Another optimizer.
    ValueError
        Keys that the optimizer does not have, or a hyper-parameter that torch's class has no counterpart for and with
        which training would go on differently: l1, eps_hat, eps_inside_sqrt, and decoupled_weight_decay but in Adam
        without weight_decay.

    Notes
    -----
    The module's docstring says what differs and what is not carried over.
    """
    layout = _layout(optimizer)
    keys = _unique(optimizer.state if keys is None else keys)
    unknown = [key for key in keys if key not in optimizer.state]
    if unknown:
        raise ValueError(f"keys: expected those of the optimizer's state, got {unknown[0]!r}")
    state = {}
    for i, key in enumerate(keys):
        arrays = {name: optimizer.state[key][ours].copy() for ours, name in layout.names.items()
                  if ours in optimizer.state[key]}
        if layout.steps and optimizer.step_count:
            arrays = {"step": np.array(optimizer.steps[key], np.float32), **arrays}
        if arrays:
            state[i] = arrays
    groups = []
    for own, members in _groups(optimizer, keys):
        groups.append({**_group(optimizer, layout, own), "params": members})
    return {"state": state, "param_groups": groups}


def from_torch(optimizer, state_dict, keys=None, *, step_count=None):
    """Give the optimizer the state of a torch optimizer of the same name, so that it goes on where that one stopped.

    Parameters
    ----------
    optimizer : SGD, Adagrad, RMSprop, Adadelta, Adam or AdamW
        Made with the same hyper-parameters: those in the state_dict are not looked at.
    state_dict : dict
        What torch's ``state_dict()`` returns; float32 tensors on the CPU or NumPy arrays.
    keys : sequence, optional
        The keys, in `optimizer.update`'s params, of torch's parameters in their order (`list(params)`, say); without
        it positions, as for a sequence of parameters. A parameter that torch has no state for (it never had a
        gradient) begins here with new state and its own step 1.
    step_count : int, optional
        For SGD, which has no step count in torch; without it 1 if there are momentum buffers, otherwise 0.

    Raises
    ------
    TypeError, ValueError
        Another optimizer, another layout, state that the optimizer lacks or does not know. The optimizer has not
        changed then.

    Notes
    -----
    The module's docstring says what differs and what is not carried over.
    """
    layout = _layout(optimizer)
    try:
        order = [i for group in state_dict["param_groups"] for i in group["params"]]
        entries = dict(state_dict["state"])
    except (TypeError, KeyError, ValueError):
        raise ValueError("state_dict: expected a dict of state and param_groups as torch.optim's") from None
    keys = list(range(len(order))) if keys is None else _unique(keys)
    if len(keys) != len(order):
        raise ValueError(f"keys: expected {len(order)}, one for each of torch's parameters, got {len(keys)}")
    if any(key not in keys for key in optimizer.state):
        raise ValueError(f"keys: expected those of the optimizer's state among them, got {keys}")
    ours = {name: our for our, name in layout.names.items()}
    state, steps = {}, {}
    for i, key in zip(order, keys, strict=True):
        try:
            arrays = {name: value for name, value in entries.get(i, {}).items() if value is not None}
            if "step" in arrays and layout.steps:
                steps[key] = int(arrays.pop("step"))
        except (AttributeError, TypeError, ValueError, OverflowError):      # no dict; a step that is no number
            raise ValueError(f"state_dict: expected a dict of arrays and a step for each parameter, got "
                             f"{entries[i]!r:.100} for {i!r}") from None
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
            raise ValueError(f"step_count: expected none, as {type(optimizer).__name__} has it in the state_dict")
        step_count = max(steps.values(), default=0)
    elif step_count is None:
        step_count = 1 if state else 0
    steps = {key: steps.get(key, step_count) for key in state}
    optimizer.load_state_dict({"step_count": step_count, "steps": steps, "state": state})


def _layout(optimizer):
    for kind, layout in _LAYOUTS.items():
        if isinstance(optimizer, kind):
            return layout
    raise TypeError(f"optimizer: expected one of {', '.join(kind.__name__ for kind in _LAYOUTS)}, "
                    f"got {type(optimizer).__name__}")


def _unique(keys):
    keys = list(keys)
    if len(set(keys)) != len(keys):
        raise ValueError(f"keys: expected each one once, got {keys}")
    return keys


def _groups(optimizer, keys):
    """For each set of overrides that per_param gave: the set, and the positions in `keys` of its parameters."""
    if optimizer._per_param is None:
        return [({}, list(range(len(keys))))]
    bound = optimizer._bound
    if bound is None or not set(keys) <= set(bound.keys):
        raise ValueError("optimizer: expected one whose last update was of these parameters, as it has per_param")
    groups = {}
    for i, key in enumerate(keys):
        groups.setdefault(bound.members[bound.keys.index(key)], []).append(i)
    return [(bound.groups[member].own, members) for member, members in groups.items()]


def _group(optimizer, layout, own):
    """torch's hyper-parameters of one group."""
    hyper = optimizer._hyper_at(optimizer.step_count + 1, own)
    group = {name: hyper[name] for name in ("lr", "weight_decay", "maximize", *layout.hyper)} | layout.extra
    if isinstance(optimizer, AdamW):
        group["decoupled_weight_decay"] = True
    elif isinstance(optimizer, Adam) and hyper["decoupled_weight_decay"] and not hyper["weight_decay"]:
        group["weight_decay"], group["decoupled_weight_decay"] = hyper["decoupled_weight_decay"], True
        hyper["decoupled_weight_decay"] = 0.0
    for name in _WITHOUT_COUNTERPART:
        if hyper.get(name):
            raise ValueError(f"{name}: expected none, for torch.optim has no counterpart, got {hyper[name]!r}")
    return group
