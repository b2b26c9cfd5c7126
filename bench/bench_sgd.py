"""sgd, momentum, sgdm and asgd, one tensor and whole models.

    pytest bench/bench_sgd.py
"""

import numpy as np
from models import models
from rows import SIZES, bench_row, rows
from tensors import tensors

from fastopt.bench.contenders import contender
from fastopt.bench.optimizers import MOMENTUM, Case, add_case, by_numpy_out


def numpy_sgd(p, g):
    p -= 0.1 * g


@contender("numpy out=", "sgd")
@by_numpy_out
def numpy_out_sgd(p, g, part):
    np.multiply(g, 0.1, out=part)
    p -= part


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


SGD = add_case(Case("sgd", numpy_sgd, {"lr": 0.1}, torch=("SGD", {"lr": 0.1})))
CASES = [
    SGD,
    MOMENTUM,
    add_case(Case("sgd", numpy_nesterov, {"lr": 0.1, "momentum": 0.9, "nesterov": True},
                  torch=("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}), note="(Nesterov)")),
    add_case(Case("momentum", numpy_momentum)),
    add_case(Case("sgdm", numpy_sgdm)),
    # Before step t0 the average is the parameter: written, not read.
    add_case(Case("asgd", numpy_asgd, passes=("urw",), torch=("ASGD", {}))),
]
WORKLOADS = [*tensors(SGD, SIZES), *(workload for case in CASES[1:] for workload in tensors(case)), *models(MOMENTUM)]


@rows(WORKLOADS)
def test_sgd(benchmark, workload, name):
    bench_row(benchmark, workload, name)
