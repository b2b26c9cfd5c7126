"""What a user hands to an optimizer, parameters with their gradients and state dicts, and the state it shows."""

import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from fastopt._runtime.arrays import advice, is_masked
from fastopt._runtime.hyper import Ranges
from fastopt._runtime.paths import Path
from fastopt._typing import Float32Array as Array
from fastopt._typing import Grads, Params, State

_MAX_DEPTH = 64
"""Levels of nested containers: more are taken for one that holds itself."""

_step_count_range = Ranges(step_count="int [0, 9e18]")


def listed(keys: Iterable[Any], most: int = 3) -> str:
    """The first keys and the number of the others, for an error message."""
    shown = list(keys)
    text = ", ".join(map(reprlib.repr, shown[:most]))
    return text if len(shown) <= most else f"{text} and {len(shown) - most} more"


class ReadOnly(dict[Any, Any]):
    """An optimizer's state, or one parameter's. Steps use the arrays that are bound, whatever a dict names."""

    def _refuse(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TypeError("state: expected its entries to be read only, because steps use the arrays that are bound: "
                        "write into an array (state[key][name][...] = values), or replace all by load_state_dict")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type, tuple[Any]]:
        return dict, (dict(self),)      # a copy is the copier's


def read_only(state: State) -> State:
    """The same arrays in dicts that refuse to be changed."""
    return ReadOnly({key: ReadOnly(entry) for key, entry in state.items()})


def paired(params: Params, grads: Grads, source: str = "grads") -> tuple[list[Any], list[Array], list[Any]]:
    """Return keys, parameters and gradients as lists of one length; `source` is what messages call the gradients.

    A gradient is None where there is none. The key of an array in nested containers is its `Path`.
    """
    if isinstance(params, np.ndarray):
        if grads is None:
            raise TypeError(f"{source}: expected an array like params, got NoneType")
        return [0], [params], [grads]
    if not isinstance(params, Iterable) or isinstance(params, (str, bytes)):
        raise TypeError(f"params: expected a dict, a sequence or an array, got {type(params).__name__}")
    if not isinstance(params, Mapping) and (isinstance(grads, (Mapping, np.ndarray, str, bytes, memoryview))
                                            or not isinstance(grads, Iterable)):
        raise TypeError(f"{source}: expected a sequence like params, got {type(grads).__name__}")
    leaves: list[tuple[Any, Array, Any]] = []
    if isinstance(params, Mapping):
        _descend((), params, grads, source, leaves)
    else:
        _descend((), list(params), list(grads), source, leaves)     # of any kind of sequence
    keys = [key for key, _, _ in leaves]
    if any(type(key) is Path for key in keys) and len(set(keys)) < len(keys):
        twice = next(key for key, count in Counter(keys).items() if count > 1)
        raise ValueError(f"params: expected one array for each key, got two for {twice!r}")
    return keys, [param for _, param, _ in leaves], [grad for _, _, grad in leaves]


def _descend(path: tuple[Any, ...], params: Any, grads: Any, source: str, leaves: list[tuple[Any, Array, Any]]) -> None:
    """Add (key, parameter, gradient) of every array in these two containers, whose keys from the outermost are `path`.

    `grads` is None if there is no gradient for the whole container.
    """
    where = "".join(f"[{part!r}]" for part in path)
    if len(path) >= _MAX_DEPTH:
        raise ValueError(f"params: expected at most {_MAX_DEPTH} levels of containers, got more (does one hold "
                         f"itself?) at params{where:.100}…")
    absent = grads is None and path
    if isinstance(params, Mapping):
        if not absent and not isinstance(grads, Mapping):
            raise TypeError(f"{source}{where}: expected a dict like params{where}, got {type(grads).__name__}")
        if not absent and params.keys() != grads.keys():
            raise _wrong_keys(f"{source}{where}", grads, f"params{where}", params)
        entries: Iterable[tuple[Any, Any]] = params.items()
    else:
        if not absent and not isinstance(grads, (list, tuple)):
            raise TypeError(f"{source}{where}: expected a sequence like params{where}, got {type(grads).__name__}")
        if not absent and len(params) != len(grads):
            raise ValueError(f"{source}{where}: expected {len(params)} arrays, one for each of params{where}, got "
                             f"{len(grads)}")
        entries = enumerate(params)
    for key, param in entries:
        grad = None if absent else grads[key]
        if type(param) is not np.ndarray and isinstance(param, (list, tuple, Mapping)):
            _descend((*path, key), param, grad, source, leaves)
        else:
            leaves.append((Path((*path, key)) if path else key, param, grad))


def checked_state(state_dict: Any, needed: Sequence[str],
                  allowed: Sequence[str]) -> tuple[int, dict[Any, int], State]:
    """Return the step count, each parameter's steps and copies of its state arrays out of a state dict.

    Every parameter must have the arrays named in `needed` and may have those in `allowed`. One that has taken no step
    may have none.
    """
    if not (isinstance(state_dict, Mapping) and {"step_count", "steps", "state"} == set(state_dict)):
        raise ValueError(f"state_dict: expected a dict of step_count, steps and state, got {_keys_of(state_dict)}")
    count, steps, state = state_dict["step_count"], state_dict["steps"], state_dict["state"]
    _step_count_range(count)
    for name in ("steps", "state"):
        if not isinstance(state_dict[name], Mapping):
            raise TypeError(f"{name}: expected a dict, got {type(state_dict[name]).__name__}")
    if steps.keys() != state.keys():
        raise _wrong_keys("steps", steps, "state", state)
    for key, own in steps.items():
        _step_count_range(own)
        if own > count:
            raise ValueError(f"steps[{key!r}]: expected at most step_count {count}, got {own}")
    copies = {key: _copied(key, entry, set(needed) if steps[key] or entry else set(), set(allowed))
              for key, entry in state.items()}
    return int(count), {key: int(own) for key, own in steps.items()}, copies


def _copied(key: Any, entry: Any, needed: set[str], allowed: set[str]) -> dict[str, Array]:
    """Copies of one parameter's state arrays, which must be float32 and of one shape."""
    if not isinstance(entry, Mapping) or not needed <= set(entry) <= allowed:
        raise ValueError(f"state[{key!r}]: expected arrays named {sorted(needed)}, got {_keys_of(entry)}")
    arrays = {}
    for name, array in entry.items():
        masked = is_masked(array)
        if not isinstance(array, np.ndarray) or masked or array.dtype != np.float32:
            got = "a masked array" if masked else array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"state[{key!r}][{name!r}]: expected a float32 array, got {got}{advice(array)}")
        arrays[name] = np.array(array, np.float32, order="C")
    if len({array.shape for array in arrays.values()}) > 1:
        raise ValueError(f"state[{key!r}]: expected arrays of one shape, got "
                         f"{sorted({array.shape for array in arrays.values()})}")
    return arrays


def _keys_of(given: Any) -> str:
    """The keys of a dict, or the type of anything else, for an error message."""
    return f"[{listed(sorted(map(str, given)), 5)}]" if isinstance(given, Mapping) else type(given).__name__


def _wrong_keys(source: str, given: Mapping[Any, Any], like: str, expected: Mapping[Any, Any]) -> ValueError:
    missing, extra = [key for key in expected if key not in given], [key for key in given if key not in expected]
    parts = [f"none for {listed(missing)}"] if missing else []
    parts += [f"{listed(extra)}, which {like} does not have"] if extra else []
    return ValueError(f"{source}: expected the keys of {like}, got {' and '.join(parts)}")
