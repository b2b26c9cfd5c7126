"""lion, rprop and sophia.

    pytest bench/bench_sign.py
"""

import numpy as np
from rows import bench_row, rows
from tensors import tensors

from fastopt.bench.optimizers import Case, add_case


def numpy_lion(p, g, m):
    p -= 1e-4 * np.sign(0.9 * m + 0.1 * g)
    m[...] = 0.99 * m + 0.01 * g


def numpy_rprop(p, g, prev, step_size):
    turn = np.sign(g * prev)
    step_size *= np.where(turn > 0, np.float32(1.2), np.where(turn < 0, np.float32(0.5), np.float32(1)))
    np.clip(step_size, 1e-6, 50, out=step_size)
    prev[...] = np.where(turn < 0, np.float32(0), g)
    p -= np.sign(prev) * step_size


def numpy_sophia(p, g, m, h):
    p *= np.float32(1 - 1e-4 * 0.1)
    m[...] = 0.965 * m + 0.035 * g
    p -= 1e-4 * np.clip(m / np.maximum(0.04 * h, 1e-12), -1, 1)


CASES = [
    add_case(Case("lion", numpy_lion)),
    add_case(Case("rprop", numpy_rprop, torch=("Rprop", {}), initial={"step_size": 0.01})),
    add_case(Case("sophia", numpy_sophia, passes=("urur",), initial={"h": 1.0})),
]
WORKLOADS = [workload for case in CASES for workload in tensors(case)]


@rows(WORKLOADS)
def test_sign(benchmark, workload, name):
    bench_row(benchmark, workload, name)
