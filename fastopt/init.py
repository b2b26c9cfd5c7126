"""Initial weights: float32, C-contiguous, drawn from the numpy.random.Generator that is given.

He and Xavier scale by a weight's fan: how many numbers flow into one output (fan_in) and out of one input
(fan_out). Which axis is which depends on the code that uses the weight, so it can be said with `layout`:

=============  ==============================  ==================================================
layout         shape                           used by
=============  ==============================  ==================================================
"in_out"       (kernel..., inputs, outputs)    ``x @ W``; Keras' Dense and Conv
"out_in"       (outputs, inputs, kernel...)    ``x @ W.T``; torch's Linear and Conv
None           two axes: "in_out",             NumPy code: ``x @ W``, and (out, in, height, width)
               more axes: "out_in"             for convolutions
=============  ==============================  ==================================================

fan_in is inputs times the kernel's elements, fan_out is outputs times those. Biases have no fan: start them
at zero.
"""

import math
import operator
from numbers import Real

import numpy

__all__ = ["he_normal", "he_uniform", "normal", "uniform", "xavier_normal", "xavier_uniform"]


def normal(shape, rng, *, mean=0.0, std=1.0):
    """Draw from the normal distribution, not truncated.

    Parameters
    ----------
    shape : int or tuple of int
    rng : numpy.random.Generator
    mean, std : float
        The defaults are torch.nn.init.normal_'s; textbooks that use one figure for every layer take std=0.01.

    Returns
    -------
    numpy.ndarray
        float32, C-contiguous.
    """
    shape = _shape(shape)
    mean, std = _number("mean", mean), _number("std", std)
    if std < 0.0:
        raise ValueError(f"std: expected a finite number of at least 0, got {std!r}")
    weight = _generator(rng).standard_normal(shape, dtype=numpy.float32)
    weight *= numpy.float32(std)
    weight += numpy.float32(mean)
    return weight


def uniform(shape, rng, *, low=0.0, high=1.0):
    """Draw uniformly from [low, high].

    Parameters
    ----------
    shape : int or tuple of int
    rng : numpy.random.Generator
    low, high : float
        The defaults are torch.nn.init.uniform_'s.

    Returns
    -------
    numpy.ndarray
        float32, C-contiguous.
    """
    shape = _shape(shape)
    low, high = _number("low", low), _number("high", high)
    if low > high:
        raise ValueError(f"low: expected at most high = {high!r}, got {low!r}")
    weight = _generator(rng).random(shape, dtype=numpy.float32)
    weight *= numpy.float32(high - low)
    weight += numpy.float32(low)
    return numpy.clip(weight, numpy.float32(low), numpy.float32(high), out=weight)     # the sum above rounds


def he_normal(shape, rng, *, layout=None, fan="in"):
    """Normal with std = √(2 / fan): He et al. 2015 (arXiv:1502.01852), for layers followed by a ReLU.

    fan="in" keeps the variance of activations from layer to layer (their equation 10; Keras' and torch's
    default), fan="out" that of gradients (equation 14). Keras truncates the normal at two deviations; the
    paper and torch do not, nor does this.

    Parameters
    ----------
    shape : tuple of int
        At least two axes.
    rng : numpy.random.Generator
    layout : {None, "in_out", "out_in"}
        Which axes are inputs and outputs: see the module's table.
    fan : {"in", "out"}

    Returns
    -------
    numpy.ndarray
        float32, C-contiguous.
    """
    return normal(shape, rng, std=math.sqrt(2.0 / _fan(shape, layout, fan)))


def he_uniform(shape, rng, *, layout=None, fan="in"):
    """Uniform in ±√(6 / fan), which has he_normal's variance. Parameters as there."""
    bound = math.sqrt(6.0 / _fan(shape, layout, fan))
    return uniform(shape, rng, low=-bound, high=bound)


def xavier_normal(shape, rng, *, layout=None):
    """Normal with std = √(2 / (fan_in + fan_out)): Glorot and Bengio 2010, for tanh and linear layers.

    Parameters
    ----------
    shape : tuple of int
        At least two axes.
    rng : numpy.random.Generator
    layout : {None, "in_out", "out_in"}
        Which axes are inputs and outputs: see the module's table. Two axes give the same either way.

    Returns
    -------
    numpy.ndarray
        float32, C-contiguous.
    """
    return normal(shape, rng, std=math.sqrt(2.0 / max(1, sum(_fans(shape, layout)))))


def xavier_uniform(shape, rng, *, layout=None):
    """Uniform in ±√(6 / (fan_in + fan_out)), which has xavier_normal's variance. Parameters as there."""
    bound = math.sqrt(6.0 / max(1, sum(_fans(shape, layout))))
    return uniform(shape, rng, low=-bound, high=bound)


def _shape(shape):
    """`shape` as a tuple of ints of at least 0."""
    try:
        lengths = tuple(operator.index(n) for n in (shape if isinstance(shape, tuple | list) else (shape,)))
    except TypeError:
        raise TypeError(f"shape: expected an int or a tuple of ints, got {shape!r}") from None
    if any(n < 0 for n in lengths):
        raise ValueError(f"shape: expected lengths of at least 0, got {lengths}")
    return lengths


def _generator(rng):
    if not isinstance(rng, numpy.random.Generator):
        raise TypeError("rng: expected a numpy.random.Generator, as numpy.random.default_rng(seed) makes, "
                        f"got {type(rng).__name__}")
    return rng


def _number(name, value):
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {float(value)!r}")
    return float(value)


def _fans(shape, layout):
    """(fan_in, fan_out) of a weight."""
    shape = _shape(shape)
    if len(shape) < 2:
        raise ValueError(f"shape: expected at least two axes, inputs and outputs, got {shape}; "
                         "start a bias at zero, or give std to normal() yourself")
    if layout is None:
        layout = "in_out" if len(shape) == 2 else "out_in"
    if layout == "in_out":
        *kernel, inputs, outputs = shape
    elif layout == "out_in":
        outputs, inputs, *kernel = shape
    else:
        raise ValueError(f"layout: expected None, 'in_out' or 'out_in', got {layout!r}")
    return inputs * math.prod(kernel), outputs * math.prod(kernel)


def _fan(shape, layout, fan):
    fan_in, fan_out = _fans(shape, layout)
    if fan not in ("in", "out"):
        raise ValueError(f"fan: expected 'in' or 'out', got {fan!r}")
    return max(1, fan_in if fan == "in" else fan_out)      # 0 belongs to an array without elements
