"""lars and lamb, which go over a tensor twice: its norms decide the step.

    pytest bench/bench_layerwise.py
"""

import numpy as np
from rows import bench_row, rows
from tensors import tensors

from fastopt.bench.optimizers import Case, add_case


def numpy_lars(p, g, v):
    ratio = 1e-3 * np.linalg.norm(p) / (np.linalg.norm(g) + 1e-8)
    v[...] = 0.9 * v + np.float32(0.1 * ratio) * g
    p -= v


def numpy_lamb(p, g, m, v):
    m[...] = 0.9 * m + 0.1 * g
    v[...] = 0.999 * v + 0.001 * g**2
    d = (m / (1 - 0.9**2)) / (np.sqrt(v / (1 - 0.999**2)) + 1e-6) + 0.01 * p
    p -= np.float32(1e-3 * np.linalg.norm(p) / np.linalg.norm(d)) * d


CASES = [
    # The norms of p and g; then the step.
    add_case(Case("lars", numpy_lars, {"lr": 0.1}, passes=("rr-", "uru"))),
    # m, v and the norms of p and the direction; then the step from p, m, v.
    add_case(Case("lamb", numpy_lamb, passes=("rruu", "u-rr"))),
]
WORKLOADS = [workload for case in CASES for workload in tensors(case)]


@rows(WORKLOADS)
def test_layerwise(benchmark, workload, name):
    bench_row(benchmark, workload, name)
