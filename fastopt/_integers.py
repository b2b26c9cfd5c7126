"""Labels and indices: arrays of any integer type and layout, as int64 copies that no other thread can change."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastopt._runtime.arrays import Array, advice, is_masked


def is_integer_array(source: Any) -> bool:
    """Whether it is an ndarray of integers without a mask."""
    return isinstance(source, np.ndarray) and source.dtype.kind in "iu" and not is_masked(source)


def int64_copy(source: NDArray[Any], name: str) -> tuple[NDArray[np.int64], Array]:
    """A C-contiguous int64 copy of an integer array, and its Array. Numbers above 2**63 − 1 become that."""
    if source.dtype.kind == "u" and source.dtype.itemsize == 8:
        source = np.minimum(source, 2**63 - 1)      # the cast to int64 must not wrap around to a valid number
    copy = np.array(source, np.int64, order="C")
    return copy, Array(copy, name, kind="q")


def element(source: NDArray[Any], name: str, place: int) -> str:
    """The element at this place in C order, for an error: "labels[2, 5] = 12"."""
    index = ", ".join(str(i) for i in np.unravel_index(place, source.shape)) or "()"
    return f"{name}[{index}] = {source.flat[place]!s}"      # format() makes a float64 of a longdouble


def described(source: Any) -> str:
    """What was given where an integer array was expected, for an error."""
    if not isinstance(source, np.ndarray) or is_masked(source):
        return f"{type(source).__name__}{advice(source)}"
    return f"{source.dtype} {source.shape}"
