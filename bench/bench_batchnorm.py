"""BatchNorm's forward, backward and inference.

    pytest bench/bench_batchnorm.py
"""

import numpy as np
import peers  # noqa: F401 (registers them)
from rows import bench_row, contenders, rows

from fastopt.bench.batchnorm import PASSES, Data, batch_norm, workload
from fastopt.bench.contenders import ROOF

f32 = np.float32

# Fully connected layers, and convolutional ones as (N, C, H, W); the latter also as (N, H, W, C).
SHAPES = [(64, 256), (256, 1024), (4096, 1024), (32, 64, 56, 56), (8, 512, 7, 7), (64, 256, 14, 14)]
# A small layer; layers of ResNet-50 and DenseNet-121.
LAYERS = [(32, 16), (16, 64, 112, 112), (16, 128, 28, 28), (16, 2048, 7, 7), (16, 32, 28, 28), (16, 1024, 7, 7)]
FOR_LAYERS = ("fastopt", ROOF, "torch", "onednn", "numpy")
# dy in the other memory layout than x, as from a layer of another library: contenders that take it as it is.
TURNED = workload("backward", (32, 64, 56, 56), turned=True)
FOR_TURNED = ("fastopt", "fastopt new array", ROOF, "torch", "numpy", "numpy out=")


@batch_norm("numpy out=", one_thread=True)
class NumPyOut:
    """Without temporary arrays of x's size."""

    def __init__(self, d: Data):
        self.d, self.gamma, self.beta, self.mean = d, d.wide(d.gamma), d.wide(d.beta), d.wide(d.mean)
        self.var, self.n = d.wide(d.var), f32(d.x.size // d.channels)
        self.xhat = np.empty_like(d.x)
        self.forward()

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


def workloads(shape):
    """The three functions on a shape, and with channels last."""
    found = [workload(which, shape) for which in PASSES]
    if len(shape) == 4 and shape in SHAPES:
        found += [workload(which, (shape[0], *shape[2:], shape[1]), last=True) for which in PASSES]
    return found


WORKLOADS = [made for shape in SHAPES for made in workloads(shape)]
LAYER_WORKLOADS = [made for shape in LAYERS for made in workloads(shape)]


@rows(WORKLOADS)
def test_batchnorm(benchmark, workload, name):
    bench_row(benchmark, workload, name)


@rows(LAYER_WORKLOADS, lambda workload: [name for name in contenders(workload) if name in FOR_LAYERS])
def test_layers(benchmark, workload, name):
    bench_row(benchmark, workload, name)


@rows([TURNED], lambda workload: [name for name in contenders(workload) if name in FOR_TURNED])
def test_dy_in_the_other_layout(benchmark, workload, name):
    bench_row(benchmark, workload, name)
