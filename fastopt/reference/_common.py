"""What every optimizer's formula shares. A scalar is computed in double and rounded once to the arrays' type.

The functions compute in the type of `param`: float32 is the definition that the kernels match bit for bit, and
float64 arrays make the same code an oracle.
"""

import math

import numpy as np


def gradient(param, grad, *, grad_scale, maximize, clip_value, weight_decay, l1):
    """The gradient as it reaches a formula: scaled, clipped by value, regularised."""
    f = param.dtype.type
    g = f(-grad_scale if maximize else grad_scale) * grad
    if clip_value is not None:
        g = np.clip(g, -f(clip_value), f(clip_value))
    if weight_decay:
        g = g + f(weight_decay) * param
    if l1:
        g = g + f(l1) * np.sign(param)
    return g


def decayed(param, lr, decoupled_weight_decay, shrink=1.0):
    """The parameter after decoupled weight decay and what an optimizer's own decay leaves of it."""
    return param * param.dtype.type((1.0 - lr * decoupled_weight_decay) * shrink)


def greater(a, b):
    """The greater of two, NaN if one is; a where they are equal (numpy.maximum leaves open which of −0 and 0)."""
    return np.where((a >= b) | np.isnan(a), a, b)


def block_squares(x):
    """Yield the sum of squares of each block of 8192 elements, in double and in the kernels' order.

    In a block there are 16 lanes, of which lane l adds the elements i with i mod 16 = l in order; then the lanes in
    order.
    """
    x = x.ravel().astype(np.float64)
    for start in range(0, x.size, 8192):
        block = x[start : start + 8192]
        lanes = np.zeros((-(-block.size // 16), 16))
        lanes.ravel()[: block.size] = block * block
        yield add_in_order(np.cumsum(lanes, axis=0)[-1].tolist())


def add_in_order(numbers):
    """Plain sums of doubles: Python's sum() compensates its rounding errors from 3.12 on."""
    total = 0.0
    for number in numbers:
        total += number
    return total


def norm(x):
    """Euclidean norm: the blocks' sums added in order."""
    return math.sqrt(add_in_order(block_squares(x)))


def update_average(average, average_decay, param):
    """Exponential moving average of a parameter, after its update."""
    if average is not None:
        f = param.dtype.type
        average[...] = f(average_decay) * average + f(1.0 - average_decay) * param
