"""lion, rprop beside PyTorch where it has them, NumPy as one writes it, the reference, and a loop that only moves the
same arrays; see bench_adam.py.

    pytest bench/bench_sign.py
"""

import numpy as np
from optimizers import Case, bench_case, rows


def numpy_lion(p, g, m):
    p -= 1e-4 * np.sign(0.9 * m + 0.1 * g)
    m[...] = 0.99 * m + 0.01 * g


def numpy_rprop(p, g, prev, step_size):
    turn = np.sign(g * prev)
    step_size *= np.where(turn > 0, np.float32(1.2), np.where(turn < 0, np.float32(0.5), np.float32(1)))
    np.clip(step_size, 1e-6, 50, out=step_size)
    prev[...] = np.where(turn < 0, np.float32(0), g)
    p -= np.sign(prev) * step_size


CASES = [
    Case("lion", ("m",), numpy_lion, stepped=False),
    Case("rprop", ("prev", "step_size"), numpy_rprop, stepped=False, torch=("Rprop", {}),
         initial={"step_size": 0.01}),
]


@rows(CASES)
def test_one_tensor(benchmark, case, size, name):
    bench_case(benchmark, case, size, name)
