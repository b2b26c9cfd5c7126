"""Softmax and its relatives along an axis."""

import operator

import numpy as np

from fastopt._runtime import dispatch
from fastopt._runtime.arrays import Array, require_disjoint


def _shape(x, axis):
    """The Array `x` as (outer, n, inner) with the axis in the middle."""
    shape = x.shape
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(f"axis: expected an int, got {type(axis).__name__}")
    if not shape:
        raise ValueError(f"{x.name}: expected at least one dimension, got shape ()")
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


def _forward(kernel, x, axis, out):
    source = Array(x, "x")
    shape = _shape(source, axis)
    y = np.empty(source.shape, np.float32) if out is None else out
    target = Array(y, "out", writable=True, shape=source.shape)
    if out is not x:
        require_disjoint(source, target)
    getattr(dispatch.active.softmax, kernel)(source, target, *shape)
    return y


def _backward(kernel, dy, y, axis, out):
    slope = Array(dy, "dy")
    result = Array(y, "y", shape=slope.shape)
    shape = _shape(slope, axis)
    dx = np.empty(slope.shape, np.float32) if out is None else out
    target = Array(dx, "out", writable=True, shape=slope.shape)
    require_disjoint(None if out is dy else slope, None if out is y else result, target)
    getattr(dispatch.active.softmax, kernel)(slope, result, target, *shape)
    return dx


def log_softmax(x, axis=-1, out=None):
    """Logarithm of the softmax along an axis.

    ::

        yⱼ = xⱼ − log Σₖ exp(xₖ)

    Parameters
    ----------
    x : float32 array, C-contiguous
        Scores, of any shape with at least one dimension.
    axis : int
        The axis of the classes. No axis makes a transposed copy.
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
    return _forward("log_softmax", x, axis, out)


def softmax(x, axis=-1, out=None):
    """Softmax along an axis.

    ::

        yⱼ = exp(xⱼ) / Σₖ exp(xₖ)

    Parameters
    ----------
    x, axis, out
        As in `fastopt.log_softmax`.

    Returns
    -------
    float32 array
        `out`, or a new array.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.log_softmax`.

    Notes
    -----
    Within 2 units in the last place of the exact result, subnormal ones included. An entry of −inf gives 0; rows that
    are NaN are those of `fastopt.log_softmax`. Same bits for any number of threads.
    """
    return _forward("softmax", x, axis, out)


def hardmax(x, axis=-1, out=None):
    """One-hot of the first largest element along an axis, as numpy.argmax finds it.

    Parameters
    ----------
    x, axis, out
        As in `fastopt.log_softmax`.

    Returns
    -------
    float32 array
        `out`, or a new array, of zeros with a 1 in each row.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.log_softmax`.

    Notes
    -----
    The form of ONNX's Hardmax. A row with a NaN is NaN; infinities are ordinary numbers here.
    """
    return _forward("hardmax", x, axis, out)


def log_softmax_backward(dy, y, axis=-1, out=None):
    """Gradient of a loss with respect to the input of `fastopt.log_softmax`.

    ::

        dxⱼ = dyⱼ − exp(yⱼ) · Σₖ dyₖ

    Parameters
    ----------
    dy : float32 array, C-contiguous
        Gradient with respect to the result.
    y : float32 array of the same shape
        The result: what `fastopt.log_softmax` returned.
    axis : int
        As it was in the forward call.
    out : float32 array of the same shape, optional
        Receives the gradient; may be `dy` or `y` itself.

    Returns
    -------
    float32 array
        `out`, or a new array.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.log_softmax`.

    Notes
    -----
    Sums are double. The error is within 2 units in the last place of the larger of dyⱼ and exp(yⱼ) · Σ.
    For cross-entropy, `fastopt.softmax_cross_entropy` is faster and more exact. Same bits for any number of threads.
    """
    return _backward("log_softmax_backward", dy, y, axis, out)


def softmax_backward(dy, y, axis=-1, out=None):
    """Gradient of a loss with respect to the input of `fastopt.softmax`.

    ::

        dxⱼ = yⱼ · (dyⱼ − Σₖ dyₖ · yₖ)

    Parameters
    ----------
    dy, y, axis, out
        As in `fastopt.log_softmax_backward`, with the result of `fastopt.softmax`.

    Returns
    -------
    float32 array
        `out`, or a new array.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.log_softmax`.

    Notes
    -----
    Sums are double, one rounding to float32 an element. Same bits for any number of threads.
    """
    return _backward("softmax_backward", dy, y, axis, out)
