"""Steps by the sign of a gradient: Lion, Rprop; and by a clipped ratio, Sophia."""

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np

from fastopt._options import ModelOptionsWithoutDecay, OptionsWithoutDecay
from fastopt._typing import Grads, Params
from fastopt._typing import LearningRate as Rate
from fastopt.reference._formula import Array, complete, decayed, floats, gradient, greater, update_average
from fastopt.reference._optimizer import Optimizer, leaves


def lion(param: Array, grad: Array, m: Array, *, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99),
         weight_decay: float = 0.0, **options: Unpack[OptionsWithoutDecay]) -> None:
    """See `fastopt.lion`."""
    o = complete(lion, options)
    f = param.dtype.type
    lr, beta1, beta2, weight_decay = floats(lr, *betas, weight_decay)
    g = gradient(param, grad, o)
    c = f(beta1) * m + f(1.0 - beta1) * g
    m[...] = f(beta2) * m + f(1.0 - beta2) * g
    param[...] = decayed(param, lr, weight_decay) - f(lr) * np.sign(c)
    update_average(param, o)


def rprop(param: Array, grad: Array, prev: Array, step_size: Array, *, etas: tuple[float, float] = (0.5, 1.2),
          step_sizes: tuple[float, float] = (1e-6, 50.0), weight_decay: float = 0.0,
          **options: Unpack[OptionsWithoutDecay]) -> None:
    """See `fastopt.rprop`."""
    o = complete(rprop, options, weight_decay=weight_decay)
    f = param.dtype.type
    eta_minus, eta_plus = etas
    least, most = step_sizes
    g = gradient(param, grad, o)
    turn = g * prev
    factor = np.select([turn > 0, turn < 0, turn == 0], [f(eta_plus), f(eta_minus), f(1)], turn)
    step_size[...] = np.clip(step_size * factor, f(least), f(most))
    prev[...] = np.where(turn < 0, f(0), g)
    param[...] = decayed(param, 0.0, 0.0) - step_size * np.sign(prev)
    update_average(param, o)


def sophia(param: Array, grad: Array, m: Array, h: Array, hessian: Array | None = None, *, lr: float = 1e-4,
           betas: tuple[float, float] = (0.965, 0.99), rho: float = 0.04, eps: float = 1e-12, weight_decay: float = 0.1,
           **options: Unpack[OptionsWithoutDecay]) -> None:
    """See `fastopt.sophia`."""
    o = complete(sophia, options)
    f = param.dtype.type
    lr, beta1, beta2, rho, eps, weight_decay = floats(lr, *betas, rho, eps, weight_decay)
    g = gradient(param, grad, o)
    m[...] = f(beta1) * m + f(1.0 - beta1) * g
    if hessian is not None:
        h[...] = f(beta2) * h + f(1.0 - beta2) * hessian
    u = np.clip(m / greater(f(rho) * h, f(eps)), f(-1), f(1))
    param[...] = decayed(param, lr, weight_decay) - f(lr) * u
    update_average(param, o)


class Lion(Optimizer):
    """See `fastopt.Lion`."""

    _function = staticmethod(lion)

    def __init__(self, lr: Rate = 1e-4, *, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0,
                 **options: Unpack[ModelOptionsWithoutDecay]) -> None:
        super().__init__(dict(lr=lr, betas=betas, weight_decay=weight_decay), options)


class Rprop(Optimizer):
    """See `fastopt.Rprop`."""

    _function = staticmethod(rprop)

    def __init__(self, lr: Rate = 0.01, *, etas: tuple[float, float] = (0.5, 1.2),
                 step_sizes: tuple[float, float] = (1e-6, 50.0), weight_decay: float = 0.0,
                 **options: Unpack[ModelOptionsWithoutDecay]) -> None:
        super().__init__(dict(lr=lr, etas=etas, step_sizes=step_sizes, weight_decay=weight_decay), options)

    def _initial(self, hyper: Mapping[str, Any], name: str) -> float:
        return hyper["lr"] if name == "step_size" else 0.0


class Sophia(Optimizer):
    """See `fastopt.Sophia`."""

    _function = staticmethod(sophia)

    def __init__(self, lr: Rate = 1e-4, *, betas: tuple[float, float] = (0.965, 0.99), rho: float = 0.04,
                 eps: float = 1e-12, weight_decay: float = 0.1, **options: Unpack[ModelOptionsWithoutDecay]) -> None:
        super().__init__(dict(lr=lr, betas=betas, rho=rho, eps=eps, weight_decay=weight_decay), options)

    def update_hessian(self, params: Params, hessians: Grads) -> None:
        """As `fastopt.Sophia.update_hessian`."""
        for key, param, hessian in leaves(params, hessians):
            if hessian is None:
                self.steps.setdefault(key, 0)
                self.state.setdefault(key, {})
                continue
            f = param.dtype.type
            hyper = {**self._hyper, **self._per_param(key, param)}
            if not self.state.get(key):
                self.state[key], self.steps[key] = self._new_state(param, hyper), 0
            _, beta2 = floats(*hyper["betas"])
            h = self.state[key]["h"]
            h[...] = f(beta2) * h + f(1.0 - beta2) * np.asarray(hessian, param.dtype)
