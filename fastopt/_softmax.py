"""Softmax and its relatives along an axis."""

from fastopt._runtime import dispatch
from fastopt._runtime.slices import backward, forward


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
    arrays = forward(x, axis, out)
    dispatch.active.softmax.log_softmax(arrays)
    return arrays.result


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
    Within 2.5 units in the last place of the exact result, subnormal ones included; 2.0 is the most that was seen, in
    3·10⁷ elements. An entry of −inf gives 0; rows that
    are NaN are those of `fastopt.log_softmax`. Same bits for any number of threads.
    """
    arrays = forward(x, axis, out)
    dispatch.active.softmax.softmax(arrays)
    return arrays.result


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
    arrays = forward(x, axis, out)
    dispatch.active.softmax.hardmax(arrays)
    return arrays.result


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
    arrays = backward(dy, y, axis, out)
    dispatch.active.softmax.log_softmax_backward(arrays)
    return arrays.result


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
    arrays = backward(dy, y, axis, out)
    dispatch.active.softmax.softmax_backward(arrays)
    return arrays.result
