"""BatchNorm: forward, backward and inference, channels first or last."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fastopt
from fastopt.bench.contenders import CONTENDERS, Contender, Workload, library, parts, torch
from fastopt.demo.plain.functions import batch_norm_backward, batch_norm_forward, batch_norm_inference, per_channel

f32 = np.float32

PASSES = {"forward": ("r- rw",), "backward": ("rr- rrw",), "inference": ("rw",)}
"""Over (x, out), or (x, dy, dx). A channel's second pass can find it in the cache."""

TOLERANCES = {"fastopt": 1e-6, "reference": 1e-6, "numpy": 1e-4, "torch": 1e-4}
"""The largest error of a result, as a part of its largest value; of dx, as a part of the largest of its terms, which
cancel where a channel has few values."""
TOLERANCE = 1e-3
"""Of all other libraries."""


class Data:
    """One shape's arrays; with `last`, its channels are the last axis. With `turned`, those of dy are the last axis in
    memory, while x is C-contiguous."""

    eps = 1e-5

    def __init__(self, shape: tuple[int, ...], last: bool, turned: bool) -> None:
        rng = np.random.default_rng(1)
        self.shape, self.last, self.axis = shape, last, len(shape) - 1 if last else 1
        self.channels = shape[self.axis]
        self.axes = tuple(axis for axis in range(len(shape)) if axis != self.axis)
        self.x, self.dy = rng.standard_normal((2, *shape), f32)
        if turned:
            self.dy = np.moveaxis(np.ascontiguousarray(np.moveaxis(self.dy, 1, -1)), -1, 1)
        self.gamma, self.beta, self.mean = rng.standard_normal((3, self.channels), f32)
        self.var = np.abs(rng.standard_normal(self.channels, f32)) + f32(0.5)
        self.out = np.empty_like(self.x)
        self.results = np.empty_like(self.x), np.empty_like(self.gamma), np.empty_like(self.gamma)

    def wide(self, values: np.ndarray) -> np.ndarray:
        """One value for each channel, in a shape that is broadcast with x."""
        return per_channel(values, self.x, self.axis)

    @functools.cached_property
    def largest_term(self) -> float:
        """Of dx: |γ · invstd · dy|, at most."""
        invstd = 1 / np.sqrt(self.x.astype(np.float64).var(self.axes, keepdims=True) + self.eps)
        return float(np.abs(self.wide(self.gamma) * invstd * self.dy).max())

    @functools.cached_property
    def exact(self) -> dict[str, list[np.ndarray]]:
        """What each function returns, in float64."""
        x, dy = self.x.astype(np.float64), self.dy.astype(np.float64)
        d = x - x.mean(self.axes, keepdims=True)
        invstd = 1 / np.sqrt((d * d).mean(self.axes, keepdims=True) + self.eps)
        xhat = d * invstd
        dgamma, dbeta = (dy * xhat).sum(self.axes), dy.sum(self.axes)
        n = x.size // len(dgamma)
        dx = self.wide(self.gamma) * invstd * (dy - self.wide(dbeta) / n - xhat * self.wide(dgamma) / n)
        given = (x - self.wide(self.mean)) / np.sqrt(self.wide(self.var) + self.eps)
        return {"forward": [xhat * self.wide(self.gamma) + self.wide(self.beta)], "backward": [dx, dgamma, dbeta],
                "inference": [given * self.wide(self.gamma) + self.wide(self.beta)]}


@functools.lru_cache(1)
def data(shape: tuple[int, ...], last: bool, turned: bool) -> Data:
    return Data(shape, last, turned)


class BatchNorm:
    """One of the three functions on one shape."""

    def __init__(self, which: str, shape: tuple[int, ...], last: bool, turned: bool) -> None:
        self.which, self.data = which, data(shape, last, turned)

    @property
    def streams(self) -> list[np.ndarray]:
        d = self.data
        dy = d.dy if d.dy.flags.c_contiguous else np.moveaxis(d.dy, 1, -1)
        return [d.x, dy, d.out] if self.which == "backward" else [d.x, d.out]

    def clear(self) -> None:
        for array in (self.data.out, *self.data.results):
            array.fill(np.nan)

    def check(self, name: str, result: Sequence[Any]) -> tuple[float, bool]:
        exact = self.data.exact[self.which]
        sizes = [np.abs(right).max() for right in exact]
        if self.which == "backward":
            sizes[0] = self.data.largest_term
        error = float(np.max([np.abs(np.asarray(got).reshape(right.shape) - right).max() / size
                              for got, right, size in zip(result, exact, sizes, strict=True)]))     # NaN if one is
        return error, error < TOLERANCES.get(library(name), TOLERANCE)


def workload(which: str, shape: tuple[int, ...], last: bool = False, turned: bool = False) -> Workload:
    layout = ", channels last" if last else ", dy channels last" if turned else ""
    return Workload(f"batch_norm_{which}", f"{shape}{layout}", math.prod(shape), PASSES[which],
                    functools.partial(BatchNorm, which, shape, last, turned))


