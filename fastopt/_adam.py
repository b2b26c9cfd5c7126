"""Adam and AdamW: functions on one parameter and classes for a whole model."""

from fastopt._common import check_common, check_pair
from fastopt._optimizer import Optimizer
from fastopt._runtime import dispatch, driver
from fastopt._runtime.hyper import Ranges

_ranges = Ranges(**{"step": "int [1, 9e18]", "betas[0]": "[0, 1)", "betas[1]": "[0, 1)", "eps": "[0, inf)"})


def _rule(step, lr, betas, eps, amsgrad, eps_hat, weight_decay, decoupled_weight_decay, l1, maximize, grad_scale,
          clip_value, average, average_decay):
    beta1, beta2 = check_pair("betas", betas)
    _ranges(step, beta1, beta2, eps)
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
        (param, grad, m, v, vmax, average),
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
