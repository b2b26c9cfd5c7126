"""Adagrad, Adadelta, RMSprop: functions on one parameter and classes for a whole model."""

from fastopt._common import check_common
from fastopt._optimizer import Optimizer
from fastopt._runtime import dispatch, driver
from fastopt._runtime.hyper import Ranges

_adagrad_ranges = Ranges(step="int [1, 9e18]", lr_decay="[0, inf)", eps="[0, inf)", eps_inside_sqrt="bool")
_adadelta_ranges = Ranges(rho="[0, 1)", eps="[0, inf)")
_rmsprop_ranges = Ranges(alpha="[0, 1)", eps="[0, inf)", momentum="[0, inf)", centered="bool", eps_inside_sqrt="bool")
_accumulator_ranges = Ranges(initial_accumulator_value="[0, inf)")


def _adagrad_rule(step, lr, lr_decay, eps, eps_inside_sqrt, weight_decay, decoupled_weight_decay, l1, maximize,
                  grad_scale, clip_value, average, average_decay):
    _adagrad_ranges(step, lr_decay, eps, eps_inside_sqrt)
    common = check_common(lr, grad_scale, maximize, clip_value, weight_decay, l1, decoupled_weight_decay,
                          average_decay, average)
    return dispatch.active.adaptive.adagrad(step, lr, lr_decay, eps, eps_inside_sqrt, common)


def adagrad(param, grad, h, *, step=1, lr=0.01, lr_decay=0.0, eps=1e-10, eps_inside_sqrt=False, weight_decay=0.0,
            decoupled_weight_decay=0.0, l1=0.0, maximize=False, grad_scale=1.0, clip_value=None, average=None,
            average_decay=None):
    """Update one parameter in place by Adagrad.

    With the gradient g (scaled, clipped and regularised as in `fastopt.adam`) and t = ``step``::

        h ← h + g²
        p ← p · (1 − lr · decoupled_weight_decay) − lr / (1 + (t − 1) · lr_decay) · g / (√h + eps)

    Parameters
    ----------
    param, h : float32 arrays of one shape
        The parameter and the sum of squares, C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    step : int
        1 at the first update; only lr_decay looks at it.
    lr, lr_decay, eps : float
        All ≥ 0.
    eps_inside_sqrt : bool
        Divide by √(h + eps): the form of Keras.
    weight_decay, decoupled_weight_decay, l1, maximize, grad_scale, clip_value, average, average_decay
        As in `fastopt.adam`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Duchi, Hazan and Singer 2011 in torch.optim's form. Same bits as ``fastopt.reference.adagrad``.
    """
    driver.apply(
        _adagrad_rule(step, lr, lr_decay, eps, eps_inside_sqrt, weight_decay, decoupled_weight_decay, l1, maximize,
                      grad_scale, clip_value, average is not None, average_decay),
        (param, grad, average, h),
    )


class Adagrad(Optimizer):
    """Adagrad for a whole model: ``Adagrad(lr=0.01).update(params, grads)``.

    Parameters
    ----------
    lr, lr_decay, eps, eps_inside_sqrt
        As in `fastopt.adagrad`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    initial_accumulator_value : float
        What h is before the first step.
    **common
        What every optimizer takes: see `fastopt.Optimizer`.

    Notes
    -----
    State: h. The formula is `fastopt.adagrad`'s.
    """

    _state_names = ("h",)

    def __init__(self, *, lr=0.01, lr_decay=0.0, eps=1e-10, eps_inside_sqrt=False, initial_accumulator_value=0.0,
                 **common):
        super().__init__(dict(lr=lr, lr_decay=lr_decay, eps=eps, eps_inside_sqrt=eps_inside_sqrt,
                              initial_accumulator_value=initial_accumulator_value), **common)

    @staticmethod
    def _rule(initial_accumulator_value, **arguments):
        _accumulator_ranges(initial_accumulator_value)
        return _adagrad_rule(**arguments)

    @staticmethod
    def _initial(name, hyper):
        return hyper["initial_accumulator_value"]


def _adadelta_rule(step, lr, rho, eps, weight_decay, decoupled_weight_decay, l1, maximize, grad_scale, clip_value,
                   average, average_decay):
    _adadelta_ranges(rho, eps)
    common = check_common(lr, grad_scale, maximize, clip_value, weight_decay, l1, decoupled_weight_decay,
                          average_decay, average)
    return dispatch.active.adaptive.adadelta(lr, rho, eps, common)


