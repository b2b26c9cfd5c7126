"""Lion and Rprop: functions on one parameter and classes for a whole model."""

from fastopt._common import check_common, check_lr, check_pair
from fastopt._optimizer import Optimizer
from fastopt._runtime import dispatch, driver
from fastopt._runtime.hyper import Ranges

_lion_ranges = Ranges(**{"betas[0]": "[0, 1)", "betas[1]": "[0, 1)", "weight_decay": "[0, inf)"})
_rprop_ranges = Ranges(**{"etas[0]": "(0, 1)", "etas[1]": "(1, inf)", "step_sizes[0]": "[0, inf)",
                          "step_sizes[1]": "[0, inf)"})


def _lion_rule(step, lr, betas, weight_decay, l1, maximize, grad_scale, clip_value, average, average_decay):
    beta1, beta2 = check_pair("betas", betas)
    _lion_ranges(beta1, beta2, weight_decay)
    common = check_common(lr, grad_scale, maximize, clip_value, 0.0, l1, weight_decay, average_decay, average)
    return dispatch.active.sign.lion(lr, beta1, beta2, common)


def lion(param, grad, m, *, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, l1=0.0, maximize=False, grad_scale=1.0,
         clip_value=None, average=None, average_decay=None):
    """Update one parameter in place by Lion.

    With the gradient g (scaled, clipped, plus l1 · sign(p))::

        c = β₁ · m + (1 − β₁) · g
        m ← β₂ · m + (1 − β₂) · g
        p ← p · (1 − lr · weight_decay) − lr · sign(c)

    Parameters
    ----------
    param, m : float32 arrays of one shape
        The parameter and its momentum (zeros before the first step), C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    lr, betas : float, (float, float)
        Learning rate ≥ 0 (a third to a tenth of Adam's), β₁ and β₂ in [0, 1).
    weight_decay : float
        Decoupled, as the paper has it.
    l1, maximize, grad_scale, clip_value, average, average_decay
        As in `fastopt.adam`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Chen et al. 2023, arXiv:2302.06675. Same bits as ``fastopt.reference.lion``.
    """
    driver.apply(
        _lion_rule(1, lr, betas, weight_decay, l1, maximize, grad_scale, clip_value, average is not None,
                   average_decay),
        (param, grad, average, m),
    )


class Lion(Optimizer):
    """Lion for a whole model: ``Lion(lr=1e-4).update(params, grads)``.

    Parameters
    ----------
    lr, betas, weight_decay
        As in `fastopt.lion`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **common
        What every optimizer takes (see `fastopt.Optimizer`) but decoupled_weight_decay, which weight_decay is here.

    Notes
    -----
    State: m. The formula is `fastopt.lion`'s.
    """

    _rule = staticmethod(_lion_rule)
    _state_names = ("m",)
    _decoupled = False

    def __init__(self, *, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, **common):
        super().__init__(dict(lr=lr, betas=betas), weight_decay=weight_decay, **common)


def _rprop_rule(step, etas, step_sizes, weight_decay, l1, maximize, grad_scale, clip_value, average, average_decay):
    eta_minus, eta_plus = check_pair("etas", etas)
    least, most = check_pair("step_sizes", step_sizes)
    _rprop_ranges(eta_minus, eta_plus, least, most)
    if least > most:
        raise ValueError(f"step_sizes: expected the least first, got {step_sizes!r}")
    common = check_common(0.0, grad_scale, maximize, clip_value, weight_decay, l1, 0.0, average_decay, average)
    return dispatch.active.sign.rprop(eta_minus, eta_plus, least, most, common)


def rprop(param, grad, prev, step_size, *, etas=(0.5, 1.2), step_sizes=(1e-6, 50.0), weight_decay=0.0, l1=0.0,
          maximize=False, grad_scale=1.0, clip_value=None, average=None, average_decay=None):
    """Update one parameter in place by Rprop (for full batches).

    With the gradient g (scaled, clipped and regularised as in `fastopt.adam`) and the one before, g′::

        η ← η · η₊ where g · g′ > 0, η · η₋ where g · g′ < 0, kept within step_sizes
        g ← 0 where g · g′ < 0
        p ← p − η · sign(g)
        g′ ← g

    Parameters
    ----------
    param, prev, step_size : float32 arrays of one shape
        The parameter, the gradient before (zeros before the first step) and each element's step size (the learning
        rate before the first step), C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    etas : (float, float)
        η₋ in (0, 1) and η₊ > 1.
    step_sizes : (float, float)
        Least and greatest step size.
    weight_decay, l1, maximize, grad_scale, clip_value, average, average_decay
        As in `fastopt.adam`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Riedmiller and Braun 1993 in torch.optim's form. Same bits as ``fastopt.reference.rprop``.
    """
    driver.apply(
        _rprop_rule(1, etas, step_sizes, weight_decay, l1, maximize, grad_scale, clip_value, average is not None,
                    average_decay),
        (param, grad, average, prev, step_size),
    )


class Rprop(Optimizer):
    """Rprop for a whole model and full batches: ``Rprop(lr=0.01).update(params, grads)``.

    Parameters
    ----------
    lr : float
        Every element's step size before the first step.
    etas, step_sizes
        As in `fastopt.rprop`.
    **common
        What every optimizer takes (see `fastopt.Optimizer`) but decoupled_weight_decay: no lr multiplies the step.

    Notes
    -----
    State: prev and step_size. The formula is `fastopt.rprop`'s.
    """

    _state_names = ("prev", "step_size")
    _decoupled = False

    def __init__(self, *, lr=0.01, etas=(0.5, 1.2), step_sizes=(1e-6, 50.0), **common):
        super().__init__(dict(lr=lr, etas=etas, step_sizes=step_sizes), **common)

    @staticmethod
    def _rule(lr, **arguments):
        check_lr(lr)
        return _rprop_rule(**arguments)

    @classmethod
    def _initial(cls, name, hyper):
        return hyper["lr"] if name == "step_size" else 0.0
