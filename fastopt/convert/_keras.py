"""Optimizer state to and from what a Keras 3 optimizer saves. The package's docstring lists the differences."""

import reprlib
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastopt._adam import Adam, Adamax, AdamW, NAdam, _nadam_momenta
from fastopt._adaptive import Adadelta, Adagrad, RMSprop
from fastopt._layerwise import LAMB
from fastopt._optimizer import Optimizer
from fastopt._sgd import SGD, SGDM, Momentum
from fastopt._sign import Lion
from fastopt._typing import Float32Array
from fastopt.convert._inside import decoupled_name, has_overrides, hyper_of, state_names
from fastopt.convert._shared import (
    Scaled,
    States,
    array_of,
    common_step,
    known,
    layout_of,
    refuse,
    require,
    require_all,
    same,
    to_ours,
    to_theirs,
    unique,
    whole,
)

LIBRARY = "Keras"
_ORDER = "the order of Keras' trainable_variables"
_REASONS = {
    "ASGD": "does not have", "Adan": "does not have", "LARS": "does not have", "RAdam": "does not have",
    "Rprop": "does not have", "Sophia": "does not have",
}


class _Layout(NamedTuple):
    """What an optimizer of Keras saves for its variables, in addition to its step count and learning rate."""

    blocks: tuple[States, ...]
    """Arrays in the order in which they are saved: each block's for the first variable, the second, and so on."""
    options: tuple[str, ...] = ()
    """Ours of `refuse`'s that Keras has, in addition to decoupled weight decay."""
    form: Mapping[str, Any] = {}
    """Values that our hyper-parameters must have for Keras' formula."""


_MOMENTS = same(momentum="m", velocity="v")
_ADAM = _Layout((_MOMENTS, same(velocity_hat="vmax")), ("amsgrad", "eps_hat"), {"eps_hat": True})
_LAYOUTS: dict[type[Optimizer], _Layout] = {
    SGD: _Layout(({"momentum": Scaled("buf", lambda hyper: -hyper["lr"])},), ("nesterov",), {"dampening": 0.0}),
    Momentum: _Layout((same(momentum="v"),), ("nesterov",)),
    SGDM: _Layout(({"momentum": Scaled("m", lambda hyper: -hyper["lr"])},)),
    Adagrad: _Layout((same(accumulator="h"),), ("eps_inside_sqrt",), {"eps_inside_sqrt": True}),
    Adadelta: _Layout((same(accumulated_grad="v", accumulated_delta_var="u"),)),
    RMSprop: _Layout((same(velocity="v"), {"momentum": Scaled("buf", lambda hyper: hyper["lr"])},
                      same(average_gradient="grad_avg")), ("centered", "eps_inside_sqrt"), {"eps_inside_sqrt": True}),
    AdamW: _ADAM,
    Adam: _ADAM,
    Adamax: _Layout((same(momentum="m", norm="u"),), (), {"eps": 0.0}),
    NAdam: _Layout((_MOMENTS,), (), {"momentum_decay": 1.0}),
    Lion: _Layout((same(momentum="m"),)),
    LAMB: _Layout((_MOMENTS,)),
}
_STEPPED = (Adam, Adamax, NAdam, LAMB)
"""Classes whose formula depends on the step."""


def to_keras(optimizer: Optimizer, keys: Iterable[Hashable] | None = None) -> dict[str, NDArray[Any]]:
    """Return the optimizer's state as the dict that ``load_own_variables`` of the Keras optimizer takes.

    SGD, Momentum and SGDM become Keras' SGD; SGDM's lr becomes lr · (1 − beta) there.

    Parameters
    ----------
    optimizer : SGD, Momentum, SGDM, Adagrad, Adadelta, RMSprop, Adam, AdamW, Adamax, NAdam, Lion or LAMB
    keys : iterable, optional
        The parameters' keys in the order of Keras' variables. Default: the order in which the optimizer first updated
        them.

    Returns
    -------
    dict
        ``{"0": step count, "1": learning rate, "2": array, …}``: copies. If lr is a function, the learning rate is left
        out, as it is by a Keras optimizer with a schedule.

    Raises
    ------
    TypeError
        The optimizer is of another class.
    ValueError
        A key is unknown or repeated; the optimizer has taken no step, or the parameters different numbers of steps in
        a class whose formula depends on them; a hyper-parameter is in use that Keras does not have, or in another form
        (`fastopt.convert`'s docstring has a table); lr is not one constant > 0, by which the buffers of SGD, SGDM and
        RMSprop with momentum differ.

    Notes
    -----
    Keras keeps one set of hyper-parameters: what per_param returns is not converted.
    """
    layout = layout_of(optimizer, _LAYOUTS, LIBRARY, _REASONS)
    hyper = _checked(optimizer, layout)
    saved = optimizer.state_dict()
    order = known(saved, keys, _ORDER)
    if not saved["step_count"]:
        raise ValueError("optimizer: expected one that has taken a step, got step_count 0")
    step = common_step(saved, order, LIBRARY) if isinstance(optimizer, _STEPPED) else saved["step_count"]
    entries = [to_theirs(_merged(layout), optimizer, hyper, saved["state"][key], LIBRARY) for key in order]
    arrays: list[NDArray[Any]] = [np.array(step, np.int64)]
    if not callable(optimizer.lr):
        rate = hyper["lr"] * (1.0 - hyper["beta"]) if isinstance(optimizer, SGDM) else hyper["lr"]
        arrays.append(np.array(rate, np.float32))
    for block in _used(optimizer, layout):
        for key, entry in zip(order, entries, strict=True):
            absent = [name for name in block if name not in entry]
            if absent:
                raise ValueError("optimizer: expected the same state arrays for every parameter, got "
                                 f"{reprlib.repr(key)} without {block[absent[0]].name}")
            arrays += [entry[name] for name in block]
    if isinstance(optimizer, NAdam):
        arrays.append(np.array(_nadam_momenta(step, hyper["betas"][0], 1.0)[2], np.float32))
    return {str(i): array for i, array in enumerate(arrays)}


