"""Inverted dropout."""

from __future__ import annotations  # numpy.random, which the signature names, is loaded by those who draw from it

from typing import SupportsIndex

import numpy as np

from fastopt._runtime import dispatch
from fastopt._runtime.hyper import Ranges, integer
from fastopt._typing import Float32Array

ranges = Ranges(p="double [0, 1]", training="bool")


class DropoutCache:
    """What `dropout_backward` needs of the forward pass: the key that gives the mask, p, x's shape, and `training`.

    There is no mask: backward computes it again. No field can be assigned. A cache can be used any number of times,
    and be pickled.
    """

    __slots__ = ("_key", "_p", "_shape", "_training")

    def __init__(self, key: int, p: float, shape: tuple[int, ...], training: bool) -> None:
        self._key = key
        self._p = p
        self._shape = shape
        self._training = training

    @property
    def key(self) -> int:
        return self._key

    @property
    def p(self) -> float:
        return self._p

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def training(self) -> bool:
        return self._training


def check_rng(rng: np.random.Generator | SupportsIndex) -> np.random.Generator | int:
    """The Generator, or the key as an int."""
    if isinstance(rng, np.random.Generator):
        return rng
    try:
        return integer(rng, "rng", 0, 2**64)
    except TypeError:
        raise TypeError("rng: expected a numpy.random.Generator or an int in [0, 2**64), "
                        f"got {type(rng).__name__}") from None


def threshold_and_scale(p: float, training: bool) -> tuple[int, float]:
    """t and s: words below t are dropped, s multiplies the rest."""
    if not training:
        return 0, 1.0
    return round(p * 2.0**32), 1.0 / (1.0 - p) if p < 1.0 else 0.0


def dropout_forward(x: Float32Array, p: float, rng: np.random.Generator | SupportsIndex, *, training: bool = True,
                    out: Float32Array | None = None) -> tuple[Float32Array, DropoutCache]:
    """Drop each element with probability p and scale the others; return y and what backward needs.

    ::

        y = 0 with probability p, else x / (1 − p)
        y = x                                                       with training=False

    Parameters
    ----------
    x : float32 array, C-contiguous
        Of any shape.
    p : float
        Probability of dropping an element, in [0, 1].
    rng : numpy.random.Generator, or int in [0, 2⁶⁴)
        An int is the key from which the mask follows. From a Generator one key is drawn, by
        ``rng.integers(2**64, dtype=numpy.uint64)``: in training always, whatever p and the shape are, otherwise never.
    training : bool
        False: y is x, bit for bit.
    out : float32 array of x's shape, optional
        Receives y; may be x itself. By default a new array is created.

    Returns
    -------
    y : float32 array
    cache : DropoutCache
        A few numbers: no mask is stored, and no array kept alive.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or `out` overlaps `x` in part. Nothing has been written or drawn then.

    Notes
    -----
    Srivastava et al. (2014), Dropout: a simple way to prevent neural networks from overfitting, scaled in training as
    in torch.nn.functional.dropout. An element is dropped if its 32-bit word of the generator is below p · 2³², rounded
    to an integer (half to even): with p exact to 2⁻³³. The factor 1 / (1 − p) is rounded to float32 once. A dropped
    element is +0, also where x is inf or NaN.

    The generator is Philox 4x32 with 7 rounds (Salmon, Moraes, Dror and Shaw 2011, Parallel random numbers: as easy as
    1, 2, 3). An element's word depends on the key and on its index in C order alone: same mask for any number of
    threads and any processor, in `fastopt.reference` too, and for any shape of the same elements.
    """
    ranges(p, training)
    source = check_rng(rng)
    p, training = float(p), bool(training)
    t, s = threshold_and_scale(p, training)
    y, key, shape = dispatch.active.dropout.forward(x, out, source if training else 0, t, s)
    return y, DropoutCache(key, p, shape, training)


def dropout_backward(dy: Float32Array, cache: DropoutCache, *, out: Float32Array | None = None) -> Float32Array:
    """Gradient of `dropout_forward` with respect to x.

    ::

        dx = 0 where the element was dropped, else dy / (1 − p)
        dx = dy                                                     after a forward pass with training=False

    Parameters
    ----------
    dy : float32 array of x's shape, C-contiguous
    cache : DropoutCache
        What `dropout_forward` returned.
    out : float32 array of the same shape, optional
        Receives dx; may be `dy` itself. By default a new array is created.

    Returns
    -------
    dx : float32 array

    Raises
    ------
    TypeError, ValueError
        As `dropout_forward`; also for a cache that is not a DropoutCache. Nothing has been written then.

    Notes
    -----
    The mask is computed again from the cache's key. The bits are those of ``fastopt.reference.dropout_backward``.
    """
    if not isinstance(cache, DropoutCache):
        raise TypeError(f"cache: expected what dropout_forward returned, got {type(cache).__name__}")
    t, s = threshold_and_scale(cache._p, cache._training)
    return dispatch.active.dropout.backward(dy, out, cache._shape, cache._key, t, s)
