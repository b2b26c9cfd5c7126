"""Gradient descent with and without momentum."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from fastopt._options import ModelOptions, Options
from fastopt._typing import LearningRate as Rate
from fastopt.reference._formula import Array, complete, decayed, floats, gradient, update_average
from fastopt.reference._optimizer import Optimizer


def sgd(param: Array, grad: Array, buf: Array | None = None, *, lr: float, momentum: float = 0.0,
        dampening: float = 0.0, nesterov: bool = False, step: int = 1, **options: Unpack[Options]) -> None:
    """See `fastopt.sgd`."""
    o = complete(sgd, options)
    f = param.dtype.type
    lr, momentum, dampening = floats(lr, momentum, dampening)
    g = gradient(param, grad, o)
    if momentum:
        assert buf is not None
        buf[...] = g if step == 1 else f(momentum) * buf + f(1.0 - dampening) * g
        g = g + f(momentum) * buf if nesterov else buf
    param[...] = decayed(param, lr, o.decoupled_weight_decay) - f(lr) * g
    update_average(param, o)


def momentum(param: Array, grad: Array, v: Array, *, lr: float = 0.01, momentum: float = 0.9, nesterov: bool = False,
             **options: Unpack[Options]) -> None:
    """See `fastopt.momentum`."""
    o = complete(_momentum, options)
    f = param.dtype.type
    lr, momentum = floats(lr, momentum)
    d = f(lr) * gradient(param, grad, o)
    v[...] = f(momentum) * v - d
    param[...] = decayed(param, lr, o.decoupled_weight_decay) + (f(momentum) * v - d if nesterov else v)
    update_average(param, o)


_momentum = momentum    # inside the function, its argument of the same name hides it


def sgdm(param: Array, grad: Array, m: Array, *, lr: float = 0.01, beta: float = 0.9,
         **options: Unpack[Options]) -> None:
    """See `fastopt.sgdm`."""
    o = complete(sgdm, options)
    f = param.dtype.type
    lr, beta = floats(lr, beta)
    g = gradient(param, grad, o)
    m[...] = f(beta) * m + f(1.0 - beta) * g
    param[...] = decayed(param, lr, o.decoupled_weight_decay) - f(lr) * m
    update_average(param, o)


def asgd(param: Array, grad: Array, ax: Array, *, step: int, lr: float = 0.01, lambd: float = 1e-4, alpha: float = 0.75,
         t0: float = 1e6, **options: Unpack[Options]) -> None:
    """See `fastopt.asgd`."""
    o = complete(asgd, options)
    f = param.dtype.type
    lr, lambd, alpha, t0 = floats(lr, lambd, alpha, t0)
    before = step - 1.0
    try:
        eta = lr / (1.0 + lambd * lr * before) ** alpha
    except OverflowError:       # a float's power raises where C's is inf
        eta = 0.0
    mu = 1.0 / max(1.0, before - t0)
    g = gradient(param, grad, o)
    param[...] = decayed(param, lr, o.decoupled_weight_decay, 1.0 - lambd * eta) - f(eta) * g
    ax[...] = param if mu == 1.0 else ax + f(mu) * (param - ax)
    update_average(param, o)


class SGD(Optimizer):
    """See `fastopt.SGD`."""

    _function = staticmethod(sgd)

    def __init__(self, lr: Rate = 1e-3, *, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False,
                 **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, momentum=momentum, dampening=dampening, nesterov=nesterov), options)

    def _states(self, hyper: Mapping[str, Any]) -> Sequence[str]:
        return ("buf",) if hyper["momentum"] else ()


class Momentum(Optimizer):
    """See `fastopt.Momentum`."""

    _function = staticmethod(momentum)

    def __init__(self, lr: Rate = 0.01, *, momentum: float = 0.9, nesterov: bool = False,
                 **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, momentum=momentum, nesterov=nesterov), options)


class SGDM(Optimizer):
    """See `fastopt.SGDM`."""

    _function = staticmethod(sgdm)

    def __init__(self, lr: Rate = 0.01, *, beta: float = 0.9, **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, beta=beta), options)


class ASGD(Optimizer):
    """See `fastopt.ASGD`."""

    _function = staticmethod(asgd)

    def __init__(self, lr: Rate = 0.01, *, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6,
                 **options: Unpack[ModelOptions]) -> None:
        super().__init__(dict(lr=lr, lambd=lambd, alpha=alpha, t0=t0), options)
