"""Optimizer state to and from Optax's opt_state. The package's docstring lists the differences."""

import reprlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastopt._adam import Adam, Adamax, AdamW, NAdam, RAdam
from fastopt._adaptive import Adadelta, Adagrad, RMSprop
from fastopt._layerwise import LAMB, LARS
from fastopt._optimizer import Optimizer
from fastopt._sgd import SGD, SGDM, Momentum
from fastopt._sign import Lion
from fastopt._typing import Float32Array
from fastopt.convert._inside import hyper_of, state_names
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

LIBRARY = "Optax"
_ORDER = "the order of jax.tree.leaves"
_REASONS = {
    "ASGD": "does not have", "Sophia": "does not have (optax.contrib's keeps its Hessian otherwise)",
    "Adan": "weights the gradient difference by 1 - b2 (b2 here and in the authors' code)",
    "Rprop": "applies one step late (each step is that of the gradient before)",
}
_COUNTED = ("ScaleByScheduleState", "InjectHyperparamsState", "InjectStatefulHyperparamsState")
"""States of Optax that count steps and hold nothing of the optimizers."""


class _Layout(NamedTuple):
    """The namedtuples in an opt_state that hold the state of one optimizer class."""

    states: Mapping[str, States]
    """By the name of the namedtuple's class and by field."""
    options: tuple[str, ...] = ()
    """Ours of `refuse`'s that Optax has."""
    form: Mapping[str, Any] = {}
    """Values that our hyper-parameters must have for Optax's formula."""


_MOMENTS = same(mu="m", nu="v")
_RMS = Scaled("buf", lambda hyper: -hyper["lr"])
_SGDM = Scaled("m", lambda hyper: 1.0 / (1.0 - hyper["beta"]), False)
_DECAYS = ("weight_decay",)
_BOTH = (*_DECAYS, "decoupled_weight_decay")
_LAYOUTS: dict[type[Optimizer], _Layout] = {
    SGD: _Layout({"TraceState": same(trace="buf")}, (*_DECAYS, "nesterov")),
    Momentum: _Layout({"TraceState": {"trace": Scaled("v", lambda hyper: -1.0 / hyper["lr"])}}, (*_DECAYS, "nesterov")),
    SGDM: _Layout({"TraceState": {"trace": _SGDM}}, _DECAYS),
    Adagrad: _Layout({"ScaleByRssState": same(sum_of_squares="h")}, (*_DECAYS, "eps_inside_sqrt"),
                     {"eps_inside_sqrt": True}),
    Adadelta: _Layout({"ScaleByAdaDeltaState": same(e_g="v", e_x="u")}, _DECAYS),
    RMSprop: _Layout({"ScaleByRmsState": same(nu="v"), "ScaleByRStdDevState": same(mu="grad_avg", nu="v"),
                      "TraceState": {"trace": _RMS}}, (*_DECAYS, "centered", "eps_inside_sqrt")),
    AdamW: _Layout({"ScaleByAdamState": _MOMENTS}, _DECAYS),
    Adam: _Layout({"ScaleByAdamState": _MOMENTS}, _BOTH),
    Adamax: _Layout({"ScaleByAdamState": same(mu="m", nu="u")}, _BOTH),
    NAdam: _Layout({"ScaleByAdamState": _MOMENTS}, _BOTH),
    RAdam: _Layout({"ScaleByAdamState": _MOMENTS}, _BOTH, {"eps": 0.0}),
    Lion: _Layout({"ScaleByLionState": same(mu="m")}, _DECAYS),
    LAMB: _Layout({"ScaleByAdamState": _MOMENTS}, _DECAYS),
    LARS: _Layout({"TraceState": {"trace": Scaled("v", lambda hyper: -1.0, False)}}),
}
Visit = Callable[[Any, States], Any]


