"""Initial weights: float32, C-contiguous, drawn from the caller's numpy.random.Generator.

He and Xavier initialisation scale by a weight's fan: the number of inputs of one output (fan_in), or of outputs of one
input (fan_out). Which axis holds the inputs depends on the code that uses the weight; `layout` says it:

=============  ==============================  ==================================================
layout         shape                           used by
=============  ==============================  ==================================================
"in_out"       (kernel..., inputs, outputs)    ``x @ W``; Keras' Dense and Conv
"out_in"       (outputs, inputs, kernel...)    ``x @ W.T``; torch's Linear and Conv
None           two axes: "in_out",             NumPy code: ``x @ W``, and (out, in, height, width)
               more axes: "out_in"             for convolutions
=============  ==============================  ==================================================

fan_in is inputs times the kernel's size, fan_out is outputs times the kernel's size. Biases have no fan: start them at
zero.
"""

from __future__ import annotations  # numpy.random, which the signatures name, is loaded by those who draw from it

import math
import operator
import reprlib
from collections.abc import Sequence
from typing import Literal, SupportsIndex, TypeAlias

import numpy

from fastopt._runtime.hyper import integer, number
from fastopt._typing import Float32Array

__all__ = ["he_normal", "he_uniform", "normal", "uniform", "xavier_normal", "xavier_uniform"]

Shape: TypeAlias = SupportsIndex | Sequence[SupportsIndex]
Layout: TypeAlias = Literal["in_out", "out_in"] | None
Fan: TypeAlias = Literal["in", "out"]


def normal(shape: Shape, rng: numpy.random.Generator, *, mean: float = 0.0, std: float = 1.0) -> Float32Array:
    """Draw from the normal distribution (not truncated).

    Parameters
    ----------
    shape : int or tuple of int
    rng : numpy.random.Generator
    mean, std : float
        In [−10³⁸, 10³⁸] and [0, 10³⁷], so that no weight overflows. The defaults are those of
        ``torch.nn.init.normal_``; textbooks that use one std for all layers take 0.01.

    Returns
    -------
    numpy.ndarray
        float32, C-contiguous.
    """
    shape = check_shape(shape)
    mean, std = number(mean, "mean", "[-1e38, 1e38]"), number(std, "std", "[0, 1e37]")
    weight = check_generator(rng).standard_normal(shape, dtype=numpy.float32)
    weight *= numpy.float32(std)
    weight += numpy.float32(mean)
    return weight


def uniform(shape: Shape, rng: numpy.random.Generator, *, low: float = 0.0, high: float = 1.0) -> Float32Array:
    """Draw uniformly from [low, high].

    Parameters
    ----------
    shape : int or tuple of int
    rng : numpy.random.Generator
    low, high : float
        In [−10³⁸, 10³⁸], low ≤ high. The defaults are those of ``torch.nn.init.uniform_``.

    Returns
    -------
    numpy.ndarray
        float32, C-contiguous.
    """
    shape = check_shape(shape)
    low, high = number(low, "low", "[-1e38, 1e38]"), number(high, "high", "[-1e38, 1e38]")
    if low > high:
        raise ValueError(f"low: expected at most high = {high!r}, got {low!r}")
    weight = check_generator(rng).random(shape, dtype=numpy.float32)
    weight *= numpy.float32(high - low)
    weight += numpy.float32(low)
    return numpy.clip(weight, numpy.float32(low), numpy.float32(high), out=weight)     # the sum may round past high


def he_normal(shape: Shape, rng: numpy.random.Generator, *, layout: Layout = None, fan: Fan = "in") -> Float32Array:
    """Normal with std = √(2 / fan): He et al. 2015 (arXiv:1502.01852), for layers followed by a ReLU.

    fan="in" preserves the variance of activations from layer to layer (equation 10 of the paper; the default in Keras
    and torch), fan="out" that of gradients (equation 14). As in the paper and in torch the distribution is not
    truncated; Keras truncates it at two standard deviations.

    Parameters
    ----------
    shape : tuple of int
        At least two axes.
    rng : numpy.random.Generator
    layout : {None, "in_out", "out_in"}
        Which axes are inputs and outputs: see the table in the module's docstring.
    fan : {"in", "out"}

    Returns
    -------
    numpy.ndarray
        float32, C-contiguous.

    Raises
    ------
    TypeError, ValueError
        A shape of fewer than two axes, or another argument that is not as above. Nothing has been drawn from `rng`.
    """
    return normal(shape, rng, std=math.sqrt(2.0 / _fan(shape, layout, fan)))


