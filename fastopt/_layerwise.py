"""LARS and LAMB: functions on one parameter and classes for a whole model."""

from fastopt._common import check_common, check_pair
from fastopt._optimizer import Optimizer
from fastopt._runtime import dispatch, driver
from fastopt._runtime.hyper import Ranges

_lars_ranges = Ranges(momentum="[0, inf)", trust_coefficient="(0, inf)", eps="[0, inf)")
_lamb_ranges = Ranges(**{"step": "int [1, 9e18]", "betas[0]": "[0, 1)", "betas[1]": "[0, 1)", "eps": "[0, inf)",
                         "weight_decay": "[0, inf)"})


def _lars_rule(step, lr, momentum, trust_coefficient, eps, weight_decay, decoupled_weight_decay, l1, maximize,
               grad_scale, clip_value, average, average_decay):
    _lars_ranges(momentum, trust_coefficient, eps)
    common = check_common(lr, grad_scale, maximize, clip_value, weight_decay, l1, decoupled_weight_decay,
                          average_decay, average)
    return dispatch.active.layerwise.lars(lr, momentum, trust_coefficient, eps, weight_decay, common)


def lars(param, grad, v, *, lr, momentum=0.9, trust_coefficient=1e-3, eps=1e-8, weight_decay=0.0,
         decoupled_weight_decay=0.0, l1=0.0, maximize=False, grad_scale=1.0, clip_value=None, average=None,
         average_decay=None):
    """Update one parameter in place by LARS.

    With the gradient g (scaled and clipped as in `fastopt.adam`) and λ = ``weight_decay``::

        r = trust_coefficient · ‖p‖ / (‖g‖ + λ · ‖p‖ + eps), but 1 where ‖p‖ or ‖g‖ is 0
        v ← μ · v + lr · r · (g + λ · p + l1 · sign(p))
        p ← p · (1 − lr · decoupled_weight_decay) − v

    Parameters
    ----------
    param, v : float32 arrays of one shape
        A layer's parameter and its velocity (zeros before the first step), C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    lr, momentum, trust_coefficient, eps : float
        Learning rate ≥ 0, μ ≥ 0, coefficient > 0, eps ≥ 0.
    weight_decay, decoupled_weight_decay, l1, maximize, grad_scale, clip_value, average, average_decay
        As in `fastopt.adam`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    You, Gitman and Ginsburg 2017, arXiv:1708.03888. Norms are sums in double in a fixed order. Same bits as
    ``fastopt.reference.lars``.
    """
    driver.apply(
        _lars_rule(1, lr, momentum, trust_coefficient, eps, weight_decay, decoupled_weight_decay, l1, maximize,
                   grad_scale, clip_value, average is not None, average_decay),
        (param, grad, average, v),
    )


class LARS(Optimizer):
    """LARS for a whole model: ``LARS(lr=1.0).update(params, grads)``.

    Parameters
    ----------
    lr, momentum, trust_coefficient, eps
        As in `fastopt.lars`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **common
        What every optimizer takes: see `fastopt.Optimizer`.

    Notes
    -----
    State: v. The formula is `fastopt.lars`'s.
    """

    _rule = staticmethod(_lars_rule)
    _state_names = ("v",)

    def __init__(self, *, lr, momentum=0.9, trust_coefficient=1e-3, eps=1e-8, **common):
        super().__init__(dict(lr=lr, momentum=momentum, trust_coefficient=trust_coefficient, eps=eps), **common)


def _lamb_rule(step, lr, betas, eps, weight_decay, l1, maximize, grad_scale, clip_value, average, average_decay):
    beta1, beta2 = check_pair("betas", betas)
    _lamb_ranges(step, beta1, beta2, eps, weight_decay)
    common = check_common(lr, grad_scale, maximize, clip_value, 0.0, l1, 0.0, average_decay, average)
    return dispatch.active.layerwise.lamb(step, lr, beta1, beta2, eps, weight_decay, common)


def lamb(param, grad, m, v, *, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, l1=0.0, maximize=False,
         grad_scale=1.0, clip_value=None, average=None, average_decay=None):
    """Update one parameter in place by LAMB.

    With the gradient g (scaled, clipped, plus l1 · sign(p)), m and v as Adam's, and their bias-corrected m̂ and v̂::

        d = m̂ / (√v̂ + eps) + weight_decay · p
        r = ‖p‖ / ‖d‖, but 1 where one of the two is 0
        p ← p − lr · r · d

    Parameters
    ----------
    param, m, v : float32 arrays of one shape
        A layer's parameter and its moments (zeros before the first step), C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    step, lr, betas, eps
        As in `fastopt.adam`.
    weight_decay : float
        Part of the direction, as the paper has it.
    l1, maximize, grad_scale, clip_value, average, average_decay
        As in `fastopt.adam`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    You et al. 2019, arXiv:1904.00962, algorithm 2 with φ the identity. Norms are sums in double in a fixed order.
    Same bits as ``fastopt.reference.lamb``.
    """
    driver.apply(
        _lamb_rule(step, lr, betas, eps, weight_decay, l1, maximize, grad_scale, clip_value, average is not None,
                   average_decay),
        (param, grad, average, m, v),
    )


class LAMB(Optimizer):
    """LAMB for a whole model: ``LAMB(lr=0.001).update(params, grads)``.

    Parameters
    ----------
    lr, betas, eps, weight_decay
        As in `fastopt.lamb`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **common
        What every optimizer takes (see `fastopt.Optimizer`) but decoupled_weight_decay, which weight_decay is here.

    Notes
    -----
    State: m and v. The formula is `fastopt.lamb`'s.
    """

    _rule = staticmethod(_lamb_rule)
    _state_names = ("m", "v")
    _decoupled = False

    def __init__(self, *, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, **common):
        super().__init__(dict(lr=lr, betas=betas, eps=eps), weight_decay=weight_decay, **common)
