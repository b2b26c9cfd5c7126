"""Batch normalisation in NumPy, in double, with one rounding to float32 at the end.

The sums have a written order (kernels/_batchnorm_walk.pxd, here `lane_sums` and `blocks`), so that the kernels' bits
are promised for every result: statistics, y, dx, dgamma, dbeta and the running statistics.
"""

import numpy as np

from fastopt import _batchnorm_layer
from fastopt._batchnorm import BatchNormCache, check_backward, check_cache, check_forward, check_inference
from fastopt._batchnorm_statistics import BatchGradientSums, BatchStatistics, check_fold, check_parts
from fastopt._runtime.channels import Layout

WIDE, LONG, PART, TALL, SHORT, EVEN = 64, 1024, 16384, 256, 64, 2

quiet = np.errstate(all="ignore")  # inf and NaN pass through as in the kernels


# The order of sums.

def grouped(x, layout):
    """x as (outer, channels, inner)."""
    x = x if layout.order is None else x.transpose(layout.order)
    return x.reshape(layout.outer, layout.channels, layout.inner)


def period_of(channels, inner):
    """Outer indices in a row of lanes."""
    return max(WIDE // (channels * inner), 1)


def rows_of_block(rows, most):
    """At most `most`, a multiple of 4; so that blocks, if there are several, are equal and a multiple of EVEN."""
    most = min(most, max(rows // 32 * 4, SHORT))
    count = -(-rows // most)
    if count <= 1:
        return most
    count = -(-count // EVEN) * EVEN
    return -(-rows // (4 * count)) * 4


def blocks(x):
    """The blocks of (outer, channels, inner), in the order in which their sums are merged."""
    outer, channels, inner = x.shape
    if inner > LONG:
        for image in x:
            for start in range(0, inner, PART):
                yield image[np.newaxis, :, start : start + PART]
    else:
        period = period_of(channels, inner)
        size = period * rows_of_block(outer // period, min(TALL, PART // (period * inner) // 4 * 4))
        # The last, incomplete row belongs to the last block.
        starts = range(0, max(outer // period * period, 1), size)
        for start in starts:
            yield x[start : start + size if start + size < starts.stop else outer]


def in_order(values):
    """Σ over the first axis, one after the other (np.sum may pair them up)."""
    return np.add.accumulate(values, axis=0)[-1] + 0.0


def padded(values, axis, multiple):
    """Zeros added at the end of an axis: they change no sum."""
    missing = -values.shape[axis] % multiple
    return np.pad(values, [(0, missing if i == axis else 0) for i in range(values.ndim)]) if missing else values


def lane_sums(block):
    """Σ of each channel of one block (outer, channels, inner): lanes first, then the lanes of a channel."""
    outer, channels, inner = block.shape
    if inner > LONG or outer == 0:
        raise AssertionError("not a block")
    period = period_of(channels, inner)
    rows = padded(block, 0, period).reshape(-1, period, channels, inner)
    lanes = in_order(in_order(rows))
    return lanes[:, 0] if inner == 1 else fold(lanes)


def run_sums(block):
    """The same for a block (1, channels, part) of a long run."""
    run = padded(block[0], 1, WIDE).reshape(block.shape[1], -1, WIDE)
    return fold(in_order(run.swapaxes(0, 1)))


def fold(lanes):
    """Σ over the last axis: eight sums over lanes 8 apart, then halves added to halves."""
    lanes = padded(lanes, 1, 8).reshape(lanes.shape[0], -1, 8)
    sums = in_order(lanes.swapaxes(0, 1))
    for half in (4, 2, 1):
        sums = sums[:, :half] + sums[:, half:]
    return sums[:, 0]


def block_sums(block, long):
    return run_sums(block) if long else lane_sums(block)


# Statistics.

def merged(n, mean, m2, n_b, mean_b, m2_b):
    """The statistics of n + n_b values."""
    share = n_b / (n + n_b)
    delta = mean_b - mean
    return n + n_b, mean + delta * share, (m2 + m2_b) + delta * delta * (n * share)


def totals(x):
    """Count, mean and m2 = Σ (x − mean)² of each channel of (outer, channels, inner)."""
    long = x.shape[2] > LONG
    total = None
    for block in blocks(x):
        n = float(block.shape[0] * block.shape[2])
        shift = block[0, :, :1].astype(np.float64)
        d = block - shift
        s, q = block_sums(d, long), block_sums(d * d, long)
        part = n, shift[:, 0] + s * (1.0 / n), q - s * (s * (1.0 / n))
        total = part if total is None else merged(*total, *part)
    return total


def gradient_sums(dy, d):
    """Σ dy and Σ dy · d of each channel."""
    long = d.shape[2] > LONG
    first = second = 0.0
    for g, product in zip(blocks(dy), blocks(dy * d), strict=True):
        first = first + block_sums(g, long)
        second = second + block_sums(product, long)
    return first, second


# Elements.

def normalised(x, mean, scale, beta, relu):
    y = ((x - mean[:, np.newaxis]) * scale[:, np.newaxis] + beta[:, np.newaxis]).astype(np.float32)
    return np.where(y < 0, np.float32(0), y) if relu else y


def normalised32(x, gamma, beta, mean, var, eps, relu):
    """By given statistics, in float32."""
    scale = gamma.astype(np.float64) * (1.0 / np.sqrt(var.astype(np.float64) + eps))
    scale = rounded_scale(scale)
    y = (x - mean[:, np.newaxis]) * scale[:, np.newaxis] + beta[:, np.newaxis]
    return np.where(y < 0, np.float32(0), y) if relu else y


def rounded_scale(scale):
    """As float32; what is too large for one becomes its largest, so that 0 times it is 0."""
    largest = float(np.finfo(np.float32).max)
    return np.where(np.isfinite(scale), np.clip(scale, -largest, largest), scale).astype(np.float32)


def gradient_and_distance(dy, cache):
    """dy, 0 where relu made y 0, and x − mean."""
    layout, scale, beta = cache.layout, cache.scale, cache.beta
    d = grouped(cache.x, layout) - cache.mean[:, np.newaxis]
    g = grouped(dy, layout).astype(np.float64)
    if cache.relu and cache.training:
        y = (d * scale[:, np.newaxis] + beta[:, np.newaxis]).astype(np.float32)
        g = np.where(y <= 0, 0.0, g)
    elif cache.relu:
        mean32, scale32, beta32 = cache.mean.astype(np.float32), rounded_scale(scale), beta.astype(np.float32)
        y = (grouped(cache.x, layout) - mean32[:, np.newaxis]) * scale32[:, np.newaxis] + beta32[:, np.newaxis]
        g = np.where(y <= 0, 0.0, g)
    return g, d


@quiet
def batch_norm_forward(x, gamma, beta, running_mean=None, running_var=None, *, training=True, momentum=0.1, eps=1e-5,
                       channel_axis=1, unbiased=True, relu=False, out=None, statistics=None):
    """See `fastopt.batch_norm_forward`."""
    layout, *_, y, n, _, _ = check_forward(x, gamma, beta, running_mean, running_var, training, momentum, eps,
                                           channel_axis, unbiased, relu, out, statistics)
    saved = np.full((4, layout.channels), np.nan)
    cache = BatchNormCache(layout, saved, training, relu, n)
    if y.size == 0 and training and statistics is None:
        return y, cache
    values = grouped(x, layout)
    if not training:
        grouped(y, layout)[...] = normalised32(values, gamma, beta, running_mean, running_var, eps, relu)
    gamma, beta = gamma.astype(np.float64), beta.astype(np.float64)
    if training:
        _, mean, m2 = totals(values) if statistics is None else statistics
        var = m2 / n
    else:
        mean, var = running_mean.astype(np.float64), running_var.astype(np.float64)
    invstd = 1.0 / np.sqrt(var + eps)
    if training:
        scale, shift = gamma * invstd, mean
        # A constant channel: +0 · −0 = −0, which changes no β, not even −0.
        scale = np.where(m2 == 0, -0.0 * np.abs(scale), scale)
        shift = np.where(mean == 0, -0.0, mean)
        grouped(y, layout)[...] = normalised(values, shift, scale, beta, relu)
    if training and running_mean is not None:
        running_mean[...] = (1.0 - momentum) * running_mean.astype(np.float64) + momentum * mean
        spread = m2 / (n - 1.0) if unbiased else var
        running_var[...] = (1.0 - momentum) * running_var.astype(np.float64) + momentum * spread
    saved[...] = mean, invstd, gamma * invstd, beta
    return y, cache


@quiet
def batch_norm_backward(dy, cache, *, out=None, sums=None):
    """See `fastopt.batch_norm_backward`."""
    layout, *_, (dx, dgamma, dbeta) = check_backward(dy, cache, out, sums)
    if dx.size == 0 and sums is None:
        np.asarray(dgamma)[...] = np.asarray(dbeta)[...] = 0.0
        return dx, dgamma, dbeta
    if dx.size:
        g, d = gradient_and_distance(dy, cache)
    sum_dy, sum_dy_d = gradient_sums(g, d) if sums is None else sums
    scale, invstd = cache.scale, cache.invstd
    dbeta[...] = sum_dy
    dgamma[...] = sum_dy_d * invstd
    if dx.size:
        result = scale[:, np.newaxis] * g
        if cache.training:
            n = float(cache.count)
            slope = -(scale * ((invstd * invstd) * (sum_dy_d / n)))
            shift = -(scale * (sum_dy / n) + cache.mean * slope)
            result = (grouped(cache.x, layout) * slope[:, np.newaxis] + shift[:, np.newaxis]) + result
        grouped(dx, layout)[...] = result
    return dx, dgamma, dbeta


@quiet
def batch_norm_inference(x, gamma, beta, mean, var, *, eps=1e-5, channel_axis=1, relu=False, out=None):
    """See `fastopt.batch_norm_inference`."""
    layout, *_, y = check_inference(x, gamma, beta, mean, var, eps, channel_axis, relu, out)
    if y.size:
        grouped(y, layout)[...] = normalised32(grouped(x, layout), gamma, beta, mean, var, eps, relu)
    return y


@quiet
def batch_norm_statistics(x, channel_axis=1):
    """See `fastopt.batch_norm_statistics`."""
    layout = Layout(x, channel_axis)
    if layout.size == 0:
        return BatchStatistics(layout.count, np.zeros(layout.channels), np.zeros(layout.channels))
    _, mean, m2 = totals(grouped(x, layout))
    return BatchStatistics(layout.count, mean, m2)


@quiet
def batch_norm_merge(*parts):
    """See `fastopt.batch_norm_merge`."""
    counts, _ = check_parts(parts, 3, "(count, mean, m2)")
    total = 0, np.zeros_like(parts[0][1]), np.zeros_like(parts[0][2])
    for count, (_, mean, m2) in zip(counts, parts, strict=True):
        if count:
            total = merged(*total, count, mean, m2) if total[0] else (count, mean.copy(), m2.copy())
    return BatchStatistics(*total)


@quiet
def batch_norm_backward_sums(dy, cache):
    """See `fastopt.batch_norm_backward_sums`."""
    layout = check_cache(cache)
    layout.array(dy, "dy")
    if layout.size == 0:
        return BatchGradientSums(np.zeros(layout.channels), np.zeros(layout.channels))
    return BatchGradientSums(*gradient_sums(*gradient_and_distance(dy, cache)))


@quiet
def batch_norm_merge_sums(*parts):
    """See `fastopt.batch_norm_merge_sums`."""
    check_parts(parts, 2, "(dy, dy_x)")
    return BatchGradientSums(*(in_order(np.stack(values)) for values in zip(*parts, strict=True)))


@quiet
def batch_norm_fold(weight, bias, gamma, beta, mean, var, eps=1e-5, *, output_axis=0, out=None):
    """See `fastopt.batch_norm_fold`."""
    _, new_weight, new_bias = check_fold(weight, bias, gamma, beta, mean, var, eps, output_axis, out)
    scale = rounded_scale(gamma.astype(np.float64) * (1.0 / np.sqrt(var.astype(np.float64) + eps)))
    bias = np.zeros_like(beta) if bias is None else bias
    new_bias[...] = (bias - mean) * scale + beta
    new_weight[...] = np.moveaxis(np.moveaxis(weight, output_axis, -1) * scale, -1, output_axis)
    return new_weight, new_bias


class BatchNorm(_batchnorm_layer.BatchNorm):
    """See `fastopt.BatchNorm`."""

    _forward = staticmethod(batch_norm_forward)
    _backward = staticmethod(batch_norm_backward)
