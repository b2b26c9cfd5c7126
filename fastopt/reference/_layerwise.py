"""Steps scaled by each tensor's own norms: LARS, LAMB."""

import math
from typing import Unpack

import numpy as np

from fastopt._options import ModelOptions, ModelOptionsWithoutDecay, Options, OptionsWithoutDecay
from fastopt._typing import LearningRate as Rate
from fastopt.reference._formula import (
    Array,
    complete,
    decayed,
    floats,
    gradient,
    norm,
    regularised,
    scaled,
    update_average,
)
from fastopt.reference._optimizer import Optimizer


def lars(param: Array, grad: Array, v: Array, *, lr: float, momentum: float = 0.9, trust_coefficient: float = 1e-3,
         eps: float = 1e-8, **options: Unpack[Options]) -> None:
    """See `fastopt.lars`."""
    o = complete(lars, options)
    f = param.dtype.type
    lr, momentum, trust_coefficient, eps = floats(lr, momentum, trust_coefficient, eps)
    raw = scaled(param, grad, o)
    p_norm, g_norm = norm(param), norm(raw)
    ratio = 1.0
    if p_norm != 0.0 and g_norm != 0.0:
        ratio = trust_coefficient * p_norm / (g_norm + o.weight_decay * p_norm + eps)
    g = regularised(param, raw, o)
    v[...] = f(momentum) * v + f(lr * ratio) * g
    param[...] = decayed(param, lr, o.decoupled_weight_decay) - v
    update_average(param, o)


def lamb(param: Array, grad: Array, m: Array, v: Array, *, step: int, lr: float = 1e-3,
         betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6, weight_decay: float = 0.01,
         **options: Unpack[OptionsWithoutDecay]) -> None:
    """See `fastopt.lamb`."""
    o = complete(lamb, options)
    f = param.dtype.type
    lr, beta1, beta2, eps, weight_decay = floats(lr, *betas, eps, weight_decay)
    step = int(step)
    root = math.sqrt(1.0 - beta2**step)
    g = gradient(param, grad, o)
    m[...] = f(beta1) * m + f(1.0 - beta1) * g
    v[...] = f(beta2) * v + f(1.0 - beta2) * (g * g)
    d = f(root / (1.0 - beta1**step)) * m / (np.sqrt(v) + f(eps * root))
    if weight_decay:
        d = d + f(weight_decay) * param
    p_norm, d_norm = norm(param), norm(np.asarray(d))
    ratio = p_norm / d_norm if p_norm != 0.0 and d_norm != 0.0 else 1.0
    param[...] = param - f(lr * ratio) * d
    update_average(param, o)


class LARS(Optimizer):
    """See `fastopt.LARS`."""

    _function = staticmethod(lars)

    def __init__(self, lr: Rate, *, momentum: float = 0.9, trust_coefficient: float = 1e-3, eps: float = 1e-8,
                 **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, momentum=momentum, trust_coefficient=trust_coefficient, eps=eps), options)


class LAMB(Optimizer):
    """See `fastopt.LAMB`."""

    _function = staticmethod(lamb)

    def __init__(self, lr: Rate = 1e-3, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
                 weight_decay: float = 0.01, **options: Unpack[ModelOptionsWithoutDecay]) -> None:
        super().__init__(dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay), options)
