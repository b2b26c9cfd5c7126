"""What the conversions share: tables of state arrays, and the checks of what users hand over."""

import contextlib
import reprlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastopt._models import listed
from fastopt._optimizer import Optimizer
from fastopt._runtime.arrays import is_masked
from fastopt._typing import Float32Array
from fastopt.convert._inside import has_overrides

Hyper = Mapping[str, Any]

EXTRAS = ("l1", "decoupled_weight_decay", "weight_decay", "maximize", "amsgrad", "eps_hat", "eps_inside_sqrt",
          "centered", "dampening", "nesterov", "lr_decay", "no_prox")
"""Options that are off as 0 or False, so that `refuse` can name those in use that a library does not have."""


class Scaled(NamedTuple):
    """A state array of another library that is one of ours times a number."""

    name: str
    """Ours."""
    factor: Callable[[Hyper], float]
    """From our hyper-parameters to theirs / ours."""
    by_lr: bool = True
    """Whether the number depends on lr, so that the two agree only while it is constant."""


States = Mapping[str, Scaled]
"""What another library keeps for a parameter, by its names there."""


def same(**names: str) -> dict[str, Scaled]:
    """Arrays that are equal there and here: theirs="ours"."""
    return {theirs: Scaled(ours, lambda hyper: 1.0, False) for theirs, ours in names.items()}


def layout_of(optimizer: Any, layouts: Mapping[type[Optimizer], Any], library: str,
              reasons: Mapping[str, str] | None = None) -> Any:
    """The entry of a table of classes for an optimizer, or a TypeError; `reasons` say why a class has none."""
    for kind, layout in layouts.items():
        if isinstance(optimizer, kind):
            return layout
    name = type(optimizer).__name__
    reason = (reasons or {}).get(name, "")
    raise TypeError(f"optimizer: expected one of {', '.join(kind.__name__ for kind in layouts)}, got {name}"
                    + (f", which {library} {reason}" if reason else ""))


def refuse(hyper: Hyper, allowed: Iterable[str], library: str) -> None:
    """Raise a ValueError for an option in use that is not among those that `library` has."""
    for name in EXTRAS:
        if hyper.get(name) and name not in allowed:
            raise ValueError(f"{name}: expected {type(hyper[name])()!r}, because {library} does not have it, got "
                             f"{hyper[name]!r}")
    if not hyper.get("bias_correction", True):
        raise ValueError(f"bias_correction: expected True, because {library} has no Adam without it, got False")


def require(hyper: Hyper, needed: Mapping[str, Any], library: str) -> None:
    """Raise a ValueError for an option whose value is not the one that `library`'s formula has."""
    for name, value in needed.items():
        if hyper[name] != value:
            raise ValueError(f"{name}: expected {reprlib.repr(value)}, which is {library}'s form, got {hyper[name]!r}")


def _factor(scaled: Scaled, optimizer: Optimizer, hyper: Hyper, library: str) -> float:
    """The number that makes an array of ours theirs; a ValueError where none does."""
    if scaled.by_lr and (callable(optimizer.lr) or has_overrides(optimizer) or not hyper["lr"]):
        got = "a function" if callable(optimizer.lr) else "per_param" if has_overrides(optimizer) else repr(hyper["lr"])
        raise ValueError(f"lr: expected one constant > 0 for all parameters, by which {library}'s buffer and "
                         f"{scaled.name} of {type(optimizer).__name__} differ, got {got}")
    return scaled.factor(hyper)


def to_theirs(states: States, optimizer: Optimizer, hyper: Hyper, entry: Mapping[str, Float32Array],
              library: str) -> dict[str, Float32Array]:
    """One parameter's state arrays under the other library's names."""
    arrays = {}
    for name, scaled in states.items():
        if scaled.name in entry:
            factor = np.float64(_factor(scaled, optimizer, hyper, library))
            arrays[name] = np.asarray(entry[scaled.name] * factor, np.float32)
    return arrays


def to_ours(states: States, optimizer: Optimizer, hyper: Hyper, entry: Mapping[str, Float32Array],
            library: str) -> dict[str, Float32Array]:
    """One parameter's state arrays under our names; `load_state_dict` refuses those of another type."""
    arrays = {}
    for name, array in entry.items():
        factor = np.float64(_factor(states[name], optimizer, hyper, library))
        scaled = array.dtype == np.float32 and factor != 1.0
        arrays[states[name].name] = np.asarray(array / factor, np.float32) if scaled else array
    return arrays


def unique(keys: Iterable[Hashable], order: str) -> list[Hashable]:
    """The keys as a list of distinct ones."""
    try:
        given = None if isinstance(keys, (str, bytes)) else list(keys)
        distinct = set(given or ())
    except TypeError:       # not iterable, or keys that are not hashable
        given = None
    if given is None:
        raise TypeError(f"keys: expected the parameters' keys in {order}, such as ['w', 'b'], got "
                        f"{type(keys).__name__} {keys!r:.100}")
    if len(distinct) != len(given):
        raise ValueError(f"keys: expected distinct keys, got {listed(given)}")
    return given


def known(saved: Mapping[str, Any], keys: Iterable[Hashable] | None, order: str) -> list[Hashable]:
    """The keys to convert: those of a state dict, or the caller's, all of which it must have."""
    chosen = unique(saved["state"] if keys is None else keys, order)
    missing = [key for key in chosen if key not in saved["state"]]
    if missing:
        raise ValueError(f"keys: expected keys of the optimizer's state, got {reprlib.repr(missing[0])}")
    return chosen


def require_all(optimizer: Optimizer, keys: Iterable[Hashable]) -> None:
    """Refuse to drop state that the optimizer has."""
    chosen = list(keys)
    missing = [key for key in optimizer.state if key not in chosen]
    if missing:
        raise ValueError(f"keys: expected to include {reprlib.repr(missing[0])}, which the optimizer has state for, "
                         f"got {listed(chosen)}")


def common_step(saved: Mapping[str, Any], keys: Iterable[Hashable], library: str) -> int:
    """The number of steps that all parameters have taken."""
    counts = sorted({saved["steps"][key] for key in keys} or {saved["step_count"]})
    if len(counts) > 1:
        raise ValueError(f"optimizer: expected the same number of steps for every parameter, because {library} counts "
                         f"them once, got {listed(counts)}")
    return counts[0]


def whole(argument: str, name: str, value: Any) -> int:
    """A step count: a whole number, or an array or tensor of shape () that holds one."""
    step = None
    if getattr(value, "shape", ()) == () and not is_masked(value):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            step = int(value)
    if step is None or step != value or step < 0:
        raise ValueError(f"{argument}: expected a whole number as {name}, got {reprlib.repr(value)}")
    return step


def array_of(argument: str, name: Any, value: Any) -> Float32Array:
    """An array, of whatever library, as NumPy's."""
    if is_masked(value):
        raise TypeError(f"{argument}: expected arrays without a mask, got a {type(value).__name__} for {name}")
    array = np.asarray(value)
    if array.dtype != np.float32:
        raise TypeError(f"{argument}: expected a float32 array for {name}, got {array.dtype}")
    return array
