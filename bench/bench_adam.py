"""Adam, AdamW, Adamax, NAdam, RAdam beside PyTorch (fused where it has it), numba, NumPy as one writes it, the
reference, and a loop that only moves the same arrays. Every contender's two first steps are checked against float64.

    pytest bench/bench_adam.py --benchmark-group-by=group --benchmark-columns=median

`extra_info` has ns/element, bytes/element and GB/s; `python bench/ratios.py` times the contenders in turn instead.
"""

import numpy as np
import pytest
from optimizers import SIZES, Case, bench_case, bench_model, check, exact_steps, fresh, model_rows, note, rows


def numpy_adam(p, g, m, v, decay=0.0):
    p *= np.float32(1 - 1e-3 * decay)
    m[...] = 0.9 * m + 0.1 * g
    v[...] = 0.999 * v + 0.001 * g**2
    p -= 1e-3 * (m / (1 - 0.9**2)) / (np.sqrt(v / (1 - 0.999**2)) + 1e-8)


def numpy_amsgrad(p, g, m, v, largest):
    m[...] = 0.9 * m + 0.1 * g
    v[...] = 0.999 * v + 0.001 * g**2
    largest[...] = np.maximum(largest, v)
    p -= 1e-3 * (m / (1 - 0.9**2)) / (np.sqrt(largest / (1 - 0.999**2)) + 1e-8)


def numpy_adamw(p, g, m, v):
    numpy_adam(p, g, m, v, 0.01)


def numpy_adamax(p, g, m, u):
    m[...] = 0.9 * m + 0.1 * g
    u[...] = np.maximum(0.999 * u, np.abs(g) + 1e-8)
    p -= 2e-3 / (1 - 0.9**2) * m / u


def numpy_nadam(p, g, m, v):
    mu1, mu2, mu3 = (0.9 * (1 - 0.5 * 0.96 ** (i * 4e-3)) for i in (1, 2, 3))
    m[...] = 0.9 * m + 0.1 * g
    v[...] = 0.999 * v + 0.001 * g**2
    d = (1 - mu2) / (1 - mu1 * mu2) * g + mu3 / (1 - mu1 * mu2 * mu3) * m
    p -= 2e-3 * d / (np.sqrt(v / (1 - 0.999**2)) + 1e-8)


def numpy_radam(p, g, m, v):
    m[...] = 0.9 * m + 0.1 * g
    v[...] = 0.999 * v + 0.001 * g**2
    rho_inf = 2 / (1 - 0.999) - 1
    rho = rho_inf - 2 * 2 * 0.999**2 / (1 - 0.999**2)
    assert rho <= 5  # at the second step; later ones are an Adam's work
    p -= 1e-3 * (m / (1 - 0.9**2))


ADAM = Case("adam", ("m", "v"), numpy_adam, torch=("Adam", {}))
ADAMW = Case("adam", ("m", "v"), numpy_adamw, {"decoupled_weight_decay": 0.01}, torch=("AdamW", {}), note="(AdamW)")
CASES = [
    ADAM,
    Case("adam", ("m", "v", "vmax"), numpy_amsgrad, torch=("Adam", {"amsgrad": True}), note="(AMSGrad)"),
    ADAMW,
    Case("adamax", ("m", "u"), numpy_adamax, torch=("Adamax", {})),
    Case("nadam", ("m", "v"), numpy_nadam, torch=("NAdam", {})),
    Case("radam", ("m", "v"), numpy_radam, torch=("RAdam", {})),
]


@rows(CASES)
def test_one_tensor(benchmark, case, name, size):
    bench_case(benchmark, case, name, size)


def numba_adam(arrays):
    """The parallel loop with relaxed arithmetic that a numba user writes: a function (t)."""
    numba = pytest.importorskip("numba", reason="numba is not installed")

    @numba.njit(parallel=True, fastmath=True)
    def loop(p, g, m, v, lr, beta1, beta2, rest1, rest2, eps):
        for i in numba.prange(p.size):
            m[i] = beta1 * m[i] + rest1 * g[i]
            v[i] = beta2 * v[i] + rest2 * g[i] * g[i]
            p[i] -= lr * m[i] / (np.sqrt(v[i]) + eps)

    def run(t):
        root = (1 - 0.999**t) ** 0.5
        loop(*arrays, *map(np.float32, (1e-3 * root / (1 - 0.9**t), 0.9, 0.999, 0.1, 0.001, 1e-8 * root)))

    return run


@pytest.mark.parametrize("size", SIZES)
def test_numba(benchmark, size):
    if benchmark.disabled and size == "50M":
        pytest.skip("50 M elements: only timed")
    benchmark.group = f"{ADAM} {size}"
    arrays = fresh(ADAM, SIZES[size])
    run = numba_adam(arrays)
    run(1)
    run(2)
    before, exact = exact_steps(ADAM, SIZES[size])
    note(benchmark, lambda: run(2), SIZES[size], ADAM.bytes, check(before, arrays[0][: before.size], exact))


@model_rows
def test_model(benchmark, name, model, clip):
    bench_model(benchmark, "AdamW", ADAMW, name, model, clip)
