"""adagrad, adadelta, rmsprop beside PyTorch (fused where it has it), NumPy as one writes it, the reference, and a loop
that only moves the same arrays; see bench_adam.py.

    pytest bench/bench_adaptive.py
"""

import numpy as np
from optimizers import Case, bench_case, rows


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


def numpy_centred(p, g, v, mean, buf):
    v[...] = 0.99 * v + 0.01 * g**2
    mean[...] = 0.99 * mean + 0.01 * g
    buf[...] = 0.9 * buf + g / (np.sqrt(v - mean**2) + 1e-8)
    p -= 0.01 * buf


CASES = [
    Case("adagrad", ("h",), numpy_adagrad, torch=("Adagrad", {})),
    Case("adadelta", ("v", "u"), numpy_adadelta, stepped=False, torch=("Adadelta", {})),
    Case("rmsprop", ("v",), numpy_rmsprop, stepped=False, torch=("RMSprop", {})),
    Case("rmsprop", ("v", "grad_avg", "buf"), numpy_centred, {"momentum": 0.9}, stepped=False,
         torch=("RMSprop", {"centered": True, "momentum": 0.9}), note="(centred, momentum)"),
]


@rows(CASES)
def test_one_tensor(benchmark, case, size, name):
    bench_case(benchmark, case, size, name)
