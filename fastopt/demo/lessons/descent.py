"""Every optimizer on a function of few parameters, for lessons that follow its steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

import fastopt

Array = NDArray[np.float32]

OPTIMIZERS: dict[str, Callable[[float], fastopt.Optimizer]] = {
    "SGD": fastopt.SGD,
    "SGDM": fastopt.SGDM,
    "Momentum": fastopt.Momentum,
    "Nesterov": lambda lr: fastopt.Momentum(lr, nesterov=True),
    "ASGD": fastopt.ASGD,
    "Adagrad": fastopt.Adagrad,
    "Adadelta": fastopt.Adadelta,
    "RMSprop": lambda lr: fastopt.RMSprop(lr, alpha=0.9),
    "Adam": fastopt.Adam,
    "Adamax": fastopt.Adamax,
    "NAdam": fastopt.NAdam,
    "RAdam": fastopt.RAdam,
    "Adan": fastopt.Adan,
    "Lion": fastopt.Lion,
    "Rprop": fastopt.Rprop,
    "Sophia": lambda lr: fastopt.Sophia(lr, betas=(0.9, 0.0), rho=1.0, weight_decay=0.0),
    "LARS": lambda lr: fastopt.LARS(lr, trust_coefficient=1.0),
    "LAMB": lambda lr: fastopt.LAMB(lr, weight_decay=0.0),
}
"""How each is made with a learning rate; without weight decay, which would move the minimum: AdamW is Adam then.
Sophia's beta2 is 0, because the Hessian that it is given is exact."""
FAMILIES = {
    "the gradient, scaled by lr": ("SGD", "SGDM", "Momentum", "Nesterov", "ASGD"),
    "divided by the gradients’ size": ("Adagrad", "Adadelta", "RMSprop"),
    "Adam and its relatives": ("Adam", "Adamax", "NAdam", "RAdam", "Adan"),
    "signs, curvature, the weights’ size": ("Lion", "Rprop", "Sophia", "LARS", "LAMB"),
}


def descend(optimizer: fastopt.Optimizer, gradient: Callable[[Array], Array], start: ArrayLike, steps: int,
            hessian: ArrayLike = ()) -> Array:
    """Minimise a function and return the parameters before each step and after the last: shape (steps + 1, n).

    `hessian` is the diagonal of the function's constant Hessian, which Sophia is given.
    """
    w = np.array(start, np.float32)
    if isinstance(optimizer, fastopt.Sophia):
        optimizer.update_hessian(w, np.array(hessian, np.float32))
    path = [w.copy()]
    for _ in range(steps):
        optimizer.update(w, gradient(w))
        path.append(w.copy())
    return np.stack(path)