def to_optax(optimizer: Optimizer, opt_state: Any, keys: Iterable[Hashable] | None = None) -> Any:
    """Return an Optax optimizer's state with the values of this one's.

    SGD, Momentum and SGDM become ``optax.sgd``, SGDM with the learning rate lr · (1 − beta).

    Parameters
    ----------
    optimizer : SGD, Momentum, SGDM, Adagrad, Adadelta, RMSprop, Adam, AdamW, Adamax, NAdam, RAdam, Lion, LAMB or LARS
    opt_state : pytree
        What ``init(params)`` of the Optax optimizer returns, with dicts, lists and tuples of arrays; it is not changed.
    keys : iterable, optional
        For each array of the parameters' tree, in the order of ``jax.tree.leaves``, its key in `optimizer`. Default:
        the path of the array: "w" or 0 in a flat dict or list, a tuple such as ("dense", "kernel") in a nested one, 0
        for a single array.

    Returns
    -------
    pytree
        Of the same structure, with new NumPy arrays in place of the state's arrays and step counts.

    Raises
    ------
    TypeError
        The optimizer is of another class; a tree of another type.
    ValueError
        `opt_state` does not hold the state of such an optimizer, or for other keys or shapes; the optimizer has taken
        no step, or the parameters different numbers of steps while Optax counts them; a hyper-parameter is in use that
        Optax does not have, or in another form (`fastopt.convert`'s docstring has a table); lr is not one constant > 0,
        by which the buffers of Momentum and RMSprop with momentum differ.
    """
    layout = layout_of(optimizer, _LAYOUTS, LIBRARY, _REASONS)
    hyper = _checked(optimizer, layout)
    saved = optimizer.state_dict()
    if not saved["step_count"]:
        raise ValueError("optimizer: expected one that has taken a step, got step_count 0")
    order = None if keys is None else known(saved, keys, _ORDER)
    written: set[tuple[Hashable, str]] = set()

    def array(key: Hashable, field: str, old: Any, states: States) -> Float32Array:
        ours, entry = states[field].name, saved["state"].get(key, {})
        if ours not in entry:
            raise ValueError("opt_state: expected arrays for keys of the optimizer's state, got "
                             f"{reprlib.repr(key)} of {field}")
        if (key, ours) in written:
            raise ValueError(f"opt_state: expected one {ours} for each key, got two for {reprlib.repr(key)}")
        if np.shape(old) != entry[ours].shape:
            raise ValueError(f"opt_state: expected shape {entry[ours].shape} for {reprlib.repr(key)} of {field}, got "
                             f"{np.shape(old)}")
        written.add((key, ours))
        return to_theirs({field: states[field]}, optimizer, hyper, entry, LIBRARY)[field]

    def fill(node: Any, states: States) -> Any:
        fields, keys_there = {}, []
        for field in states:
            leaves = _leaves(getattr(node, field), order)
            keys_there = [key for key, _ in leaves]
            fields[field] = _filled(getattr(node, field), [array(key, field, old, states) for key, old in leaves])
        if "count" in node._fields:
            fields["count"] = np.array(min(common_step(saved, keys_there, LIBRARY), 2**31 - 1), np.int32)
        return node._replace(**fields)

    count = np.array(min(saved["step_count"], 2**31 - 1), np.int32)
    filled = _walk(opt_state, optimizer, layout, fill, lambda node: node._replace(count=count))
    missing = [(key, name) for key, entry in saved["state"].items() for name in entry
               if name != "average" and (order is None or key in order) and (key, name) not in written]
    if missing:
        raise ValueError(f"opt_state: expected the state of {type(optimizer).__name__} for all parameters, got no "
                         f"place for {missing[0][1]} of {reprlib.repr(missing[0][0])}")
    return filled


def from_optax(optimizer: Optimizer, opt_state: Any, keys: Iterable[Hashable] | None = None, *,
               step_count: int | None = None) -> None:
    """Load an Optax optimizer's state, so that training continues where Optax's stopped.

    Parameters
    ----------
    optimizer : SGD, Momentum, SGDM, Adagrad, Adadelta, RMSprop, Adam, AdamW, Adamax, NAdam, RAdam, Lion, LAMB or LARS
        Constructed with the hyper-parameters that correspond to Optax's.
    opt_state : pytree
        What the Optax optimizer's ``update`` returned: float32 arrays in dicts, lists and tuples.
    keys : iterable, optional
        As in `to_optax`: for each array of the parameters' tree its key in the dict given to ``opt.update``.
    step_count : int, optional
        For states without a count only (SGD, Adagrad, Adadelta, RMSprop, LARS, with a constant learning rate). Default:
        1 if there are arrays, otherwise 0.

    Raises
    ------
    TypeError, ValueError
        The optimizer is of another class or its formula is not Optax's; `opt_state` does not hold what these
        hyper-parameters need; `keys` do not match it. The optimizer is unchanged.
    """
    layout = layout_of(optimizer, _LAYOUTS, LIBRARY, _REASONS)
    hyper = _checked(optimizer, layout)
    order = None if keys is None else unique(keys, _ORDER)
    entries: dict[Hashable, dict[str, Float32Array]] = {}
    counts: dict[Hashable, int] = {}
    schedules: list[int] = []

    def take(node: Any, states: States) -> Any:
        found: dict[Hashable, dict[str, Float32Array]] = {}
        for field in states:
            for key, leaf in _leaves(getattr(node, field), order):
                found.setdefault(key, {})[field] = array_of("opt_state", f"{field} of {reprlib.repr(key)}", leaf)
        for key, arrays in found.items():
            entry = entries.setdefault(key, {})
            ours = to_ours(states, optimizer, hyper, arrays, LIBRARY)
            if entry.keys() & ours.keys():
                raise ValueError(f"opt_state: expected one {min(ours)} for each key, got two for {reprlib.repr(key)}")
            entry.update(ours)
            if "count" in node._fields:
                counts[key] = whole("opt_state", "the count", node.count)
        return node

    def schedule(node: Any) -> Any:
        schedules.append(whole("opt_state", "the count", node.count))
        return node

    _walk(opt_state, optimizer, layout, take, schedule)
    needed = set(state_names(optimizer))
    if (needed and not entries) or any(set(entry) != needed for entry in entries.values()):
        got = next((sorted(entry) for entry in entries.values() if set(entry) != needed), "none of them")
        raise ValueError(f"opt_state: expected {', '.join(sorted(needed))} of {type(optimizer).__name__} in "
                         f"{' and '.join(_used(optimizer, layout))}, got {got}")
    require_all(optimizer, entries)
    known_count = max([*counts.values(), *schedules], default=None)
    if step_count is not None and known_count is not None:
        raise ValueError(f"step_count: expected None for an opt_state that has a count, got {reprlib.repr(step_count)}")
    if step_count is None:
        step_count = (1 if entries else 0) if known_count is None else known_count
    steps = {key: counts.get(key, step_count) for key in entries}
    optimizer.load_state_dict({"step_count": step_count, "steps": steps, "state": entries})


