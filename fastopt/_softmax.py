"""Softmax and its relatives along an axis."""

import operator

import numpy as np

from fastopt._runtime import dispatch
from fastopt._runtime.arrays import Array, require_disjoint


def _shape(x, axis):
    """`x` as (outer, n, inner) with the axis in the middle."""
    shape = x.shape
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(f"axis: expected an int, got {type(axis).__name__}")
    if not shape:
        raise ValueError("x: expected at least one dimension, got shape ()")
    index = operator.index(axis)
    if not -len(shape) <= index < len(shape):
        raise ValueError(f"axis: expected an int in [{-len(shape)}, {len(shape)}), got {index}")
    index %= len(shape)
    outer = inner = 1
    for size in shape[:index]:
        outer *= size
    for size in shape[index + 1 :]:
        inner *= size
    return outer, shape[index], inner


def _output(out, source, *others, name="out"):
    """`out`, or a new array, as an Array of `source`'s shape; it may be the very array of `source`."""
    target = np.empty(source.shape, np.float32) if out is None else out
    return target, Array(target, name, writable=True, shape=source.shape)


def log_softmax(x, axis=-1, out=None):
    """Logarithm of the softmax along an axis.

    ::

        yⱼ = xⱼ − log Σₖ exp(xₖ)

    Parameters
    ----------
    x : float32 array, C-contiguous
        Scores, of any shape with at least one dimension.
    axis : int
        The axis of the classes. The last one is the fastest; no other makes a transposed copy.
    out : float32 array of the same shape, optional
        Receives the result; may be `x` itself. Without it a new array is made.

    Returns
    -------
    float32 array
        `out`, or the new array.

    Raises
    ------
    TypeError, ValueError
        An array or axis that is not as described; nothing has been written then.

    Notes
    -----
    Within 2 units in the last place of the exact result, on confident rows too. An entry of −inf stays −inf. All −inf,
    any +inf or any NaN makes its whole row NaN. Same bits for any number of threads.
    """
    source = Array(x, "x")
    shape = _shape(source, axis)
    y, target = _output(out, source)
    if out is not x:
        require_disjoint(source, target)
    dispatch.active.softmax.log_softmax(source, target, *shape)
    return y
