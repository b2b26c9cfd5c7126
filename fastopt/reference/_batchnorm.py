"""Batch normalisation in NumPy: sums and statistics in double; y and dx in the type of x, from constants in double.

Sums have a written order (kernels/_batchnorm_order.pxd, here `blocks`, `lane_sums` and `run_sums`), which makes every
result of the kernels equal to this one bit for bit. The words row, lane, block and run are defined there.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from fastopt.reference._formula import Array, floats

MIN_LANES, MAX_LANES, MIN_ROWS, MAX_ROWS, BLOCK_VALUES, BLOCKS_MULTIPLE = 64, 1024, 64, 256, 16384, 2

quiet = np.errstate(all="ignore")  # inf and NaN pass through as in the kernels


class BatchStatistics(NamedTuple):
    """See `fastopt.BatchStatistics`."""

    count: int  # type: ignore[assignment]
    mean: Array
    m2: Array


class BatchGradientSums(NamedTuple):
    """See `fastopt.BatchGradientSums`."""

    dy: Array
    dy_x: Array


class BatchNormCache:
    """x, four float64 numbers for each channel (mean, invstd, scale = gamma · invstd, beta), the shapes of gamma and
    beta."""

    def __init__(self, x: Array, channel_axis: int, saved: Array, shapes: tuple[Any, Any], training: bool, relu: bool,
                 count: int) -> None:
        self.x: Any = x
        self.channel_axis, self.saved, self.shapes = channel_axis, saved, shapes
        self.training, self.relu, self.count = training, relu, count
        self.mean, self.invstd, self.scale, self.beta = saved

    def release(self) -> None:
        self.x = None


def grouped(array: Array, x: Array, axis: int, any_layout: bool = False) -> Array:
    """A view of `array`, which has the shape and layout of x, as (outer, channels, inner) in the order of x's memory.

    A copy, if `array` may have any layout and has another one.
    """
    if not x.flags.c_contiguous:        # a view of channels-last memory
        array, x, axis = np.moveaxis(array, axis, -1), np.moveaxis(x, axis, -1), -1
    axis %= x.ndim
    shape = [math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])]
    view = array.reshape(shape)
    if array.size and not any_layout and not np.may_share_memory(view, array):
        raise ValueError("expected the memory layout of x")
    return view


def empty_like(x: Array) -> Array:
    """An array of x's shape and layout."""
    return np.empty_like(x, order="C" if x.flags.c_contiguous else "K")


# The order of sums.

