"""Layer normalisation and RMS normalisation: forward and backward."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastopt._runtime import dispatch
from fastopt._runtime.arrays import Array, array_like, require_disjoint, require_disjoint_or_same, same_memory
from fastopt._runtime.hyper import Ranges
from fastopt._typing import Float32Array

float32 = np.dtype(np.float32)
ranges = Ranges(eps="double (0, inf)")


class NormCache:
    """What the two caches share: a reference to x, a copy of gamma, and `NUMBERS` float64 numbers for each row."""

    __slots__ = ("_array", "_gamma", "_saved", "_x")
    NUMBERS = 0

    def __init__(self, x: Float32Array, array: Array, gamma: Float32Array, saved: NDArray[np.float64]) -> None:
        self._x: Float32Array | None = x
        self._array: Array | None = array       # x as forward saw it
        self._gamma = gamma
        self._saved = saved

    @property
    def x(self) -> Float32Array | None:
        return self._x

    @property
    def gamma(self) -> Float32Array:
        return self._gamma

    def release(self) -> None:
        """Drop the reference to x; backward then refuses this cache."""
        self._x = self._array = None


class LayerNormCache(NormCache):
    """What `layer_norm_backward` needs of the forward pass.

    `x` is not copied and must still have its values when backward runs; `gamma` is a copy. `mean` and `invstd` are
    float64, of the shape of x's leading axes. No field can be assigned. `release()` drops the reference to x.
    """

    __slots__ = ()
    NUMBERS = 2

    @property
    def mean(self) -> NDArray[np.float64]:
        return self._saved[0]

    @property
    def invstd(self) -> NDArray[np.float64]:
        return self._saved[1]


class RMSNormCache(NormCache):
    """What `rms_norm_backward` needs of the forward pass.

    `x` is not copied and must still have its values when backward runs; `gamma` is a copy. `invrms` is float64, of the
    shape of x's leading axes. No field can be assigned. `release()` drops the reference to x.
    """

    __slots__ = ()
    NUMBERS = 1

    @property
    def invrms(self) -> NDArray[np.float64]:
        return self._saved[0]


def check_gamma(x: Array, gamma: Float32Array) -> tuple[Array, tuple[int, ...]]:
    """gamma, validated, and the shape of x's leading axes, which gamma does not have."""
    g = Array(gamma, "gamma")
    ndim = len(x.shape) - len(g.shape)
    if not g.shape or ndim < 0 or x.shape[ndim:] != g.shape:
        raise ValueError(f"gamma: expected the shape of the last axes of x, {x.shape}, got shape {g.shape}")
    return g, x.shape[:ndim]


def check_cache(cache: Any, kind: type[NormCache], forward: str) -> tuple[Array, Array, Array]:
    """x, gamma and the saved numbers of a cache, validated again."""
    if not isinstance(cache, kind):
        raise TypeError(f"cache: expected what {forward} returned, got {type(cache).__name__}")
    if cache._x is None:
        raise ValueError("cache: expected one that still holds x, got one that was released")
    x = array_like(cache._x, "x", False, cache._array)
    if not same_memory(x, cache._array):
        raise ValueError("x: expected the memory that the forward pass saw, got an array that was resized since")
    gamma = Array(cache._gamma, "cache.gamma")
    rows = x.shape[: len(x.shape) - len(gamma.shape)]
    saved = Array(cache._saved, "cache.saved", kind="d", shape=(kind.NUMBERS, *rows))
    return x, gamma, saved


def new_if_none(array: Float32Array | None, like: Array) -> Float32Array:
    return np.empty(like.shape, float32) if array is None else array


def backward(dy: Float32Array, x: Array, gamma: Array, saved: Array, dx: Float32Array, dgamma: Float32Array,
             dbeta: Float32Array | None, given: bool) -> None:
    """Write the gradients; without dbeta those of RMS normalisation. Given: some of them are the caller's arrays."""
    d, o = array_like(dy, "dy", False, x), array_like(dx, "out", True, x)
    g = array_like(dgamma, "dgamma", True, gamma)
    b = None if dbeta is None else array_like(dbeta, "dbeta", True, gamma)
    if given:
        require_disjoint_or_same(o, d)
        require_disjoint(x, gamma, None if same_memory(o, d) else d, o, g, b)
    if x.size:
        dispatch.active.layernorm.backward(d, x, gamma, saved, o, g, b)
    else:
        for gradient in (dgamma, dbeta):
            if gradient is not None:
                np.asarray(gradient)[...] = 0.0


