"""Batch normalisation: forward, backward and inference."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastopt._runtime import dispatch
from fastopt._runtime.arrays import Array, require_disjoint, require_disjoint_or_same, same_memory
from fastopt._runtime.channels import Layout
from fastopt._runtime.hyper import Ranges, integer
from fastopt._typing import Float32Array

float32 = np.dtype(np.float32)
forward_ranges = Ranges(training="bool", momentum="[0, 1]", eps="double (0, inf)", unbiased="bool", relu="bool")
inference_ranges = Ranges(eps="double (0, inf)", relu="bool")

MOST_VALUES = 2**63


class BatchNormCache:
    """What `batch_norm_backward` needs of the forward pass: a reference to x, and four numbers for each channel.

    x is not copied and must still have its values when backward runs. `mean`, `invstd`, `scale` (gamma · invstd) and
    `beta` are float64 and those of the forward pass. `count` is the number of values per channel in the statistics.
    No field can be assigned. `release()` drops the reference to x.
    """

    __slots__ = ("_count", "_layout", "_relu", "_saved", "_training")

    def __init__(self, layout: Layout, saved: NDArray[np.float64], training: bool, relu: bool, count: int) -> None:
        self._layout: Layout | None = layout
        self._saved = saved
        self._training = training
        self._relu = relu
        self._count = count

    @property
    def layout(self) -> Layout | None:
        return self._layout

    @property
    def saved(self) -> NDArray[np.float64]:
        return self._saved

    @property
    def training(self) -> bool:
        return self._training

    @property
    def relu(self) -> bool:
        return self._relu

    @property
    def count(self) -> int:
        return self._count

    @property
    def x(self) -> Float32Array | None:
        return None if self._layout is None else self._layout.source

    @property
    def mean(self) -> NDArray[np.float64]:
        return self._saved[0]

    @property
    def invstd(self) -> NDArray[np.float64]:
        return self._saved[1]

    @property
    def scale(self) -> NDArray[np.float64]:
        return self._saved[2]

    @property
    def beta(self) -> NDArray[np.float64]:
        return self._saved[3]

    def release(self) -> None:
        """Drop the reference to x; backward then refuses this cache."""
        self._layout = None


def check_count(count: Any, name: str, least: int) -> int:
    """`count` as an int in [least, 2⁶³)."""
    return integer(count, name, least, MOST_VALUES)


def batch_norm_forward(
    x: Float32Array, gamma: Float32Array, beta: Float32Array, running_mean: Float32Array | None = None,
    running_var: Float32Array | None = None, *, training: bool = True, momentum: float = 0.1, eps: float = 1e-5,
    channel_axis: int = 1, unbiased: bool = True, relu: bool = False, out: Float32Array | None = None,
    statistics: tuple[int, NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> tuple[Float32Array, BatchNormCache]:
    """Normalise every channel of x by its batch statistics; return y and what backward needs.

    For each channel, over its n values::

        mean = Σ x / n,  var = Σ (x − mean)² / n
        y = (x − mean) · (γ / √(var + eps)) + β,    with relu: 0 where y < 0
        running_mean ← (1 − momentum) · running_mean + momentum · mean
        running_var  ← (1 − momentum) · running_var + momentum · var · n / (n − 1)

    Parameters
    ----------
    x : float32 array, at least 2-D
        C-contiguous, or a view of channels-last memory as (N, C, H, W).
    gamma, beta : float32 arrays of shape (channels,)
        Scale and shift. These and the running statistics may have more axes of length 1, such as (1, channels) or
        (1, channels, 1, 1).
    running_mean, running_var : float32 arrays of shape (channels,), optional
        Updated in place when training. Without training they are needed, used for mean and var, and stay as they are.
    training : bool
        Normalise by the batch's own statistics.
    momentum : float
        Weight of the new value, in [0, 1], as in PyTorch. Keras' 0.99 is 1 − 0.99 here.
    eps : float
        > 0.
    channel_axis : int
        1 for (N, C) and (N, C, H, W), −1 for channels-last.
    unbiased : bool
        The running variance gets var · n / (n − 1), as in PyTorch; with False var itself, as in Keras. y is always
        normalised by the biased variance.
    relu : bool
        y = max(y, 0), in the same pass.
    out : float32 array of x's shape and memory layout, optional
        Receives y; a new array otherwise. Not x: backward needs it.
    statistics : (count, mean, m2), optional
        Of more values than x holds, from `batch_norm_statistics` and `batch_norm_merge`: used in place of those of x.

    Returns
    -------
    y : float32 array
    cache : BatchNormCache
        Keeps a reference to x, not a copy. Its `mean` and `invstd` are float64.

    Raises
    ------
    TypeError, ValueError
        For an array of another type, shape or layout, read-only or overlapping another; one value per channel in
        training mode; a number out of range. Nothing has been written then.

    Notes
    -----
    Ioffe and Szegedy 2015, algorithm 1, in torch.nn.functional.batch_norm's form. mean, var and 1/√(var + eps) are
    within 1 ULP of exact and kept in double. y is within 4 ULP of the larger of ``|β|`` and the channel's largest
    ``|(x − mean) · γ / √(var + eps)|``, whatever the mean; a constant channel gives beta bit for bit. Without training
    y is `batch_norm_inference`'s. An array without elements leaves the running statistics alone and has NaN for its
    own, unless `statistics` were given: then it is an empty part of a batch, treated as every other part. The bits are
    those of ``fastopt.reference.batch_norm_forward``, whatever the threads and the processor.
    """
    forward_ranges(training, momentum, eps, unbiased, relu)
    layout = Layout(x, channel_axis)
    g, b = layout.vector(gamma, "gamma"), layout.vector(beta, "beta")
    m = v = mean = m2 = None
    count = layout.count
    if running_mean is not None or running_var is not None or not training:
        m = layout.vector(running_mean, "running_mean", training)
        v = (layout.vector(running_var, "running_var", True) if training
             else layout.variances(running_var, "running_var", eps))
    if statistics is not None:
        if not training:
            raise ValueError("statistics: expected None without training, got statistics")
        try:
            count, mean, m2 = statistics
        except (TypeError, ValueError):
            raise TypeError(f"statistics: expected (count, mean, m2), got {type(statistics).__name__}") from None
        count = check_count(count, "statistics.count", 2)
        mean, m2 = layout.doubles(mean, "statistics.mean"), layout.squares(m2, "statistics.m2")
    elif training and count == 1:
        raise ValueError(f"x: expected more than one value per channel in training mode, got shape {layout.shape}")
    y = layout.empty() if out is None else out
    o = layout.array(y, "out", True)
    if out is not None or m is not None:
        require_disjoint(layout.x, g, b, m, v, o, mean, m2)
    saved, s = layout.constants()
    if not training:
        dispatch.active.batchnorm.inference(layout, g, b, m, v, o, s, eps, relu)
    elif layout.size or (layout.channels and statistics is not None):
        dispatch.active.batchnorm.forward(layout, g, b, m, v, o, s, momentum, eps, unbiased, relu, count, mean, m2)
    else:
        saved.fill(np.nan)
    return y, BatchNormCache(layout, saved, training, relu, count)


def check_cache(cache: BatchNormCache) -> tuple[Layout, Array]:
    """The layout of the x that `cache` holds, and what it saved, both as kernels need them."""
    if not isinstance(cache, BatchNormCache):
        raise TypeError(f"cache: expected what batch_norm_forward returned, got {type(cache).__name__}")
    layout = cache._layout
    if layout is None:
        raise ValueError("cache: expected one that still holds x, got one that was released")
    return layout, layout.constants_of(cache._saved)


def batch_norm_backward(
    dy: Float32Array, cache: BatchNormCache, *,
    out: Float32Array | tuple[Float32Array | None, Float32Array | None, Float32Array | None] | None = None,
    sums: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Gradients of `batch_norm_forward`: dx, dgamma, dbeta.

    With the forward pass's mean and invstd, and dy ← 0 where relu made y 0::

        dbeta = Σ dy,  dgamma = Σ dy · (x − mean) · invstd
        dx = γ · invstd · (dy − dbeta / n − (x − mean) · invstd · dgamma / n)
        dx = γ · invstd · dy                                        after a forward pass with training=False

    Parameters
    ----------
    dy : float32 array of x's shape
        In x's memory layout, or C-contiguous where x is a channels-last view, or such a view where x is C-contiguous.
        The last two are first copied into x's layout: the same bits, in two to three times the time.
    cache : BatchNormCache
        What `batch_norm_forward` returned. x must still have the values that forward saw.
    out : float32 array, or a tuple of three (dx, dgamma, dbeta), optional
        Receive the results; dx may be dy itself (then dy is overwritten). None in the tuple: a new array.
    sums : (Σ dy, Σ dy · (x − mean)), optional
        Over all values behind the statistics, where forward was given them: `batch_norm_backward_sums` of every part,
        added by `batch_norm_merge_sums`. dgamma and dbeta are then those of all parts together.

    Returns
    -------
    dx : float32 array of x's shape and layout
    dgamma, dbeta : float32 arrays of the shapes of gamma and beta

    Raises
    ------
    TypeError, ValueError
        As `batch_norm_forward`; also for a cache that was released, or that is not a BatchNormCache, and for an x that
        was resized or reshaped since. Nothing has been written then.

    Notes
    -----
    Sums are computed in double, dgamma and dbeta rounded once. dx is within 11 · 2⁻²⁴ of the largest of
    ``|γ · invstd · dy|`` and the two terms subtracted from it, whatever the mean, unless γ · invstd · dy overflows
    float32; where these terms are subnormal, by up to 1.5 · 2⁻¹⁴⁹ more. The bits are those of
    ``fastopt.reference.batch_norm_backward``.
    """
    layout, saved = check_cache(cache)
    parts: tuple[Any, Any, Any] = out if isinstance(out, tuple) and len(out) == 3 else (out, None, None)
    dx, dgamma, dbeta = parts
    d, same_layout = layout.gradient(dy, "dy")
    sum_dy = sum_dy_d = None
    if sums is not None:
        try:
            sum_dy, sum_dy_d = sums
        except (TypeError, ValueError):
            raise TypeError(f"sums: expected two arrays, got {type(sums).__name__}") from None
        sum_dy, sum_dy_d = layout.doubles(sum_dy, "sums.dy"), layout.doubles(sum_dy_d, "sums.dy_x")
    given = dx is not None or dgamma is not None or dbeta is not None
    dx = layout.empty() if dx is None else dx
    if dgamma is None or dbeta is None:
        channels, shapes = layout.channels, layout.vector_shapes
        if dgamma is None:
            dgamma = np.empty(channels if shapes is None else shapes.get("gamma", channels), float32)
        if dbeta is None:
            dbeta = np.empty(channels if shapes is None else shapes.get("beta", channels), float32)
    o = layout.array(dx, "out", True)
    g, b = layout.vector(dgamma, "dgamma", True), layout.vector(dbeta, "dbeta", True)
    if given:
        require_disjoint_or_same(o, d)
        require_disjoint(layout.x, None if same_memory(o, d) else d, o, g, b, sum_dy, sum_dy_d)
    other = None if same_layout else dy
    if other is not None and same_memory(o, d):     # dx's memory, which can hold dy in x's layout, holds dy as it is
        d, other = layout.relaid(dy, "dy"), None
    if layout.size or (layout.channels and sums is not None):
        dispatch.active.batchnorm.backward(layout, d, saved, o, g, b, cache.training, cache.relu, cache.count, sum_dy,
                                           sum_dy_d, other)
    else:
        for gradient in (dgamma, dbeta):
            np.asarray(gradient)[...] = 0.0
    return dx, dgamma, dbeta


