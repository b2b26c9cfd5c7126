"""Adam, AdamW, Adamax, NAdam and RAdam: functions on one parameter and classes for a whole model."""

from fastopt._common import check_common, check_pair
from fastopt._optimizer import Optimizer
from fastopt._runtime import dispatch, driver
from fastopt._runtime.hyper import Ranges

_ranges = Ranges(**{"step": "int [1, 9e18]", "betas[0]": "[0, 1)", "betas[1]": "[0, 1)", "eps": "[0, inf)"})
_adam_ranges = Ranges(amsgrad="bool", eps_hat="bool")
_adamw_ranges = Ranges(weight_decay="[0, inf)")
_nadam_ranges = Ranges(momentum_decay="[0, inf)")


def _rule(step, lr, betas, eps, amsgrad, eps_hat, weight_decay, decoupled_weight_decay, l1, maximize, grad_scale,
          clip_value, average, average_decay):
    beta1, beta2 = check_pair("betas", betas)
    _ranges(step, beta1, beta2, eps)
    _adam_ranges(amsgrad, eps_hat)
    common = check_common(lr, grad_scale, maximize, clip_value, weight_decay, l1, decoupled_weight_decay,
                          average_decay, average)
    return dispatch.active.adam.adam(step, lr, beta1, beta2, eps, amsgrad, eps_hat, common)


