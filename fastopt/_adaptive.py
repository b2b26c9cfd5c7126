"""Adagrad, Adadelta, RMSprop, Adan: functions on one parameter and classes for a whole model."""

from collections.abc import Mapping
from typing import Any, Unpack

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
    triple,
)
from fastopt._runtime import dispatch
from fastopt._runtime.hyper import Ranges
from fastopt._typing import Float32Array as Array
from fastopt._typing import LearningRate as Rate

_adagrad_ranges = Ranges(step=STEP, lr=LR, lr_decay="double [0, inf)", eps=EPS, eps_inside_sqrt="bool",
                         initial_accumulator_value="[0, inf)")
_adadelta_ranges = Ranges(lr=LR, rho="[0, 1)", eps=EPS)
_rmsprop_ranges = Ranges(lr=LR, alpha="[0, 1)", eps=EPS, momentum="[0, inf)", centered="bool",
                         eps_inside_sqrt="bool")
_adan_ranges = Ranges(step=STEP, lr=LR, **{f"betas[{i}]": "[0, 1)" for i in range(3)}, eps=EPS,
                      weight_decay="[0, inf)", no_prox="bool")


def _adagrad_arguments(step: int, lr: float, lr_decay: float, eps: float, eps_inside_sqrt: bool,
                       initial_accumulator_value: float, options: Checked) -> Arguments:
    _adagrad_ranges(step, lr, lr_decay, eps, eps_inside_sqrt, initial_accumulator_value)
    return step, lr, lr_decay, eps, eps_inside_sqrt, options


def adagrad(param: Array, grad: Array, h: Array, *, step: int = 1, lr: float = 0.01, lr_decay: float = 0.0,
            eps: float = 1e-10, eps_inside_sqrt: bool = False, **options: Unpack[Options]) -> None:
    """Update one parameter in place by Adagrad.

    With the gradient g (scaled, clipped and regularised: `fastopt.Options`) and t = ``step``::

        h ← h + g²
        p ← p · (1 − lr · decoupled_weight_decay) − lr / (1 + (t − 1) · lr_decay) · g / (√h + eps)

    Parameters
    ----------
    param, h : float32 arrays of one shape
        The parameter and the sum of squares, C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    step : int
        1 at the first update; it matters only with lr_decay.
    lr, lr_decay, eps : float
        Learning rate and its decay ≥ 0, eps 0 or at least 2⁻¹²⁶.
    eps_inside_sqrt : bool
        Divide by √(h + eps): the form of Keras.
    **options
        Regularisation, clipping and averaging: see `fastopt.Options`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Duchi, Hazan and Singer 2011 in torch.optim's form. Same bits as ``fastopt.reference.adagrad``.
    """
    arguments = _adagrad_arguments(step, lr, lr_decay, eps, eps_inside_sqrt, 0.0, check_options(adagrad, options))
    apply(dispatch.active.adaptive.adagrad(*arguments), param, grad, options.get("average"), h)


class Adagrad(Optimizer):
    """Adagrad for a whole model: ``Adagrad(lr=0.01).update(params, grads)``.

    Parameters
    ----------
    lr, lr_decay, eps, eps_inside_sqrt
        As in `fastopt.adagrad`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    initial_accumulator_value : float
        Every element of h before the first step, ≥ 0.
    **options
        Those of every optimizer class: see `fastopt.Optimizer`.

    Notes
    -----
    State: h. The formula is `fastopt.adagrad`'s.
    """

    _rule = ("adaptive.adagrad", _adagrad_arguments)
    _state_names = ("h",)

    def __init__(self, lr: Rate = 0.01, *, lr_decay: float = 0.0, eps: float = 1e-10, eps_inside_sqrt: bool = False,
                 initial_accumulator_value: float = 0.0, **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, lr_decay=lr_decay, eps=eps, eps_inside_sqrt=eps_inside_sqrt,
                              initial_accumulator_value=initial_accumulator_value), options)

    @staticmethod
    def _initial(name: str, hyper: Mapping[str, Any]) -> float:
        return hyper["initial_accumulator_value"]


def _adadelta_arguments(step: int, lr: float, rho: float, eps: float, options: Checked) -> Arguments:
    _adadelta_ranges(lr, rho, eps)
    return step, lr, rho, eps, options


