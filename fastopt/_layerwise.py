"""LARS and LAMB: functions on one parameter and classes for a whole model."""

from typing import Unpack

from fastopt._optimizer import Optimizer, apply
from fastopt._options import (
    EPS,
    LR,
    STEP,
    Arguments,
    Checked,
    ModelOptions,
    ModelOptionsWithoutDecay,
    Options,
    OptionsWithoutDecay,
    check_options,
    check_own_decay,
)
from fastopt._runtime import dispatch
from fastopt._runtime.hyper import Ranges, pair
from fastopt._typing import Float32Array as Array
from fastopt._typing import LearningRate as Rate

_lars_ranges = Ranges(lr=LR, momentum="[0, inf)", trust_coefficient="(0, inf)", eps=EPS)
_lamb_ranges = Ranges(step=STEP, lr=LR, **{"betas[0]": "[0, 1)", "betas[1]": "[0, 1)"}, eps=EPS,
                      weight_decay="[0, inf)")


def _lars_arguments(step: int, lr: float, momentum: float, trust_coefficient: float, eps: float,
                    options: Checked) -> Arguments:
    _lars_ranges(lr, momentum, trust_coefficient, eps)
    weight_decay = options[3]
    return step, lr, momentum, trust_coefficient, eps, weight_decay, options


def lars(param: Array, grad: Array, v: Array, *, lr: float, momentum: float = 0.9, trust_coefficient: float = 1e-3,
         eps: float = 1e-8, **options: Unpack[Options]) -> None:
    """Update one parameter in place by LARS.

    With the gradient g (scaled and clipped: `fastopt.Options`) and λ = ``weight_decay``::

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
        Learning rate ≥ 0, μ ≥ 0, coefficient > 0, eps 0 or at least 2⁻¹²⁶.
    **options
        Regularisation, clipping and averaging: see `fastopt.Options`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    You, Gitman and Ginsburg 2017, arXiv:1708.03888. Norms are sums in double in a fixed order. Same bits as
    ``fastopt.reference.lars``.
    """
    arguments = _lars_arguments(1, lr, momentum, trust_coefficient, eps, check_options(lars, options))
    apply(dispatch.active.layerwise.lars(*arguments), param, grad, options.get("average"), v)


class LARS(Optimizer):
    """LARS for a whole model: ``LARS(lr=1.0).update(params, grads)``.

    Parameters
    ----------
    lr, momentum, trust_coefficient, eps
        As in `fastopt.lars`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **options
        Those of every optimizer class: see `fastopt.Optimizer`.

    Notes
    -----
    State: v. The formula is `fastopt.lars`'s.
    """

    _rule = ("layerwise.lars", _lars_arguments)
    _state_names = ("v",)

    def __init__(self, lr: Rate, *, momentum: float = 0.9, trust_coefficient: float = 1e-3, eps: float = 1e-8,
                 **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, momentum=momentum, trust_coefficient=trust_coefficient, eps=eps), options)


def _lamb_arguments(step: int, lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
                    options: Checked) -> Arguments:
    beta1, beta2 = pair("betas", betas)
    _lamb_ranges(step, lr, beta1, beta2, eps, weight_decay)
    return step, lr, beta1, beta2, eps, weight_decay, options


def lamb(param: Array, grad: Array, m: Array, v: Array, *, step: int, lr: float = 1e-3,
         betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6, weight_decay: float = 0.01,
         **options: Unpack[OptionsWithoutDecay]) -> None:
    """Update one parameter in place by LAMB.

    With the gradient g (scaled, clipped and regularised by l1: `fastopt.Options`), m and v as Adam's, and their
    bias-corrected m̂ and v̂::

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
        Part of the direction, as in the paper.
    **options
        L1 regularisation, clipping and averaging: see `fastopt.Options`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    You et al. 2019, arXiv:1904.00962, algorithm 2 with φ the identity. Norms are sums in double in a fixed order.
    Same bits as ``fastopt.reference.lamb``.
    """
    arguments = _lamb_arguments(step, lr, betas, eps, weight_decay, check_own_decay(lamb, options))
    apply(dispatch.active.layerwise.lamb(*arguments), param, grad, options.get("average"), m, v)


class LAMB(Optimizer):
    """LAMB for a whole model: ``LAMB(lr=0.001).update(params, grads)``.

    Parameters
    ----------
    lr, betas, eps, weight_decay
        As in `fastopt.lamb`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **options
        Those of every optimizer class (see `fastopt.Optimizer`), except decoupled_weight_decay: weight_decay is part of
        the direction here.

    Notes
    -----
    State: m and v. The formula is `fastopt.lamb`'s.
    """

    _rule = ("layerwise.lamb", _lamb_arguments)
    _state_names = ("m", "v")
    _not_decoupled = "its weight_decay is part of the direction"

    def __init__(self, lr: Rate = 1e-3, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
                 weight_decay: float = 0.01, **options: Unpack[ModelOptionsWithoutDecay]) -> None:
        super().__init__(dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay), options)
