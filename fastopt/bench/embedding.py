"""Rows of a table by index, and the gradient of the table."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import fastopt
from fastopt.bench.contenders import Contender, Workload, contender, noise, torch

PASSES = {"embedding_forward": ("rw",), "embedding_backward": ("ru",)}
"""Over (rows that are read, rows that are written), of one size: each position counts once."""
TOLERANCE = {"embedding_forward": 0.0, "embedding_backward": 1e-5}
"""Relative to the largest element: others add in float32."""
INDICES = ("uniform", "zipf")


def draw(kind: str, rng: np.random.Generator, count: int, rows: int) -> np.ndarray:
    """`count` indices below `rows`, uniform or by Zipf's law."""
    if kind == "uniform":
        return rng.integers(rows, size=count)
    share = 1.0 / np.arange(1, rows + 1)
    return rng.permutation(rows)[rng.choice(rows, count, p=share / share.sum())]


class Embedding:
    """One of the functions on indices of one kind: (positions, columns) rows of a table."""

    def __init__(self, kernel: str, kind: str, count: int, columns: int, rows: int) -> None:
        self.kernel, self.rows = kernel, rows
        self.indices = draw(kind, np.random.default_rng(0), count, rows)
        self.weight, self.dy = noise(rows, columns, seed=1), noise(count, columns, seed=2)
        self.y, self.sum = np.empty_like(self.dy), np.zeros_like(self.weight)

    @property
    def streams(self) -> list[np.ndarray]:
        return [self.dy, self.y]

    def clear(self) -> None:
        self.y.fill(np.nan)
        self.sum.fill(0.0)

    @functools.cached_property
    def expected(self) -> np.ndarray:
        if self.kernel == "embedding_forward":
            return self.weight[self.indices]
        total = np.zeros(self.weight.shape)
        np.add.at(total, self.indices, self.dy)
        return total

    def check(self, name: str, result: Any) -> tuple[float, bool]:
        """The largest error relative to the largest element."""
        error = float(np.abs(np.asarray(result[0]) - self.expected).max() / np.abs(self.expected).max())
        return error, error <= TOLERANCE[self.kernel]


def workload(kernel: str, kind: str, count: int, columns: int, rows: int) -> Workload:
    return Workload(kernel, f"({count}, {columns}) of {rows}", count * columns, PASSES[kernel],
                    functools.partial(Embedding, kernel, kind, count, columns, rows), f", {kind}")


def by(call: Callable[[Embedding], Callable[[], Any]], allocates: bool, one_thread: bool = False,
       ) -> Callable[[Embedding], Contender]:
    """A contender for what `call` makes of a problem."""
    return lambda problem: Contender(call(problem), allocates=allocates, one_thread=one_thread)


def ours(allocates: bool, module: Any = fastopt, one_thread: bool = False) -> Callable[[Embedding], Contender]:
    def call(p: Embedding) -> Callable[[], Any]:
        if p.kernel == "embedding_forward":
            return functools.partial(module.embedding_forward, p.weight, p.indices, out=None if allocates else p.y)
        return functools.partial(module.embedding_backward, p.dy, p.indices, p.rows, out=None if allocates else p.sum)

    return by(call, allocates, one_thread)


# Into an array of the caller's: the gradient is added to it.

contender("fastopt", *PASSES)(ours(False))
contender("numpy out=", "embedding_forward")(by(
    lambda p: functools.partial(np.take, p.weight, p.indices, axis=0, out=p.y, mode="clip"), False, True))


@contender("numpy out=", "embedding_backward")
def numpy_add_at(problem: Embedding) -> Contender:
    return Contender(functools.partial(np.add.at, problem.sum, problem.indices, problem.dy),
                     lambda _: [problem.sum], one_thread=True)


@contender("torch out=", "embedding_backward")
def torch_index_add(problem: Embedding) -> Contender:
    total, indices, dy = map(torch().from_numpy, (problem.sum, problem.indices, problem.dy))
    return Contender(lambda: total.index_add_(0, indices, dy))


@contender("torch out=", "embedding_forward")
def torch_index_select(problem: Embedding) -> Contender:
    weight, indices, y = map(torch().from_numpy, (problem.weight, problem.indices, problem.y))
    return Contender(lambda: torch().index_select(weight, 0, indices, out=y))


# Into a new array.

contender("fastopt new array", *PASSES)(ours(True))
contender("reference", *PASSES)(ours(True, fastopt.reference, True))
contender("numpy", "embedding_forward")(by(
    lambda p: functools.partial(np.take, p.weight, p.indices, axis=0), True, True))


@contender("numpy", "embedding_backward")
def numpy_backward(problem: Embedding) -> Contender:
    def run() -> np.ndarray:
        total = np.zeros_like(problem.weight)
        np.add.at(total, problem.indices, problem.dy)
        return total

    return Contender(run, allocates=True, one_thread=True)


@contender("torch", "embedding_forward")
def torch_forward(problem: Embedding) -> Contender:
    t = torch()
    weight, indices = t.from_numpy(problem.weight), t.from_numpy(problem.indices)
    return Contender(functools.partial(t.nn.functional.embedding, indices, weight), allocates=True)


@contender("torch", "embedding_backward")
def torch_backward(problem: Embedding) -> Contender:
    t = torch()
    dy, indices = t.from_numpy(problem.dy), t.from_numpy(problem.indices)
    return Contender(functools.partial(t.ops.aten.embedding_dense_backward, dy, indices, problem.rows, -1, False),
                     allocates=True)
