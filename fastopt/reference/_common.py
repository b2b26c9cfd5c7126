"""What every optimizer's formula shares. A scalar is computed in double and rounded once to the arrays' type.

The functions compute in the type of `param`: float32 is the definition that the kernels match bit for bit, and
float64 arrays make the same code an oracle.
"""

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


def decayed(param, lr, decoupled_weight_decay):
    """The parameter after decoupled weight decay."""
    return param * param.dtype.type(1.0 - lr * decoupled_weight_decay)


def update_average(average, average_decay, param):
    """Exponential moving average of a parameter, after its update."""
    if average is not None:
        f = param.dtype.type
        average[...] = f(average_decay) * average + f(1.0 - average_decay) * param
