"""Adam, AdamW, Adamax, NAdam and RAdam: functions on one parameter and classes for a whole model."""

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
    check_options,
)
from fastopt._runtime import dispatch
from fastopt._runtime.hyper import Ranges, pair
from fastopt._typing import Float32Array as Array
from fastopt._typing import LearningRate as Rate

_BETAS = {"betas[0]": "[0, 1)", "betas[1]": "[0, 1)"}
_ranges = Ranges(step=STEP, lr=LR, **_BETAS, eps=EPS)
_adam_ranges = Ranges(step=STEP, lr=LR, **_BETAS, eps=EPS, amsgrad="bool", eps_hat="bool", bias_correction="bool")
_nadam_ranges = Ranges(momentum_decay="double [0, inf)")


def _arguments(step: int, lr: float, betas: tuple[float, float], eps: float, options: Checked) -> Arguments:
    beta1, beta2 = pair("betas", betas)
    _ranges(step, lr, beta1, beta2, eps)
    return step, lr, beta1, beta2, eps, options


def _adam_arguments(step: int, lr: float, betas: tuple[float, float], eps: float, amsgrad: bool, eps_hat: bool,
                    bias_correction: bool, options: Checked) -> Arguments:
    beta1, beta2 = pair("betas", betas)
    _adam_ranges(step, lr, beta1, beta2, eps, amsgrad, eps_hat, bias_correction)
    return step, lr, beta1, beta2, eps, amsgrad, eps_hat, bias_correction, options


def adam(param: Array, grad: Array, m: Array, v: Array, *, step: int, lr: float = 1e-3,
         betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, vmax: Array | None = None, eps_hat: bool = False,
         bias_correction: bool = True, **options: Unpack[Options]) -> None:
    """Update one parameter in place by Adam.

    With the gradient g (scaled, clipped and regularised: `fastopt.Options`) and t = ``step``::

        m ← β₁ · m + (1 − β₁) · g
        v ← β₂ · v + (1 − β₂) · g²
        p ← p · (1 − lr · decoupled_weight_decay) − α · m / (√v + ε′)

        α = lr · √(1 − β₂ᵗ) / (1 − β₁ᵗ)      ε′ = eps · √(1 − β₂ᵗ)
        α = lr                               ε′ = eps                   without bias_correction

    Parameters
    ----------
    param, m, v : float32 arrays of one shape
        The parameter and its moments (zeros before the first step), C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    step : int
        1 at the first update.
    lr, betas, eps : float, (float, float), float
        Learning rate ≥ 0, decay of the moments in [0, 1), eps 0 or at least 2⁻¹²⁶.
    vmax : float32 array, optional
        The largest v so far. If given, it replaces v in the denominator (AMSGrad).
    eps_hat : bool
        Add eps to √v itself: ε′ = eps. This is the form of Keras, TensorFlow, scikit-learn and a remark in the paper.
    bias_correction : bool
        False leaves out both corrections, as thinc's ops and BERT's AdamW do.
    **options
        Regularisation, clipping and averaging: see `fastopt.Options`.

    Raises
    ------
    TypeError, ValueError
        An array of another type, layout or shape, one that is read-only or overlaps another; a number out of range;
        an unknown option. Nothing has been written then.

    Notes
    -----
    Kingma and Ba 2014, arXiv:1412.6980, in torch.optim's form (eps on the corrected root); AdamW: Loshchilov and
    Hutter 2017, arXiv:1711.05101; AMSGrad: Reddi, Kale and Kumar 2018. Same bits as ``fastopt.reference.adam``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p, g = np.ones(3, np.float32), np.full(3, 0.5, np.float32)
    >>> m, v = np.zeros(3, np.float32), np.zeros(3, np.float32)
    >>> fastopt.adam(p, g, m, v, step=1, lr=0.1)
    >>> p
    array([0.9, 0.9, 0.9], dtype=float32)
    """
    arguments = _adam_arguments(step, lr, betas, eps, vmax is not None, eps_hat, bias_correction,
                                check_options(adam, options))
    apply(dispatch.active.adam.adam(*arguments), param, grad, options.get("average"), m, v, vmax)


class Adam(Optimizer):
    """Adam for a whole model: ``Adam(lr=0.001).update(params, grads)``.

    Parameters
    ----------
    lr, betas, eps, eps_hat, bias_correction
        As in `fastopt.adam`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    amsgrad : bool
        Keep the largest v and divide by its root.
    **options
        Those of every optimizer class: see `fastopt.Optimizer`.

    Notes
    -----
    State: m and v, with amsgrad vmax. The formula and its sources are `fastopt.adam`'s.
    """

    _rule = ("adam.adam", _adam_arguments)
    _state_names = ("m", "v", "vmax")

    def __init__(self, lr: Rate = 1e-3, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 amsgrad: bool = False, eps_hat: bool = False, bias_correction: bool = True,
                 **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, betas=betas, eps=eps, amsgrad=amsgrad, eps_hat=eps_hat,
                              bias_correction=bias_correction), options)

    @staticmethod
    def _states(hyper: Mapping[str, Any]) -> tuple[str | None, ...]:
        return ("m", "v", "vmax" if hyper["amsgrad"] else None)


