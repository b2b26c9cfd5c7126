"""BatchNorm's forward, backward and inference beside the reference, NumPy, the peers, and a loop that only moves the
same arrays. Each result is checked against float64 before it is timed.

    pytest bench/bench_batchnorm.py
"""

import functools

import numpy as np
import peers
import pytest
from record import record

import fastopt
from fastopt._probe import bytes_per_element, same_streams

f32 = np.float32

# Fully connected layers, and convolutional ones as (N, C, H, W); the latter also as (N, H, W, C).
SHAPES = [(64, 256), (256, 1024), (4096, 1024), (32, 64, 56, 56), (8, 512, 7, 7), (64, 256, 14, 14)]
# A small layer; layers of ResNet-50 and DenseNet-121.
LAYERS = [(32, 16), (16, 64, 112, 112), (16, 128, 28, 28), (16, 2048, 7, 7), (16, 32, 28, 28), (16, 1024, 7, 7)]

# Passes over (x, out), or (x, dy, dx). A channel's second pass can find it in the cache.
PASSES = {"forward": ["r- rw"], "backward": ["rr- rrw"], "inference": ["rw"]}


class Data:
    """One shape's arrays; `last`: channels come last."""

    eps = 1e-5

    def __init__(self, shape, last):
        rng = np.random.default_rng(1)
        self.shape, self.last, self.axis = shape, last, len(shape) - 1 if last else 1
        self.channels = shape[self.axis]
        self.axes = tuple(axis for axis in range(len(shape)) if axis != self.axis)
        self.x, self.dy = rng.standard_normal((2, *shape), f32)
        self.gamma, self.beta, self.mean = rng.standard_normal((3, self.channels), f32)
        self.var = np.abs(rng.standard_normal(self.channels, f32)) + f32(0.5)
        self.out = np.empty_like(self.x)
        self.results = np.empty_like(self.x), np.empty_like(self.gamma), np.empty_like(self.gamma)

    def wide(self, v):
        return v.reshape([-1 if axis == self.axis else 1 for axis in range(len(self.shape))])

    @functools.cached_property
    def exact(self):
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
def data(shape, last):
    return Data(shape, last)


class Fastopt:
    """With out=."""

    module = fastopt

    def __init__(self, d):
        self.d, self.running, self.given = d, (d.mean.copy(), d.var.copy()), {"channel_axis": d.axis}
        self.cache = self.module.batch_norm_forward(d.x, d.gamma, d.beta, **self.given)[1]

    def forward(self):
        d = self.d
        return self.module.batch_norm_forward(d.x, d.gamma, d.beta, *self.running, out=d.out, **self.given)[:1]

    def backward(self):
        return self.module.batch_norm_backward(self.d.dy, self.cache, out=self.d.results)

    def inference(self):
        d = self.d
        return [self.module.batch_norm_inference(d.x, d.gamma, d.beta, d.mean, d.var, out=d.out, **self.given)]


class FastoptNew(Fastopt):
    """Results in new arrays."""

    def forward(self):
        d = self.d
        return self.module.batch_norm_forward(d.x, d.gamma, d.beta, *self.running, **self.given)[:1]

    def backward(self):
        return self.module.batch_norm_backward(self.d.dy, self.cache)

    def inference(self):
        d = self.d
        return [self.module.batch_norm_inference(d.x, d.gamma, d.beta, d.mean, d.var, **self.given)]


class Reference(FastoptNew):
    module = fastopt.reference