def layer_norm_forward(x: Float32Array, gamma: Float32Array, beta: Float32Array, *, eps: float = 1e-5,
                       out: Float32Array | None = None) -> tuple[Float32Array, LayerNormCache]:
    """Normalise every row of x by its own mean and variance; return y and what backward needs.

    A row is x along its last axes, those that gamma has. For each row, over its D elements::

        mean = Σ x / D,  var = Σ (x − mean)² / D
        y = (x − mean) / √(var + eps) · γ + β

    Parameters
    ----------
    x : float32 array, C-contiguous
    gamma, beta : float32 arrays of the shape of x's last axes
        Scale and shift, of at least one dimension.
    eps : float
        > 0.
    out : float32 array of x's shape, optional
        Receives y; a new array otherwise. Not x: backward needs it.

    Returns
    -------
    y : float32 array
    cache : LayerNormCache
        Keeps a reference to x, not a copy. Its `mean` and `invstd` are float64.

    Raises
    ------
    TypeError, ValueError
        For an array of another type, shape or layout, read-only or overlapping another; a number out of range. Nothing
        has been written then.

    Notes
    -----
    Ba, Kiros and Hinton 2016, in torch.nn.functional.layer_norm's form. Sums and statistics are double. y is computed
    in float32 from constants in double, within 5 ULP of the larger of (x − mean) / √(var + eps) · γ and β, however
    large the mean is beside the deviation; rows whose constants are not in float32's range are computed in double. A
    row of equal elements gives beta bit for bit. A NaN or an infinity makes its own row NaN. The bits are those of
    ``fastopt.reference.layer_norm_forward``, whatever the threads and the processor.
    """
    ranges(eps)
    source = Array(x, "x")
    g, leading = check_gamma(source, gamma)
    b = array_like(beta, "beta", False, g)
    y = new_if_none(out, source)
    o = array_like(y, "out", True, source)
    if out is not None:
        require_disjoint(source, g, b, o)
    saved = np.empty((2, *leading))
    if source.size:
        dispatch.active.layernorm.layer_norm(source, g, b, o, Array(saved, "cache.saved", kind="d"), eps)
    else:
        saved.fill(np.nan)
    return y, LayerNormCache(np.asarray(x), source, np.array(gamma, float32), saved)


