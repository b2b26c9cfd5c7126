"""Bias, activation function and dropout of a layer, forward and backward."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import fastopt
from fastopt.bench.contenders import Contender, Maker, Workload, contender, library, noise, torch
from fastopt.demo.plain.functions import FUNCTIONS, SLOPE, dropout_mask

DIRECTIONS = ("activation_forward", "activation_backward")
TOLERANCES = {"fastopt": 1e-6, "reference": 1e-6}
"""The largest error of y or dx, as a part of its largest value."""
TOLERANCE = 1e-4
"""Of all other libraries."""


OF_Y = ("identity", "relu", "leaky_relu", "sigmoid", "tanh")
"""Those whose backward needs y; the others need x."""


class Data:
    """A layer's arrays."""

    def __init__(self, activation: str, shape: tuple[int, int], p: float) -> None:
        self.activation, self.p = activation, p
        self.x, self.dy, self.bias = noise(*shape), noise(*shape, seed=1), noise(shape[1], seed=2)
        self.dy[self.dy == 0.0] = 1.0       # so that a 0 in dx is a dropped element, or one with derivative 0
        self.out, self.dbias = np.empty_like(self.x), np.empty_like(self.bias)

    @functools.cached_property
    def exact(self) -> dict[str, np.ndarray]:
        """y and dx without dropout, in float64."""
        value, backward = FUNCTIONS[self.activation]
        z = self.x.astype(np.float64) + self.bias
        y = value(z)
        return {"activation_forward": y, "activation_backward": backward(self.dy.astype(np.float64), z, y)}

    def mask(self, rng: np.random.Generator) -> np.ndarray:
        """0 for a dropped element, else 1 / (1 − p)."""
        return dropout_mask(self.x.shape, self.p, rng)


data = functools.lru_cache(1)(Data)


class Activation:
    """One direction of one function."""

    def __init__(self, direction: str, *described: Any) -> None:
        self.forward = direction == "activation_forward"
        self.direction, self.data = direction, data(*described)

    @property
    def streams(self) -> list[np.ndarray]:
        d = self.data
        return [d.x, d.out] if self.forward else [d.dy, d.x, d.out]

    def clear(self) -> None:
        self.data.out.fill(np.nan)
        self.data.dbias.fill(np.nan)

    def check(self, name: str, result: Sequence[Any]) -> tuple[float, bool]:
        """An element is exact, or 0 where it was dropped; every library draws a mask of its own.

        The share of dropped elements may deviate from p by 6 standard deviations. dbias must be the sum of this dx,
        measured in the size of a random sum.
        """
        exact, p = self.data.exact[self.direction] / (1 - self.data.p), self.data.p
        got = np.asarray(result[0])
        error: np.ndarray = got - exact
        fair = True
        if p:
            dropped = (got == 0) & (exact != 0)
            error[dropped] = 0.0
            live = np.count_nonzero(exact)
            fair = bool(abs(np.count_nonzero(dropped) - p * live) <= 6 * math.sqrt(p * (1 - p) * live))
        errors = [np.abs(error).max() / (np.abs(exact).max() or 1.0)]
        if not self.forward:
            total = got.sum(0, dtype=np.float64)
            size = np.sqrt(np.square(got, dtype=np.float64).sum(0)).max()
            errors.append(np.abs(np.asarray(result[1]) - total).max() / (size or 1.0))
        largest = float(np.max(errors))     # NaN if one is
        return largest, fair and (largest < TOLERANCES.get(library(name), TOLERANCE))


def kernels(names: Sequence[str] = tuple(FUNCTIONS), directions: Sequence[str] = DIRECTIONS) -> list[str]:
    """Keys in CONTENDERS."""
    return [f"{direction}, {name}" for direction in directions for name in names]


def workload(direction: str, activation: str, shape: tuple[int, int], p: float = 0.0) -> Workload:
    return Workload(f"{direction}, {activation}", str(shape), math.prod(shape),
                    ("rw",) if direction == "activation_forward" else ("rrw",),
                    functools.partial(Activation, direction, activation, shape, p), f", dropout {p:g}" if p else "")


def ours(allocates: bool, module: Any = fastopt, one_thread: bool = False, in_place: bool = False) -> Maker:
    """Into arrays of the caller's, into x, or into new ones. Forward draws a key from a Generator in each call."""
    def make(problem: Activation) -> Contender:
        d = problem.data
        x = d.x.copy() if in_place else d.x
        forward = functools.partial(module.activation_forward, x, d.activation, d.bias, dropout=d.p,
                                    rng=np.random.default_rng(0))
        if problem.forward:
            out = {} if allocates else {"out": x if in_place else d.out}
            return Contender(functools.partial(forward, **out), lambda returned: returned[:1], allocates, one_thread)
        gradients = {} if allocates else {"out": (d.out, d.dbias)}
        return Contender(functools.partial(module.activation_backward, d.dy, forward()[1], **gradients),
                         allocates=allocates, one_thread=one_thread)
    return make