def adadelta(param, grad, v, u, *, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0, decoupled_weight_decay=0.0, l1=0.0,
             maximize=False, grad_scale=1.0, clip_value=None, average=None, average_decay=None):
    """Update one parameter in place by Adadelta.

    With the gradient g (scaled, clipped and regularised as in `fastopt.adam`)::

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
        Learning rate ≥ 0, ρ in [0, 1), eps ≥ 0.
    weight_decay, decoupled_weight_decay, l1, maximize, grad_scale, clip_value, average, average_decay
        As in `fastopt.adam`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Zeiler 2012, arXiv:1212.5701, in torch.optim's form. Same bits as ``fastopt.reference.adadelta``.
    """
    driver.apply(
        _adadelta_rule(1, lr, rho, eps, weight_decay, decoupled_weight_decay, l1, maximize, grad_scale, clip_value,
                       average is not None, average_decay),
        (param, grad, average, v, u),
    )


class Adadelta(Optimizer):
    """Adadelta for a whole model: ``Adadelta().update(params, grads)``.

    Parameters
    ----------
    lr, rho, eps
        As in `fastopt.adadelta`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **common
        What every optimizer takes: see `fastopt.Optimizer`.

    Notes
    -----
    State: v and u. The formula is `fastopt.adadelta`'s.
    """

    _rule = staticmethod(_adadelta_rule)
    _state_names = ("v", "u")

    def __init__(self, *, lr=1.0, rho=0.9, eps=1e-6, **common):
        super().__init__(dict(lr=lr, rho=rho, eps=eps), **common)


def _rmsprop_rule(step, lr, alpha, eps, momentum, centered, eps_inside_sqrt, weight_decay, decoupled_weight_decay, l1,
                  maximize, grad_scale, clip_value, average, average_decay):
    _rmsprop_ranges(alpha, eps, momentum, centered, eps_inside_sqrt)
    common = check_common(lr, grad_scale, maximize, clip_value, weight_decay, l1, decoupled_weight_decay,
                          average_decay, average)
    return dispatch.active.adaptive.rmsprop(lr, alpha, eps, eps_inside_sqrt, centered, momentum, common)


def rmsprop(param, grad, v, grad_avg=None, buf=None, *, lr=0.01, alpha=0.99, eps=1e-8, momentum=0.0,
            eps_inside_sqrt=False, weight_decay=0.0, decoupled_weight_decay=0.0, l1=0.0, maximize=False,
            grad_scale=1.0, clip_value=None, average=None, average_decay=None):
    """Update one parameter in place by RMSprop.

    With the gradient g (scaled, clipped and regularised as in `fastopt.adam`)::

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
        The average ḡ of the gradients; given, RMSprop is centred.
    buf : float32 array, optional
        The momentum buffer (zeros before the first step); needed with momentum.
    lr, alpha, eps, momentum : float
        Learning rate ≥ 0, α in [0, 1), eps ≥ 0, μ ≥ 0.
    eps_inside_sqrt : bool
        Divide by √(w + eps): the form of TensorFlow.
    weight_decay, decoupled_weight_decay, l1, maximize, grad_scale, clip_value, average, average_decay
        As in `fastopt.adam`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Hinton 2012 (lecture 6e of Neural Networks for Machine Learning), centred: Graves 2013, arXiv:1308.0850;
    torch.optim's form. There a centred w can be rounded below 0 and the step become NaN (constant gradients do it);
    here w is 0 then. Same bits as ``fastopt.reference.rmsprop``.
    """
    driver.apply(
        _rmsprop_rule(1, lr, alpha, eps, momentum, grad_avg is not None, eps_inside_sqrt, weight_decay,
                      decoupled_weight_decay, l1, maximize, grad_scale, clip_value, average is not None, average_decay),
        (param, grad, average, v, grad_avg, buf),
    )


class RMSprop(Optimizer):
    """RMSprop for a whole model: ``RMSprop(lr=0.01).update(params, grads)``.

    Parameters
    ----------
    lr, alpha, eps, momentum, eps_inside_sqrt
        As in `fastopt.rmsprop`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    centered : bool
        Subtract the square of the gradients' average.
    **common
        What every optimizer takes: see `fastopt.Optimizer`.

    Notes
    -----
    State: v; centred grad_avg; with momentum buf. The formula is `fastopt.rmsprop`'s.
    """

    _rule = staticmethod(_rmsprop_rule)
    _state_names = ("v", "grad_avg", "buf")

    def __init__(self, *, lr=0.01, alpha=0.99, eps=1e-8, momentum=0.0, centered=False, eps_inside_sqrt=False,
                 **common):
        super().__init__(dict(lr=lr, alpha=alpha, eps=eps, momentum=momentum, centered=centered,
                              eps_inside_sqrt=eps_inside_sqrt), **common)

    @staticmethod
    def _states(hyper):
        return "v", "grad_avg" if hyper["centered"] else None, "buf" if hyper["momentum"] else None
