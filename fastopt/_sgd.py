"""Gradient descent with and without momentum: functions on one parameter and classes for a whole model."""

from collections.abc import Mapping
from typing import Any, Unpack

from fastopt._optimizer import Optimizer, apply
from fastopt._options import LR, STEP, Arguments, Checked, ModelOptions, Options, check_options
from fastopt._runtime import dispatch
from fastopt._runtime.hyper import Ranges
from fastopt._typing import Float32Array as Array
from fastopt._typing import LearningRate as Rate

_sgd_ranges = Ranges(step=STEP, lr=LR, momentum="[0, inf)", dampening="(-inf, inf)", nesterov="bool")
_momentum_ranges = Ranges(lr=LR, momentum="[0, inf)", nesterov="bool")
_sgdm_ranges = Ranges(lr=LR, beta="[0, 1)")
_asgd_ranges = Ranges(step=STEP, lr=LR, lambd="[0, inf)", alpha="double [0, inf)", t0="double [0, inf)")


def _sgd_arguments(step: int, lr: float, momentum: float, dampening: float, nesterov: bool,
                   options: Checked) -> Arguments:
    _sgd_ranges(step, lr, momentum, dampening, nesterov)
    if nesterov and (momentum == 0.0 or dampening != 0.0):
        raise ValueError("nesterov: expected momentum > 0 and dampening = 0 with it, got "
                         f"momentum {momentum!r} and dampening {dampening!r}")
    return step, lr, momentum, dampening, nesterov, options


def sgd(param: Array, grad: Array, buf: Array | None = None, *, lr: float, momentum: float = 0.0,
        dampening: float = 0.0, nesterov: bool = False, step: int = 1, **options: Unpack[Options]) -> None:
    """Update one parameter in place by gradient descent, torch.optim's form.

    With the gradient g (scaled, clipped and regularised: `fastopt.Options`)::

        b ← g at step 1, then μ · b + (1 − dampening) · g          if momentum μ > 0
        d = g  |  b  |  g + μ · b                                   without momentum | with | Nesterov
        p ← p · (1 − lr · decoupled_weight_decay) − lr · d

    Parameters
    ----------
    param : float32 array
        C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    buf : float32 array of the same shape
        The momentum buffer, required with momentum. Its content before step 1 does not matter.
    lr : float
        Learning rate, ≥ 0.
    momentum, dampening, nesterov : float, float, bool
        μ ≥ 0; Nesterov requires momentum > 0 and dampening = 0.
    step : int
        1 at the first update.
    **options
        Regularisation, clipping and averaging: see `fastopt.Options`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Here lr multiplies the buffer (as in PyTorch); in `fastopt.momentum` the velocity carries lr (as in Keras and
    scikit-learn). The two take the same steps only while lr is constant, and their states are not interchangeable.
    Same bits as ``fastopt.reference.sgd``.
    """
    arguments = _sgd_arguments(step, lr, momentum, dampening, nesterov, check_options(sgd, options))
    apply(dispatch.active.sgd.sgd(*arguments), param, grad, options.get("average"), buf)


class SGD(Optimizer):
    """Gradient descent for a whole model, torch.optim's form: ``SGD(lr=0.1, momentum=0.9).update(params, grads)``.

    Parameters
    ----------
    lr, momentum, dampening, nesterov
        As in `fastopt.sgd`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **options
        Those of every optimizer class: see `fastopt.Optimizer`.

    Notes
    -----
    State: with momentum buf. The formula is `fastopt.sgd`'s.
    """

    _rule = ("sgd.sgd", _sgd_arguments)
    _state_names = ("buf",)

    def __init__(self, lr: Rate = 1e-3, *, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False,
                 **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, momentum=momentum, dampening=dampening, nesterov=nesterov), options)

    @staticmethod
    def _states(hyper: Mapping[str, Any]) -> tuple[str | None, ...]:
        return ("buf" if hyper["momentum"] else None,)


def _momentum_arguments(step: int, lr: float, momentum: float, nesterov: bool, options: Checked) -> Arguments:
    _momentum_ranges(lr, momentum, nesterov)
    return step, lr, momentum, nesterov, options


def momentum(param: Array, grad: Array, v: Array, *, lr: float = 0.01, momentum: float = 0.9, nesterov: bool = False,
             **options: Unpack[Options]) -> None:
    """Update one parameter in place by momentum whose velocity carries the learning rate.

    With the gradient g (scaled, clipped and regularised: `fastopt.Options`)::

        v ← μ · v − lr · g
        p ← p · (1 − lr · decoupled_weight_decay) + v               Nesterov: + μ · v − lr · g with the new v

    Parameters
    ----------
    param, v : float32 arrays of one shape
        The parameter and its velocity (zeros before the first step), C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    lr, momentum, nesterov : float, float, bool
        Learning rate ≥ 0, μ ≥ 0.
    **options
        Regularisation, clipping and averaging: see `fastopt.Options`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    The form of Keras, scikit-learn and the textbooks; `fastopt.sgd` is PyTorch's. Same bits as
    ``fastopt.reference.momentum``.
    """
    arguments = _momentum_arguments(1, lr, momentum, nesterov, check_options(_momentum, options))
    apply(dispatch.active.sgd.momentum(*arguments), param, grad, options.get("average"), v)


