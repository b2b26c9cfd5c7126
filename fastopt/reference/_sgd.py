"""Gradient descent with and without momentum."""

from fastopt import _sgd
from fastopt.reference._common import decayed, gradient, update_average
from fastopt.reference._optimizer import Reference


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


class SGD(Reference, _sgd.SGD):
    """See `fastopt.SGD`."""

    _function = staticmethod(sgd)

    @staticmethod
    def _arguments(arguments, step):
        return {**arguments, "step": step}


class Momentum(Reference, _sgd.Momentum):
    """See `fastopt.Momentum`."""

    _function = staticmethod(momentum)