contender("fastopt", *kernels())(ours(False))
contender("fastopt in place", *kernels(OF_Y, DIRECTIONS[:1]))(ours(False, in_place=True))
contender("fastopt new array", *kernels())(ours(True))
contender("reference", *kernels())(ours(True, fastopt.reference, True))


@contender("numpy", *kernels())
def by_numpy(problem: Activation) -> Contender:
    d, rng = problem.data, np.random.default_rng(0)
    value, slope = FUNCTIONS[d.activation]
    if problem.forward:
        def forward() -> list[np.ndarray]:
            y = value(d.x + d.bias)
            return [y * d.mask(rng) if d.p else y]

        return Contender(forward, allocates=True, one_thread=True)
    z = d.x + d.bias
    y, mask = value(z), d.mask(rng)

    def backward() -> list[np.ndarray]:
        dx = slope(d.dy * mask if d.p else d.dy, z, y)
        return [dx, dx.sum(0)]

    return Contender(backward, allocates=True, one_thread=True)


@contender("numpy out=", *kernels(["relu"]))
def by_numpy_out(problem: Activation) -> Contender:
    d, rng = problem.data, np.random.default_rng(0)

    def forward() -> list[np.ndarray]:
        np.add(d.x, d.bias, out=d.out)
        np.maximum(d.out, 0, out=d.out)
        return [np.multiply(d.out, d.mask(rng), out=d.out) if d.p else d.out]

    if problem.forward:
        return Contender(forward, one_thread=True)
    positive, mask = d.x + d.bias > 0, d.mask(rng)

    def backward() -> list[np.ndarray]:
        np.multiply(d.dy, positive, out=d.out)
        if d.p:
            np.multiply(d.out, mask, out=d.out)
        return [d.out, d.out.sum(0, out=d.dbias)]

    return Contender(backward, one_thread=True)


# torch's separate operations, each but the first in place.

def torch_value(t: Any, activation: str, z: Any) -> Any:
    """The function of z, written to z."""
    if activation.startswith("gelu"):
        return t.ops.aten.gelu_(z, approximate="tanh" if activation == "gelu_tanh" else "none")
    if activation == "leaky_relu":
        return t.nn.functional.leaky_relu_(z, SLOPE)
    if activation == "silu":
        return t.nn.functional.silu(z, inplace=True)
    return z if activation == "identity" else getattr(t, activation + "_")(z)


def torch_backward(t: Any, activation: str, dy: Any, z: Any, y: Any, dx: Any) -> Any:
    """The operator that autograd would call, into dx, which may be dy."""
    if activation == "identity":
        return dx if dx is dy else dx.copy_(dy)
    if activation == "relu":
        return t.ops.aten.threshold_backward.grad_input(dy, y, 0, grad_input=dx)
    if activation == "leaky_relu":
        return t.ops.aten.leaky_relu_backward.grad_input(dy, y, SLOPE, True, grad_input=dx)
    if activation.startswith("gelu"):
        approximate = "tanh" if activation == "gelu_tanh" else "none"
        return t.ops.aten.gelu_backward.grad_input(dy, z, approximate=approximate, grad_input=dx)
    saved = z if activation == "silu" else y
    return getattr(t.ops.aten, f"{activation}_backward").grad_input(dy, saved, grad_input=dx)


def by_torch(allocates: bool) -> Maker:
    def make(problem: Activation) -> Contender:
        t, d = torch(), problem.data
        x, dy, bias, out, dbias = map(t.from_numpy, (d.x, d.dy, d.bias, d.out, d.dbias))

        def forward() -> list[Any]:
            z = t.add(x, bias, out=None if allocates else out)
            y = torch_value(t, d.activation, z)
            return [t.nn.functional.dropout(y, d.p, True, inplace=True) if d.p else y]

        if problem.forward:
            return Contender(forward, allocates=allocates)
        z = x + bias
        y = torch_value(t, d.activation, z.clone())
        scale = t.nn.functional.dropout(t.ones_like(x), d.p, True)      # autograd saves it so on a CPU

        def backward() -> list[Any]:
            dx = t.empty_like(dy) if allocates else out
            torch_backward(t, d.activation, t.mul(dy, scale, out=dx) if d.p else dy, z, y, dx)
            return [dx, t.sum(dx, 0, out=None if allocates else dbias)]

        return Contender(backward, allocates=allocates)
    return make


contender("torch", *kernels())(by_torch(True))
contender("torch out=", *kernels())(by_torch(False))
