"""Adam, AdamW, Adamax, NAdam and RAdam."""

import math

import numpy as np

from fastopt import _adam
from fastopt.reference._common import decayed, gradient, greater, update_average
from fastopt.reference._optimizer import Reference, with_step


def adam(param, grad, m, v, *, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, vmax=None, eps_hat=False,
         weight_decay=0.0, decoupled_weight_decay=0.0, l1=0.0, maximize=False, grad_scale=1.0, clip_value=None,
         average=None, average_decay=None):
    """See `fastopt.adam`."""
    f = param.dtype.type
    beta1, beta2 = betas
    root = math.sqrt(1.0 - beta2**step)
    alpha = lr * root / (1.0 - beta1**step)
    g = gradient(param, grad, grad_scale=grad_scale, maximize=maximize, clip_value=clip_value,
                 weight_decay=weight_decay, l1=l1)
    m[...] = f(beta1) * m + f(1.0 - beta1) * g
    v[...] = f(beta2) * v + f(1.0 - beta2) * (g * g)
    u = v
    if vmax is not None:
        u = vmax[...] = greater(vmax, v)
    denominator = np.sqrt(u) + f(eps if eps_hat else eps * root)
    param[...] = decayed(param, lr, decoupled_weight_decay) - f(alpha) * m / denominator
    update_average(average, average_decay, param)


def adamax(param, grad, m, u, *, step, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
           decoupled_weight_decay=0.0, l1=0.0, maximize=False, grad_scale=1.0, clip_value=None, average=None,
           average_decay=None):
    """See `fastopt.adamax`."""
    f = param.dtype.type
    beta1, beta2 = betas
    g = gradient(param, grad, grad_scale=grad_scale, maximize=maximize, clip_value=clip_value,
                 weight_decay=weight_decay, l1=l1)
    m[...] = f(beta1) * m + f(1.0 - beta1) * g
    u[...] = greater(f(beta2) * u, np.abs(g) + f(eps))
    param[...] = decayed(param, lr, decoupled_weight_decay) - f(lr / (1.0 - beta1**step)) * m / u
    update_average(average, average_decay, param)


def nadam_momenta(step, beta1, momentum_decay):
    """Return μₜ, μₜ₊₁ and μ₁ · … · μₜ, where μᵢ = β₁ · (1 − 0.96^(i · momentum_decay) / 2).

    The product is taken for 0 once it can no longer change 1 − product.
    """
    product = 1.0
    for i in range(1, step + 1):
        product *= beta1 * (1.0 - 0.5 * 0.96 ** (i * momentum_decay))
        if product < 2.0**-64:
            product = 0.0
            break
    mu, mu_next = (beta1 * (1.0 - 0.5 * 0.96 ** (i * momentum_decay)) for i in (step, step + 1))
    return mu, mu_next, product


def nadam(param, grad, m, v, *, step, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, momentum_decay=4e-3, weight_decay=0.0,
          decoupled_weight_decay=0.0, l1=0.0, maximize=False, grad_scale=1.0, clip_value=None, average=None,
          average_decay=None):
    """See `fastopt.nadam`."""
    f = param.dtype.type
    beta1, beta2 = betas
    mu, mu_next, product = nadam_momenta(step, beta1, momentum_decay)
    root = math.sqrt(1.0 - beta2**step)
    gamma = lr * (1.0 - mu) / (1.0 - product) * root
    alpha = lr * mu_next / (1.0 - product * mu_next) * root
    g = gradient(param, grad, grad_scale=grad_scale, maximize=maximize, clip_value=clip_value,
                 weight_decay=weight_decay, l1=l1)
    m[...] = f(beta1) * m + f(1.0 - beta1) * g
    v[...] = f(beta2) * v + f(1.0 - beta2) * (g * g)
    d = (f(gamma) * g + f(alpha) * m) / (np.sqrt(v) + f(eps * root))
    param[...] = decayed(param, lr, decoupled_weight_decay) - d
    update_average(average, average_decay, param)


def radam(param, grad, m, v, *, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
          decoupled_weight_decay=0.0, l1=0.0, maximize=False, grad_scale=1.0, clip_value=None, average=None,
          average_decay=None):
    """See `fastopt.radam`."""
    f = param.dtype.type
    beta1, beta2 = betas
    power = beta2**step
    rho_inf = 2.0 / (1.0 - beta2) - 1.0
    rho = rho_inf - 2.0 * step * power / (1.0 - power)
    g = gradient(param, grad, grad_scale=grad_scale, maximize=maximize, clip_value=clip_value,
                 weight_decay=weight_decay, l1=l1)
    m[...] = f(beta1) * m + f(1.0 - beta1) * g
    v[...] = f(beta2) * v + f(1.0 - beta2) * (g * g)
    if rho > 5.0:
        rectification = math.sqrt((rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho))
        alpha = lr * rectification * math.sqrt(1.0 - power) / (1.0 - beta1**step)
        d = f(alpha) * m / (np.sqrt(v) + f(eps))
    else:
        d = f(lr / (1.0 - beta1**step)) * m
    param[...] = decayed(param, lr, decoupled_weight_decay) - d
    update_average(average, average_decay, param)


class Adam(Reference, _adam.Adam):
    """See `fastopt.Adam`."""

    _function = staticmethod(adam)

    @staticmethod
    def _arguments(arguments, step):
        del arguments["amsgrad"]  # said by vmax
        return {**arguments, "step": step}


class AdamW(Reference, _adam.AdamW):
    """See `fastopt.AdamW`."""

    _function = staticmethod(adam)

    @staticmethod
    def _arguments(arguments, step):
        del arguments["amsgrad"]
        arguments["decoupled_weight_decay"] = arguments.pop("weight_decay")
        return {**arguments, "step": step}


class Adamax(Reference, _adam.Adamax):
    """See `fastopt.Adamax`."""

    _function = staticmethod(adamax)
    _arguments = staticmethod(with_step)


class NAdam(Reference, _adam.NAdam):
    """See `fastopt.NAdam`."""

    _function = staticmethod(nadam)
    _arguments = staticmethod(with_step)


class RAdam(Reference, _adam.RAdam):
    """See `fastopt.RAdam`."""

    _function = staticmethod(radam)
    _arguments = staticmethod(with_step)