def adadelta(param: Array, grad: Array, v: Array, u: Array, *, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6,
             **options: Unpack[Options]) -> None:
    """Update one parameter in place by Adadelta.

    With the gradient g (scaled, clipped and regularised: `fastopt.Options`)::

        v ← ρ · v + (1 − ρ) · g²
        d = √(u + eps) / √(v + eps) · g
        u ← ρ · u + (1 − ρ) · d²
        p ← p · (1 − lr · decoupled_weight_decay) − lr · d

    Parameters
    ----------
    param, v, u : float32 arrays of one shape
        The parameter and the averages of squared gradients and squared steps (zeros before the first step),
        C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    lr, rho, eps : float
        Learning rate ≥ 0, ρ in [0, 1), eps 0 or at least 2⁻¹²⁶.
    **options
        Regularisation, clipping and averaging: see `fastopt.Options`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Zeiler 2012, arXiv:1212.5701, in torch.optim's form. Same bits as ``fastopt.reference.adadelta``.
    """
    arguments = _adadelta_arguments(1, lr, rho, eps, check_options(adadelta, options))
    apply(dispatch.active.adaptive.adadelta(*arguments), param, grad, options.get("average"), v, u)


class Adadelta(Optimizer):
    """Adadelta for a whole model: ``Adadelta().update(params, grads)``.

    Parameters
    ----------
    lr, rho, eps
        As in `fastopt.adadelta`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **options
        Those of every optimizer class: see `fastopt.Optimizer`.

    Notes
    -----
    State: v and u. The formula is `fastopt.adadelta`'s.
    """

    _rule = ("adaptive.adadelta", _adadelta_arguments)
    _state_names = ("v", "u")

    def __init__(self, lr: Rate = 1.0, *, rho: float = 0.9, eps: float = 1e-6, **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, rho=rho, eps=eps), options)


def _rmsprop_arguments(step: int, lr: float, alpha: float, eps: float, momentum: float, centered: bool,
                       eps_inside_sqrt: bool, options: Checked) -> Arguments:
    _rmsprop_ranges(lr, alpha, eps, momentum, centered, eps_inside_sqrt)
    return step, lr, alpha, eps, eps_inside_sqrt, centered, momentum, options


def rmsprop(param: Array, grad: Array, v: Array, grad_avg: Array | None = None, buf: Array | None = None, *,
            lr: float = 0.01, alpha: float = 0.99, eps: float = 1e-8, momentum: float = 0.0,
            eps_inside_sqrt: bool = False, **options: Unpack[Options]) -> None:
    """Update one parameter in place by RMSprop.

    With the gradient g (scaled, clipped and regularised: `fastopt.Options`)::

        v ← α · v + (1 − α) · g²
        ḡ ← α · ḡ + (1 − α) · g,  w = max(v − ḡ², 0)             centred; otherwise w = v
        p ← p · (1 − lr · decoupled_weight_decay) − lr · g / (√w + eps)
        b ← μ · b + g / (√w + eps),  p ← p · (…) − lr · b          with momentum μ > 0

    Parameters
    ----------
    param, v : float32 arrays of one shape
        The parameter and the average of squares (zeros before the first step), C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    grad_avg : float32 array, optional
        The average ḡ of the gradients. If given, RMSprop is centred.
    buf : float32 array, optional
        The momentum buffer (zeros before the first step), required with momentum.
    lr, alpha, eps, momentum : float
        Learning rate ≥ 0, α in [0, 1), eps 0 or at least 2⁻¹²⁶, μ ≥ 0.
    eps_inside_sqrt : bool
        Divide by √(w + eps): the form of TensorFlow.
    **options
        Regularisation, clipping and averaging: see `fastopt.Options`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Hinton 2012 (lecture 6e of Neural Networks for Machine Learning), centred: Graves 2013, arXiv:1308.0850;
    torch.optim's form. In PyTorch a centred w can be rounded below 0 (with constant gradients, for example), and the
    step becomes NaN; here w is then 0. Same bits as ``fastopt.reference.rmsprop``.
    """
    arguments = _rmsprop_arguments(1, lr, alpha, eps, momentum, grad_avg is not None, eps_inside_sqrt,
                                   check_options(rmsprop, options))
    apply(dispatch.active.adaptive.rmsprop(*arguments), param, grad, options.get("average"), v, grad_avg, buf)


