"""lars, lamb beside NumPy as one writes it, the reference, and a loop that only moves the same arrays; see
bench_adam.py. They go over a tensor twice: its norms decide the step.

    pytest bench/bench_layerwise.py
"""

import numpy as np
from optimizers import Case, bench_case, rows


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
    Case("lars", ("v",), numpy_lars, {"lr": 0.1}, stepped=False, passes=("rr-", "uru")),
    # m, v and the norms of p and the direction; then the step from p, m, v.
    Case("lamb", ("m", "v"), numpy_lamb, passes=("rruu", "u-rr")),
]


@rows(CASES)
def test_one_tensor(benchmark, case, size, name):
    bench_case(benchmark, case, size, name)
