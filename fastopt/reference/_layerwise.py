"""Steps scaled by each tensor's own norms: LARS, LAMB."""

import math

import numpy as np

from fastopt import _layerwise
from fastopt.reference._common import decayed, gradient, norm, update_average
from fastopt.reference._optimizer import Reference, with_step


def lars(param, grad, v, *, lr, momentum=0.9, trust_coefficient=1e-3, eps=1e-8, weight_decay=0.0,
         decoupled_weight_decay=0.0, l1=0.0, maximize=False, grad_scale=1.0, clip_value=None, average=None,
         average_decay=None):
    """See `fastopt.lars`."""
    f = param.dtype.type
    raw = gradient(param, grad, grad_scale=grad_scale, maximize=maximize, clip_value=clip_value, weight_decay=0.0,
                   l1=0.0)
    p_norm, g_norm = norm(param), norm(raw)
    ratio = 1.0
    if p_norm != 0.0 and g_norm != 0.0:
        ratio = trust_coefficient * p_norm / (g_norm + weight_decay * p_norm + eps)
    g = gradient(param, grad, grad_scale=grad_scale, maximize=maximize, clip_value=clip_value,
                 weight_decay=weight_decay, l1=l1)
    v[...] = f(momentum) * v + f(lr * ratio) * g
    param[...] = decayed(param, lr, decoupled_weight_decay) - v
    update_average(average, average_decay, param)


def lamb(param, grad, m, v, *, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, l1=0.0, maximize=False,
         grad_scale=1.0, clip_value=None, average=None, average_decay=None):
    """See `fastopt.lamb`."""
    f = param.dtype.type
    beta1, beta2 = betas
    root = math.sqrt(1.0 - beta2**step)
    g = gradient(param, grad, grad_scale=grad_scale, maximize=maximize, clip_value=clip_value, weight_decay=0.0, l1=l1)
    m[...] = f(beta1) * m + f(1.0 - beta1) * g
    v[...] = f(beta2) * v + f(1.0 - beta2) * (g * g)
    d = f(root / (1.0 - beta1**step)) * m / (np.sqrt(v) + f(eps * root))
    if weight_decay:
        d = d + f(weight_decay) * param
    p_norm, d_norm = norm(param), norm(np.asarray(d))
    ratio = p_norm / d_norm if p_norm != 0.0 and d_norm != 0.0 else 1.0
    param[...] = param - f(lr * ratio) * d
    update_average(average, average_decay, param)


class LARS(Reference, _layerwise.LARS):
    """See `fastopt.LARS`."""

    _function = staticmethod(lars)


class LAMB(Reference, _layerwise.LAMB):
    """See `fastopt.LAMB`."""

    _function = staticmethod(lamb)
    _arguments = staticmethod(with_step)
