"""Layer and RMS normalisation over the last axis: forward and backward."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fastopt
from fastopt.bench.contenders import CONTENDERS, Contender, Workload, library, parts, torch
from fastopt.demo.plain.functions import layer_norm_backward, layer_norm_forward

f32 = np.float32

PASSES = {"layer_norm_forward": ("r- rw",), "layer_norm_backward": ("rr- rrw",), "rms_norm_forward": ("r- rw",),
          "rms_norm_backward": ("rr- rrw",)}
"""Over (x, out), or (x, dy, dx). A row's second pass finds it in the cache."""

TOLERANCES = {"fastopt": 1e-6, "reference": 1e-6}
"""The largest error of a result, as a part of its largest value."""
TOLERANCE = 1e-4
"""Of all other libraries."""


class Data:
    """One shape's arrays."""

    eps = 1e-5

    def __init__(self, shape: tuple[int, int]) -> None:
        rng = np.random.default_rng(1)
        self.x, self.dy = rng.standard_normal((2, *shape), f32)
        self.gamma, self.beta = rng.standard_normal((2, shape[1]), f32)
        self.out = np.empty_like(self.x)
        self.results = np.empty_like(self.x), np.empty_like(self.gamma), np.empty_like(self.gamma)

    @functools.cached_property
    def exact(self) -> dict[str, list[np.ndarray]]:
        """What each function returns, in float64."""
        found = {}
        for name, rms in (("layer_norm", False), ("rms_norm", True)):
            x, dy = self.x.astype(np.float64), self.dy.astype(np.float64)
            d = x if rms else x - x.mean(1, keepdims=True)
            invstd = 1 / np.sqrt((d * d).mean(1, keepdims=True) + self.eps)
            xhat, g = d * invstd, dy * self.gamma
            y = xhat * self.gamma + (0 if rms else self.beta)
            centred = g if rms else g - g.mean(1, keepdims=True)
            dx = invstd * (centred - xhat * (g * xhat).mean(1, keepdims=True))
            found[f"{name}_forward"] = [y]
            found[f"{name}_backward"] = [dx, (dy * xhat).sum(0), *([] if rms else [dy.sum(0)])]
        return found


data = functools.lru_cache(1)(Data)


class LayerNorm:
    """One of the four functions on one shape."""

    def __init__(self, which: str, shape: tuple[int, int]) -> None:
        self.which, self.data = which, data(shape)

    @property
    def streams(self) -> list[np.ndarray]:
        d = self.data
        return [d.x, d.dy, d.out] if self.which.endswith("backward") else [d.x, d.out]

    def clear(self) -> None:
        for array in (self.data.out, *self.data.results):
            array.fill(np.nan)

    def check(self, name: str, result: Sequence[Any]) -> tuple[float, bool]:
        exact = self.data.exact[self.which]
        error = float(np.max([np.abs(np.asarray(got) - right).max() / np.abs(right).max()
                              for got, right in zip(result, exact, strict=True)]))      # NaN if one is
        return error, error < TOLERANCES.get(library(name), TOLERANCE)


def workload(which: str, shape: tuple[int, int]) -> Workload:
    return Workload(which, str(shape), math.prod(shape), PASSES[which], functools.partial(LayerNorm, which, shape))


def layer_norm(name: str, allocates: bool = False, one_thread: bool = False,
               result: Callable[[Any], Sequence[Any]] = parts) -> Callable[[type], type]:
    """Register a class whose objects are made of `Data`, and whose methods are called as the functions are and return
    (y,) or the gradients; those functions it has no method for are left out."""
    def register(kind: type) -> type:
        def maker(which: str) -> Callable[[LayerNorm], Contender]:
            return lambda problem: Contender(getattr(kind(problem.data), which), result, allocates, one_thread)

        for which in PASSES:
            if hasattr(kind, which):
                CONTENDERS.setdefault(which, {})[name] = maker(which)
        return kind
    return register