class AdamW(Adam):
    """Adam whose weight decay is decoupled: ``AdamW(lr=0.001, weight_decay=0.01).update(params, grads)``.

    Parameters
    ----------
    lr, betas, eps, amsgrad, eps_hat, bias_correction
        As in `fastopt.Adam`.
    weight_decay : float
        The parameter shrinks by lr · weight_decay before the step; nothing is added to the gradient.
    **options
        Those of every optimizer class (see `fastopt.Optimizer`), except decoupled_weight_decay.

    Notes
    -----
    Loshchilov and Hutter 2017, arXiv:1711.05101, in torch.optim's form. The function is `fastopt.adam` with
    decoupled_weight_decay.
    """

    _decay = "decoupled_weight_decay"
    _not_decoupled = "its weight_decay is decoupled"

    def __init__(self, lr: Rate = 1e-3, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.01, amsgrad: bool = False, eps_hat: bool = False,
                 bias_correction: bool = True, **options: Unpack[ModelOptionsWithoutDecay]) -> None:
        super().__init__(lr=lr, betas=betas, eps=eps, amsgrad=amsgrad, eps_hat=eps_hat,
                         bias_correction=bias_correction, weight_decay=weight_decay, **options)


def adamax(param: Array, grad: Array, m: Array, u: Array, *, step: int, lr: float = 2e-3,
           betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, **options: Unpack[Options]) -> None:
    """Update one parameter in place by Adamax: Adam with the infinity norm.

    With the gradient g (scaled, clipped and regularised: `fastopt.Options`) and t = ``step``::

        m ← β₁ · m + (1 − β₁) · g
        u ← max(β₂ · u, |g| + eps)
        p ← p · (1 − lr · decoupled_weight_decay) − lr / (1 − β₁ᵗ) · m / u

    Parameters
    ----------
    param, m, u : float32 arrays of one shape
        The parameter and its state (zeros before the first step), C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    step, lr, betas, eps
        As in `fastopt.adam`.
    **options
        Regularisation, clipping and averaging: see `fastopt.Options`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Kingma and Ba 2014, section 7.1, in torch.optim's form. Same bits as ``fastopt.reference.adamax``.
    """
    arguments = _arguments(step, lr, betas, eps, check_options(adamax, options))
    apply(dispatch.active.adam.adamax(*arguments), param, grad, options.get("average"), m, u)


class Adamax(Optimizer):
    """Adamax for a whole model: ``Adamax(lr=0.002).update(params, grads)``.

    Parameters
    ----------
    lr, betas, eps
        As in `fastopt.adamax`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **options
        Those of every optimizer class: see `fastopt.Optimizer`.

    Notes
    -----
    State: m and u. The formula is `fastopt.adamax`'s.
    """

    _rule = ("adam.adamax", _arguments)
    _state_names = ("m", "u")

    def __init__(self, lr: Rate = 2e-3, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, betas=betas, eps=eps), options)


_last_momenta: dict[tuple[float, float], tuple[int, float]] = {}
"""For each (β₁, momentum_decay) the last step computed and its product, from which the next one follows."""


def _nadam_momenta(step: int, beta1: float, momentum_decay: float) -> tuple[float, float, float]:
    """Return μₜ, μₜ₊₁ and μ₁ · … · μₜ; the product becomes 0 once it can no longer change 1 − product."""
    step, beta1, momentum_decay = int(step), float(beta1), float(momentum_decay)
    last, product = _last_momenta.get((beta1, momentum_decay), (0, 1.0))
    if last > step:
        last, product = 0, 1.0
    while last < step and product:
        last += 1
        product *= beta1 * (1.0 - 0.5 * 0.96 ** (last * momentum_decay))
        if product < 2.0**-64:
            product = 0.0
    if len(_last_momenta) > 100:
        _last_momenta.clear()
    _last_momenta[beta1, momentum_decay] = last, product
    mu = beta1 * (1.0 - 0.5 * 0.96 ** (step * momentum_decay))
    mu_next = beta1 * (1.0 - 0.5 * 0.96 ** ((step + 1) * momentum_decay))
    return mu, mu_next, product


