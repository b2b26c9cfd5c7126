"""Batch normalisation in parts: statistics and gradient sums of several batches or processes, and folding."""

from typing import NamedTuple

import numpy as np

from fastopt._batchnorm import batch_norm_inference, check_cache, check_count, inference_ranges
from fastopt._runtime import dispatch
from fastopt._runtime.arrays import Array, require_disjoint, require_disjoint_or_same
from fastopt._runtime.channels import Layout


class BatchStatistics(NamedTuple):
    """Of each channel: how many values, their mean, and m2 = Σ (x − mean)²; float64 arrays of shape (channels,)."""

    count: int
    mean: np.ndarray
    m2: np.ndarray


class BatchGradientSums(NamedTuple):
    """Of each channel: Σ dy and Σ dy · (x − mean); float64 arrays of shape (channels,)."""

    dy: np.ndarray
    dy_x: np.ndarray


def batch_norm_statistics(x, channel_axis=1):
    """Count, mean and m2 = Σ (x − mean)² of each channel; var = m2 / count.

    Parameters
    ----------
    x, channel_axis
        As in `fastopt.batch_norm_forward`; one value per channel is enough, and so is none.

    Returns
    -------
    BatchStatistics
        (count, mean, m2): an int and float64 arrays. Merge those of several batches with `batch_norm_merge`, then give
        them to `batch_norm_forward(..., statistics=)`: synchronised BatchNorm.

    Raises
    ------
    TypeError, ValueError
        For an array of another type or layout.
    """
    layout = Layout(x, channel_axis)
    mean, m2 = np.zeros(layout.channels), np.zeros(layout.channels)
    if layout.size:
        dispatch.active.batchnorm.statistics(layout, Array(mean, "mean", kind="d"), Array(m2, "m2", kind="d"))
    return BatchStatistics(layout.count, mean, m2)


def check_parts(parts, length, what):
    """The first part's arrays copied, every part's checked: (counts or None, [(Array, Array)], results)."""
    if not parts:
        raise TypeError(f"parts: expected at least one {what}, got none")
    arrays, counts, size = [], [], None
    for index, part in enumerate(parts):
        if not isinstance(part, tuple) or len(part) != length:
            raise TypeError(f"parts[{index}]: expected {what}, got {type(part).__name__}")
        count, first, second = (0, *part) if length == 2 else part
        count = check_count(count, f"parts[{index}].count", 0)
        first = Array(first, f"parts[{index}]", kind="d", shape=size)
        size = first.shape
        if len(size) != 1:
            raise ValueError(f"parts[{index}]: expected arrays of shape (channels,), got {size}")
        arrays.append((first, Array(second, f"parts[{index}]", kind="d", shape=size)))
        counts.append(count)
    return counts, arrays


def batch_norm_merge(*parts):
    """The statistics of several batches together, merged in the order given.

    Chan, Golub and LeVeque 1983: with δ = mean_b − mean::

        mean ← mean + δ · n_b / (n + n_b)
        m2   ← m2 + m2_b + δ² · n · n_b / (n + n_b)
        n    ← n + n_b

    Parameters
    ----------
    *parts : BatchStatistics, or other tuples (count, mean, m2)
        float64 arrays, C-contiguous, all of one shape (channels,). Parts of count 0 change nothing.

    Returns
    -------
    BatchStatistics
        New arrays; counts are added as ints.

    Raises
    ------
    TypeError, ValueError
        For a part that is none, or of other channels than the first.

    Notes
    -----
    The same parts in the same order give the same bits; in another order the last bits of mean and m2 may differ.
    """
    counts, arrays = check_parts(parts, 3, "(count, mean, m2)")
    total = 0
    mean, m2 = np.zeros(arrays[0][0].size), np.zeros(arrays[0][0].size)
    held = Array(mean, "mean", kind="d"), Array(m2, "m2", kind="d")
    for count, part, (_, part_mean, part_m2) in zip(counts, arrays, parts, strict=True):
        if count and not total:
            mean[...], m2[...] = part_mean, part_m2
        elif count:
            dispatch.active.batchnorm.merge(*held, total, *part, count)
        total += count
    return BatchStatistics(total, mean, m2)