def adam(param, grad, m, v, *, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, vmax=None, eps_hat=False,
         weight_decay=0.0, decoupled_weight_decay=0.0, l1=0.0, maximize=False, grad_scale=1.0, clip_value=None,
         average=None, average_decay=None):
    """Update one parameter in place by Adam.

    With the gradient g (scaled by ``grad_scale``, clipped to ±``clip_value``, plus ``weight_decay`` · p plus
    ``l1`` · sign(p)) and t = ``step``::

        m ← β₁ · m + (1 − β₁) · g
        v ← β₂ · v + (1 − β₂) · g²
        p ← p · (1 − lr · decoupled_weight_decay) − α · m / (√v + ε′)

        α = lr · √(1 − β₂ᵗ) / (1 − β₁ᵗ)      ε′ = eps · √(1 − β₂ᵗ)

    Parameters
    ----------
    param, m, v : float32 arrays of one shape
        The parameter and its moments (zeros before the first step), C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    step : int
        1 at the first update.
    lr, betas, eps : float, (float, float), float
        Learning rate ≥ 0, decay of the moments in [0, 1), eps ≥ 0.
    vmax : float32 array, optional
        The largest v so far; given, it takes v's place in the denominator (AMSGrad).
    eps_hat : bool
        Put eps on √v itself: ε′ = eps. The form of Keras, TensorFlow, scikit-learn and the paper's remark.
    weight_decay, l1 : float
        L2 and L1 regularisation, added to the gradient.
    decoupled_weight_decay : float
        AdamW's λ: the parameter shrinks by lr · λ before the step.
    maximize : bool
        Follow the gradient uphill.
    grad_scale : float
        The gradient is multiplied by it first (1 / loss scale).
    clip_value : float, optional
        Largest magnitude of a gradient's element after scaling.
    average, average_decay : float32 array and float, optional
        Exponential moving average of the parameter: a ← d · a + (1 − d) · p after the update.

    Raises
    ------
    TypeError, ValueError
        An array of another type, layout or shape, read-only or overlapping another one; a number out of range.
        Nothing has been written then.

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
    driver.apply(
        _rule(step, lr, betas, eps, vmax is not None, eps_hat, weight_decay, decoupled_weight_decay, l1, maximize,
              grad_scale, clip_value, average is not None, average_decay),
        (param, grad, average, m, v, vmax),
    )


class Adam(Optimizer):
    """Adam for a whole model: ``Adam(lr=0.001).update(params, grads)``.

    Parameters
    ----------
    lr, betas, eps, eps_hat
        As in `fastopt.adam`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    amsgrad : bool
        Keep the largest v and divide by its root.
    **common
        What every optimizer takes: see `fastopt.Optimizer`.

    Notes
    -----
    State: m and v, with amsgrad vmax. The formula and its sources are `fastopt.adam`'s.
    """

    _rule = staticmethod(_rule)
    _state_names = ("m", "v", "vmax")

    def __init__(self, *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, amsgrad=False, eps_hat=False, **common):
        super().__init__(dict(lr=lr, betas=betas, eps=eps, amsgrad=amsgrad, eps_hat=eps_hat), **common)

    @staticmethod
    def _states(hyper):
        return ("m", "v", "vmax" if hyper["amsgrad"] else None)


def _adamw_rule(step, lr, betas, eps, amsgrad, eps_hat, weight_decay, l1, maximize, grad_scale, clip_value, average,
                average_decay):
    _adamw_ranges(weight_decay)
    return _rule(step, lr, betas, eps, amsgrad, eps_hat, 0.0, weight_decay, l1, maximize, grad_scale, clip_value,
                 average, average_decay)


class AdamW(Adam):
    """Adam whose weight decay is decoupled: ``AdamW(lr=0.001, weight_decay=0.01).update(params, grads)``.

    Parameters
    ----------
    lr, betas, eps, amsgrad, eps_hat
        As in `fastopt.Adam`.
    weight_decay : float
        The parameter shrinks by lr · weight_decay before the step; nothing is added to the gradient.
    **common
        What every optimizer takes (see `fastopt.Optimizer`) but decoupled_weight_decay.

    Notes
    -----
    Loshchilov and Hutter 2017, arXiv:1711.05101, in torch.optim's form. The function is `fastopt.adam` with
    decoupled_weight_decay.
    """

    _rule = staticmethod(_adamw_rule)
    _decoupled = False

    def __init__(self, *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, amsgrad=False, eps_hat=False,
                 **common):
        super().__init__(lr=lr, betas=betas, eps=eps, amsgrad=amsgrad, eps_hat=eps_hat, weight_decay=weight_decay,
                         **common)


def _adamax_rule(step, lr, betas, eps, weight_decay, decoupled_weight_decay, l1, maximize, grad_scale, clip_value,
                 average, average_decay):
    beta1, beta2 = check_pair("betas", betas)
    _ranges(step, beta1, beta2, eps)
    common = check_common(lr, grad_scale, maximize, clip_value, weight_decay, l1, decoupled_weight_decay,
                          average_decay, average)
    return dispatch.active.adam.adamax(step, lr, beta1, beta2, eps, common)


def adamax(param, grad, m, u, *, step, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
           decoupled_weight_decay=0.0, l1=0.0, maximize=False, grad_scale=1.0, clip_value=None, average=None,
           average_decay=None):
    """Update one parameter in place by Adamax: Adam with the infinity norm.

    With the gradient g (scaled, clipped and regularised as in `fastopt.adam`) and t = ``step``::

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
    weight_decay, decoupled_weight_decay, l1, maximize, grad_scale, clip_value, average, average_decay
        As in `fastopt.adam`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Kingma and Ba 2014, section 7.1, in torch.optim's form. Same bits as ``fastopt.reference.adamax``.
    """
    driver.apply(
        _adamax_rule(step, lr, betas, eps, weight_decay, decoupled_weight_decay, l1, maximize, grad_scale, clip_value,
                     average is not None, average_decay),
        (param, grad, average, m, u),
    )


class Adamax(Optimizer):
    """Adamax for a whole model: ``Adamax(lr=0.002).update(params, grads)``.

    Parameters
    ----------
    lr, betas, eps
        As in `fastopt.adamax`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **common
        What every optimizer takes: see `fastopt.Optimizer`.

    Notes
    -----
    State: m and u. The formula is `fastopt.adamax`'s.
    """

    _rule = staticmethod(_adamax_rule)
    _state_names = ("m", "u")

    def __init__(self, *, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, **common):
        super().__init__(dict(lr=lr, betas=betas, eps=eps), **common)


_last_momenta = {}
"""For each (β₁, momentum_decay) the last step asked for and its product, from which the next one follows."""


def _nadam_momenta(step, beta1, momentum_decay):
    """μₜ, μₜ₊₁ and μ₁ · … · μₜ; the product is 0 once it can no longer change 1 − product."""
    beta1, momentum_decay = float(beta1), float(momentum_decay)  # 0-d arrays are no keys
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


def _nadam_rule(step, lr, betas, eps, momentum_decay, weight_decay, decoupled_weight_decay, l1, maximize, grad_scale,
                clip_value, average, average_decay):
    beta1, beta2 = check_pair("betas", betas)
    _ranges(step, beta1, beta2, eps)
    _nadam_ranges(momentum_decay)
    common = check_common(lr, grad_scale, maximize, clip_value, weight_decay, l1, decoupled_weight_decay,
                          average_decay, average)
    return dispatch.active.adam.nadam(step, lr, beta1, beta2, eps, *_nadam_momenta(step, beta1, momentum_decay), common)


def nadam(param, grad, m, v, *, step, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, momentum_decay=4e-3, weight_decay=0.0,
          decoupled_weight_decay=0.0, l1=0.0, maximize=False, grad_scale=1.0, clip_value=None, average=None,
          average_decay=None):
    """Update one parameter in place by NAdam: Adam with Nesterov's momentum.

    With the gradient g (scaled, clipped and regularised as in `fastopt.adam`), t = ``step``, and m and v as Adam's::

        μᵢ = β₁ · (1 − 0.96^(i · momentum_decay) / 2)      Π = μ₁ · … · μₜ
        p ← p · (1 − lr · decoupled_weight_decay)
            − lr · ((1 − μₜ) / (1 − Π) · g + μₜ₊₁ / (1 − Π · μₜ₊₁) · m) / (√v / √(1 − β₂ᵗ) + eps)

    computed with √(1 − β₂ᵗ) drawn into the scalars, as in `fastopt.adam`.

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
    weight_decay, decoupled_weight_decay, l1, maximize, grad_scale, clip_value, average, average_decay
        As in `fastopt.adam`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Dozat 2016 in torch.optim's form. Same bits as ``fastopt.reference.nadam``.
    """
    driver.apply(
        _nadam_rule(step, lr, betas, eps, momentum_decay, weight_decay, decoupled_weight_decay, l1, maximize,
                    grad_scale, clip_value, average is not None, average_decay),
        (param, grad, average, m, v),
    )


class NAdam(Optimizer):
    """NAdam for a whole model: ``NAdam(lr=0.002).update(params, grads)``.

    Parameters
    ----------
    lr, betas, eps, momentum_decay
        As in `fastopt.nadam`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **common
        What every optimizer takes: see `fastopt.Optimizer`.

    Notes
    -----
    State: m and v. The formula is `fastopt.nadam`'s.
    """

    _rule = staticmethod(_nadam_rule)
    _state_names = ("m", "v")

    def __init__(self, *, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, momentum_decay=4e-3, **common):
        super().__init__(dict(lr=lr, betas=betas, eps=eps, momentum_decay=momentum_decay), **common)


def _radam_rule(step, lr, betas, eps, weight_decay, decoupled_weight_decay, l1, maximize, grad_scale, clip_value,
                average, average_decay):
    beta1, beta2 = check_pair("betas", betas)
    _ranges(step, beta1, beta2, eps)
    common = check_common(lr, grad_scale, maximize, clip_value, weight_decay, l1, decoupled_weight_decay,
                          average_decay, average)
    return dispatch.active.adam.radam(step, lr, beta1, beta2, eps, common)


def radam(param, grad, m, v, *, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
          decoupled_weight_decay=0.0, l1=0.0, maximize=False, grad_scale=1.0, clip_value=None, average=None,
          average_decay=None):
    """Update one parameter in place by RAdam: Adam with a rectified adaptive rate.

    With the gradient g (scaled, clipped and regularised as in `fastopt.adam`), t = ``step``, and m and v as Adam's::

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
    weight_decay, decoupled_weight_decay, l1, maximize, grad_scale, clip_value, average, average_decay
        As in `fastopt.adam`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Liu et al. 2019, arXiv:1908.03265, in torch.optim's form. Same bits as ``fastopt.reference.radam``.
    """
    driver.apply(
        _radam_rule(step, lr, betas, eps, weight_decay, decoupled_weight_decay, l1, maximize, grad_scale, clip_value,
                    average is not None, average_decay),
        (param, grad, average, m, v),
    )


class RAdam(Optimizer):
    """RAdam for a whole model: ``RAdam(lr=0.001).update(params, grads)``.

    Parameters
    ----------
    lr, betas, eps
        As in `fastopt.radam`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **common
        What every optimizer takes: see `fastopt.Optimizer`.

    Notes
    -----
    State: m and v. The formula is `fastopt.radam`'s.
    """

    _rule = staticmethod(_radam_rule)
    _state_names = ("m", "v")

    def __init__(self, *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, **common):
        super().__init__(dict(lr=lr, betas=betas, eps=eps), **common)
