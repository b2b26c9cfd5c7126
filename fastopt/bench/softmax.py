"""log-softmax, softmax, and cross-entropy with its gradient."""

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

import fastopt
from fastopt.bench.contenders import Contender, Maker, Workload, contender, torch
from fastopt.demo.plain.functions import log_softmax, softmax, softmax_cross_entropy

PASSES = {"log_softmax": ("rw",), "softmax": ("rw",), "softmax_cross_entropy": ("rw",),
          "softmax_cross_entropy_loss": ("r-",)}
"""Over (x, out)."""
CHECKED = 64
"""Rows whose every element is checked."""
TOLERANCE = 2e-5


class Data:
    """Logits of one shape, labels, and two arrays to write to."""

    def __init__(self, shape: tuple[int, int]) -> None:
        elements = shape[0] * shape[1]
        rng = np.random.default_rng(0)
        self.x = np.resize(rng.standard_normal(min(elements, 2_000_000), dtype=np.float32), shape)
        self.labels = rng.integers(shape[1], size=shape[0])
        self.out, self.part = np.empty_like(self.x), np.empty_like(self.x)

    @functools.cached_property
    def losses(self) -> np.ndarray:
        """Of each row, in float64."""
        parts = range(0, len(self.x), 1024)
        return np.concatenate([-np.take_along_axis(log_softmax(self.x[i : i + 1024].astype(np.float64)),
                                                   self.labels[i : i + 1024, None], 1)[:, 0] for i in parts])


@functools.lru_cache(1)
def data(shape: tuple[int, int]) -> Data:
    return Data(shape)


class Softmax:
    """One of the functions on one shape."""

    def __init__(self, kernel: str, shape: tuple[int, int]) -> None:
        self.kernel, self.data = kernel, data(shape)
        self.x, self.labels, self.out, self.part = self.data.x, self.data.labels, self.data.out, self.data.part

    @property
    def arguments(self) -> list[np.ndarray]:
        return [self.x, self.labels] if self.kernel.startswith("softmax_cross_entropy") else [self.x]

    @property
    def streams(self) -> list[np.ndarray]:
        return [self.x, self.out]

    def clear(self) -> None:
        self.out.fill(np.nan)
        self.part.fill(np.nan)

    def check(self, name: str, result: Sequence[Any]) -> tuple[float, bool]:
        """Every loss, by its relative error, and some rows of the rest; gradients as if rows were not averaged."""
        some = self.x[:CHECKED].astype(np.float64)
        if self.kernel.startswith("softmax_cross_entropy"):
            loss, *gradient = result
            loss = np.asarray(loss, np.float64)
            # TensorFlow's operator gives one loss for each row, and gradients of their sum.
            error = np.abs(loss / (self.data.losses if loss.ndim else self.data.losses.mean()) - 1).max()
            for part in gradient:
                weight = 1 if loss.ndim else len(self.x)
                slope = softmax_cross_entropy(some, self.labels[:CHECKED])[1] * len(some)
                error = np.maximum(error, np.abs(np.asarray(part)[:CHECKED] * weight - slope).max())    # NaN if one is
        else:
            exact = {"log_softmax": log_softmax, "softmax": softmax}[self.kernel](some)
            error = np.abs(np.asarray(result[0])[:CHECKED] - exact).max()
        return float(error), bool(error < TOLERANCE)


def workload(kernel: str, shape: tuple[int, int]) -> Workload:
    return Workload(kernel, str(shape), shape[0] * shape[1], PASSES[kernel], functools.partial(Softmax, kernel, shape))


ROWS = ("log_softmax", "softmax")
WITH_OUT = (*ROWS, "softmax_cross_entropy")


def by_module(module: ModuleType, allocates: bool = False) -> Maker:
    """A build of fastopt, into an array of the caller's or a new one."""
    def make(problem: Softmax) -> Contender:
        out = {} if allocates else {"out": problem.out}
        return Contender(functools.partial(getattr(module, problem.kernel), *problem.arguments, **out),
                         allocates=allocates)
    return make


contender("fastopt", *WITH_OUT)(by_module(fastopt))
contender("fastopt new array", *WITH_OUT)(by_module(fastopt, allocates=True))


@contender("fastopt", "softmax_cross_entropy_loss")
def our_loss(problem: Softmax) -> Contender:
    return Contender(functools.partial(fastopt.softmax_cross_entropy_loss, problem.x, problem.labels))


@contender("reference", *PASSES)
def reference(problem: Softmax) -> Contender:
    return Contender(functools.partial(getattr(fastopt.reference, problem.kernel), *problem.arguments),
                     allocates=problem.kernel in WITH_OUT, one_thread=True)


def by_numpy(function: Callable[..., Any]) -> Maker:
    return lambda problem: Contender(functools.partial(function, *problem.arguments), allocates=True, one_thread=True)


contender("numpy", "log_softmax")(by_numpy(log_softmax))
contender("numpy", "softmax")(by_numpy(softmax))
contender("numpy", "softmax_cross_entropy")(by_numpy(softmax_cross_entropy))


# torch

@contender("torch", *ROWS)
def by_torch(problem: Softmax) -> Contender:
    t = torch()
    return Contender(functools.partial(getattr(t, problem.kernel), t.from_numpy(problem.x), -1), allocates=True)


@contender("torch out=", *ROWS)
def by_torch_out(problem: Softmax) -> Contender:
    t = torch()
    return Contender(functools.partial(getattr(t, problem.kernel), t.from_numpy(problem.x), -1,
                                       out=t.from_numpy(problem.out)))


@contender("torch", "softmax_cross_entropy")
def torch_cross_entropy(problem: Softmax) -> Contender:
    t = torch()
    x, classes = t.from_numpy(problem.x).requires_grad_(), t.from_numpy(problem.labels)

    def run() -> tuple[float, Any]:
        x.grad = None
        loss = t.nn.functional.cross_entropy(x, classes)
        loss.backward()
        return loss.item(), x.grad

    return Contender(run, allocates=True)
