"""Dropout, forward and backward."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fastopt
from fastopt.bench.contenders import Contender, Maker, Workload, contender, noise, torch
from fastopt.demo.plain.functions import dropout_mask

PASSES = ("rw",)
"""Over (x, out)."""
P = 0.3


class Dropout:
    """x, or dy for backward, and an array to write to."""

    def __init__(self, kernel: str, elements: int) -> None:
        self.kernel, self.x = kernel, noise(elements)
        self.x[self.x == 0.0] = 1.0         # so that a 0 in a result is a dropped element
        self.out = np.empty_like(self.x)

    @property
    def streams(self) -> list[np.ndarray]:
        return [self.x, self.out]

    def clear(self) -> None:
        self.out.fill(np.nan)

    def check(self, name: str, result: Sequence[Any]) -> tuple[float, bool]:
        """Every library draws a mask of its own: an element is 0 or x / (1 − p), and the share of zeros is p.

        The error is that of the elements that are kept; the share may deviate by 6 standard deviations.
        """
        y = np.asarray(result[0])
        dropped = y == 0.0
        error = np.abs(np.where(dropped, 0.0, y / (self.x / (1.0 - P)) - 1.0)).max(initial=0.0)
        deviation = abs(np.count_nonzero(dropped) - P * y.size) / (P * (1.0 - P) * y.size) ** 0.5
        return float(error), bool(error < 1e-6 and deviation < 6.0)


def workload(kernel: str, shape: str, elements: int) -> Workload:
    return Workload(kernel, shape, elements, PASSES, functools.partial(Dropout, kernel, elements))


KERNELS = ("dropout_forward", "dropout_backward")


def ours(allocates: bool, module: Any = fastopt, one_thread: bool = False) -> Maker:
    """Into an array of the caller's or a new one. Forward draws a key from a Generator in each call."""
    def make(problem: Dropout) -> Contender:
        out = {} if allocates else {"out": problem.out}
        forward = functools.partial(module.dropout_forward, problem.x, P, np.random.default_rng(0), **out)
        if problem.kernel == "dropout_forward":
            return Contender(forward, lambda returned: returned[:1], allocates, one_thread)
        call = functools.partial(module.dropout_backward, problem.x, forward()[1], **out)
        return Contender(call, allocates=allocates, one_thread=one_thread)
    return make


contender("fastopt", *KERNELS)(ours(False))
contender("fastopt new array", *KERNELS)(ours(True))
contender("reference", *KERNELS)(lambda problem: ours(True, fastopt.reference, True)(problem))


# NumPy as it is usually written.

def numpy_forward(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    mask = dropout_mask(x.shape, P, rng)
    return x * mask, mask


def by_numpy(allocates: bool) -> Callable[[Dropout], Contender]:
    def make(problem: Dropout) -> Contender:
        rng = np.random.default_rng(0)
        if problem.kernel == "dropout_forward":
            return Contender(lambda: numpy_forward(problem.x, rng), lambda returned: returned[:1], True, True)
        mask = numpy_forward(problem.x, rng)[1]
        if allocates:
            return Contender(lambda: problem.x * mask, allocates=True, one_thread=True)
        return Contender(lambda: np.multiply(problem.x, mask, out=problem.out), one_thread=True)
    return make


contender("numpy", *KERNELS)(by_numpy(True))
contender("numpy out=", "dropout_backward")(by_numpy(False))


@contender("torch", *KERNELS)
def by_torch(problem: Dropout) -> Contender:
    """Its operators: autograd would call these two."""
    t = torch()
    x = t.from_numpy(problem.x)
    if problem.kernel == "dropout_forward":
        return Contender(lambda: t.nn.functional.dropout(x, P, True), allocates=True)
    mask = t.ops.aten.native_dropout(x, P, True)[1]
    return Contender(lambda: t.ops.aten.native_dropout_backward(x, mask, 1.0 / (1.0 - P)), allocates=True)