class NumPy:
    """As it is usually written, in float32."""

    def __init__(self, d):
        self.d, self.gamma, self.beta, self.mean = d, d.wide(d.gamma), d.wide(d.beta), d.wide(d.mean)
        self.var, self.n = d.wide(d.var), f32(d.x.size // d.channels)
        self.forward()

    def forward(self):
        d = self.d
        centred = d.x - d.x.mean(d.axes, keepdims=True)
        var = (centred**2).mean(d.axes, keepdims=True)
        self.invstd = 1 / np.sqrt(var + f32(d.eps))
        self.xhat = centred * self.invstd
        return [self.gamma * self.xhat + self.beta]

    def backward(self):
        d = self.d
        dbeta, dgamma = d.dy.sum(d.axes), (d.dy * self.xhat).sum(d.axes)
        dx = self.gamma * self.invstd * (d.dy - d.wide(dbeta) / self.n - self.xhat * (d.wide(dgamma) / self.n))
        return [dx, dgamma, dbeta]

    def inference(self):
        return [self.gamma * (self.d.x - self.mean) / np.sqrt(self.var + f32(self.d.eps)) + self.beta]


class NumPyOut(NumPy):
    """Without temporary arrays of x's size."""

    def __init__(self, d):
        self.xhat = np.empty_like(d.x)
        super().__init__(d)

    def forward(self):
        d = self.d
        np.subtract(d.x, d.x.mean(d.axes, keepdims=True), out=self.xhat)
        np.multiply(self.xhat, self.xhat, out=d.out)
        self.invstd = 1 / np.sqrt(d.out.mean(d.axes, keepdims=True) + f32(d.eps))
        self.xhat *= self.invstd
        np.multiply(self.xhat, self.gamma, out=d.out)
        d.out += self.beta
        return [d.out]

    def backward(self):
        d, (dx, dgamma, dbeta) = self.d, self.d.results
        np.sum(d.dy, d.axes, out=dbeta)
        np.multiply(d.dy, self.xhat, out=dx)
        np.sum(dx, d.axes, out=dgamma)
        np.multiply(self.xhat, d.wide(dgamma) / -self.n, out=dx)
        dx += d.dy
        dx -= d.wide(dbeta) / self.n
        dx *= self.gamma * self.invstd
        return d.results

    def inference(self):
        d, scale = self.d, self.gamma / np.sqrt(self.var + f32(self.d.eps))
        np.multiply(d.x, scale, out=d.out)
        d.out += self.beta - self.mean * scale
        return [d.out]


# Name of the contender, class, whether results are allocated within the timing.
CONTENDERS = {
    "fastopt": ("fastopt", Fastopt, False),
    "same streams": ("same streams", None, False),
    "torch": ("torch", peers.TorchBatchNorm, True),
    "torch out=": ("torch", peers.TorchBatchNormOut, False),
    "onednn": ("onednn", peers.OneDNNBatchNorm, True),
    "tensorflow": ("tensorflow", peers.TensorFlowBatchNorm, True),
    "numpy": ("numpy", NumPy, True),
    "fastopt new arrays": ("fastopt", FastoptNew, True),
    "numpy out=": ("numpy out=", NumPyOut, False),
    "reference": ("reference", Reference, True),
}
FOR_LAYERS = ("fastopt", "same streams", "torch", "onednn", "numpy")


def rows():
    """(what, shape, last, contender)"""
    for shape in SHAPES + LAYERS:
        for last in (False, True) if len(shape) == 4 and shape in SHAPES else (False,):
            order = (shape[0], *shape[2:], shape[1]) if last else shape
            for what in PASSES:
                for contender in CONTENDERS if shape in SHAPES else FOR_LAYERS:
                    if contender == "reference" and np.prod(shape) > 5_000_000:
                        continue
                    yield pytest.param(what, order, last, contender,
                                       id=f"{what}-{order}-{'channels last-' if last else ''}{contender}")


def check(results, exact, tolerance):
    """The largest error, as a part of the largest value."""
    errors = [np.abs(np.asarray(got).reshape(right.shape) - right).max() / np.abs(right).max()
              for got, right in zip(results, exact, strict=True)]
    assert max(errors) < tolerance, errors
    return max(errors)


@pytest.mark.parametrize(("what", "shape", "last", "contender"), list(rows()))
def test_batch_norm(benchmark, what, shape, last, contender):
    if benchmark.disabled and np.prod(shape) > 5_000_000 and contender != "fastopt":
        pytest.skip("a large layer: only timed")
    d, (name, kind, allocates) = data(shape, last), CONTENDERS[contender]
    if kind is None:
        run = same_streams([d.x, d.dy, d.out] if what == "backward" else [d.x, d.out], PASSES[what])
        error = 0.0
    else:
        run = getattr(kind(d), what)
        for array in (d.out, *d.results):       # not what an earlier contender left there
            array.fill(np.nan)
        results = [part.to_dense() if name == "onednn" else part for part in run()]
        error = check(results, d.exact[what], 1e-6 if name in ("fastopt", "reference") else 1e-3)
    record(benchmark, run, kernel=f"batch_norm_{what}", shape=f"{shape}{', channels last' if last else ''}",
           elements=d.x.size, contender=name, moved=bytes_per_element(PASSES[what]), allocates=allocates, error=error)