def row_outer_of(channels: int, inner: int) -> int:
    """Outer indices in a row."""
    return max(MIN_LANES // (channels * inner), 1)


def rows_of_block(rows: int, most: int) -> int:
    """At most `most` and a multiple of 4. Several blocks have about equal sizes."""
    most = min(most, max(rows // 32 * 4, MIN_ROWS))
    count = -(-rows // most)
    if count <= 1:
        return most
    count = -(-count // BLOCKS_MULTIPLE) * BLOCKS_MULTIPLE
    return -(-rows // (4 * count)) * 4


def blocks(x: Array) -> Iterator[Array]:
    """The blocks of (outer, channels, inner), in the order in which their sums are merged."""
    outer, channels, inner = x.shape
    if inner > MAX_LANES:
        for run in x:
            for start in range(0, inner, BLOCK_VALUES):
                yield run[np.newaxis, :, start : start + BLOCK_VALUES]
    else:
        row_outer = row_outer_of(channels, inner)
        most = min(MAX_ROWS, BLOCK_VALUES // (row_outer * inner) // 4 * 4)
        size = row_outer * rows_of_block(outer // row_outer, most)
        # The last, incomplete row belongs to the last block.
        starts = range(0, max(outer // row_outer * row_outer, 1), size)
        for start in starts:
            yield x[start : start + size if start + size < starts.stop else outer]


def in_order(values: Array) -> Array:
    """Σ over the first axis, one after the other (np.sum may pair them up)."""
    return np.add.accumulate(values, axis=0)[-1] + 0.0


def padded(values: Array, axis: int, multiple: int) -> Array:
    """Zeros appended to an axis up to a multiple: they change no sum."""
    missing = -values.shape[axis] % multiple
    return np.pad(values, [(0, missing if i == axis else 0) for i in range(values.ndim)]) if missing else values


def lane_sums(block: Array) -> Array:
    """Σ of each channel of a block (outer, channels, inner): of each lane, then of the lanes of a channel."""
    _, channels, inner = block.shape
    row_outer = row_outer_of(channels, inner)
    rows = padded(block, 0, row_outer).reshape(-1, row_outer, channels, inner)
    lanes = in_order(in_order(rows))
    return lanes[:, 0] if inner == 1 else fold(lanes)


def run_sums(block: Array) -> Array:
    """The same for a block (1, channels, values) of long runs."""
    rows = padded(block[0], 1, MIN_LANES).reshape(block.shape[1], -1, MIN_LANES)
    return fold(in_order(rows.swapaxes(0, 1)))


def fold(lanes: Array) -> Array:
    """Σ over the last axis: eight sums of every eighth lane, then halves are added."""
    lanes = padded(lanes, 1, 8).reshape(lanes.shape[0], -1, 8)
    sums = in_order(lanes.swapaxes(0, 1))
    for half in (4, 2, 1):
        sums = sums[:, :half] + sums[:, half:]
    return sums[:, 0]


def block_sums(block: Array, long: bool) -> Array:
    return run_sums(block) if long else lane_sums(block)


# Statistics.

def merged(n: Any, mean: Array, m2: Array, n_b: Any, mean_b: Array, m2_b: Array) -> tuple[Any, Array, Array]:
    """The statistics of n + n_b values."""
    share = n_b / (n + n_b)
    delta = mean_b - mean
    return n + n_b, mean + delta * share, (m2 + m2_b) + delta * delta * (n * share)


def totals(x: Array) -> tuple[Any, Array, Array]:
    """Count, mean and m2 = Σ (x − mean)² of each channel of (outer, channels, inner)."""
    long = x.shape[2] > MAX_LANES
    total: tuple[Any, Array, Array] | None = None
    for block in blocks(x):
        n = float(block.shape[0] * block.shape[2])
        shift = block[0, :, :1].astype(np.float64)
        d = block - shift
        s, q = block_sums(d, long), block_sums(d * d, long)
        part = n, shift[:, 0] + s * (1.0 / n), q - s * (s * (1.0 / n))
        total = part if total is None else merged(*total, *part)
    assert total is not None
    return total


def gradient_sums(dy: Array, d: Array) -> tuple[Array, Array]:
    """Σ dy and Σ dy · d of each channel."""
    long = d.shape[2] > MAX_LANES
    first = second = np.zeros(d.shape[1])
    for g, product in zip(blocks(dy), blocks(dy * d), strict=True):
        first = first + block_sums(g.astype(np.float64), long)
        second = second + block_sums(product, long)
    return first, second


# Elements.

def column(values: Array, dtype: DTypeLike | None = None) -> Array:
    """One number for each channel, beside (outer, channels, inner)."""
    return np.asarray(values, dtype)[:, np.newaxis]


def rectified(y: Array, relu: bool) -> Array:
    return np.where(y < 0, y.dtype.type(0), y) if relu else y


def rounded_scale(scale: Array, dtype: Any) -> Array:
    """Finite values beyond the range of dtype become the largest, for which 0 · scale is 0."""
    largest = float(np.finfo(dtype).max)
    return np.where(np.isfinite(scale), np.clip(scale, -largest, largest), scale).astype(dtype)


def affine(x: Array, center: Array, factor: Array, shift: Array) -> Array:
    """(x − center) · factor + shift, in the type of the constants."""
    return (x - column(center)) * column(factor) + column(shift)


def is_term(values: Array) -> Array:
    """NaN or of a magnitude up to 2¹²⁶."""
    return ~(np.abs(values) > 2.0**126)


def is_normal(values: Array) -> Array:
    """0, NaN or of a magnitude in [2⁻¹²⁶, 2¹²⁶]."""
    return is_term(values) & (~(np.abs(values) < 2.0**-126) | (values == 0))


def least_invstd(cache: BatchNormCache) -> float:
    """With it, x − center is at most 2¹²⁶: |x − mean| is at most √n / invstd, and |x − center| twice that."""
    return 2.0 * math.sqrt(cache.count) / 2.0**126


def narrow_center(cache: BatchNormCache) -> tuple[Array, Array]:
    """The mean rounded to the type of x, and what is added to β for it; an infinite center: a channel in double.

    That is one whose constants are no normal numbers in float32, or one whose terms might overflow.
    """
    mean = np.where(cache.mean == 0, -0.0, cache.mean)
    center = mean.astype(cache.x.dtype)
    shift = np.where(center == mean, cache.beta, cache.beta + (center - mean) * cache.scale)
    fits = (is_normal(cache.scale) & is_term(shift) & ~(cache.invstd < least_invstd(cache))
            & ~(cache.invstd < np.abs(cache.scale) * least_invstd(cache)))
    return np.where(fits, center, center.dtype.type(np.inf)), shift.astype(center.dtype)


def normalised(x: Array, cache: BatchNormCache, constant: Array | bool = False) -> Array:
    """y in the type of x; some channels in double. If x is `constant`, y = β: +0 · −0 = −0 changes no β."""
    mean = np.where(cache.mean == 0, -0.0, cache.mean)
    factor = np.where(constant, -0.0 * np.abs(cache.scale), cache.scale)
    center, shift = narrow_center(cache)
    return np.where(column(np.isinf(center)), affine(x, mean, factor, cache.beta).astype(x.dtype),
                    affine(x, center, factor.astype(x.dtype), shift))


def inferred(x: Array, mean: Array, scale: Array, beta: Array) -> Array:
    """By given statistics: in the type of x."""
    return (x - column(mean, x.dtype)) * column(rounded_scale(scale, x.dtype), x.dtype) + column(beta, x.dtype)


def inverse_root(var: Array, eps: float) -> Array:
    return 1.0 / np.sqrt(np.asarray(var).astype(np.float64) + float(eps))


def gradient_and_distance(dy: Array, cache: BatchNormCache) -> tuple[Array, Array]:
    """dy, 0 where relu made y 0, and x − mean, as (outer, channels, inner)."""
    x = grouped(cache.x, cache.x, cache.channel_axis)
    g = grouped(dy, cache.x, cache.channel_axis, any_layout=True)
    if cache.relu:
        y = normalised(x, cache) if cache.training else inferred(x, cache.mean, cache.scale, cache.beta)
        g = np.where(y <= 0, g.dtype.type(0), g)
    return g, x - column(cache.mean)


def scaled(dy: Array, scale: Array) -> Array:
    """scale · dy in the type of dy; in double where scale is no normal number in float32."""
    return np.where(column(is_normal(scale)), dy * column(scale, dy.dtype), (dy * column(scale)).astype(dy.dtype))


def gradient(dy: Array, cache: BatchNormCache, sum_dy: Array, sum_dy_d: Array) -> Array:
    """dx = scale · dy + ((x − mean) · slope + shift) in the type of x; some channels in double, as y."""
    n, scale, invstd = float(cache.count), cache.scale, cache.invstd
    x = grouped(cache.x, cache.x, cache.channel_axis)
    slope = -(scale * ((invstd * invstd) * (sum_dy_d / n)))
    shift = -(scale * (sum_dy / n))
    center, _ = narrow_center(cache)
    moved = shift + (center - cache.mean) * slope
    fits = (is_normal(slope) & is_term(moved) & ~np.isinf(center)
            & ~(invstd < np.abs(slope) * least_invstd(cache)))

    def terms(center: Array, scale: Array, slope: Array, shift: Array) -> Array:
        return column(scale) * dy + affine(x, center, slope, shift)

    wide = terms(cache.mean, scale, slope, shift)
    narrow = terms(center, *(values.astype(x.dtype) for values in (scale, slope, moved)))
    return np.where(column(fits), narrow, wide.astype(x.dtype))


@quiet
def batch_norm_forward(x: Array, gamma: Array, beta: Array, running_mean: Array | None = None,
                       running_var: Array | None = None, *, training: bool = True, momentum: float = 0.1,
                       eps: float = 1e-5, channel_axis: int = 1, unbiased: bool = True, relu: bool = False,
                       out: Array | None = None, statistics: tuple[int, Array, Array] | None = None,
                       ) -> tuple[Array, BatchNormCache]:
    """See `fastopt.batch_norm_forward`."""
    y = empty_like(x) if out is None else out
    values, result = grouped(x, x, channel_axis), grouped(y, x, channel_axis)
    count = values.shape[0] * values.shape[2]
    momentum, eps = floats(momentum, eps)
    saved, shapes = np.full((4, values.shape[1]), np.nan), (gamma.shape, beta.shape)
    if training:
        if statistics is not None:
            count, mean, m2 = int(statistics[0]), *statistics[1:]
        elif x.size:
            _, mean, m2 = totals(values)
        else:
            return y, BatchNormCache(x, channel_axis, saved, shapes, training, relu, count)
        var = m2 / count
    else:
        assert running_mean is not None
        assert running_var is not None
        mean, var = running_mean.astype(np.float64).ravel(), running_var.astype(np.float64).ravel()
    gamma, beta = gamma.astype(np.float64).ravel(), beta.astype(np.float64).ravel()
    invstd = inverse_root(var, eps)
    scale = gamma * invstd
    saved[...] = mean, invstd, scale, beta
    if not training:
        result[...] = rectified(inferred(values, mean, scale, beta), relu)
        return y, BatchNormCache(x, channel_axis, saved, shapes, training, relu, count)
    cache = BatchNormCache(x, channel_axis, saved, shapes, training, relu, count)
    result[...] = rectified(normalised(values, cache, m2 == 0), relu)
    if running_mean is not None and running_var is not None:
        new = m2 / (count - 1.0) if unbiased else var
        for running, value in ((running_mean, mean), (running_var, new)):
            running[...] = (1.0 - momentum) * running.astype(np.float64) + momentum * value.reshape(running.shape)
    return y, cache


@quiet
def batch_norm_backward(dy: Array, cache: BatchNormCache, *,
                        out: Array | tuple[Array | None, Array | None, Array | None] | None = None,
                        sums: tuple[Array, Array] | None = None) -> tuple[Array, Array, Array]:
    """See `fastopt.batch_norm_backward`."""
    x, axis, scale, invstd = cache.x, cache.channel_axis, cache.scale, cache.invstd
    dx, dgamma, dbeta = out if isinstance(out, tuple) else (out, None, None)
    dx = empty_like(x) if dx is None else dx
    dgamma = np.empty(cache.shapes[0], x.dtype) if dgamma is None else dgamma
    dbeta = np.empty(cache.shapes[1], x.dtype) if dbeta is None else dbeta
    if x.size:
        g, d = gradient_and_distance(dy, cache)
    elif sums is None:
        sums = np.zeros_like(scale), np.zeros_like(scale)
        invstd = np.zeros_like(invstd)
    sum_dy, sum_dy_d = gradient_sums(g, d) if sums is None else sums
    dbeta[...] = sum_dy.reshape(dbeta.shape)
    dgamma[...] = (sum_dy_d * invstd).reshape(dgamma.shape)
    if x.size:
        grouped(dx, x, axis)[...] = (gradient(g, cache, sum_dy, sum_dy_d) if cache.training
                                     else scaled(g, cache.scale))
    return dx, dgamma, dbeta


@quiet
def batch_norm_inference(x: Array, gamma: Array, beta: Array, mean: Array, var: Array, *, eps: float = 1e-5,
                         channel_axis: int = 1, relu: bool = False, out: Array | None = None) -> Array:
    """See `fastopt.batch_norm_inference`."""
    y = empty_like(x) if out is None else out
    gamma, beta, mean, var = (array.ravel() for array in (gamma, beta, mean, var))
    scale = gamma.astype(np.float64) * inverse_root(var, eps)
    values = grouped(x, x, channel_axis)
    grouped(y, x, channel_axis)[...] = rectified(inferred(values, mean, scale, beta), relu)
    return y


@quiet
def batch_norm_statistics(x: Array, channel_axis: int = 1) -> BatchStatistics:
    """See `fastopt.batch_norm_statistics`."""
    values = grouped(x, x, channel_axis)
    outer, channels, inner = values.shape
    _, mean, m2 = totals(values) if x.size else (0, np.zeros(channels), np.zeros(channels))
    return BatchStatistics(outer * inner, mean, m2)


@quiet
def batch_norm_merge(*parts: tuple[int, Array, Array]) -> BatchStatistics:
    """See `fastopt.batch_norm_merge`."""
    total: tuple[Any, Array, Array] = 0, np.zeros_like(parts[0][1]), np.zeros_like(parts[0][2])
    for part, mean, m2 in parts:
        count = int(part)
        if count:
            total = merged(*total, count, mean, m2) if total[0] else (count, mean.copy(), m2.copy())
    return BatchStatistics(*total)


@quiet
def batch_norm_backward_sums(dy: Array, cache: BatchNormCache) -> BatchGradientSums:
    """See `fastopt.batch_norm_backward_sums`."""
    if cache.x.size == 0:
        return BatchGradientSums(np.zeros_like(cache.mean), np.zeros_like(cache.mean))
    return BatchGradientSums(*gradient_sums(*gradient_and_distance(dy, cache)))


@quiet
def batch_norm_merge_sums(*parts: tuple[Array, Array]) -> BatchGradientSums:
    """See `fastopt.batch_norm_merge_sums`."""
    return BatchGradientSums(*(in_order(np.stack(values)) for values in zip(*parts, strict=True)))


@quiet
def batch_norm_fold(weight: Array, bias: Array | None, gamma: Array, beta: Array, mean: Array, var: Array,
                    eps: float = 1e-5, *, output_axis: int = 0, out: tuple[Array, Array] | None = None,
                    ) -> tuple[Array, Array]:
    """See `fastopt.batch_norm_fold`."""
    new_weight, new_bias = (np.empty_like(weight), np.empty(beta.size, beta.dtype)) if out is None else out
    gamma, beta, mean, var = (array.ravel() for array in (gamma, beta, mean, var))
    scale = rounded_scale(gamma.astype(np.float64) * inverse_root(var, eps), weight.dtype)
    bias = np.zeros_like(beta) if bias is None else bias.ravel()
    new_bias[...] = ((bias - mean) * scale + beta).reshape(new_bias.shape)
    new_weight[...] = np.moveaxis(np.moveaxis(weight, output_axis, -1) * scale, -1, output_axis)
    return new_weight, new_bias