def batch_norm(name: str, *directions: str, allocates: bool = False, one_thread: bool = False,
               result: Callable[[Any], Sequence[Any]] = parts) -> Callable[[type], type]:
    """Register a class whose objects are made of `Data`, and whose methods are called as the functions are and return
    (y,), (dx, dgamma, dbeta) and (y,); with `directions` only these methods."""
    def register(kind: type) -> type:
        def maker(which: str) -> Callable[[BatchNorm], Contender]:
            return lambda problem: Contender(getattr(kind(problem.data), which), result, allocates, one_thread)

        for which in directions or PASSES:
            CONTENDERS.setdefault(f"batch_norm_{which}", {})[name] = maker(which)
        return kind
    return register


@batch_norm("fastopt")
class Fastopt:
    """Into arrays of the caller's."""

    module = fastopt

    def __init__(self, d: Data) -> None:
        self.d, self.running = d, (d.mean.copy(), d.var.copy())
        self.given: dict[str, Any] = {"channel_axis": d.axis}
        self.cache = self.module.batch_norm_forward(d.x, d.gamma, d.beta, **self.given)[1]

    def forward(self) -> Sequence[Any]:
        d = self.d
        return self.module.batch_norm_forward(d.x, d.gamma, d.beta, *self.running, out=d.out, **self.given)[:1]

    def backward(self) -> Sequence[Any]:
        return self.module.batch_norm_backward(self.d.dy, self.cache, out=self.d.results)

    def inference(self) -> Sequence[Any]:
        d = self.d
        return [self.module.batch_norm_inference(d.x, d.gamma, d.beta, d.mean, d.var, out=d.out, **self.given)]


@batch_norm("fastopt new array", allocates=True)
class FastoptNewArray(Fastopt):
    def forward(self) -> Sequence[Any]:
        d = self.d
        return self.module.batch_norm_forward(d.x, d.gamma, d.beta, *self.running, **self.given)[:1]

    def backward(self) -> Sequence[Any]:
        return self.module.batch_norm_backward(self.d.dy, self.cache)

    def inference(self) -> Sequence[Any]:
        d = self.d
        return [self.module.batch_norm_inference(d.x, d.gamma, d.beta, d.mean, d.var, **self.given)]


@batch_norm("reference", allocates=True, one_thread=True)
class Reference(FastoptNewArray):
    module = fastopt.reference


@batch_norm("numpy", allocates=True, one_thread=True)
class NumPy:
    def __init__(self, d: Data) -> None:
        self.d = d
        self.cache = batch_norm_forward(d.x, d.gamma, d.beta, axis=d.axis)[1]

    def forward(self) -> Sequence[Any]:
        d = self.d
        return batch_norm_forward(d.x, d.gamma, d.beta, axis=d.axis)[:1]

    def backward(self) -> Sequence[Any]:
        return batch_norm_backward(self.d.dy, self.cache, self.d.axis)

    def inference(self) -> Sequence[Any]:
        d = self.d
        return [batch_norm_inference(d.x, d.gamma, d.beta, d.mean, d.var, d.axis)]


# torch: the operators without autograd's bookkeeping.

@batch_norm("torch", allocates=True)
class Torch:
    """Channels-last arrays are torch.channels_last tensors."""

    def __init__(self, d: Data) -> None:
        self.d, self.t = d, torch()
        self.x, self.dy, self.out = (self.tensor(array) for array in (d.x, d.dy, d.out))
        self.gamma, self.beta, self.mean, self.var = map(self.t.from_numpy, (d.gamma, d.beta, d.mean, d.var))
        self.running = self.mean.clone(), self.var.clone()
        self.saved = self.train()[1:]
        self.nothing = self.t.empty(0), self.t.empty(0)

    def tensor(self, array: np.ndarray) -> Any:
        tensor = self.t.from_numpy(array)
        return tensor.movedim(-1, 1) if self.d.last else tensor

    def array(self, tensor: Any) -> Any:
        return tensor.movedim(1, -1) if self.d.last and tensor.ndim > 1 else tensor

    def train(self) -> Any:
        return self.t.ops.aten.native_batch_norm(
            self.x, self.gamma, self.beta, *self.running, True, 0.1, self.d.eps)

    def forward(self) -> Sequence[Any]:
        return [self.array(self.train()[0])]

    def backward(self) -> Sequence[Any]:
        return [self.array(part) for part in self.t.ops.aten.native_batch_norm_backward(
            self.dy, self.x, self.gamma, *self.running, *self.saved, True, self.d.eps, [True] * 3)]

    def inference(self) -> Sequence[Any]:
        return [self.array(self.t.ops.aten.native_batch_norm(
            self.x, self.gamma, self.beta, self.mean, self.var, False, 0.1, self.d.eps)[0])]


@batch_norm("torch out=", "forward", "inference")
class TorchOut(Torch):
    """Into arrays of the caller's; torch's backward has no such form."""

    def forward(self) -> Sequence[Any]:
        self.t.ops.aten.native_batch_norm.out(
            self.x, self.gamma, self.beta, *self.running, True, 0.1, self.d.eps, out=self.out,
            save_mean=self.saved[0], save_invstd=self.saved[1])
        return [self.array(self.out)]

    def inference(self) -> Sequence[Any]:
        self.t.ops.aten.native_batch_norm.out(
            self.x, self.gamma, self.beta, self.mean, self.var, False, 0.1, self.d.eps, out=self.out,
            save_mean=self.nothing[0], save_invstd=self.nothing[1])
        return [self.array(self.out)]