class RMSprop(Optimizer):
    """RMSprop for a whole model: ``RMSprop(lr=0.01).update(params, grads)``.

    Parameters
    ----------
    lr, alpha, eps, momentum, eps_inside_sqrt
        As in `fastopt.rmsprop`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    centered : bool
        Subtract the square of the gradients' average.
    **options
        Those of every optimizer class: see `fastopt.Optimizer`.

    Notes
    -----
    State: v; centred grad_avg; with momentum buf. The formula is `fastopt.rmsprop`'s.
    """

    _rule = ("adaptive.rmsprop", _rmsprop_arguments)
    _state_names = ("v", "grad_avg", "buf")

    def __init__(self, lr: Rate = 0.01, *, alpha: float = 0.99, eps: float = 1e-8, momentum: float = 0.0,
                 centered: bool = False, eps_inside_sqrt: bool = False, **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, alpha=alpha, eps=eps, momentum=momentum, centered=centered,
                              eps_inside_sqrt=eps_inside_sqrt), options)

    @staticmethod
    def _states(hyper: Mapping[str, Any]) -> tuple[str | None, ...]:
        return "v", "grad_avg" if hyper["centered"] else None, "buf" if hyper["momentum"] else None


def _adan_arguments(step: int, lr: float, betas: tuple[float, float, float], eps: float, weight_decay: float,
                    no_prox: bool, options: Checked) -> Arguments:
    beta1, beta2, beta3 = triple("betas", betas)
    _adan_ranges(step, lr, beta1, beta2, beta3, eps, weight_decay, no_prox)
    return step, lr, beta1, beta2, beta3, eps, weight_decay, no_prox, options


def adan(param: Array, grad: Array, m: Array, v: Array, n: Array, prev: Array, *, step: int, lr: float = 1e-3,
         betas: tuple[float, float, float] = (0.98, 0.92, 0.99), eps: float = 1e-8, weight_decay: float = 0.0,
         no_prox: bool = False, **options: Unpack[OptionsWithoutDecay]) -> None:
    """Update one parameter in place by Adan: Adam with Nesterov's momentum, estimated from gradient differences.

    With the gradient g (scaled, clipped and regularised by l1: `fastopt.Options`), the previous one, g′, and
    t = ``step``::

        d = g − g′                           0 at step 1
        m ← β₁ · m + (1 − β₁) · g
        v ← β₂ · v + (1 − β₂) · d
        n ← β₃ · n + (1 − β₃) · (g + β₂ · d)²
        u = (α · m + γ · v) / (√n + ε′)
        p ← (p − u) / (1 + lr · weight_decay)      p · (1 − lr · weight_decay) − u with no_prox
        g′ ← g

        α = lr · √(1 − β₃ᵗ) / (1 − β₁ᵗ)      γ = lr · β₂ · √(1 − β₃ᵗ) / (1 − β₂ᵗ)      ε′ = eps · √(1 − β₃ᵗ)

    Parameters
    ----------
    param, m, v, n, prev : float32 arrays of one shape
        The parameter, the averages of the gradient, of its differences and of the squares (zeros before the first
        step), and the previous gradient (read from step 2 on), C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    step : int
        1 at the first update.
    lr, betas, eps : float, (float, float, float), float
        Learning rate ≥ 0, decay of the averages in [0, 1), eps 0 or at least 2⁻¹²⁶.
    weight_decay : float
        Decoupled: ≥ 0. It acts as a proximal step, after the update.
    no_prox : bool
        Shrink the parameter by lr · weight_decay before the update instead, as AdamW does.
    **options
        L1 regularisation, clipping and averaging: see `fastopt.Options`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Xie et al. 2022, arXiv:2208.06677, in the form of the authors' code (github.com/sail-sg/Adan): bias corrections, eps
    on the corrected root, and betas that multiply the old average, which are 1 − β of the paper's algorithm 1. Same
    bits as ``fastopt.reference.adan``.
    """
    arguments = _adan_arguments(step, lr, betas, eps, weight_decay, no_prox, check_own_decay(adan, options))
    apply(dispatch.active.adaptive.adan(*arguments), param, grad, options.get("average"), m, v, n, prev)


class Adan(Optimizer):
    """Adan for a whole model: ``Adan(lr=0.001).update(params, grads)``.

    Parameters
    ----------
    lr, betas, eps, weight_decay, no_prox
        As in `fastopt.adan`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **options
        Those of every optimizer class (see `fastopt.Optimizer`), except decoupled_weight_decay: weight_decay is
        decoupled here.

    Notes
    -----
    State: m, v, n and prev. The formula is `fastopt.adan`'s.
    """

    _rule = ("adaptive.adan", _adan_arguments)
    _state_names = ("m", "v", "n", "prev")
    _not_decoupled = "its weight_decay is decoupled"

    def __init__(self, lr: Rate = 1e-3, *, betas: tuple[float, float, float] = (0.98, 0.92, 0.99), eps: float = 1e-8,
                 weight_decay: float = 0.0, no_prox: bool = False, **options: Unpack[ModelOptionsWithoutDecay]) -> None:
        super().__init__(dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, no_prox=no_prox), options)