def _nadam_arguments(step: int, lr: float, betas: tuple[float, float], eps: float, momentum_decay: float,
                     options: Checked) -> Arguments:
    beta1, beta2 = pair("betas", betas)
    _ranges(step, lr, beta1, beta2, eps)
    _nadam_ranges(momentum_decay)
    momenta = _nadam_momenta(step, beta1, momentum_decay)
    return step, lr, beta1, beta2, eps, *momenta, options


def nadam(param: Array, grad: Array, m: Array, v: Array, *, step: int, lr: float = 2e-3,
          betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, momentum_decay: float = 4e-3,
          **options: Unpack[Options]) -> None:
    """Update one parameter in place by NAdam: Adam with Nesterov's momentum.

    With the gradient g (scaled, clipped and regularised: `fastopt.Options`), t = ``step``, and m and v as Adam's::

        μᵢ = β₁ · (1 − 0.96^(i · momentum_decay) / 2)      Π = μ₁ · … · μₜ
        p ← p · (1 − lr · decoupled_weight_decay)
            − lr · ((1 − μₜ) / (1 − Π) · g + μₜ₊₁ / (1 − Π · μₜ₊₁) · m) / (√v / √(1 − β₂ᵗ) + eps)

    computed with √(1 − β₂ᵗ) multiplied into the scalars, as in `fastopt.adam`.

    Parameters
    ----------
    param, m, v : float32 arrays of one shape
        The parameter and its moments (zeros before the first step), C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    step, lr, betas, eps
        As in `fastopt.adam`.
    momentum_decay : float
        ≥ 0.
    **options
        Regularisation, clipping and averaging: see `fastopt.Options`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Dozat 2016 in torch.optim's form. Same bits as ``fastopt.reference.nadam``.
    """
    arguments = _nadam_arguments(step, lr, betas, eps, momentum_decay, check_options(nadam, options))
    apply(dispatch.active.adam.nadam(*arguments), param, grad, options.get("average"), m, v)


class NAdam(Optimizer):
    """NAdam for a whole model: ``NAdam(lr=0.002).update(params, grads)``.

    Parameters
    ----------
    lr, betas, eps, momentum_decay
        As in `fastopt.nadam`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **options
        Those of every optimizer class: see `fastopt.Optimizer`.

    Notes
    -----
    State: m and v. The formula is `fastopt.nadam`'s.
    """

    _rule = ("adam.nadam", _nadam_arguments)
    _varies = True
    _state_names = ("m", "v")

    def __init__(self, lr: Rate = 2e-3, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 momentum_decay: float = 4e-3, **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, betas=betas, eps=eps, momentum_decay=momentum_decay), options)


def radam(param: Array, grad: Array, m: Array, v: Array, *, step: int, lr: float = 1e-3,
          betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, **options: Unpack[Options]) -> None:
    """Update one parameter in place by RAdam: Adam with a rectified adaptive rate.

    With the gradient g (scaled, clipped and regularised: `fastopt.Options`), t = ``step``, and m and v as Adam's::

        ρ∞ = 2 / (1 − β₂) − 1                ρ = ρ∞ − 2 · t · β₂ᵗ / (1 − β₂ᵗ)
        p ← p · (1 − lr · decoupled_weight_decay) − α · m / (√v + eps)          if ρ > 5
        p ← p · (1 − lr · decoupled_weight_decay) − lr / (1 − β₁ᵗ) · m          otherwise
        α = lr · √((ρ − 4) · (ρ − 2) · ρ∞ / ((ρ∞ − 4) · (ρ∞ − 2) · ρ)) · √(1 − β₂ᵗ) / (1 − β₁ᵗ)

    Parameters
    ----------
    param, m, v : float32 arrays of one shape
        The parameter and its moments (zeros before the first step), C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    step, lr, betas, eps
        As in `fastopt.adam`.
    **options
        Regularisation, clipping and averaging: see `fastopt.Options`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Liu et al. 2019, arXiv:1908.03265, in torch.optim's form. Same bits as ``fastopt.reference.radam``.
    """
    arguments = _arguments(step, lr, betas, eps, check_options(radam, options))
    apply(dispatch.active.adam.radam(*arguments), param, grad, options.get("average"), m, v)


class RAdam(Optimizer):
    """RAdam for a whole model: ``RAdam(lr=0.001).update(params, grads)``.

    Parameters
    ----------
    lr, betas, eps
        As in `fastopt.radam`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **options
        Those of every optimizer class: see `fastopt.Optimizer`.

    Notes
    -----
    State: m and v. The formula is `fastopt.radam`'s.
    """

    _rule = ("adam.radam", _arguments)
    _state_names = ("m", "v")

    def __init__(self, lr: Rate = 1e-3, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, betas=betas, eps=eps), options)
