"""Adam and AdamW."""

import math

import numpy as np

from fastopt import _adam
from fastopt.reference._common import decayed, gradient, update_average
from fastopt.reference._optimizer import Reference


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
        u = vmax[...] = np.where((vmax >= v) | np.isnan(vmax), vmax, v)  # maximum, but for which of −0 and 0
    denominator = np.sqrt(u) + f(eps if eps_hat else eps * root)
    param[...] = decayed(param, lr, decoupled_weight_decay) - f(alpha) * m / denominator
    update_average(average, average_decay, param)


class Adam(Reference, _adam.Adam):
    """See `fastopt.Adam`."""

    _function = staticmethod(adam)

    @staticmethod
    def _arguments(arguments, step):
        del arguments["amsgrad"]  # said by vmax
        return {**arguments, "step": step}
