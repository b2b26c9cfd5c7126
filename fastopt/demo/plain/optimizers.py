"""The optimizers: own hyper-parameters and a rule of a few lines for each."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastopt.demo.plain.functions import Array
from fastopt.demo.plain.optimizer import Optimizer, Rate, ema

Pair = tuple[float, float]


def norm(x: Array) -> float:
    return math.sqrt(np.vdot(x, x))


class SGD(Optimizer):
    def __init__(self, lr: Rate = 1e-3, *, momentum: float = 0.0, **options: Any) -> None:
        super().__init__(lr, **options)
        self.momentum = momentum

    def _new_state(self, p: Array, lr: float) -> dict[str, Array]:
        return {"buf": np.zeros_like(p)} if self.momentum else {}

    def _rule(self, p: Array, g: Array, lr: float, t: int, *, buf: Array | None = None) -> None:
        if buf is not None:
            buf *= self.momentum
            buf += g
            g = buf
        p -= lr * g


class Momentum(Optimizer):
    _states = ("v",)

    def __init__(self, lr: Rate = 0.01, *, momentum: float = 0.9, nesterov: bool = False, **options: Any) -> None:
        super().__init__(lr, **options)
        self.momentum, self.nesterov = momentum, nesterov

    def _rule(self, p: Array, g: Array, lr: float, t: int, v: Array) -> None:
        d = lr * g
        v *= self.momentum
        v -= d
        p += self.momentum * v - d if self.nesterov else v


class SGDM(Optimizer):
    _states = ("m",)

    def __init__(self, lr: Rate = 0.01, *, beta: float = 0.9, **options: Any) -> None:
        super().__init__(lr, **options)
        self.beta = beta

    def _rule(self, p: Array, g: Array, lr: float, t: int, m: Array) -> None:
        ema(m, g, self.beta)
        p -= lr * m


class ASGD(Optimizer):
    _states = ("ax",)

    def __init__(self, lr: Rate = 0.01, *, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6,
                 **options: Any) -> None:
        super().__init__(lr, **options)
        self.lambd, self.alpha, self.t0 = lambd, alpha, t0

    def _rule(self, p: Array, g: Array, lr: float, t: int, ax: Array) -> None:
        eta = lr / (1 + self.lambd * lr * (t - 1)) ** self.alpha
        p *= 1 - self.lambd * eta
        p -= eta * g
        ema(ax, p, 1 - 1 / max(1.0, t - 1 - self.t0))


class Adagrad(Optimizer):
    _states = ("h",)

    def __init__(self, lr: Rate = 0.01, *, eps: float = 1e-10, **options: Any) -> None:
        super().__init__(lr, **options)
        self.eps = eps

    def _rule(self, p: Array, g: Array, lr: float, t: int, h: Array) -> None:
        h += g * g
        p -= lr * g / (np.sqrt(h) + self.eps)


class Adadelta(Optimizer):
    _states = ("v", "u")

    def __init__(self, lr: Rate = 1.0, *, rho: float = 0.9, eps: float = 1e-6, **options: Any) -> None:
        super().__init__(lr, **options)
        self.rho, self.eps = rho, eps

    def _rule(self, p: Array, g: Array, lr: float, t: int, v: Array, u: Array) -> None:
        ema(v, g * g, self.rho)
        d = np.sqrt((u + self.eps) / (v + self.eps)) * g
        ema(u, d * d, self.rho)
        p -= lr * d


class RMSprop(Optimizer):
    _states = ("v",)

    def __init__(self, lr: Rate = 0.01, *, alpha: float = 0.99, eps: float = 1e-8, momentum: float = 0.0,
                 **options: Any) -> None:
        super().__init__(lr, **options)
        self.alpha, self.eps, self.momentum = alpha, eps, momentum

    def _new_state(self, p: Array, lr: float) -> dict[str, Array]:
        return super()._new_state(p, lr) | ({"buf": np.zeros_like(p)} if self.momentum else {})

    def _rule(self, p: Array, g: Array, lr: float, t: int, v: Array, *, buf: Array | None = None) -> None:
        ema(v, g * g, self.alpha)
        d = g / (np.sqrt(v) + self.eps)
        if buf is not None:
            buf *= self.momentum
            buf += d
            d = buf
        p -= lr * d


class Adam(Optimizer):
    _states = ("m", "v")

    def __init__(self, lr: Rate = 1e-3, *, betas: Pair = (0.9, 0.999), eps: float = 1e-8, **options: Any) -> None:
        super().__init__(lr, **options)
        self.betas, self.eps = betas, eps

    def _moments(self, g: Array, m: Array, v: Array) -> None:
        ema(m, g, self.betas[0])
        ema(v, g * g, self.betas[1])

    def _corrected(self, t: int, m: Array, v: Array, eps: float) -> Array:
        """m / (√v + eps) with both moments corrected for their start at 0."""
        beta1, beta2 = self.betas
        root = math.sqrt(1 - beta2**t)
        return (root / (1 - beta1**t)) * m / (np.sqrt(v) + eps * root)

    def _rule(self, p: Array, g: Array, lr: float, t: int, m: Array, v: Array) -> None:
        self._moments(g, m, v)
        p -= lr * self._corrected(t, m, v, self.eps)


class AdamW(Adam):
    _decay = "decoupled"

    def __init__(self, lr: Rate = 1e-3, *, weight_decay: float = 0.01, **options: Any) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)


class Adamax(Adam):
    _states = ("m", "u")

    def __init__(self, lr: Rate = 2e-3, **options: Any) -> None:
        super().__init__(lr, **options)

    def _rule(self, p: Array, g: Array, lr: float, t: int, m: Array, u: Array) -> None:
        beta1, beta2 = self.betas
        ema(m, g, beta1)
        np.maximum(beta2 * u, np.abs(g) + self.eps, out=u)
        p -= lr / (1 - beta1**t) * m / u


class NAdam(Adam):
    def __init__(self, lr: Rate = 2e-3, *, momentum_decay: float = 4e-3, **options: Any) -> None:
        super().__init__(lr, **options)
        self.momentum_decay = momentum_decay
        self._products = [1.0]

    def _mu(self, t: int) -> float:
        return self.betas[0] * (1 - 0.5 * 0.96 ** (t * self.momentum_decay))

    def _rule(self, p: Array, g: Array, lr: float, t: int, m: Array, v: Array) -> None:
        while len(self._products) <= t + 1:
            self._products.append(self._products[-1] * self._mu(len(self._products)))
        self._moments(g, m, v)
        root = math.sqrt(1 - self.betas[1] ** t)
        gamma = lr * (1 - self._mu(t)) / (1 - self._products[t]) * root
        alpha = lr * self._mu(t + 1) / (1 - self._products[t + 1]) * root
        p -= (gamma * g + alpha * m) / (np.sqrt(v) + self.eps * root)


class RAdam(Adam):
    def _rule(self, p: Array, g: Array, lr: float, t: int, m: Array, v: Array) -> None:
        beta1, beta2 = self.betas
        self._moments(g, m, v)
        limit = 2 / (1 - beta2) - 1
        rho = limit - 2 * t * beta2**t / (1 - beta2**t)
        d = m
        if rho > 5:
            factor = (rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)
            d = math.sqrt(factor * (1 - beta2**t)) * m / (np.sqrt(v) + self.eps)
        p -= lr / (1 - beta1**t) * d


class LAMB(Adam):
    _decay = "rule"

    def __init__(self, lr: Rate = 1e-3, *, eps: float = 1e-6, weight_decay: float = 0.01, **options: Any) -> None:
        super().__init__(lr, eps=eps, weight_decay=weight_decay, **options)

    def _rule(self, p: Array, g: Array, lr: float, t: int, m: Array, v: Array, weight_decay: float = 0.0) -> None:
        self._moments(g, m, v)
        d = self._corrected(t, m, v, self.eps) + weight_decay * p
        p_norm, d_norm = norm(p), norm(d)
        p -= (lr * p_norm / d_norm if p_norm and d_norm else lr) * d


class LARS(Optimizer):
    _states = ("v",)

    def __init__(self, lr: Rate, *, momentum: float = 0.9, trust_coefficient: float = 1e-3, eps: float = 1e-8,
                 **options: Any) -> None:
        super().__init__(lr, **options)
        self.momentum, self.trust_coefficient, self.eps = momentum, trust_coefficient, eps

    def _regularised(self, p: Array, g: Array, l2: float, l1: float) -> Array:
        """Times the trust ratio."""
        p_norm, g_norm = norm(p), norm(g)
        g = super()._regularised(p, g, l2, l1)
        return self.trust_coefficient * p_norm / (g_norm + l2 * p_norm + self.eps) * g if p_norm and g_norm else g

    def _rule(self, p: Array, g: Array, lr: float, t: int, v: Array) -> None:
        v *= self.momentum
        v += lr * g
        p -= v


class Adan(Optimizer):
    _states = ("m", "v", "n", "prev")
    _decay = "rule"

    def __init__(self, lr: Rate = 1e-3, *, betas: tuple[float, float, float] = (0.98, 0.92, 0.99), eps: float = 1e-8,
                 **options: Any) -> None:
        super().__init__(lr, **options)
        self.betas, self.eps = betas, eps

    def _rule(self, p: Array, g: Array, lr: float, t: int, m: Array, v: Array, n: Array, prev: Array,
              weight_decay: float = 0.0) -> None:
        beta1, beta2, beta3 = self.betas
        if t == 1:
            prev[...] = g
        d = g - prev
        prev[...] = g
        ema(m, g, beta1)
        ema(v, d, beta2)
        ema(n, (g + beta2 * d) ** 2, beta3)
        root = math.sqrt(1 - beta3**t)
        p -= (lr * root / (1 - beta1**t) * m + lr * beta2 * root / (1 - beta2**t) * v) / (np.sqrt(n) + self.eps * root)
        p /= 1 + lr * weight_decay


class Lion(Optimizer):
    _states = ("m",)
    _decay = "decoupled"

    def __init__(self, lr: Rate = 1e-4, *, betas: Pair = (0.9, 0.99), **options: Any) -> None:
        super().__init__(lr, **options)
        self.betas = betas

    def _rule(self, p: Array, g: Array, lr: float, t: int, m: Array) -> None:
        beta1, beta2 = self.betas
        p -= lr * np.sign(beta1 * m + (1 - beta1) * g)
        ema(m, g, beta2)


class Rprop(Optimizer):
    _states = ("prev", "step_size")

    def __init__(self, lr: Rate = 0.01, *, etas: Pair = (0.5, 1.2), step_sizes: Pair = (1e-6, 50.0),
                 **options: Any) -> None:
        super().__init__(lr, **options)
        self.etas, self.step_sizes = etas, step_sizes

    def _new_state(self, p: Array, lr: float) -> dict[str, Array]:
        return {"prev": np.zeros_like(p), "step_size": np.full_like(p, lr)}

    def _rule(self, p: Array, g: Array, lr: float, t: int, prev: Array, step_size: Array) -> None:
        turn = g * prev
        step_size[turn > 0] *= self.etas[1]
        step_size[turn < 0] *= self.etas[0]
        np.clip(step_size, *self.step_sizes, out=step_size)
        prev[...] = np.where(turn < 0, 0, g)
        p -= step_size * np.sign(prev)


class Sophia(Optimizer):
    _states = ("m", "h")
    _decay = "decoupled"

    def __init__(self, lr: Rate = 1e-4, *, betas: Pair = (0.965, 0.99), rho: float = 0.04, eps: float = 1e-12,
                 weight_decay: float = 0.1, **options: Any) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.betas, self.rho, self.eps = betas, rho, eps

    def update_hessian(self, params: Mapping[Any, Array], hessians: Mapping[Any, Array]) -> None:
        """As `fastopt.Sophia.update_hessian`."""
        for key, p in params.items():
            ema(self._state_of(key, p, 0.0)["h"], hessians[key], self.betas[1])

    def _rule(self, p: Array, g: Array, lr: float, t: int, m: Array, h: Array) -> None:
        ema(m, g, self.betas[0])
        p -= lr * np.clip(m / np.maximum(self.rho * h, self.eps), -1, 1)
