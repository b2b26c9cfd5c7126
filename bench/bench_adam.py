"""Adam, AdamW, Adamax, NAdam, RAdam beside PyTorch (fused where it has it), NumPy, the reference, and a loop that only
moves the same arrays; Adam beside every peer. Each contender's first two steps are checked against float64.

    pytest bench/bench_adam.py

`python bench/ratios.py` times the contenders in turn instead.
"""

import numpy as np
from models import bench_model
from models import rows as model_rows
from optimizers import SIZES, Case, bench_case, rows


def numpy_adam(p, g, m, v, decay=0.0):
    p *= np.float32(1 - 1e-3 * decay)
    m[...] = 0.9 * m + 0.1 * g
    v[...] = 0.999 * v + 0.001 * g**2
    p -= 1e-3 * (m / (1 - 0.9**2)) / (np.sqrt(v / (1 - 0.999**2)) + 1e-8)


def numpy_out_adam(p, g, m, v, part):
    m *= 0.9
    np.multiply(g, 0.1, out=part)
    m += part
    v *= 0.999
    np.multiply(g, g, out=part)
    part *= 0.001
    v += part
    np.divide(v, 1 - 0.999**2, out=part)
    np.sqrt(part, out=part)
    part += 1e-8
    np.divide(m, part, out=part)
    part *= 1e-3 / (1 - 0.9**2)
    p -= part


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


ADAM = Case("adam", ("m", "v"), numpy_adam, torch=("Adam", {}), numpy_out=numpy_out_adam, sizes=tuple(SIZES),
            peers=("deepspeed", "numba", "tensorflow", "jax", "thinc"))
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
def test_one_tensor(benchmark, case, size, name):
    bench_case(benchmark, case, size, name)


@model_rows
def test_model(benchmark, model, clip, name):
    bench_model(benchmark, "AdamW", ADAMW, model, clip, name)