@layer_norm("fastopt")
class Fastopt:
    """Into arrays of the caller's."""

    module = fastopt

    def __init__(self, d: Data) -> None:
        self.d = d
        self.cache = self.module.layer_norm_forward(d.x, d.gamma, d.beta)[1]
        self.rms_cache = self.module.rms_norm_forward(d.x, d.gamma)[1]

    def layer_norm_forward(self) -> Sequence[Any]:
        return self.module.layer_norm_forward(self.d.x, self.d.gamma, self.d.beta, out=self.d.out)[:1]

    def layer_norm_backward(self) -> Sequence[Any]:
        return self.module.layer_norm_backward(self.d.dy, self.cache, out=self.d.results)

    def rms_norm_forward(self) -> Sequence[Any]:
        return self.module.rms_norm_forward(self.d.x, self.d.gamma, out=self.d.out)[:1]

    def rms_norm_backward(self) -> Sequence[Any]:
        return self.module.rms_norm_backward(self.d.dy, self.rms_cache, out=self.d.results[:2])


@layer_norm("reference", allocates=True, one_thread=True)
class Reference(Fastopt):
    module = fastopt.reference


@layer_norm("numpy", allocates=True, one_thread=True)
class NumPy:
    """As it is usually written, in float32."""

    def __init__(self, d: Data) -> None:
        self.d = d
        self.layer_norm_forward()
        self.rms_norm_forward()

    def layer_norm_forward(self) -> Sequence[Any]:
        y, self.cache = layer_norm_forward(self.d.x, self.d.gamma, self.d.beta, self.d.eps)
        return [y]

    def layer_norm_backward(self) -> Sequence[Any]:
        return layer_norm_backward(self.d.dy, self.cache)

    def rms_norm_forward(self) -> Sequence[Any]:
        x = self.d.x
        self.invrms = 1 / np.sqrt((x * x).mean(1, keepdims=True) + f32(self.d.eps))
        return [x * self.invrms * self.d.gamma]

    def rms_norm_backward(self) -> Sequence[Any]:
        dy, xhat = self.d.dy, self.d.x * self.invrms
        g = dy * self.d.gamma
        return [self.invrms * (g - xhat * (g * xhat).mean(1, keepdims=True)), (dy * xhat).sum(0)]


@layer_norm("torch", allocates=True)
class Torch:
    """The operators without autograd's bookkeeping; torch has none for the backward of RMS normalisation."""

    def __init__(self, d: Data) -> None:
        self.t, self.eps = torch(), d.eps
        self.x, self.dy, self.gamma, self.beta, self.out = map(
            self.t.from_numpy, (d.x, d.dy, d.gamma, d.beta, d.out))
        self.axes = [d.x.shape[1]]
        self.saved = self.run()[1:]

    def run(self) -> Any:
        return self.t.ops.aten.native_layer_norm(self.x, self.axes, self.gamma, self.beta, self.eps)

    def layer_norm_forward(self) -> Sequence[Any]:
        return [self.run()[0]]

    def layer_norm_backward(self) -> Sequence[Any]:
        return self.t.ops.aten.native_layer_norm_backward(
            self.dy, self.x, self.axes, *self.saved, self.gamma, self.beta, [True] * 3)

    def rms_norm_forward(self) -> Sequence[Any]:
        return [self.t.nn.functional.rms_norm(self.x, self.axes, self.gamma, self.eps)]


@layer_norm("torch out=")
class TorchOut:
    """Into arrays of the caller's; torch's other functions have no such form."""

    def __init__(self, d: Data) -> None:
        self.torch = Torch(d)

    def layer_norm_forward(self) -> Sequence[Any]:
        t = self.torch
        t.t.ops.aten.native_layer_norm.out(t.x, t.axes, t.gamma, t.beta, t.eps, out0=t.out, out1=t.saved[0],
                                           out2=t.saved[1])
        return [t.out]