def layer_norm_backward(
    dy: Float32Array, cache: LayerNormCache, *,
    out: Float32Array | tuple[Float32Array | None, Float32Array | None, Float32Array | None] | None = None,
) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Gradients of `layer_norm_forward`: dx, dgamma, dbeta.

    With the forward pass's mean and invstd = 1 / √(var + eps), and the means over the D elements of a row::

        x̂ = (x − mean) · invstd,  g = dy · γ
        dx = invstd · (g − mean(g) − x̂ · mean(g · x̂))
        dgamma = Σ dy · x̂,  dbeta = Σ dy                            over the rows

    Parameters
    ----------
    dy : float32 array of x's shape
    cache : LayerNormCache
        What `layer_norm_forward` returned. x must still have the values that forward saw.
    out : float32 array, or a tuple of three (dx, dgamma, dbeta), optional
        Receive the results; dx may be dy itself (then dy is overwritten). None in the tuple: a new array.

    Returns
    -------
    dx : float32 array of x's shape
    dgamma, dbeta : float32 arrays of gamma's shape

    Raises
    ------
    TypeError, ValueError
        As `layer_norm_forward`; also for a cache that was released, or that is not a LayerNormCache, and for an x that
        was resized or reshaped since. Nothing has been written then.

    Notes
    -----
    Sums are double; dgamma and dbeta are rounded once. dx is computed in float32 from constants in double, as in
    `layer_norm_forward`: dy · γ is rounded to float32, and the error of dx is at most 12 · 2⁻²⁴ of the largest of its
    three terms. The bits are those of ``fastopt.reference.layer_norm_backward``. Rows without elements have no
    gradients; without rows, those of gamma and beta are 0.
    """
    x, gamma, saved = check_cache(cache, LayerNormCache, "layer_norm_forward")
    dx, dgamma, dbeta = out if isinstance(out, tuple) and len(out) == 3 else (out, None, None)
    given = dx is not None or dgamma is not None or dbeta is not None
    dx, dgamma, dbeta = new_if_none(dx, x), new_if_none(dgamma, gamma), new_if_none(dbeta, gamma)
    backward(dy, x, gamma, saved, dx, dgamma, dbeta, given)
    return dx, dgamma, dbeta


def rms_norm_forward(x: Float32Array, gamma: Float32Array, *, eps: float = 1e-5,
                     out: Float32Array | None = None) -> tuple[Float32Array, RMSNormCache]:
    """Divide every row of x by its root mean square; return y and what backward needs.

    A row is x along its last axes, those that gamma has. For each row, over its D elements::

        y = x / √(Σ x² / D + eps) · γ

    Parameters
    ----------
    x, eps, out
        As in `layer_norm_forward`.
    gamma : float32 array of the shape of x's last axes
        Scale, of at least one dimension.

    Returns
    -------
    y : float32 array
    cache : RMSNormCache
        Keeps a reference to x, not a copy. Its `invrms` is float64.

    Raises
    ------
    TypeError, ValueError
        As `layer_norm_forward`; nothing has been written then.

    Notes
    -----
    Zhang and Sennrich 2019, in torch.nn.functional.rms_norm's form. The sum is double and y is computed in float32
    from a constant in double, within 3 ULP. A NaN or an infinity makes its own row NaN or 0. The bits are those of
    ``fastopt.reference.rms_norm_forward``.
    """
    ranges(eps)
    source = Array(x, "x")
    g, leading = check_gamma(source, gamma)
    y = new_if_none(out, source)
    o = array_like(y, "out", True, source)
    if out is not None:
        require_disjoint(source, g, o)
    saved = np.empty((1, *leading))
    if source.size:
        dispatch.active.layernorm.rms_norm(source, g, o, Array(saved, "cache.saved", kind="d"), eps)
    else:
        saved.fill(np.nan)
    return y, RMSNormCache(np.asarray(x), source, np.array(gamma, float32), saved)


def rms_norm_backward(
    dy: Float32Array, cache: RMSNormCache, *,
    out: Float32Array | tuple[Float32Array | None, Float32Array | None] | None = None,
) -> tuple[Float32Array, Float32Array]:
    """Gradients of `rms_norm_forward`: dx, dgamma.

    With the forward pass's invrms = 1 / √(Σ x² / D + eps), and the mean over the D elements of a row::

        x̂ = x · invrms,  g = dy · γ
        dx = invrms · (g − x̂ · mean(g · x̂))
        dgamma = Σ dy · x̂                                           over the rows

    Parameters
    ----------
    dy : float32 array of x's shape
    cache : RMSNormCache
        What `rms_norm_forward` returned. x must still have the values that forward saw.
    out : float32 array, or a tuple of two (dx, dgamma), optional
        Receive the results; dx may be dy itself (then dy is overwritten). None in the tuple: a new array.

    Returns
    -------
    dx : float32 array of x's shape
    dgamma : float32 array of gamma's shape

    Raises
    ------
    TypeError, ValueError
        As `layer_norm_backward`; nothing has been written then.

    Notes
    -----
    As in `layer_norm_backward`; the error of dx is at most 7 · 2⁻²⁴ of the larger of its two terms. The bits are those
    of ``fastopt.reference.rms_norm_backward``.
    """
    x, gamma, saved = check_cache(cache, RMSNormCache, "rms_norm_forward")
    dx, dgamma = out if isinstance(out, tuple) and len(out) == 2 else (out, None)
    given = dx is not None or dgamma is not None
    dx, dgamma = new_if_none(dx, x), new_if_none(dgamma, gamma)
    backward(dy, x, gamma, saved, dx, dgamma, None, given)
    return dx, dgamma
