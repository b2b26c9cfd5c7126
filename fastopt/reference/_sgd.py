"""Gradient descent with and without momentum."""

from fastopt import _sgd
from fastopt.reference._common import decayed, gradient, update_average
from fastopt.reference._optimizer import Reference, with_step


def sgd(param, grad, buf=None, *, lr, momentum=0.0, dampening=0.0, nesterov=False, step=1, weight_decay=0.0,
        decoupled_weight_decay=0.0, l1=0.0, maximize=False, grad_scale=1.0, clip_value=None, average=None,
        average_decay=None):
    """See `fastopt.sgd`."""
    f = param.dtype.type
    g = gradient(param, grad, grad_scale=grad_scale, maximize=maximize, clip_value=clip_value,
                 weight_decay=weight_decay, l1=l1)
    if momentum:
        buf[...] = g if step == 1 else f(momentum) * buf + f(1.0 - dampening) * g
        g = g + f(momentum) * buf if nesterov else buf
    param[...] = decayed(param, lr, decoupled_weight_decay) - f(lr) * g
    update_average(average, average_decay, param)


def momentum(param, grad, v, *, lr=0.01, momentum=0.9, nesterov=False, weight_decay=0.0, decoupled_weight_decay=0.0,
             l1=0.0, maximize=False, grad_scale=1.0, clip_value=None, average=None, average_decay=None):
    """See `fastopt.momentum`."""
    f = param.dtype.type
    d = f(lr) * gradient(param, grad, grad_scale=grad_scale, maximize=maximize, clip_value=clip_value,
                         weight_decay=weight_decay, l1=l1)
    v[...] = f(momentum) * v - d
    param[...] = decayed(param, lr, decoupled_weight_decay) + (f(momentum) * v - d if nesterov else v)
    update_average(average, average_decay, param)


def sgdm(param, grad, m, *, lr=0.01, beta=0.9, weight_decay=0.0, decoupled_weight_decay=0.0, l1=0.0, maximize=False,
         grad_scale=1.0, clip_value=None, average=None, average_decay=None):
    """See `fastopt.sgdm`."""
    f = param.dtype.type
    g = gradient(param, grad, grad_scale=grad_scale, maximize=maximize, clip_value=clip_value,
                 weight_decay=weight_decay, l1=l1)
    m[...] = f(beta) * m + f(1.0 - beta) * g
    param[...] = decayed(param, lr, decoupled_weight_decay) - f(lr) * m
    update_average(average, average_decay, param)


def asgd(param, grad, ax, *, step, lr=0.01, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0.0,
         decoupled_weight_decay=0.0, l1=0.0, maximize=False, grad_scale=1.0, clip_value=None, average=None,
         average_decay=None):
    """See `fastopt.asgd`."""
    f = param.dtype.type
    before = step - 1.0
    eta = lr / (1.0 + lambd * lr * before) ** alpha
    mu = 1.0 / max(1.0, before - t0)
    g = gradient(param, grad, grad_scale=grad_scale, maximize=maximize, clip_value=clip_value,
                 weight_decay=weight_decay, l1=l1)
    param[...] = decayed(param, lr, decoupled_weight_decay, 1.0 - lambd * eta) - f(eta) * g
    ax[...] = param if mu == 1.0 else ax + f(mu) * (param - ax)
    update_average(average, average_decay, param)


class SGD(Reference, _sgd.SGD):
    """See `fastopt.SGD`."""

    _function = staticmethod(sgd)
    _arguments = staticmethod(with_step)


class Momentum(Reference, _sgd.Momentum):
    """See `fastopt.Momentum`."""

    _function = staticmethod(momentum)


class SGDM(Reference, _sgd.SGDM):
    """See `fastopt.SGDM`."""

    _function = staticmethod(sgdm)


class ASGD(Reference, _sgd.ASGD):
    """See `fastopt.ASGD`."""

    _function = staticmethod(asgd)
    _arguments = staticmethod(with_step)
