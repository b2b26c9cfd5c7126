"""`cast`: the arrays of a program's containers, converted to float32 once."""

import copy
import operator
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastopt._floats import converted
from fastopt._runtime.arrays import is_masked


def cast(tree: Any, dtype: DTypeLike = np.float32) -> Any:
    """Copies of float arrays as C-contiguous float32, in containers like those given.

    Parameters
    ----------
    tree : array, or nested dicts, lists, tuples and named tuples of arrays
        Nothing in it is changed. Arrays of integers and bool, such as labels, numbers and everything else that is no
        array of floats are returned as they are.
    dtype : float32 or float64
        float64 for checking gradients by differences.

    Returns
    -------
    object
        The array, or new containers of the same types with the arrays' copies: C-contiguous, aligned, in native byte
        order. An array that already is all that is returned itself, not a copy, and so is a tuple in which nothing
        changes. A mapping that is no dict, such as what numpy.load returns for an .npz file, becomes a dict.

    Raises
    ------
    TypeError
        For a masked array, or another dtype.
    ValueError
        If a finite number is beyond the range of `dtype`, and would become inf; for a container that contains itself.

    Notes
    -----
    An array or container that occurs twice in the tree does so in the result, so that tied weights stay tied; views of
    one array, such as ``W`` and ``W.T``, become arrays of their own. The program must go on with what is returned
    (``params = fastopt.cast(params)``): whoever else holds the old arrays, such as a layer, needs the new ones. What
    objects have as attributes is not looked into; ``vars(layer).update(fastopt.cast(vars(layer)))`` casts those of one.
    Of objects that share arrays, cast all attributes in one call: ``fastopt.cast([vars(layer) for layer in layers])``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> params = {"W": np.ones((2, 3)), "layers": [(np.zeros(3), 0.5)]}
    >>> params = fastopt.cast(params)
    >>> params["W"].dtype, params["layers"][0][0].dtype, params["layers"][0][1]
    (dtype('float32'), dtype('float32'), 0.5)
    """
    try:
        kind = np.dtype(dtype)
    except (TypeError, ValueError):
        kind = None
    if dtype is None or kind not in (np.float32, np.float64) or not kind.isnative:
        raise TypeError(f"dtype: expected float32 or float64, got {reprlib.repr(dtype)}")
    return _cast(tree, kind, "tree", {})


def _cast(source: Any, dtype: np.dtype[Any], path: str, done: dict[int, Any]) -> Any:
    """`source` cast. `done` holds what was cast before by its id, and None for the containers that `source` is in."""
    container = isinstance(source, (Mapping, list, tuple))
    if not container and not isinstance(source, np.ndarray):
        return source
    if id(source) in done:
        _, made = done[id(source)]
        if made is None:
            raise ValueError(f"{path}: expected a tree, got a container that contains itself")
        return made
    done[id(source)] = source, None         # with a reference, so that no other object has its id
    made = _cast_container(source, dtype, path, done) if container else _cast_array(source, dtype, path)
    done[id(source)] = source, made
    return made


def _cast_container(source: Any, dtype: np.dtype[Any], path: str, done: dict[int, Any]) -> Any:
    if isinstance(source, Mapping):
        entries = {key: _cast(value, dtype, f"{path}[{reprlib.repr(key)}]", done) for key, value in source.items()}
        if type(source) is dict or not isinstance(source, dict):
            return entries
        mapping = copy.copy(source)         # with a defaultdict's factory and an OrderedDict's order
        for key, value in entries.items():  # a Counter's update would add
            mapping[key] = value
        return mapping
    items = [_cast(item, dtype, f"{path}[{i}]", done) for i, item in enumerate(source)]
    if isinstance(source, list):
        made = copy.copy(source)
        made[:] = items
        return made
    if all(map(operator.is_, items, source)):
        return source                   # a result of os.stat, for example, cannot be made anew
    return tuple.__new__(type(source), items)       # a class of the user's may take other arguments


def _cast_array(source: np.ndarray[Any, Any], dtype: np.dtype[Any], path: str) -> Any:
    if is_masked(source):
        raise TypeError(f"{path}: expected an array without a mask, got a masked array (its filled() is one)")
    if source.dtype.kind != "f" or (source.dtype == dtype and source.flags.c_contiguous and source.flags.aligned):
        return source
    return converted(source, dtype, path)
