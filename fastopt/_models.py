"""What a user hands to an optimizer: parameters with their gradients, and state dicts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fastopt._runtime.hyper import Ranges
from fastopt._typing import Float32Array as Array
from fastopt._typing import Grads, Params, State

_step_count_range = Ranges(step_count="int [0, 9e18]")


def paired(params: Params, grads: Grads, source: str = "grads") -> tuple[list[Any], list[Array], list[Any]]:
    """Return keys, parameters and gradients as lists of one length; `source` is what messages call the gradients."""
    if isinstance(params, Mapping):
        if not isinstance(grads, Mapping):
            raise TypeError(f"{source}: expected a dict like params, got {type(grads).__name__}")
        if params.keys() != grads.keys():
            missing, extra = [key for key in params if key not in grads], [key for key in grads if key not in params]
            raise ValueError(f"{source}: expected the keys of params, got "
                             + " and ".join([f"none for {key!r}" for key in missing]
                                            + [f"{key!r}, which params does not have" for key in extra]))
        keys = list(params)
        return keys, list(params.values()), [grads[key] for key in keys]
    if isinstance(params, np.ndarray):
        return [0], [params], [grads]
    if not isinstance(params, Iterable):
        raise TypeError(f"params: expected a dict, a sequence or an array, got {type(params).__name__}")
    if isinstance(grads, (Mapping, np.ndarray)) or not isinstance(grads, Iterable):
        raise TypeError(f"{source}: expected a sequence like params, got {type(grads).__name__}")
    params, grads = list(params), list(grads)
    if len(params) != len(grads):
        raise ValueError(f"{source}: expected {len(params)} arrays, one for each of params, got {len(grads)}")
    return list(range(len(params))), params, grads


def checked_state(state_dict: Any, needed: Sequence[str],
                  allowed: Sequence[str]) -> tuple[int, dict[Any, int], State]:
    """Return the step count, each parameter's steps and copies of its state arrays out of a state dict.

    Every parameter must have the arrays named in `needed` and may have those in `allowed`.
    """
    if not (isinstance(state_dict, Mapping) and {"step_count", "steps", "state"} == set(state_dict)):
        got = sorted(map(str, state_dict)) if isinstance(state_dict, Mapping) else type(state_dict).__name__
        raise ValueError(f"state_dict: expected a dict of step_count, steps and state, got {got}")
    count, steps, state = state_dict["step_count"], state_dict["steps"], state_dict["state"]
    _step_count_range(count)
    for name in ("steps", "state"):
        if not isinstance(state_dict[name], Mapping):
            raise TypeError(f"{name}: expected a dict, got {type(state_dict[name]).__name__}")
    if steps.keys() != state.keys():
        raise ValueError(f"steps: expected the keys of state, got {list(steps)}")
    for key, own in steps.items():
        _step_count_range(own)
        if own > count:
            raise ValueError(f"steps[{key!r}]: expected at most step_count {count}, got {own}")
    copies = {key: _copied(key, entry, set(needed), set(allowed)) for key, entry in state.items()}
    return int(count), {key: int(own) for key, own in steps.items()}, copies


def _copied(key: Any, entry: Any, needed: set[str], allowed: set[str]) -> dict[str, Array]:
    """Copies of one parameter's state arrays, which must be float32 and of one shape."""
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
