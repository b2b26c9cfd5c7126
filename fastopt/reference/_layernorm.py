"""Layer and RMS normalisation in NumPy: computed in double, rounded once to the type of x.

Sums have the order of kernels/layernorm.pyx, which makes every result of the kernels equal to this one bit for bit.
"""

from typing import Any

import numpy as np

from fastopt.reference._formula import Array

LANES, GROUP, BLOCK_ELEMENTS, MAX_BLOCKS = 32, 4, 8192, 32

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
    """x as (rows, elements), in float64."""
    rows = x.size // gamma.size if gamma.size else int(np.prod(x.shape[: x.ndim - gamma.ndim]))
    return x.reshape(rows, gamma.size).astype(np.float64)


def in_order(values: Array) -> Array:
    """Σ over the first axis, one after the other."""
    total = np.zeros(values.shape[1:])
    for part in values:
        total = total + part
    return total


def row_sums(values: Array) -> Array:
    """Σ of each row, of shape (rows, 1): element j is added to lane j % LANES, then halves are added."""
    rows, n = values.shape
    lanes = np.pad(values, [(0, 0), (0, -n % LANES)]).reshape(rows, -1, LANES)
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


def inverse_root(squares: Array, n: int, eps: float) -> Array:
    return 1.0 / np.sqrt(squares / n + float(eps))


@quiet
def layer_norm_forward(x: Array, gamma: Array, beta: Array, *, eps: float = 1e-5,
                       out: Array | None = None) -> tuple[Array, LayerNormCache]:
    """See `fastopt.layer_norm_forward`."""
    y = np.empty_like(x) if out is None else out
    values, n = rows_of(x, gamma), gamma.size
    mean = invstd = np.full((len(values), 1), np.nan)
    if x.size:
        mean = row_sums(values) / n
        squares = row_sums((values - mean) ** 2)
        invstd = inverse_root(squares, n, eps)
        g, b = gamma.ravel().astype(np.float64), beta.ravel().astype(np.float64)
        center = np.where(mean == 0, -0.0, mean)
        # In a constant row x − center is +0, and +0 · −|γ| + β = −0 + β = β, even if β is −0.
        factor = np.where(squares == 0, -np.abs(g), g)
        y[...] = ((values - center) * invstd * factor + b).reshape(x.shape)
    leading = x.shape[: x.ndim - gamma.ndim]
    return y, LayerNormCache(x, gamma.copy(), mean.reshape(leading), invstd.reshape(leading))


@quiet
def rms_norm_forward(x: Array, gamma: Array, *, eps: float = 1e-5,
                     out: Array | None = None) -> tuple[Array, RMSNormCache]:
    """See `fastopt.rms_norm_forward`."""
    y = np.empty_like(x) if out is None else out
    values = rows_of(x, gamma)
    invrms = np.full((len(values), 1), np.nan)
    if x.size:
        invrms = inverse_root(row_sums(values**2), gamma.size, eps)
        y[...] = (values * invrms * gamma.ravel().astype(np.float64)).reshape(x.shape)
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
        slopes, n = rows_of(dy, gamma), gamma.size
        mean, invstd = cache.mean.reshape(-1, 1), cache.invstd.reshape(-1, 1)
        g, d = slopes * gamma.ravel().astype(np.float64), rows_of(x, gamma) - mean
        xhat = d * invstd
        mean_g, mean_g_xhat = row_sums(g) / n, row_sums(g * d) * invstd / n
        dgamma[...] = column_sums(slopes * xhat).reshape(gamma.shape)
        dbeta[...] = column_sums(slopes).reshape(gamma.shape)
        dx[...] = (invstd * ((g - mean_g) - xhat * mean_g_xhat)).reshape(x.shape)
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
        slopes, values, n = rows_of(dy, gamma), rows_of(x, gamma), gamma.size
        invrms = cache.invrms.reshape(-1, 1)
        g, xhat = slopes * gamma.ravel().astype(np.float64), values * invrms
        mean_g_xhat = row_sums(g * values) * invrms / n
        dgamma[...] = column_sums(slopes * xhat).reshape(gamma.shape)
        dx[...] = (invrms * (g - xhat * mean_g_xhat)).reshape(x.shape)
    else:
        dgamma[...] = 0
    return dx, dgamma