def batch_norm_backward_sums(dy, cache):
    """Σ dy and Σ dy · (x − mean) of each channel, dy being 0 where relu made y 0: the sums that backward starts with.

    Parameters
    ----------
    dy, cache
        As in `fastopt.batch_norm_backward`.

    Returns
    -------
    BatchGradientSums
        Add those of several parts with `batch_norm_merge_sums`, then `batch_norm_backward(dy, cache, sums=)`.

    Raises
    ------
    TypeError, ValueError
        As `fastopt.batch_norm_backward`.
    """
    layout = check_cache(cache)
    d = layout.array(dy, "dy")
    first, second = np.zeros(layout.channels), np.zeros(layout.channels)
    if layout.size:
        dispatch.active.batchnorm.backward_sums(
            layout, d, Array(cache.saved, "cache", kind="d"), cache.relu, Array(first, "sums.dy", kind="d"),
            Array(second, "sums.dy_x", kind="d"))
    return BatchGradientSums(first, second)


def batch_norm_merge_sums(*parts):
    """The sums of several parts of a batch, added in the order given.

    Parameters
    ----------
    *parts : BatchGradientSums, or other pairs of float64 arrays of shape (channels,)

    Returns
    -------
    BatchGradientSums

    Raises
    ------
    TypeError, ValueError
        For a part that is none, or of other channels than the first.
    """
    _, arrays = check_parts(parts, 2, "(dy, dy_x)")
    first, second = np.array(parts[0][0]), np.array(parts[0][1])
    held = Array(first, "dy", kind="d"), Array(second, "dy_x", kind="d")
    for part in arrays[1:]:
        dispatch.active.batchnorm.merge_gradients(*held, *part)
    return BatchGradientSums(first, second)


def check_fold(weight, bias, gamma, beta, mean, var, eps, output_axis, out):
    """Everything that folding refuses; returns the layout and the two results, made if need be."""
    inference_ranges(eps, False)
    layout = Layout(weight, output_axis, "weight", "output_axis")
    new_weight, new_bias = out if type(out) is tuple and len(out) == 2 else (out, None)
    if out is not None and (type(out) is not tuple or len(out) != 2):
        raise TypeError(f"out: expected a tuple (weight, bias), got {type(out).__name__}")
    read = [layout.vector(array, name) for array, name in
            ((gamma, "gamma"), (beta, "beta"), (mean, "mean"), (var, "var"))]
    old = None if bias is None else layout.vector(bias, "bias")
    new_weight = layout.empty() if new_weight is None else new_weight
    new_bias = np.empty(layout.channels, np.float32) if new_bias is None else new_bias
    w, b = layout.array(new_weight, "out[0]", True), layout.vector(new_bias, "out[1]", True)
    require_disjoint_or_same(w, layout.x)
    if old is not None:
        require_disjoint_or_same(b, old)
        require_disjoint(w, old)
    require_disjoint(layout.x, b)
    require_disjoint(w, b, *read)
    return layout, new_weight, new_bias


def batch_norm_fold(weight, bias, gamma, beta, mean, var, eps=1e-5, *, output_axis=0, out=None):
    """Fold an inference-time BatchNorm into the matrix or convolution before it.

    ::

        weight′ = weight · γ / √(var + eps)                 along output_axis
        bias′ = (bias − mean) · γ / √(var + eps) + β

    so that x ∗ weight′ + bias′ is the normalised x ∗ weight + bias.

    Parameters
    ----------
    weight : float32 array, at least 2-D
    bias : float32 array of shape (outputs,), or None for 0
    gamma, beta, mean, var : float32 arrays of shape (outputs,)
        mean and var are usually the running ones.
    eps : float
        > 0.
    output_axis : int
        The axis of weight that runs over outputs: 0 for (out, in) and (out, in, kh, kw), 1 for ``x @ weight``.
    out : tuple (weight, bias), optional
        Receive the results, and may be weight and bias themselves.

    Returns
    -------
    weight, bias : float32 arrays

    Raises
    ------
    TypeError, ValueError
        As `fastopt.batch_norm_inference`; nothing has been written then.

    Notes
    -----
    Computed as `fastopt.batch_norm_inference` does it: γ / √(var + eps) is rounded once, the rest is float32.
    """
    layout, new_weight, new_bias = check_fold(weight, bias, gamma, beta, mean, var, eps, output_axis, out)
    zero, minus_zero = np.zeros(layout.channels, np.float32), np.full(layout.channels, -0.0, np.float32)
    # The bias is one more value of each channel; a weight has nothing to subtract, and −0 to add.
    row = (zero if bias is None else bias).reshape(1, -1)
    batch_norm_inference(row, gamma, beta, mean, var, eps=eps, out=new_bias.reshape(1, -1))
    batch_norm_inference(weight, gamma, minus_zero, zero, var, eps=eps, channel_axis=output_axis, out=new_weight)
    return new_weight, new_bias
