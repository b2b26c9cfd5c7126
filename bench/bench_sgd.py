"""sgd, momentum, sgdm, asgd beside PyTorch (fused where it has it), NumPy as one writes it, the reference, and a loop
that only moves the same arrays; see bench_adam.py.

    pytest bench/bench_sgd.py
"""

import numpy as np
from models import bench_model
from models import rows as model_rows
from optimizers import SIZES, Case, bench_case, rows


def numpy_sgd(p, g):
    p -= 0.1 * g


def numpy_out_sgd(p, g, part):
    np.multiply(g, 0.1, out=part)
    p -= part


def numpy_heavy_ball(p, g, buf):
    buf[...] = 0.9 * buf + g
    p -= 0.1 * buf


def numpy_nesterov(p, g, buf):
    buf[...] = 0.9 * buf + g
    p -= 0.1 * (g + 0.9 * buf)


def numpy_momentum(p, g, v):
    v[...] = 0.9 * v - 0.01 * g
    p += v


def numpy_sgdm(p, g, m):
    m[...] = 0.9 * m + 0.1 * g
    p -= 0.01 * m


def numpy_asgd(p, g, ax):
    eta = 0.01 / (1 + 1e-4 * 0.01) ** 0.75
    p *= 1 - 1e-4 * eta
    p -= eta * g
    ax[...] = p


MOMENTUM = Case("sgd", ("buf",), numpy_heavy_ball, {"lr": 0.1, "momentum": 0.9},
                torch=("SGD", {"lr": 0.1, "momentum": 0.9}), note="(momentum)")
CASES = [
    Case("sgd", (), numpy_sgd, {"lr": 0.1}, torch=("SGD", {"lr": 0.1}), numpy_out=numpy_out_sgd, sizes=tuple(SIZES)),
    MOMENTUM,
    Case("sgd", ("buf",), numpy_nesterov, {"lr": 0.1, "momentum": 0.9, "nesterov": True},
         torch=("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}), note="(Nesterov)"),
    Case("momentum", ("v",), numpy_momentum, stepped=False),
    Case("sgdm", ("m",), numpy_sgdm, stepped=False),
    # Until averaging sets in, at step t0, the average is the parameter: written, not read.
    Case("asgd", ("ax",), numpy_asgd, passes=("urw",), torch=("ASGD", {})),
]


@rows(CASES)
def test_one_tensor(benchmark, case, size, name):
    bench_case(benchmark, case, size, name)


@model_rows
def test_model(benchmark, model, clip, name):
    bench_model(benchmark, "SGD", MOMENTUM, model, clip, name)
