"""Bias, activation function and dropout of a layer, in one pass."""

from __future__ import annotations  # numpy.random, which the signature names, is loaded by those who draw from it

import reprlib
from typing import Literal, SupportsIndex, get_args

import numpy as np

from fastopt._dropout import check_rng, threshold_and_scale
from fastopt._runtime import dispatch
from fastopt._runtime.hyper import Ranges
from fastopt._typing import Float32Array

ranges = Ranges(dropout="double [0, 1]", negative_slope="[0, inf)")

Activation = Literal["identity", "relu", "leaky_relu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu"]

KINDS = {name: i for i, name in enumerate(get_args(Activation))}
"""The numbers that kernels/_activation_elements.pxd has for them."""
KEEP_X = frozenset({"gelu", "gelu_tanh", "silu"})
"""Those whose derivative is computed from x."""


class ActivationCache:
    """What `activation_backward` needs of the forward pass: a reference to y, or to x, and a few numbers.

    `saved` is y of the forward pass; for gelu, gelu_tanh and silu it is x, and `bias` a copy of the bias; for identity
    it is None. It is not copied and must still have its values when backward runs. `key` and `dropout` (p) give the
    mask of dropout, `channels` the number of biases. No field can be assigned. `release()` drops the reference.
    """

    __slots__ = ("_activation", "_bias", "_channels", "_dropout", "_held", "_key", "_negative_slope", "_saved",
                 "_shape")

    def __init__(self, activation: Activation, saved: Float32Array | None, bias: Float32Array | None, dropout: float,
                 key: int, negative_slope: float, shape: tuple[int, ...],
                 channels: tuple[int, int, int | tuple[int, ...]] | None) -> None:
        self._activation = activation
        self._saved = saved
        self._held = True
        self._bias = bias
        self._dropout = dropout
        self._key = key
        self._negative_slope = negative_slope
        self._shape = shape
        self._channels = channels

    @property
    def activation(self) -> Activation:
        return self._activation

    @property
    def saved(self) -> Float32Array | None:
        return self._saved

    @property
    def bias(self) -> Float32Array | None:
        return self._bias

    @property
    def dropout(self) -> float:
        return self._dropout

    @property
    def key(self) -> int:
        return self._key

    @property
    def negative_slope(self) -> float:
        return self._negative_slope

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def channels(self) -> int | None:
        return None if self._channels is None else self._channels[0]

    def release(self) -> None:
        """Drop the reference to y or x; backward then refuses this cache."""
        self._saved, self._held = None, False


def check_activation(activation: str, dropout: float, negative_slope: float) -> int:
    """The function's place in KINDS."""
    ranges(dropout, negative_slope)
    kind = KINDS.get(activation) if isinstance(activation, str) else None
    if kind is None:
        raise ValueError(f"activation: expected one of {', '.join(KINDS)}, got {reprlib.repr(activation)}")
    return kind


