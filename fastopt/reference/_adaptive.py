"""Steps divided by a root of the gradients' squares: Adagrad, Adadelta, RMSprop."""

import numpy as np

from fastopt import _adaptive
from fastopt.reference._common import decayed, gradient, update_average
from fastopt.reference._optimizer import Reference


def adagrad(param, grad, h, *, step=1, lr=0.01, lr_decay=0.0, eps=1e-10, eps_inside_sqrt=False, weight_decay=0.0,
            decoupled_weight_decay=0.0, l1=0.0, maximize=False, grad_scale=1.0, clip_value=None, average=None,
            average_decay=None):
    """See `fastopt.adagrad`."""
    f = param.dtype.type
    inside, outside = (f(eps), f(0)) if eps_inside_sqrt else (f(0), f(eps))
    g = gradient(param, grad, grad_scale=grad_scale, maximize=maximize, clip_value=clip_value,
                 weight_decay=weight_decay, l1=l1)
    h[...] = h + g * g
    rate = f(lr / (1.0 + (step - 1.0) * lr_decay))
    param[...] = decayed(param, lr, decoupled_weight_decay) - rate * g / (np.sqrt(h + inside) + outside)
    update_average(average, average_decay, param)


def adadelta(param, grad, v, u, *, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0, decoupled_weight_decay=0.0, l1=0.0,
             maximize=False, grad_scale=1.0, clip_value=None, average=None, average_decay=None):
    """See `fastopt.adadelta`."""
    f = param.dtype.type
    g = gradient(param, grad, grad_scale=grad_scale, maximize=maximize, clip_value=clip_value,
                 weight_decay=weight_decay, l1=l1)
    v[...] = f(rho) * v + f(1.0 - rho) * (g * g)
    d = np.sqrt(u + f(eps)) / np.sqrt(v + f(eps)) * g
    u[...] = f(rho) * u + f(1.0 - rho) * (d * d)
    param[...] = decayed(param, lr, decoupled_weight_decay) - f(lr) * d
    update_average(average, average_decay, param)


def rmsprop(param, grad, v, grad_avg=None, buf=None, *, lr=0.01, alpha=0.99, eps=1e-8, momentum=0.0,
            eps_inside_sqrt=False, weight_decay=0.0, decoupled_weight_decay=0.0, l1=0.0, maximize=False,
            grad_scale=1.0, clip_value=None, average=None, average_decay=None):
    """See `fastopt.rmsprop`."""
    f = param.dtype.type
    inside, outside = (f(eps), f(0)) if eps_inside_sqrt else (f(0), f(eps))
    g = gradient(param, grad, grad_scale=grad_scale, maximize=maximize, clip_value=clip_value,
                 weight_decay=weight_decay, l1=l1)
    v[...] = f(alpha) * v + f(1.0 - alpha) * (g * g)
    w = v
    if grad_avg is not None:
        grad_avg[...] = f(alpha) * grad_avg + f(1.0 - alpha) * g
        w = v - grad_avg * grad_avg
        w = np.where(w < 0, f(0), w)
    root = np.sqrt(w + inside) + outside
    if momentum:
        buf[...] = f(momentum) * buf + g / root
        param[...] = decayed(param, lr, decoupled_weight_decay) - f(lr) * buf
    else:
        param[...] = decayed(param, lr, decoupled_weight_decay) - f(lr) * g / root
    update_average(average, average_decay, param)


class Adagrad(Reference, _adaptive.Adagrad):
    """See `fastopt.Adagrad`."""

    _function = staticmethod(adagrad)

    @staticmethod
    def _arguments(arguments, step):
        del arguments["initial_accumulator_value"]
        return {**arguments, "step": step}


class Adadelta(Reference, _adaptive.Adadelta):
    """See `fastopt.Adadelta`."""

    _function = staticmethod(adadelta)


class RMSprop(Reference, _adaptive.RMSprop):
    """See `fastopt.RMSprop`."""

    _function = staticmethod(rmsprop)

    @staticmethod
    def _arguments(arguments, step):
        del arguments["centered"]  # said by grad_avg
        return arguments