def from_keras(optimizer: Optimizer, store: Mapping[str, Any], keys: Iterable[Hashable] | None = None) -> None:
    """Load the state that ``save_own_variables`` of a Keras optimizer wrote, so that training continues.

    Parameters
    ----------
    optimizer : SGD, Momentum, SGDM, Adagrad, Adadelta, RMSprop, Adam, AdamW, Adamax, NAdam, Lion or LAMB
        Constructed with the hyper-parameters that correspond to Keras': those in `store` are ignored.
    store : dict
        ``{"0": step count, "1": learning rate, "2": array, …}``: float32 arrays, without the learning rate if it is a
        schedule.
    keys : iterable, optional
        For each of Keras' variables its key in the dict given to ``opt.update``. Default: the positions 0, 1, …, as
        for a sequence of parameters.

    Raises
    ------
    TypeError, ValueError
        The optimizer is of another class or its formula is not Keras'; `store` does not hold what these
        hyper-parameters need; `keys` do not match it. The optimizer is unchanged.
    """
    layout = layout_of(optimizer, _LAYOUTS, LIBRARY, _REASONS)
    hyper = _checked(optimizer, layout)
    blocks, product = _used(optimizer, layout), isinstance(optimizer, NAdam)
    if not isinstance(store, Mapping) or set(store) != set(map(str, range(len(store)))) or not store:
        raise ValueError("store: expected a dict with the keys '0', '1', … as save_own_variables fills it, got "
                         f"{store!r:.100}")
    values = [store[str(i)] for i in range(len(store))]
    step_count = whole("store", "'0', the step count", values[0])
    per_key = sum(map(len, blocks))
    arrays = [array_of("store", repr(str(i)), value) for i, value in enumerate(values) if i]
    if product and arrays:
        arrays.pop()
    order = None if keys is None else unique(keys, _ORDER)
    count = _count(arrays, per_key, order)
    if count is None:
        each = f"{per_key} arrays for each of {'the' if order is None else len(order)} variables"
        raise ValueError(f"store: expected the step count, the learning rate unless it is a schedule, {each}"
                         f"{' and a product' if product else ''}, as {type(optimizer).__name__} has with these "
                         f"hyper-parameters, got {len(store)} entries")
    if order is None:
        order = list(range(count))
    require_all(optimizer, order)
    rest = iter(arrays[len(arrays) - count * per_key:])
    entries: list[dict[str, Float32Array]] = [{} for _ in order]
    for block in blocks:
        for entry in entries:
            entry.update(zip(block, rest, strict=False))
    for entry in entries:
        if len(shapes := {array.shape for array in entry.values()}) > 1:
            raise ValueError(f"store: expected arrays of one shape for each variable, got {sorted(shapes)}")
    state = {key: to_ours(_merged(layout), optimizer, hyper, entry, LIBRARY)
             for key, entry in zip(order, entries, strict=True)}
    optimizer.load_state_dict({"step_count": step_count, "steps": dict.fromkeys(order, step_count), "state": state})


def _count(arrays: list[Float32Array], per_key: int, order: list[Hashable] | None) -> int | None:
    """The number of variables that these arrays, with or without a learning rate ahead, belong to."""
    heads = (1, 0) if arrays and arrays[0].shape == () else (0,)
    for head in heads:
        count, rest = divmod(len(arrays) - head, per_key) if per_key else (len(order or ()), len(arrays) - head)
        if not rest and (order is None or count == len(order)):
            return count
    return None


def _checked(optimizer: Optimizer, layout: _Layout) -> dict[str, Any]:
    """The hyper-parameters, which Keras must have in the same form."""
    hyper = hyper_of(optimizer)
    require(hyper, layout.form, LIBRARY)
    refuse(hyper, (*layout.options, decoupled_name(optimizer)), LIBRARY)
    return hyper


def _merged(layout: _Layout) -> States:
    return {name: scaled for block in layout.blocks for name, scaled in block.items()}


def _used(optimizer: Optimizer, layout: _Layout) -> list[States]:
    """The blocks of the arrays that the optimizer has; with per_param, of those that any parameter has."""
    names = set(state_names(optimizer))
    if has_overrides(optimizer):
        names |= {name for entry in optimizer.state.values() for name in entry}
    return [block for block in layout.blocks if all(scaled.name in names for scaled in block.values())]