def activation_forward(
    x: Float32Array, activation: Activation, bias: Float32Array | None = None, *, dropout: float = 0.0,
    rng: np.random.Generator | SupportsIndex | None = None, channel_axis: int = -1, negative_slope: float = 0.01,
    out: Float32Array | None = None,
) -> tuple[Float32Array, ActivationCache]:
    """Add a bias, apply an activation function and drop elements; return y and what backward needs.

    With z = x + bias and the standard normal distribution function Φ::

        identity     h = z                              gelu         h = z · Φ(z)
        relu         h = 0 where z < 0, else z          gelu_tanh    h = z · (1 + tanh(√(2/π) · (z + 0.044715 z³))) / 2
        leaky_relu   h = slope · z where z < 0, else z  silu         h = z · sigmoid(z)
        sigmoid      h = 1 / (1 + exp(−z))
        tanh         h = tanh(z)

        y = 0 with the probability `dropout`, else h / (1 − dropout)

    Parameters
    ----------
    x : float32 array, C-contiguous
        Of any shape.
    activation : {"identity", "relu", "leaky_relu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu"}
        The function, by name.
    bias : float32 array of shape (channels,), optional
        One number for each index of the channel axis; may have more axes of length 1, as (1, channels). None: z is x.
    dropout : float
        Probability of dropping an element, in [0, 1]. At test time give 0, the default.
    rng : numpy.random.Generator, or int in [0, 2⁶⁴)
        As in `dropout_forward`. Needed if `dropout` is not 0; otherwise nothing is drawn from it.
    channel_axis : int
        The axis of the channels: −1 for (N, C), the default, and 1 for (N, C, H, W).
    negative_slope : float
        Of leaky_relu; at least 0.
    out : float32 array of x's shape, optional
        Receives y; a new array otherwise. May be x itself, a matrix product say, except for gelu, gelu_tanh and silu,
        whose backward needs x.

    Returns
    -------
    y : float32 array
    cache : ActivationCache
        Keeps a reference to y, or for gelu, gelu_tanh and silu to x, not a copy; nothing for identity.

    Raises
    ------
    TypeError, ValueError
        For an array of another type, shape or layout, read-only or overlapping another; an unknown activation; a number
        out of range; no rng where one is needed. Nothing has been written or drawn then.

    Notes
    -----
    Forms and names as in torch.nn.functional; gelu and gelu_tanh are Hendrycks and Gimpel's (2016), with torch's
    approximate="none" and "tanh". The limit at −inf is 0 for sigmoid, gelu, gelu_tanh and silu; NaN stays NaN.
    identity, relu and leaky_relu have the bits of ``fastopt.reference.activation_forward``; the others are within 2.2
    ULP of exact for z, the float32 sum. The mask of dropout is `dropout_forward`'s for the same key.
    """
    kind = check_activation(activation, dropout, negative_slope)
    source = 0 if rng is None and dropout == 0 else check_rng(rng)     # type: ignore[arg-type]
    dropout, negative_slope = float(dropout), float(negative_slope)
    t, s = threshold_and_scale(dropout, True)
    y, key, shape, channels = dispatch.active.activation.forward(
        x, out, bias, channel_axis, kind, negative_slope, source, t, s)
    keeps_x = activation in KEEP_X
    kept = None if activation == "identity" else x if keeps_x else y
    copy = np.array(bias, np.float32) if keeps_x and bias is not None else None
    return y, ActivationCache(activation, kept, copy, dropout, key, negative_slope, shape, channels)


def activation_backward(
    dy: Float32Array, cache: ActivationCache, *,
    out: Float32Array | tuple[Float32Array | None, Float32Array | None] | None = None,
) -> tuple[Float32Array, Float32Array | None]:
    """Gradients of `activation_forward`: dx and dbias.

    With the derivative f' of the activation function at z = x + bias, for relu 0 and for leaky_relu the slope where
    y ≤ 0::

        dx = 0 where the element was dropped, else dy · f'(z) / (1 − dropout)
        dbias = Σ dx over the elements of each channel

    Parameters
    ----------
    dy : float32 array of x's shape, C-contiguous
    cache : ActivationCache
        What `activation_forward` returned. What it keeps, y or x, must still have its values.
    out : float32 array, or a tuple of two (dx, dbias), optional
        Receive the results; dx may be dy itself. None in the tuple: a new array.

    Returns
    -------
    dx : float32 array
    dbias : float32 array of bias's shape, or None after a forward pass without a bias

    Raises
    ------
    TypeError, ValueError
        As `activation_forward`; also for a cache that was released, or that is not an ActivationCache. Nothing has been
        written then.

    Notes
    -----
    sigmoid and tanh get the derivative from y: y · (1 − y) and (1 − y) · (1 + y); with dropout from y · (1 − dropout).
    dx is within 6 · 2⁻²⁴ of itself for the numbers that were saved, or of dy times the larger of two terms where
    the derivative of gelu, gelu_tanh or silu is their difference; with dropout for sigmoid and tanh, of dy. dbias is
    summed in double and rounded once, in an order that depends on the shape alone. identity, relu and leaky_relu have
    the bits of ``fastopt.reference.activation_backward``.
    """
    if not isinstance(cache, ActivationCache):
        raise TypeError(f"cache: expected what activation_forward returned, got {type(cache).__name__}")
    if not cache._held:
        raise ValueError("cache: expected one that still holds its array, got one that was released")
    dx, dbias = out if isinstance(out, tuple) and len(out) == 2 else (out, None)
    t, s = threshold_and_scale(cache._dropout, True)
    activation = cache._activation
    return dispatch.active.activation.backward(
        dy, dx, dbias, cache._shape, cache._saved, "x" if activation in KEEP_X else "y", cache._bias, cache._channels,
        KINDS[activation], cache._negative_slope, cache._key, t, s, 1.0 - cache._dropout)
