"""Batch normalisation in parts: statistics and gradient sums of several batches or processes."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastopt._batchnorm import BatchNormCache, check_cache, check_count
from fastopt._runtime import dispatch
from fastopt._runtime.arrays import Array
from fastopt._runtime.channels import Layout
from fastopt._typing import Float32Array


class BatchStatistics(NamedTuple):
    """Per channel: the number of values, their mean, and m2 = Σ (x − mean)²; float64 arrays of shape (channels,)."""

    count: int  # type: ignore[assignment]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]


class BatchGradientSums(NamedTuple):
    """Per channel: Σ dy and Σ dy · (x − mean); float64 arrays of shape (channels,)."""

    dy: NDArray[np.float64]
    dy_x: NDArray[np.float64]


def batch_norm_statistics(x: Float32Array, channel_axis: int = 1) -> BatchStatistics:
    """Count, mean and m2 = Σ (x − mean)² of each channel; var = m2 / count.

    Parameters
    ----------
    x, channel_axis
        As in `fastopt.batch_norm_forward`; one value per channel or none is allowed.

    Returns
    -------
    BatchStatistics
        (count, mean, m2): an int and float64 arrays. Merge those of several batches with `batch_norm_merge`, then give
        them to ``batch_norm_forward(…, statistics=…)``: synchronised BatchNorm.

    Raises
    ------
    TypeError, ValueError
        If an array has another type or layout.
    """
    layout = Layout(x, channel_axis)
    mean, m2 = np.zeros(layout.channels), np.zeros(layout.channels)
    if layout.size:
        dispatch.active.batchnorm.statistics(layout, Array(mean, "mean", kind="d"), Array(m2, "m2", kind="d"))
    return BatchStatistics(layout.count, mean, m2)


def check_parts(parts: tuple[Any, ...], length: int, what: str) -> tuple[list[int], list[tuple[Array, Array]]]:
    """The count (0 where parts have none) and the two arrays of every part, checked."""
    if not parts:
        raise TypeError(f"parts: expected at least one {what}, got none")
    arrays: list[tuple[Array, Array]] = []
    counts: list[int] = []
    size = None
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


def batch_norm_merge(*parts: tuple[int, NDArray[np.float64], NDArray[np.float64]]) -> BatchStatistics:
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
        For a part of another type, or with another number of channels than the first.

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


def batch_norm_backward_sums(dy: Float32Array, cache: BatchNormCache) -> BatchGradientSums:
    """Σ dy and Σ dy · (x − mean) of each channel, dy being 0 where relu made y 0: the sums that backward starts with.

    Parameters
    ----------
    dy, cache
        As in `fastopt.batch_norm_backward`.

    Returns
    -------
    BatchGradientSums
        Add those of several parts with `batch_norm_merge_sums`, then ``batch_norm_backward(dy, cache, sums=…)``.

    Raises
    ------
    TypeError, ValueError
        As `fastopt.batch_norm_backward`.
    """
    layout, saved = check_cache(cache)
    d, same_layout = layout.gradient(dy, "dy")
    if not same_layout:
        d = layout.relaid(dy, "dy")
    first, second = np.zeros(layout.channels), np.zeros(layout.channels)
    if layout.size:
        dispatch.active.batchnorm.backward_sums(
            layout, d, saved, cache.training, cache.relu, cache.count,
            Array(first, "sums.dy", kind="d"), Array(second, "sums.dy_x", kind="d"))
    return BatchGradientSums(first, second)


def batch_norm_merge_sums(*parts: tuple[NDArray[np.float64], NDArray[np.float64]]) -> BatchGradientSums:
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
        For a part of another type, or with another number of channels than the first.
    """
    _, arrays = check_parts(parts, 2, "(dy, dy_x)")
    first, second = np.array(parts[0][0]), np.array(parts[0][1])
    held = Array(first, "dy", kind="d"), Array(second, "dy_x", kind="d")
    for part in arrays[1:]:
        dispatch.active.batchnorm.merge_gradients(*held, *part)
    return BatchGradientSums(first, second)