def batch_norm_inference(
    x: Float32Array, gamma: Float32Array, beta: Float32Array, mean: Float32Array, var: Float32Array, *,
    eps: float = 1e-5, channel_axis: int = 1, relu: bool = False, out: Float32Array | None = None,
) -> Float32Array:
    """Normalise by given statistics: y = (x − mean) · (γ / √(var + eps)) + β, with relu 0 where y < 0.

    Parameters
    ----------
    x, gamma, beta, eps, channel_axis, relu
        As in `batch_norm_forward`.
    mean, var : float32 arrays of shape (channels,), or with more axes of length 1
        Usually running_mean and running_var.
    out : float32 array of x's shape and memory layout, optional
        Receives y; may be x itself. A new array otherwise.

    Returns
    -------
    y : float32 array

    Raises
    ------
    TypeError, ValueError
        As `batch_norm_forward`; nothing has been written then.

    Notes
    -----
    γ / √(var + eps) is rounded once, the rest is float32: within 3.5 units in the last place of the larger of
    ``|(x − mean) · γ / √…|`` and ``|β|``, unless x − mean overflows or a γ / √… other than 0 is below 1.2e-38 or above
    3.4e38.
    The bits of ``fastopt.reference.batch_norm_inference``.
    """
    inference_ranges(eps, relu)
    layout = Layout(x, channel_axis)
    g, b = layout.vector(gamma, "gamma"), layout.vector(beta, "beta")
    m, v = layout.vector(mean, "mean"), layout.variances(var, "var", eps)
    y = layout.empty() if out is None else out
    o = layout.array(y, "out", True)
    if out is not None:
        require_disjoint_or_same(o, layout.x)
        require_disjoint(g, b, m, v, o)
    if layout.size:
        dispatch.active.batchnorm.inference(layout, g, b, m, v, o, None, eps, relu)
    return y
