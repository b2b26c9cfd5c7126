"""Layer and RMS normalisation in NumPy: sums in double; y and dx in the type of x, from constants in double.

Sums have the order of kernels/layernorm.pyx, which makes every result of the kernels equal to this one bit for bit.
"""

from typing import Any

import numpy as np

from fastopt.reference._batchnorm import in_order
from fastopt.reference._formula import Array

LANES, GROUP, BLOCK_ELEMENTS, MAX_BLOCKS = 8, 4, 32768, 32

quiet = np.errstate(all="ignore")  # inf and NaN pass through as in the kernels


class LayerNormCache:
    """x, gamma, and two float64 numbers for each row: mean and invstd."""

    def __init__(self, x: Array, gamma: Array, mean: Array, invstd: Array) -> None:
        self.x: Any = x
        self.gamma, self.mean, self.invstd = gamma, mean, invstd

    def release(self) -> None:
        self.x = None


class RMSNormCache:
    """x, gamma, and one float64 number for each row: invrms."""

    def __init__(self, x: Array, gamma: Array, invrms: Array) -> None:
        self.x: Any = x
        self.gamma, self.invrms = gamma, invrms

    def release(self) -> None:
        self.x = None


def rows_of(x: Array, gamma: Array) -> Array:
    """A view of x as (rows, elements)."""
    return x.reshape(x.size // gamma.size if gamma.size else int(np.prod(x.shape[: x.ndim - gamma.ndim])), gamma.size)


def row_sums(values: Array) -> Array:
    """Σ of each row, of shape (rows, 1), in LANES lanes, the rest in the last ones; then halves are added."""
    rows, n = values.shape
    rest = np.zeros((rows, -n % LANES))
    whole = n // LANES * LANES
    lanes = np.concatenate([values[:, :whole], rest, values[:, whole:]], axis=1).reshape(rows, -1, LANES)
    sums = in_order(lanes.swapaxes(0, 1))
    half = LANES // 2
    while half:
        sums = sums[:, :half] + sums[:, half:]
        half //= 2
    return sums


def column_sums(values: Array) -> Array:
    """Σ over the rows: those of a block in order, then the blocks."""
    rows, n = values.shape
    block = max(-(-rows // MAX_BLOCKS), -(-BLOCK_ELEMENTS // n))
    block = -(-block // GROUP) * GROUP
    return in_order(np.stack([in_order(values[first : first + block]) for first in range(0, rows, block)]))


def statistics(x: Array) -> tuple[Array, Array]:
    """Mean and Σ (x − mean)² of each row, from sums around its first element, or around the mean if that is far."""
    n = x.shape[1]
    values = x.astype(np.float64)
    k = values[:, :1]
    s, q = row_sums(values - k), row_sums((values - k) ** 2)
    far = s * (s / n) > 16 * (q - s * (s / n))
    k = np.where(far, k + s / n, k)
    s, q = np.where(far, row_sums(values - k), s), np.where(far, row_sums((values - k) ** 2), q)
    return k + s / n, q - s * (s / n)


def inverse_root(squares: Array, n: int, eps: float) -> Array:
    return 1.0 / np.sqrt(squares / n + float(eps))


# Each row's constants fit the type of x, or the row is computed in float64.

def normal(constant: Array, kind: np.dtype) -> Array:
    """Not larger than a quarter of the largest number, and not subnormal."""
    info = np.finfo(kind)
    least = np.where(constant != 0, float(info.smallest_normal), 0.0)
    return ~(abs(constant) > largest_term(kind)) & ~(least > abs(constant))


def largest_term(kind: np.dtype) -> float:
    return float(2.0 ** (np.finfo(kind).maxexp - 2))


def fits(center: Array, invstd: Array, n: int) -> Array:
    """So do invstd and |x − center|, which is at most 2 √n / invstd."""
    kind = center.dtype
    return normal(invstd, kind) & ~(abs(center) > np.finfo(kind).max) & ~(least_invstd(n, kind) > invstd)


def least_invstd(n: int, kind: np.dtype) -> float:
    return float(2 * np.sqrt(float(n)) / largest_term(kind))


def normalised(x: Array, mean: Array, invstd: Array) -> tuple[Array, Array]:
    """((x − center) · invstd + (center − mean) · invstd) in the type of x, and which rows fit."""
    center = mean.astype(x.dtype)
    shift = ((center - mean) * invstd).astype(x.dtype)
    return (x - center) * invstd.astype(x.dtype) + shift, fits(center, invstd, x.shape[1])


def dx_of(x: Array, dy: Array, gamma: Array, mean: Array | None, invstd: Array) -> tuple[Array, Array]:
    """dx and Σ dy · x̂ over the rows; RMS normalisation's without a mean."""
    kind, n = x.dtype, gamma.size
    wide, slopes, g64 = x.astype(np.float64), dy.astype(np.float64), gamma.astype(np.float64)
    d = wide if mean is None else wide - mean
    sum_g, sum_g_d = row_sums(slopes * g64), row_sums(slopes * d * g64)
    dgamma = column_sums(slopes * d * invstd)

    slope = -(invstd * (invstd * invstd * (sum_g_d / n)))
    center = np.zeros_like(invstd, kind) if mean is None else mean.astype(kind)
    offset = np.zeros_like(invstd) if mean is None else -(invstd * (sum_g / n)) + (center - mean) * slope
    fit = fits(center, invstd, n) & normal(slope, kind) & ~(abs(offset) > largest_term(kind))
    fit &= ~(abs(slope) * least_invstd(n, kind) > invstd)
    line = x * slope.astype(kind) if mean is None else (x - center) * slope.astype(kind) + offset.astype(kind)
    g, xhat = slopes * g64, d * invstd
    centred = g if mean is None else g - sum_g / n
    exact = invstd * (centred - xhat * (sum_g_d * invstd / n))
    return np.where(fit, dy * gamma * invstd.astype(kind) + line, exact.astype(kind)), dgamma


@quiet
def layer_norm_forward(x: Array, gamma: Array, beta: Array, *, eps: float = 1e-5,
                       out: Array | None = None) -> tuple[Array, LayerNormCache]:
    """See `fastopt.layer_norm_forward`."""
    y = np.empty_like(x) if out is None else out
    values, n = rows_of(x, gamma), gamma.size
    mean = invstd = np.full((len(values), 1), np.nan)
    if x.size:
        mean, squares = statistics(values)
        invstd = inverse_root(squares, n, eps)
        # In a constant row x̂ is +0, and +0 · −|γ| + β = −0 + β = β, even if β is −0.
        g, b = gamma.ravel(), beta.ravel()
        factor = np.where(squares == 0, -abs(g), g)
        xhat, fit = normalised(values, mean, invstd)
        exact = (values - np.where(mean == 0, -0.0, mean)) * invstd * factor + b
        y[...] = np.where(fit, xhat * factor + b, exact.astype(x.dtype)).reshape(x.shape)
    leading = x.shape[: x.ndim - gamma.ndim]
    return y, LayerNormCache(x, gamma.copy(), mean.reshape(leading), invstd.reshape(leading))


@quiet
def rms_norm_forward(x: Array, gamma: Array, *, eps: float = 1e-5,
                     out: Array | None = None) -> tuple[Array, RMSNormCache]:
    """See `fastopt.rms_norm_forward`."""
    y = np.empty_like(x) if out is None else out
    values, n, g = rows_of(x, gamma), gamma.size, gamma.ravel()
    invrms = np.full((len(values), 1), np.nan)
    if x.size:
        invrms = inverse_root(row_sums(values.astype(np.float64) ** 2), n, eps)
        fit = fits(np.zeros_like(invrms, x.dtype), invrms, n)
        exact = values * invrms * g
        y[...] = np.where(fit, values * invrms.astype(x.dtype) * g, exact.astype(x.dtype)).reshape(x.shape)
    return y, RMSNormCache(x, gamma.copy(), invrms.reshape(x.shape[: x.ndim - gamma.ndim]))


@quiet
def layer_norm_backward(dy: Array, cache: LayerNormCache, *,
                        out: Array | tuple[Array | None, Array | None, Array | None] | None = None,
                        ) -> tuple[Array, Array, Array]:
    """See `fastopt.layer_norm_backward`."""
    x, gamma = cache.x, cache.gamma
    dx, dgamma, dbeta = out if isinstance(out, tuple) else (out, None, None)
    dx = np.empty_like(x) if dx is None else dx
    dgamma = np.empty_like(gamma) if dgamma is None else dgamma
    dbeta = np.empty_like(gamma) if dbeta is None else dbeta
    if x.size:
        slopes = rows_of(dy, gamma)
        dbeta[...] = column_sums(slopes.astype(np.float64)).reshape(gamma.shape)
        gradient, products = dx_of(rows_of(x, gamma), slopes, gamma.ravel(), cache.mean.reshape(-1, 1),
                                   cache.invstd.reshape(-1, 1))
        dx[...] = gradient.reshape(x.shape)
        dgamma[...] = products.reshape(gamma.shape)
    else:
        dgamma[...] = dbeta[...] = 0
    return dx, dgamma, dbeta


@quiet
def rms_norm_backward(dy: Array, cache: RMSNormCache, *, out: Array | tuple[Array | None, Array | None] | None = None,
                      ) -> tuple[Array, Array]:
    """See `fastopt.rms_norm_backward`."""
    x, gamma = cache.x, cache.gamma
    dx, dgamma = out if isinstance(out, tuple) else (out, None)
    dx = np.empty_like(x) if dx is None else dx
    dgamma = np.empty_like(gamma) if dgamma is None else dgamma
    if x.size:
        gradient, products = dx_of(rows_of(x, gamma), rows_of(dy, gamma), gamma.ravel(), None,
                                   cache.invrms.reshape(-1, 1))
        dx[...] = gradient.reshape(x.shape)
        dgamma[...] = products.reshape(gamma.shape)
    else:
        dgamma[...] = 0
    return dx, dgamma
