"""Softmax and its relatives along an axis."""

from typing import SupportsIndex

from fastopt._runtime import dispatch
from fastopt._typing import Float32Array


def log_softmax(x: Float32Array, axis: SupportsIndex = -1, out: Float32Array | None = None) -> Float32Array:
    """Logarithm of the softmax along an axis.

    ::

        yⱼ = xⱼ − log Σₖ exp(xₖ)

    Parameters
    ----------
    x : float32 array, C-contiguous
        Scores, of any shape with at least one dimension.
    axis : int
        The axis of the classes, in [−ndim, ndim). No axis needs a transposed copy.
    out : float32 array of the same shape, optional
        Receives the result; may be `x` itself. By default a new array is created.

    Returns
    -------
    float32 array
        `out`, or the new array.

    Raises
    ------
    TypeError, ValueError
        If an array or the axis is not as described, or `out` overlaps `x` in part. Nothing has been written then.

    Notes
    -----
    The error is at most 2 units in the last place, also on confident rows. An entry of −inf gives −inf. A row with a
    NaN or +inf, or of −inf only, gives NaN. Same bits for any number of threads. The maximum is subtracted as in
    Blanchard, Higham and Higham (2021), Accurately computing the log-sum-exp and softmax functions.
    """
    return dispatch.active.softmax.log_softmax(x, axis, out)


def softmax(x: Float32Array, axis: SupportsIndex = -1, out: Float32Array | None = None) -> Float32Array:
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
    The error is at most 3 units in the last place, also of subnormal results (measured: 2.5, over 3·10⁷ elements).
    An entry of −inf gives 0. A row is NaN where that of `fastopt.log_softmax` is. Same bits for any number of threads.
    """
    return dispatch.active.softmax.softmax(x, axis, out)


def hardmax(x: Float32Array, axis: SupportsIndex = -1, out: Float32Array | None = None) -> Float32Array:
    """One-hot encoding of numpy.argmax along an axis.

    ::

        yⱼ = 1 if j is the first index of the largest xⱼ, else 0

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
    The form of ONNX's Hardmax. A row with a NaN gives NaN; infinities are ordered as numbers are.
    """
    return dispatch.active.softmax.hardmax(x, axis, out)


def log_softmax_backward(dy: Float32Array, y: Float32Array, axis: SupportsIndex = -1,
                         out: Float32Array | None = None) -> Float32Array:
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
        The axis of the forward call.
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
    Sums are double. The error is at most 2 units in the last place of the larger of dyⱼ and exp(yⱼ) · Σ.
    For cross-entropy, `fastopt.softmax_cross_entropy` is faster and more accurate. Same bits for any number of threads.
    """
    return dispatch.active.softmax.log_softmax_backward(dy, y, axis, out)


def softmax_backward(dy: Float32Array, y: Float32Array, axis: SupportsIndex = -1,
                     out: Float32Array | None = None) -> Float32Array:
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
    Sums are double; each element is rounded once. Same bits for any number of threads.
    """
    return dispatch.active.softmax.softmax_backward(dy, y, axis, out)
