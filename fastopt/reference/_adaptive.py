"""Steps divided by a root of the gradients' squares: Adagrad, Adadelta, RMSprop, Adan."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from fastopt._options import ModelOptions, ModelOptionsWithoutDecay, Options, OptionsWithoutDecay
from fastopt._typing import LearningRate as Rate
from fastopt.reference._formula import Array, complete, decayed, floats, gradient, update_average
from fastopt.reference._optimizer import Optimizer


def adagrad(param: Array, grad: Array, h: Array, *, step: int = 1, lr: float = 0.01, lr_decay: float = 0.0,
            eps: float = 1e-10, eps_inside_sqrt: bool = False, **options: Unpack[Options]) -> None:
    """See `fastopt.adagrad`."""
    o = complete(adagrad, options)
    f = param.dtype.type
    lr, lr_decay, eps = floats(lr, lr_decay, eps)
    inside, outside = (f(eps), f(0)) if eps_inside_sqrt else (f(0), f(eps))
    g = gradient(param, grad, o)
    h[...] = h + g * g
    rate = f(lr / (1.0 + (step - 1.0) * lr_decay))
    param[...] = decayed(param, lr, o.decoupled_weight_decay) - rate * g / (np.sqrt(h + inside) + outside)
    update_average(param, o)


def adadelta(param: Array, grad: Array, v: Array, u: Array, *, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6,
             **options: Unpack[Options]) -> None:
    """See `fastopt.adadelta`."""
    o = complete(adadelta, options)
    f = param.dtype.type
    lr, rho, eps = floats(lr, rho, eps)
    g = gradient(param, grad, o)
    v[...] = f(rho) * v + f(1.0 - rho) * (g * g)
    d = np.sqrt(u + f(eps)) / np.sqrt(v + f(eps)) * g
    u[...] = f(rho) * u + f(1.0 - rho) * (d * d)
    param[...] = decayed(param, lr, o.decoupled_weight_decay) - f(lr) * d
    update_average(param, o)


def rmsprop(param: Array, grad: Array, v: Array, grad_avg: Array | None = None, buf: Array | None = None, *,
            lr: float = 0.01, alpha: float = 0.99, eps: float = 1e-8, momentum: float = 0.0,
            eps_inside_sqrt: bool = False, **options: Unpack[Options]) -> None:
    """See `fastopt.rmsprop`."""
    o = complete(rmsprop, options)
    f = param.dtype.type
    lr, alpha, eps, momentum = floats(lr, alpha, eps, momentum)
    inside, outside = (f(eps), f(0)) if eps_inside_sqrt else (f(0), f(eps))
    g = gradient(param, grad, o)
    v[...] = f(alpha) * v + f(1.0 - alpha) * (g * g)
    w = v
    if grad_avg is not None:
        grad_avg[...] = f(alpha) * grad_avg + f(1.0 - alpha) * g
        w = v - grad_avg * grad_avg
        w = np.where(w < 0, f(0), w)
    root = np.sqrt(w + inside) + outside
    if momentum:
        assert buf is not None
        buf[...] = f(momentum) * buf + g / root
        param[...] = decayed(param, lr, o.decoupled_weight_decay) - f(lr) * buf
    else:
        param[...] = decayed(param, lr, o.decoupled_weight_decay) - f(lr) * g / root
    update_average(param, o)


def adan(param: Array, grad: Array, m: Array, v: Array, n: Array, prev: Array, *, step: int, lr: float = 1e-3,
         betas: tuple[float, float, float] = (0.98, 0.92, 0.99), eps: float = 1e-8, weight_decay: float = 0.0,
         no_prox: bool = False, **options: Unpack[OptionsWithoutDecay]) -> None:
    """See `fastopt.adan`."""
    o = complete(adan, options)
    f = param.dtype.type
    lr, beta1, beta2, beta3, eps, weight_decay = floats(lr, *betas, eps, weight_decay)
    step = int(step)
    root = math.sqrt(1.0 - beta3**step)
    alpha, gamma = lr * root / (1.0 - beta1**step), lr * beta2 * root / (1.0 - beta2**step)
    g = gradient(param, grad, o)
    d = np.zeros_like(g) if step == 1 else g - prev
    m[...] = f(beta1) * m + f(1.0 - beta1) * g
    v[...] = f(beta2) * v + f(1.0 - beta2) * d
    ahead = g + f(beta2) * d
    n[...] = f(beta3) * n + f(1.0 - beta3) * (ahead * ahead)
    prev[...] = g
    u = (f(alpha) * m + f(gamma) * v) / (np.sqrt(n) + f(eps * root))
    before, after = (1.0 - lr * weight_decay, 1.0) if no_prox else (1.0, 1.0 / (1.0 + lr * weight_decay))
    param[...] = (decayed(param, lr, 0.0, before) - u) * f(after)
    update_average(param, o)


class Adagrad(Optimizer):
    """See `fastopt.Adagrad`."""

    _function = staticmethod(adagrad)

    def __init__(self, lr: Rate = 0.01, *, lr_decay: float = 0.0, eps: float = 1e-10, eps_inside_sqrt: bool = False,
                 initial_accumulator_value: float = 0.0, **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, lr_decay=lr_decay, eps=eps, eps_inside_sqrt=eps_inside_sqrt,
                              initial_accumulator_value=initial_accumulator_value), options)

    def _initial(self, hyper: Mapping[str, Any], name: str) -> float:
        return hyper["initial_accumulator_value"]


class Adadelta(Optimizer):
    """See `fastopt.Adadelta`."""

    _function = staticmethod(adadelta)

    def __init__(self, lr: Rate = 1.0, *, rho: float = 0.9, eps: float = 1e-6, **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, rho=rho, eps=eps), options)


class RMSprop(Optimizer):
    """See `fastopt.RMSprop`."""

    _function = staticmethod(rmsprop)

    def __init__(self, lr: Rate = 0.01, *, alpha: float = 0.99, eps: float = 1e-8, momentum: float = 0.0,
                 centered: bool = False, eps_inside_sqrt: bool = False, **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, alpha=alpha, eps=eps, momentum=momentum, centered=centered,
                              eps_inside_sqrt=eps_inside_sqrt), options)

    def _states(self, hyper: Mapping[str, Any]) -> Sequence[str]:
        return ("v", *(["grad_avg"] if hyper["centered"] else []), *(["buf"] if hyper["momentum"] else []))


class Adan(Optimizer):
    """See `fastopt.Adan`."""

    _function = staticmethod(adan)

    def __init__(self, lr: Rate = 1e-3, *, betas: tuple[float, float, float] = (0.98, 0.92, 0.99), eps: float = 1e-8,
                 weight_decay: float = 0.0, no_prox: bool = False, **options: Unpack[ModelOptionsWithoutDecay]) -> None:
        super().__init__(dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, no_prox=no_prox), options)
