"""Bias, activation function and dropout, in NumPy.

identity, relu and leaky_relu are float32 arithmetic, which the kernels equal bit for bit. The others are computed in
double and rounded once.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from fastopt.reference._batchnorm import in_order
from fastopt.reference._dropout import DropoutCache, draw_key, drop
from fastopt.reference._formula import Array

RUN, COLUMNS, ROWS, LEAST_ROWS, BLOCK_ELEMENTS, MAX_BLOCKS = 64, 256, 4, 32, 32768, 64
RUN_LANES, CHUNK = 32, 8192

quiet = np.errstate(all="ignore")       # inf and NaN pass through as in the kernels

erfc = np.vectorize(math.erfc, otypes=[np.float64])


def sigmoid(z: Array) -> Array:
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


def normal(z: Array) -> Array:
    """Φ(z), the standard normal distribution function."""
    return 0.5 * erfc(-z * math.sqrt(0.5))


def density(z: Array) -> Array:
    """φ(z) = Φ'(z)."""
    return np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


def times(z: Array, factor: Array) -> Array:
    """z · factor, where a factor of 0 counts more than an infinite z: the limit."""
    return np.where(factor == 0.0, 0.0 * np.sign(z), z * factor)


def inner(z: Array) -> Array:
    """u, where gelu_tanh(z) = z · sigmoid(u)."""
    return 2.0 * math.sqrt(2.0 / math.pi) * (z + 0.044715 * z * z * z)


def gelu_tanh_slope(z: Array) -> Array:
    s = sigmoid(inner(z))
    return s + times(z * 2.0 * math.sqrt(2.0 / math.pi) * (1.0 + 3 * 0.044715 * z * z), s * sigmoid(-inner(z)))


class Smooth(NamedTuple):
    """A function and its derivative in double; `from_y` says of what: y = value(z) or z."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    from_y: bool


SMOOTH = {
    "sigmoid": Smooth(sigmoid, lambda y: y * (1.0 - y), True),
    "tanh": Smooth(np.tanh, lambda y: (1.0 - y) * (1.0 + y), True),
    "gelu": Smooth(lambda z: times(z, normal(z)), lambda z: normal(z) + times(z, density(z)), False),
    "gelu_tanh": Smooth(lambda z: times(z, sigmoid(inner(z))), gelu_tanh_slope, False),
    "silu": Smooth(lambda z: times(z, sigmoid(z)),
                   lambda z: sigmoid(z) + times(z, sigmoid(z) * sigmoid(-z)), False),
}


class ActivationCache:
    """`saved` is y, or z = x + bias for the functions whose derivative needs it; `channels` the number of channels,
    that of consecutive elements with the same bias, and the bias's shape, or None without a bias."""

    def __init__(self, activation: str, negative_slope: float, saved: Array,
                 channels: tuple[int, int, tuple[int, ...]] | None, dropout: DropoutCache) -> None:
        self.activation, self.negative_slope, self.channels = activation, negative_slope, channels
        self.dropout = dropout
        self.saved: Any = saved

    def release(self) -> None:
        self.saved = None


@quiet
def activation_forward(x: Array, activation: str, bias: Array | None = None, *, dropout: float = 0.0,
                       rng: np.random.Generator | SupportsIndex | None = None, channel_axis: int = -1,
                       negative_slope: float = 0.01, out: Array | None = None) -> tuple[Array, ActivationCache]:
    """See `fastopt.activation_forward`."""
    f, z, channels = x.dtype.type, x, None
    if bias is not None:
        axis = range(x.ndim)[channel_axis]
        channels = x.shape[axis], math.prod(x.shape[axis + 1 :]), bias.shape
        z = x + bias.reshape(-1, *[1] * (x.ndim - axis - 1))
    if activation == "identity":
        h = z
    elif activation == "relu":
        h = np.where(z < 0, f(0), z)
    elif activation == "leaky_relu":
        h = np.where(z < 0, f(negative_slope) * z, z)
    else:
        h = SMOOTH[activation].value(z.astype(np.float64)).astype(x.dtype)
    drops = round(dropout * 2.0**32) > 0
    key = draw_key(rng) if drops and rng is not None else 0
    cache = DropoutCache(key, float(dropout), x.shape, drops)
    y = drop(h, cache, np.empty_like(x) if out is None else out)
    keeps_z = activation in SMOOTH and not SMOOTH[activation].from_y
    return y, ActivationCache(activation, float(negative_slope), z if keeps_z else y, channels, cache)


@quiet
def activation_backward(dy: Array, cache: ActivationCache, *,
                        out: Array | tuple[Array | None, Array | None] | None = None) -> tuple[Array, Array | None]:
    """See `fastopt.activation_backward`."""
    dx, dbias = out if isinstance(out, tuple) else (out, None)
    f, saved, activation = dy.dtype.type, cache.saved, cache.activation
    if activation == "identity":
        g = dy
    elif activation == "relu":
        g = np.where(saved <= 0, f(0), dy)
    elif activation == "leaky_relu":
        g = np.where(saved <= 0, f(cache.negative_slope) * dy, dy)
    else:
        z = saved.astype(np.float64)
        if SMOOTH[activation].from_y and cache.dropout.training:
            z = np.clip(z * (1.0 - cache.dropout.p), -1.0, 1.0)         # y before dropout
        g = (dy * SMOOTH[activation].slope(z)).astype(dy.dtype)
    dx = drop(g, cache.dropout, np.empty_like(dy) if dx is None else dx)
    if cache.channels is not None:
        channels, inner, shape = cache.channels
        dbias = np.empty(shape, dy.dtype) if dbias is None else dbias
        dbias[...] = channel_sums(dx, channels, inner).reshape(dbias.shape)
    return dx, dbias


def padded(values: Array, multiple: int) -> Array:
    """Rows of `multiple` elements, the last of them filled with zeros."""
    return np.pad(values, (0, -values.size % multiple)).reshape(-1, multiple)


def channel_sums(values: Array, channels: int, inner: int) -> Array:
    """Σ of each channel, in double: `channels` times `inner` consecutive elements, again and again."""
    flat, channel = values.astype(np.float64).ravel(), channels * inner
    if flat.size == 0:
        return np.zeros(channels)
    if inner >= RUN:
        runs = np.array([run_sum(run) for run in flat.reshape(-1, inner)])
        return in_order(runs.reshape(-1, channels))
    repeats = max(1, -(-COLUMNS // channel))
    rows = padded(flat, channel * repeats)
    block = max(LEAST_ROWS, -(-BLOCK_ELEMENTS // rows.shape[1]), -(-len(rows) // MAX_BLOCKS))
    block = -(-block // ROWS) * ROWS
    columns = in_order(np.stack([in_order(rows[i : i + block]) for i in range(0, len(rows), block)]))
    return in_order(columns.reshape(repeats, channels, inner).transpose(0, 2, 1).reshape(-1, channels))


def run_sum(run: Array) -> float:
    """Σ of consecutive elements: chunks in order; in a chunk, lanes, of which halves are added."""
    sums = []
    for i in range(0, run.size, CHUNK):
        lanes = in_order(padded(run[i : i + CHUNK], RUN_LANES))
        while lanes.size > 1:
            lanes = lanes[: lanes.size // 2] + lanes[lanes.size // 2 :]
        sums.append(lanes[0])
    return float(in_order(np.array(sums)))
