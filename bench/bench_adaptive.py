"""adagrad, adadelta, rmsprop and adan.

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


def numpy_adan(p, g, m, v, n, prev):
    d = g - prev
    m[...] = 0.98 * m + 0.02 * g
    v[...] = 0.92 * v + 0.08 * d
    n[...] = 0.99 * n + 0.01 * (g + 0.92 * d) ** 2
    prev[...] = g
    u = m / (1 - 0.98**2) + 0.92 * v / (1 - 0.92**2)
    p -= 1e-3 * u / (np.sqrt(n / (1 - 0.99**2)) + 1e-8)


CASES = [
    add_case(Case("adagrad", numpy_adagrad, torch=("Adagrad", {}))),
    add_case(Case("adadelta", numpy_adadelta, torch=("Adadelta", {}))),
    add_case(Case("rmsprop", numpy_rmsprop, torch=("RMSprop", {}))),
    add_case(Case("rmsprop", numpy_centred, {"momentum": 0.9}, torch=("RMSprop", {"centered": True, "momentum": 0.9}),
                  note="(centred, momentum)")),
    add_case(Case("adan", numpy_adan)),
]
WORKLOADS = [workload for case in CASES for workload in tensors(case)]


@rows(WORKLOADS)
def test_adaptive(benchmark, workload, name):
    bench_row(benchmark, workload, name)