def he_uniform(shape: Shape, rng: numpy.random.Generator, *, layout: Layout = None, fan: Fan = "in") -> Float32Array:
    """Uniform in ±√(6 / fan), which has the variance of `he_normal`; the parameters are the same."""
    bound = math.sqrt(6.0 / _fan(shape, layout, fan))
    return uniform(shape, rng, low=-bound, high=bound)


def xavier_normal(shape: Shape, rng: numpy.random.Generator, *, layout: Layout = None) -> Float32Array:
    """Normal with std = √(2 / (fan_in + fan_out)): Glorot and Bengio 2010, for tanh and linear layers.

    Parameters
    ----------
    shape : tuple of int
        At least two axes.
    rng : numpy.random.Generator
    layout : {None, "in_out", "out_in"}
        Which axes are inputs and outputs: see the table in the module's docstring. Irrelevant for two axes.

    Returns
    -------
    numpy.ndarray
        float32, C-contiguous.

    Raises
    ------
    TypeError, ValueError
        As for `he_normal`.
    """
    return normal(shape, rng, std=math.sqrt(2.0 / max(1, sum(_fans(shape, layout)))))


def xavier_uniform(shape: Shape, rng: numpy.random.Generator, *, layout: Layout = None) -> Float32Array:
    """Uniform in ±√(6 / (fan_in + fan_out)), which has the variance of `xavier_normal`; the parameters are the same."""
    bound = math.sqrt(6.0 / max(1, sum(_fans(shape, layout))))
    return uniform(shape, rng, low=-bound, high=bound)


def check_shape(shape: Shape) -> tuple[int, ...]:
    """`shape` as a tuple of ints ≥ 0."""
    try:
        lengths = tuple(operator.index(n) for n in (shape if isinstance(shape, tuple | list) else (shape,)))
    except TypeError:
        raise TypeError(f"shape: expected an int or a tuple of ints, got {reprlib.repr(shape)}") from None
    for n in lengths:
        integer(n, "shape", 0, 2**61)
    if math.prod(max(n, 1) for n in lengths) >= 2**61:      # NumPy counts bytes in 63 bits, and zeros as ones
        raise ValueError(f"shape: expected fewer than 2**61 elements, got {reprlib.repr(lengths)}")
    return lengths


def check_generator(rng: numpy.random.Generator) -> numpy.random.Generator:
    """`rng`, if it is a Generator."""
    if not isinstance(rng, numpy.random.Generator):
        raise TypeError("rng: expected a numpy.random.Generator such as numpy.random.default_rng(seed), "
                        f"got {type(rng).__name__}")
    return rng


def _fans(shape: Shape, layout: Layout) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight."""
    lengths = check_shape(shape)
    if len(lengths) < 2:
        raise ValueError(f"shape: expected at least two axes, inputs and outputs, got {lengths}; "
                         "start a bias at zero, or call normal() with a std")
    if layout is None:
        layout = "in_out" if len(lengths) == 2 else "out_in"
    if not isinstance(layout, str) or layout not in ("in_out", "out_in"):
        raise ValueError(f"layout: expected None, 'in_out' or 'out_in', got {reprlib.repr(layout)}")
    if layout == "in_out":
        *kernel, inputs, outputs = lengths
    else:
        outputs, inputs, *kernel = lengths
    return inputs * math.prod(kernel), outputs * math.prod(kernel)


def _fan(shape: Shape, layout: Layout, fan: Fan) -> int:
    fan_in, fan_out = _fans(shape, layout)
    if not isinstance(fan, str) or fan not in ("in", "out"):
        raise ValueError(f"fan: expected 'in' or 'out', got {reprlib.repr(fan)}")
    return max(1, fan_in if fan == "in" else fan_out)      # 0 for an array without elements
