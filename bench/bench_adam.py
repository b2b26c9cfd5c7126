"""Adam, AdamW, Adamax, NAdam and RAdam, one tensor and whole models.

    pytest bench/bench_adam.py
"""

import numpy as np
import peers  # noqa: F401 (registers them)
from models import models
from rows import SIZES, bench_row, rows
from tensors import tensors

from fastopt.bench.contenders import contender
from fastopt.bench.optimizers import ADAM, Case, add_case, add_model, by_numpy_out, numpy_adam


@contender("numpy out=", "adam")
@by_numpy_out
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


def numpy_amsgrad(p, g, m, v, vmax):
    m[...] = 0.9 * m + 0.1 * g
    v[...] = 0.999 * v + 0.001 * g**2
    vmax[...] = np.maximum(vmax, v)
    p -= 1e-3 * (m / (1 - 0.9**2)) / (np.sqrt(vmax / (1 - 0.999**2)) + 1e-8)


def numpy_adamw(p, g, m, v):
    p *= np.float32(1 - 1e-3 * 0.01)
    numpy_adam(p, g, m, v)


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
    assert rho <= 5  # at the second step; later ones cost as much as Adam's
    p -= 1e-3 * (m / (1 - 0.9**2))


ADAMW = add_case(Case("adam", numpy_adamw, {"decoupled_weight_decay": 0.01}, torch=("AdamW", {}), note="(AdamW)"))
add_model(ADAMW)
CASES = [
    ADAM,
    add_case(Case("adam", numpy_amsgrad, torch=("Adam", {"amsgrad": True}), note="(AMSGrad)")),
    ADAMW,
    add_case(Case("adamax", numpy_adamax, torch=("Adamax", {}))),
    add_case(Case("nadam", numpy_nadam, torch=("NAdam", {}))),
    add_case(Case("radam", numpy_radam, torch=("RAdam", {}))),
]
WORKLOADS = [*tensors(ADAM, SIZES), *(workload for case in CASES[1:] for workload in tensors(case)), *models(ADAMW)]


@rows(WORKLOADS)
def test_adam(benchmark, workload, name):
    bench_row(benchmark, workload, name)