def _walk(opt_state: Any, optimizer: Optimizer, layout: _Layout, act: Visit, count: Callable[[Any], Any]) -> Any:
    """The same structure, with act(namedtuple, its arrays) for the layout's and count(namedtuple) for counters."""
    used = _used(optimizer, layout)

    def visit(node: Any) -> Any:
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            name = type(node).__name__
            if name in layout.states:
                if name not in used:
                    raise ValueError(f"opt_state: expected {' and '.join(used) or 'no arrays'} for "
                                     f"{type(optimizer).__name__} with these hyper-parameters, got {name}")
                return act(node, used[name])
            made = type(node)(*map(visit, node))
            return count(made) if name in _COUNTED else made
        if isinstance(node, (tuple, list)):
            return type(node)(visit(member) for member in node)
        if isinstance(node, dict):
            return {key: visit(member) for key, member in node.items()}
        return node

    return visit(opt_state)


def _mapped(tree: Any, leaf: Callable[[tuple[Hashable, ...], Any], Any]) -> Any:
    """The same tree of leaf(path, array), called in the order of ``jax.tree.leaves``."""

    def visit(node: Any, path: tuple[Hashable, ...]) -> Any:
        if node is None or (isinstance(node, tuple) and hasattr(node, "_fields") and not node._fields):
            return node         # no parameter here, or one that optax.masked leaves to another optimizer
        if isinstance(node, Mapping):
            order = node if isinstance(node, OrderedDict) else sorted(node)
            members = {key: visit(node[key], (*path, key)) for key in order}
            made = {key: members[key] for key in node}
            if isinstance(node, defaultdict):
                return defaultdict(node.default_factory, made)
            return type(node)(made)     # type: ignore[call-arg]
        if isinstance(node, (list, tuple)) and not hasattr(node, "_fields"):
            return type(node)(visit(member, (*path, i)) for i, member in enumerate(node))
        if not hasattr(node, "shape"):
            raise TypeError(f"opt_state: expected dicts, lists and tuples of arrays, got {type(node).__name__}")
        return leaf(path, node)

    return visit(tree, ())


def _filled(tree: Any, arrays: Iterable[Any]) -> Any:
    """The same tree with these arrays, in the order of `_leaves`."""
    rest = iter(arrays)
    return _mapped(tree, lambda path, leaf: next(rest))


def _leaves(tree: Any, order: list[Hashable] | None) -> list[tuple[Hashable, Any]]:
    """The arrays of a tree with their keys: those in `order`, or the paths."""
    found: list[tuple[Hashable, Any]] = []
    _mapped(tree, lambda path, leaf: found.append((path[0] if len(path) == 1 else path or 0, leaf)))
    if order is None:
        return found
    if len(order) != len(found):
        raise ValueError(f"keys: expected {len(found)} keys, one for each array of the tree, got {len(order)}")
    return [(key, leaf) for key, (_, leaf) in zip(order, found, strict=True)]


def _used(optimizer: Optimizer, layout: _Layout) -> dict[str, States]:
    """The namedtuples of the arrays that the optimizer has."""
    names = set(state_names(optimizer)) | {name for entry in optimizer.state.values() for name in entry}
    used = {kind: states for kind, states in layout.states.items()
            if all(scaled.name in names for scaled in states.values())}
    if "ScaleByRStdDevState" in used:
        del used["ScaleByRmsState"]
    return used


def _checked(optimizer: Optimizer, layout: _Layout) -> dict[str, Any]:
    """The hyper-parameters, which Optax must have in the same form."""
    hyper = hyper_of(optimizer)
    require(hyper, layout.form, LIBRARY)
    if "momentum_decay" in hyper and 0.96 ** hyper["momentum_decay"] > 2.0**-64:
        raise ValueError("momentum_decay: expected one so large that every step has the momentum betas[0], as in "
                         f"Optax, 1e4 for example, got {hyper['momentum_decay']!r}")
    refuse(hyper, layout.options, LIBRARY)
    return hyper
