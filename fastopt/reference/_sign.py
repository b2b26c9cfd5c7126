"""Steps by the sign of a gradient: Lion, Rprop."""

import numpy as np

from fastopt import _sign
from fastopt.reference._common import decayed, gradient, update_average
from fastopt.reference._optimizer import Reference


def lion(param, grad, m, *, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, l1=0.0, maximize=False, grad_scale=1.0,
         clip_value=None, average=None, average_decay=None):
    """See `fastopt.lion`."""
    f = param.dtype.type
    beta1, beta2 = betas
    g = gradient(param, grad, grad_scale=grad_scale, maximize=maximize, clip_value=clip_value, weight_decay=0.0, l1=l1)
    c = f(beta1) * m + f(1.0 - beta1) * g
    m[...] = f(beta2) * m + f(1.0 - beta2) * g
    param[...] = decayed(param, lr, weight_decay) - f(lr) * np.sign(c)
    update_average(average, average_decay, param)


def rprop(param, grad, prev, step_size, *, etas=(0.5, 1.2), step_sizes=(1e-6, 50.0), weight_decay=0.0, l1=0.0,
          maximize=False, grad_scale=1.0, clip_value=None, average=None, average_decay=None):
    """See `fastopt.rprop`."""
    f = param.dtype.type
    eta_minus, eta_plus = etas
    least, most = step_sizes
    g = gradient(param, grad, grad_scale=grad_scale, maximize=maximize, clip_value=clip_value,
                 weight_decay=weight_decay, l1=l1)
    turn = g * prev
    factor = np.select([turn > 0, turn < 0, turn == 0], [f(eta_plus), f(eta_minus), f(1)], turn)
    step_size[...] = np.clip(step_size * factor, f(least), f(most))
    prev[...] = np.where(turn < 0, f(0), g)
    param[...] = decayed(param, 0.0, 0.0) - step_size * np.sign(prev)
    update_average(average, average_decay, param)


class Lion(Reference, _sign.Lion):
    """See `fastopt.Lion`."""

    _function = staticmethod(lion)


class Rprop(Reference, _sign.Rprop):
    """See `fastopt.Rprop`."""

    _function = staticmethod(rprop)

    @staticmethod
    def _arguments(arguments, step):
        del arguments["lr"]  # is in step_size
        return arguments
