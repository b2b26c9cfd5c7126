"""Softmax and its relatives along an axis, computed in double and rounded once to float32."""

import numpy as np

from fastopt.reference._formula import Array


def moments(x: Array, axis: int = -1) -> tuple[Array, Array, Array]:
    """In float64: x − m for the largest element m, Σ exp(x − m) over the other elements, and its log1p.

    All are NaN in a row whose largest element is infinite or NaN.
    """
    x = np.asarray(x, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        m = x.max(axis, keepdims=True)
        distance = np.where(np.isfinite(m), x - m, np.nan)
        terms = np.exp(distance)
        first = np.expand_dims(x.argmax(axis), axis)
        others = terms.copy()
        np.put_along_axis(others, first, 0.0, axis)
        rest = others.sum(axis, keepdims=True) + 0.0 * m        # NaN also if the excluded term is NaN
        rest = np.where(np.isfinite(m), rest, np.nan)
    return distance, rest, np.log1p(rest)


def result(values: Array, out: Array | None) -> Array:
    """`values` as float32, or in `out` if given."""
    with np.errstate(over="ignore", under="ignore"):
        if out is None:
            return values.astype(np.float32)
        out[...] = values
    return out


def log_softmax(x: Array, axis: int = -1, out: Array | None = None) -> Array:
    """See `fastopt.log_softmax`."""
    if x.size == 0:
        return result(x, out)
    distance, _, log_sum = moments(x, axis)
    return result(distance - log_sum, out)


def softmax(x: Array, axis: int = -1, out: Array | None = None) -> Array:
    """See `fastopt.softmax`."""
    if x.size == 0:
        return result(x, out)
    distance, rest, _ = moments(x, axis)
    with np.errstate(under="ignore"):
        return result(np.exp(distance) / (1.0 + rest), out)


def hardmax(x: Array, axis: int = -1, out: Array | None = None) -> Array:
    """See `fastopt.hardmax`."""
    if x.size == 0:
        return result(x, out)
    y = np.zeros(x.shape)
    np.put_along_axis(y, np.expand_dims(x.argmax(axis), axis), 1.0, axis)
    return result(np.where(np.isnan(x).any(axis, keepdims=True), np.nan, y), out)


def log_softmax_backward(dy: Array, y: Array, axis: int = -1, out: Array | None = None) -> Array:
    """See `fastopt.log_softmax_backward`."""
    total = dy.sum(axis, keepdims=True, dtype=np.float64)
    y = y.astype(np.float64)
    # For exp(y) near 1, dy − exp(y) · total may cancel; (dy − total) and expm1(y) · total do not.
    return result(np.where(y > -0.5, (dy - total) - np.expm1(y) * total, dy - np.exp(y) * total), out)


def softmax_backward(dy: Array, y: Array, axis: int = -1, out: Array | None = None) -> Array:
    """See `fastopt.softmax_backward`."""
    total = (dy * y.astype(np.float64)).sum(axis, keepdims=True)
    return result(y * (dy - total), out)