_momentum = momentum    # inside the function, its argument of the same name hides it


class Momentum(Optimizer):
    """Momentum for a whole model; the velocity carries lr: ``Momentum(lr=0.01).update(params, grads)``.

    Parameters
    ----------
    lr, momentum, nesterov
        As in `fastopt.momentum`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **options
        Those of every optimizer class: see `fastopt.Optimizer`.

    Notes
    -----
    State: v. The formula is `fastopt.momentum`'s.
    """

    _rule = ("sgd.momentum", _momentum_arguments)
    _state_names = ("v",)

    def __init__(self, lr: Rate = 0.01, *, momentum: float = 0.9, nesterov: bool = False,
                 **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, momentum=momentum, nesterov=nesterov), options)


def _sgdm_arguments(step: int, lr: float, beta: float, options: Checked) -> Arguments:
    _sgdm_ranges(lr, beta)
    return step, lr, beta, options


def sgdm(param: Array, grad: Array, m: Array, *, lr: float = 0.01, beta: float = 0.9,
         **options: Unpack[Options]) -> None:
    """Update one parameter in place by gradient descent along an exponential average of the gradients.

    With the gradient g (scaled, clipped and regularised: `fastopt.Options`)::

        m ← β · m + (1 − β) · g
        p ← p · (1 − lr · decoupled_weight_decay) − lr · m

    Parameters
    ----------
    param, m : float32 arrays of one shape
        The parameter and the average (zeros before the first step), C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    lr, beta : float
        Learning rate ≥ 0, β in [0, 1).
    **options
        Regularisation, clipping and averaging: see `fastopt.Options`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    The form of courses that teach momentum as an exponentially weighted average. With lr / (1 − β) in place of lr
    `fastopt.momentum` takes the same steps while lr is constant. Same bits as ``fastopt.reference.sgdm``.
    """
    arguments = _sgdm_arguments(1, lr, beta, check_options(sgdm, options))
    apply(dispatch.active.sgd.sgdm(*arguments), param, grad, options.get("average"), m)


class SGDM(Optimizer):
    """Gradient descent along an exponential average, for a whole model: ``SGDM(lr=0.01).update(params, grads)``.

    Parameters
    ----------
    lr, beta
        As in `fastopt.sgdm`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **options
        Those of every optimizer class: see `fastopt.Optimizer`.

    Notes
    -----
    State: m. The formula is `fastopt.sgdm`'s.
    """

    _rule = ("sgd.sgdm", _sgdm_arguments)
    _state_names = ("m",)

    def __init__(self, lr: Rate = 0.01, *, beta: float = 0.9, **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, beta=beta), options)


def _asgd_arguments(step: int, lr: float, lambd: float, alpha: float, t0: float, options: Checked) -> Arguments:
    _asgd_ranges(step, lr, lambd, alpha, t0)
    return step, lr, lambd, alpha, t0, options


def asgd(param: Array, grad: Array, ax: Array, *, step: int, lr: float = 0.01, lambd: float = 1e-4, alpha: float = 0.75,
         t0: float = 1e6, **options: Unpack[Options]) -> None:
    """Update one parameter in place by averaged stochastic gradient descent.

    With the gradient g (scaled, clipped and regularised: `fastopt.Options`) and t = ``step``::

        η = lr / (1 + lambd · lr · (t − 1))^alpha          μ = 1 / max(1, t − 1 − t0)
        p ← p · (1 − lr · decoupled_weight_decay) · (1 − lambd · η) − η · g
        a ← p while μ = 1, then a + μ · (p − a)

    Parameters
    ----------
    param, ax : float32 arrays of one shape
        The parameter and its running mean since step t0, C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    step : int
        1 at the first update.
    lr, lambd, alpha, t0 : float
        Learning rate, decay term, power of the rate's decay, step at which averaging starts; all ≥ 0.
    **options
        Regularisation, clipping and averaging: see `fastopt.Options`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Polyak and Juditsky 1992 in torch.optim's form. ax is the method's own running mean; the option `average` is the
    exponential moving average that every optimizer offers. Same bits as ``fastopt.reference.asgd``.
    """
    arguments = _asgd_arguments(step, lr, lambd, alpha, t0, check_options(asgd, options))
    apply(dispatch.active.sgd.asgd(*arguments), param, grad, options.get("average"), ax)


class ASGD(Optimizer):
    """Averaged stochastic gradient descent for a whole model: ``ASGD(lr=0.01).update(params, grads)``.

    Parameters
    ----------
    lr, lambd, alpha, t0
        As in `fastopt.asgd`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **options
        Those of every optimizer class: see `fastopt.Optimizer`.

    Notes
    -----
    State: ax. The formula is `fastopt.asgd`'s.
    """

    _rule = ("sgd.asgd", _asgd_arguments)
    _state_names = ("ax",)

    def __init__(self, lr: Rate = 0.01, *, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6,
                 **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, lambd=lambd, alpha=alpha, t0=t0), options)
