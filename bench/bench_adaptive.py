"""adagrad, adadelta and rmsprop.

    pytest bench/bench_adaptive.py
"""

import numpy as np
from rows import bench_row, rows
from tensors import tensors

from fastopt.bench.optimizers import Case, add_case


def numpy_adagrad(p, g, h):
    h += g**2
    p -= 0.01 * g / (np.sqrt(h) + 1e-10)


def numpy_adadelta(p, g, v, u):
    v[...] = 0.9 * v + 0.1 * g**2
    d = np.sqrt(u + 1e-6) / np.sqrt(v + 1e-6) * g
    u[...] = 0.9 * u + 0.1 * d**2
    p -= d


def numpy_rmsprop(p, g, v):
    v[...] = 0.99 * v + 0.01 * g**2
    p -= 0.01 * g / (np.sqrt(v) + 1e-8)


def numpy_centred(p, g, v, grad_avg, buf):
    v[...] = 0.99 * v + 0.01 * g**2
    grad_avg[...] = 0.99 * grad_avg + 0.01 * g
    buf[...] = 0.9 * buf + g / (np.sqrt(v - grad_avg**2) + 1e-8)
    p -= 0.01 * buf


CASES = [
    add_case(Case("adagrad", numpy_adagrad, torch=("Adagrad", {}))),
    add_case(Case("adadelta", numpy_adadelta, torch=("Adadelta", {}))),
    add_case(Case("rmsprop", numpy_rmsprop, torch=("RMSprop", {}))),
    add_case(Case("rmsprop", numpy_centred, {"momentum": 0.9}, torch=("RMSprop", {"centered": True, "momentum": 0.9}),
                  note="(centred, momentum)")),
]
WORKLOADS = [workload for case in CASES for workload in tensors(case)]


@rows(WORKLOADS)
def test_adaptive(benchmark, workload, name):
    bench_row(benchmark, workload, name)
