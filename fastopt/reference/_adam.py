"""Adam, AdamW, Adamax, NAdam and RAdam."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from fastopt._options import ModelOptions, ModelOptionsWithoutDecay, Options
from fastopt._typing import LearningRate as Rate
from fastopt.reference._formula import Array, complete, decayed, floats, gradient, greater, update_average
from fastopt.reference._optimizer import Optimizer


def adam(param: Array, grad: Array, m: Array, v: Array, *, step: int, lr: float = 1e-3,
         betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, vmax: Array | None = None, eps_hat: bool = False,
         bias_correction: bool = True, **options: Unpack[Options]) -> None:
    """See `fastopt.adam`."""
    o = complete(adam, options)
    f = param.dtype.type
    lr, beta1, beta2, eps = floats(lr, *betas, eps)
    step = int(step)
    root = math.sqrt(1.0 - beta2**step) if bias_correction else 1.0
    alpha = lr * root / (1.0 - beta1**step) if bias_correction else lr
    g = gradient(param, grad, o)
    m[...] = f(beta1) * m + f(1.0 - beta1) * g
    v[...] = f(beta2) * v + f(1.0 - beta2) * (g * g)
    u = v
    if vmax is not None:
        u = vmax[...] = greater(vmax, v)
    denominator = np.sqrt(u) + f(eps if eps_hat else eps * root)
    param[...] = decayed(param, lr, o.decoupled_weight_decay) - f(alpha) * m / denominator
    update_average(param, o)


def adamax(param: Array, grad: Array, m: Array, u: Array, *, step: int, lr: float = 2e-3,
           betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, **options: Unpack[Options]) -> None:
    """See `fastopt.adamax`."""
    o = complete(adamax, options)
    f = param.dtype.type
    lr, beta1, beta2, eps = floats(lr, *betas, eps)
    step = int(step)
    g = gradient(param, grad, o)
    m[...] = f(beta1) * m + f(1.0 - beta1) * g
    u[...] = greater(f(beta2) * u, np.abs(g) + f(eps))
    param[...] = decayed(param, lr, o.decoupled_weight_decay) - f(lr / (1.0 - beta1**step)) * m / u
    update_average(param, o)


def nadam_momenta(step: int, beta1: float, momentum_decay: float) -> tuple[float, float, float]:
    """Return μₜ, μₜ₊₁ and μ₁ · … · μₜ, where μᵢ = β₁ · (1 − 0.96^(i · momentum_decay) / 2).

    The product becomes 0 once it can no longer change 1 − product.
    """
    product = 1.0
    for i in range(1, step + 1):
        product *= beta1 * (1.0 - 0.5 * 0.96 ** (i * momentum_decay))
        if product < 2.0**-64:
            product = 0.0
            break
    mu, mu_next = (beta1 * (1.0 - 0.5 * 0.96 ** (i * momentum_decay)) for i in (step, step + 1))
    return mu, mu_next, product


def nadam(param: Array, grad: Array, m: Array, v: Array, *, step: int, lr: float = 2e-3,
          betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, momentum_decay: float = 4e-3,
          **options: Unpack[Options]) -> None:
    """See `fastopt.nadam`."""
    o = complete(nadam, options)
    f = param.dtype.type
    lr, beta1, beta2, eps, momentum_decay = floats(lr, *betas, eps, momentum_decay)
    step = int(step)
    mu, mu_next, product = nadam_momenta(step, beta1, momentum_decay)
    root = math.sqrt(1.0 - beta2**step)
    gamma = lr * (1.0 - mu) / (1.0 - product) * root
    alpha = lr * mu_next / (1.0 - product * mu_next) * root
    g = gradient(param, grad, o)
    m[...] = f(beta1) * m + f(1.0 - beta1) * g
    v[...] = f(beta2) * v + f(1.0 - beta2) * (g * g)
    d = (f(gamma) * g + f(alpha) * m) / (np.sqrt(v) + f(eps * root))
    param[...] = decayed(param, lr, o.decoupled_weight_decay) - d
    update_average(param, o)


def radam(param: Array, grad: Array, m: Array, v: Array, *, step: int, lr: float = 1e-3,
          betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, **options: Unpack[Options]) -> None:
    """See `fastopt.radam`."""
    o = complete(radam, options)
    f = param.dtype.type
    lr, beta1, beta2, eps = floats(lr, *betas, eps)
    step = int(step)
    power = beta2**step
    rho_inf = 2.0 / (1.0 - beta2) - 1.0
    rho = rho_inf - 2.0 * step * power / (1.0 - power)
    g = gradient(param, grad, o)
    m[...] = f(beta1) * m + f(1.0 - beta1) * g
    v[...] = f(beta2) * v + f(1.0 - beta2) * (g * g)
    if rho > 5.0:
        rectification = math.sqrt((rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho))
        alpha = lr * rectification * math.sqrt(1.0 - power) / (1.0 - beta1**step)
        d = f(alpha) * m / (np.sqrt(v) + f(eps))
    else:
        d = f(lr / (1.0 - beta1**step)) * m
    param[...] = decayed(param, lr, o.decoupled_weight_decay) - d
    update_average(param, o)


class Adam(Optimizer):
    """See `fastopt.Adam`."""

    _function = staticmethod(adam)

    def __init__(self, lr: Rate = 1e-3, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 amsgrad: bool = False, eps_hat: bool = False, bias_correction: bool = True,
                 **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, betas=betas, eps=eps, amsgrad=amsgrad, eps_hat=eps_hat,
                              bias_correction=bias_correction), options)

    def _states(self, hyper: Mapping[str, Any]) -> Sequence[str]:
        return ("m", "v", "vmax") if hyper["amsgrad"] else ("m", "v")


class AdamW(Adam):
    """See `fastopt.AdamW`."""

    def __init__(self, lr: Rate = 1e-3, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.01, amsgrad: bool = False, eps_hat: bool = False,
                 bias_correction: bool = True, **options: Unpack[ModelOptionsWithoutDecay]) -> None:
        Optimizer.__init__(self, dict(lr=lr, betas=betas, eps=eps, amsgrad=amsgrad, eps_hat=eps_hat,
                                      bias_correction=bias_correction, weight_decay=weight_decay), options)

    def _call(self, param: Array, grad: Array, arguments: dict[str, Any]) -> None:
        super()._call(param, grad, {**arguments, "weight_decay": 0.0,
                                    "decoupled_weight_decay": arguments["weight_decay"]})


class Adamax(Optimizer):
    """See `fastopt.Adamax`."""

    _function = staticmethod(adamax)

    def __init__(self, lr: Rate = 2e-3, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, betas=betas, eps=eps), options)


class NAdam(Optimizer):
    """See `fastopt.NAdam`."""

    _function = staticmethod(nadam)

    def __init__(self, lr: Rate = 2e-3, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 momentum_decay: float = 4e-3, **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, betas=betas, eps=eps, momentum_decay=momentum_decay), options)


class RAdam(Optimizer):
    """See `fastopt.RAdam`."""

    _function = staticmethod(radam)

    def __init__(self, lr: Rate = 1e-3, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, betas=betas, eps=eps), options)
