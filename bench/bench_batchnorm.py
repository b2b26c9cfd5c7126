"""BatchNorm's forward, backward and inference beside the reference, NumPy as a user writes it, and PyTorch.

Every benchmark first checks its result against float64, then times; extra_info has the median's ns per element.

    pytest bench/bench_batchnorm.py --benchmark-group-by=group --benchmark-columns=median
"""

import copy
import functools

import numpy as np
import pytest

import fastopt

f32 = np.float32
EPS = 1e-5

# Fully connected layers; then layers of ResNet-50 and DenseNet-121, (N, C, H, W).
SHAPES = [(32, 16), (64, 256), (256, 1024), (4096, 1024), (32, 64, 56, 56), (8, 512, 7, 7), (64, 256, 14, 14),
          (16, 64, 112, 112), (16, 128, 28, 28), (16, 2048, 7, 7), (16, 32, 28, 28), (16, 1024, 7, 7)]


class Data:
    def __init__(self, shape):
        rng = np.random.default_rng(1)
        channels = shape[1]
        self.shape = shape
        self.axes = tuple(axis for axis in range(len(shape)) if axis != 1)
        self.x, self.dy = rng.standard_normal((2, *shape), f32)
        self.gamma, self.beta, self.mean = rng.standard_normal((3, channels), f32)
        self.var = np.abs(rng.standard_normal(channels, f32)) + f32(0.5)
        self.out = np.empty_like(self.x)
        self.results = np.empty_like(self.x), np.empty_like(self.gamma), np.empty_like(self.gamma)

    def channels_last(self):
        """The same numbers as (N, C, H, W) views of (N, H, W, C) memory."""
        if len(self.shape) != 4:
            pytest.skip("channels last is for (N, C, H, W)")
        twin = copy.copy(self)
        for name in ("x", "dy", "out"):
            setattr(twin, name, np.ascontiguousarray(getattr(self, name).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
        twin.results = (np.empty_like(twin.out), *self.results[1:])
        return twin

    def wide(self, v):
        return v.reshape(-1, *[1] * (len(self.shape) - 2))

    @functools.cached_property
    def exact(self):
        """y, dx, dgamma, dbeta and the inference's y in float64."""
        x, dy = self.x.astype(np.float64), self.dy.astype(np.float64)
        d = x - x.mean(self.axes, keepdims=True)
        invstd = 1 / np.sqrt((d * d).mean(self.axes, keepdims=True) + EPS)
        xhat = d * invstd
        dgamma, dbeta = (dy * xhat).sum(self.axes), dy.sum(self.axes)
        n = x.size // len(dgamma)
        dx = self.wide(self.gamma) * invstd * (dy - self.wide(dbeta) / n - xhat * self.wide(dgamma) / n)
        given = (x - self.wide(self.mean)) / np.sqrt(self.wide(self.var) + EPS)
        return {"forward": [xhat * self.wide(self.gamma) + self.wide(self.beta)], "backward": [dx, dgamma, dbeta],
                "inference": [given * self.wide(self.gamma) + self.wide(self.beta)]}


data = functools.cache(Data)


class Fastopt:
    """With out=."""

    module = fastopt

    def __init__(self, d):
        self.d, self.running = d, (d.mean.copy(), d.var.copy())
        self.cache = self.module.batch_norm_forward(d.x, d.gamma, d.beta)[1]

    def forward(self):
        d = self.d
        return self.module.batch_norm_forward(d.x, d.gamma, d.beta, *self.running, out=d.out)[:1]

    def backward(self):
        return self.module.batch_norm_backward(self.d.dy, self.cache, out=self.d.results)

    def inference(self):
        d = self.d
        return [self.module.batch_norm_inference(d.x, d.gamma, d.beta, d.mean, d.var, out=d.out)]


class FastoptChannelsLast(Fastopt):
    def __init__(self, d):
        super().__init__(d.channels_last())


class FastoptNew(Fastopt):
    """Results in new arrays."""

    def forward(self):
        d = self.d
        return self.module.batch_norm_forward(d.x, d.gamma, d.beta, *self.running)[:1]

    def backward(self):
        return self.module.batch_norm_backward(self.d.dy, self.cache)

    def inference(self):
        d = self.d
        return [self.module.batch_norm_inference(d.x, d.gamma, d.beta, d.mean, d.var)]


class Reference(Fastopt):
    module = fastopt.reference


class NumPy:
    """As it is usually written, in float32."""

    def __init__(self, d):
        self.d, self.gamma, self.beta = d, d.wide(d.gamma), d.wide(d.beta)
        self.forward()

    def forward(self):
        d = self.d
        centred = d.x - d.x.mean(d.axes, keepdims=True)
        var = (centred**2).mean(d.axes, keepdims=True)
        self.invstd = 1 / np.sqrt(var + f32(EPS))
        self.xhat = centred * self.invstd
        return [self.gamma * self.xhat + self.beta]

    def backward(self):
        d = self.d
        dbeta, dgamma = d.dy.sum(d.axes), (d.dy * self.xhat).sum(d.axes)
        n = f32(d.x.size // len(dbeta))
        dx = self.gamma * self.invstd * (d.dy - d.wide(dbeta) / n - self.xhat * (d.wide(dgamma) / n))
        return [dx, dgamma, dbeta]

    def inference(self):
        d = self.d
        return [self.gamma * (d.x - d.wide(d.mean)) / np.sqrt(d.wide(d.var) + f32(EPS)) + self.beta]


class Torch:
    """The operators without autograd's bookkeeping."""

    last = False

    def __init__(self, d):
        self.torch = torch = pytest.importorskip("torch")
        torch.set_num_threads(fastopt.get_num_threads())
        self.ops = torch.ops.aten
        if self.last and len(d.shape) != 4:
            pytest.skip("channels last is for (N, C, H, W)")
        order = {"memory_format": torch.channels_last} if self.last else {}
        self.x, self.dy = (torch.from_numpy(a).contiguous(**order) for a in (d.x, d.dy))
        self.gamma, self.beta, self.mean, self.var = map(torch.from_numpy, (d.gamma, d.beta, d.mean, d.var))
        self.running = self.mean.clone(), self.var.clone()
        _, *self.saved = self.ops.native_batch_norm(self.x, self.gamma, self.beta, *self.running, True, 0.1, EPS)

    def forward(self):
        return self.ops.native_batch_norm(self.x, self.gamma, self.beta, *self.running, True, 0.1, EPS)[:1]

    def backward(self):
        return self.ops.native_batch_norm_backward(self.dy, self.x, self.gamma, *self.running, *self.saved, True, EPS,
                                                   [True] * 3)

    def inference(self):
        return self.ops.native_batch_norm(self.x, self.gamma, self.beta, self.mean, self.var, False, 0.1, EPS)[:1]


class TorchChannelsLast(Torch):
    last = True


CONTENDERS = {
    "fastopt": Fastopt, "fastopt, channels last": FastoptChannelsLast, "fastopt, new arrays": FastoptNew,
    "reference": Reference, "numpy": NumPy, "torch": Torch, "torch, channels last": TorchChannelsLast,
}


def check(results, exact, tolerance):
    for got, right in zip(results, exact, strict=True):
        np.testing.assert_allclose(np.asarray(got), right, rtol=tolerance, atol=tolerance * np.abs(right).max())


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("what", ["forward", "backward", "inference"])
def test_batch_norm(benchmark, what, shape, contender):
    d = data(shape)
    call = getattr(CONTENDERS[contender](d), what)
    check(call(), d.exact[what], 1e-6 if contender.startswith(("fastopt", "reference")) else 1e-3)
    benchmark.group = f"{what} {shape}"
    benchmark(call)
    if benchmark.stats is not None:     # --benchmark-disable: for the check alone
        benchmark.extra_info["ns_per_element"] = benchmark.stats.stats.median * 1e9 / d.x.size
