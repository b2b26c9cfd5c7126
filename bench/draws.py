"""Workloads drawn at random: sizes are log-uniform between limits, so that nobody chose (or tuned for) them."""

import math
from typing import NamedTuple

import bench_adam
import bench_adaptive
import bench_layerwise
import bench_sgd
import bench_sign
import bench_softmax  # noqa: F401 (registers NumPy's forms)
import peers_activation  # noqa: F401 (registers them, and those of peers.py)

from fastopt.bench import activation, batchnorm, dropout, embedding, layernorm, softmax
from fastopt.bench.contenders import Workload
from fastopt.bench.optimizers import ADAM, MOMENTUM, model, one_tensor

LARGEST = 2**24
"""Elements of a matrix or of images, at most; larger draws are drawn again."""
LARGEST_TENSOR = 10**8
LARGEST_MODEL = 2**25

CASES = [case for family in (bench_sgd, bench_adaptive, bench_adam, bench_sign, bench_layerwise)
         for case in family.CASES if case.torch and case is not ADAM]
"""What torch has, too."""


class Draw(NamedTuple):
    """One workload, and whether its result is a new array in each call or is written to a given one."""

    kernel: str
    workload: Workload
    allocates: bool = False


def log_uniform(rng, low, high):
    """An integer in [low, high] whose logarithm is uniform."""
    return min(high, math.floor(math.exp(rng.uniform(math.log(low), math.log(high + 1)))))


def tensor_size(rng, limit):
    return log_uniform(rng, 1, limit or LARGEST_TENSOR)


def draw_adam(rng, limit):
    n = tensor_size(rng, limit)
    return [Draw("adam", one_tensor(ADAM, f"{n:,}", n))]


def draw_optimizer(rng, limit):
    """Any other optimizer that torch has."""
    case, n = CASES[rng.integers(len(CASES))], tensor_size(rng, limit)
    return [Draw("other optimizers", one_tensor(case, f"{n:,}", n))]


def draw_model(rng, limit):
    """1 to 300 tensors of 1 to 2²⁰ elements, clipped by norm or not."""
    limit = limit or LARGEST_MODEL
    case = (bench_adam.ADAMW, MOMENTUM)[rng.integers(2)]
    clip = (None, 1.0)[rng.integers(2)]
    while True:
        sizes = [log_uniform(rng, 1, 2**20) for _ in range(log_uniform(rng, 1, 300))]
        if sum(sizes) <= limit:
            title = f"{len(sizes)} tensors, {sum(sizes):,}"
            return [Draw("whole models", model(case, title, [(n,) for n in sizes], clip))]


def matrix(rng, limit, rows, columns):
    """A shape of 1 to `rows` rows and of columns between these limits, of at most `limit` elements."""
    while True:
        shape = log_uniform(rng, 1, rows), log_uniform(rng, *columns)
        if math.prod(shape) <= (limit or LARGEST):
            return shape


def draw_batch_norm(rng, limit):
    """(N, C), (N, C, H, W) or (N, H, W, C), N up to 256, C up to 2048, H = W up to 128."""
    layout, allocates = rng.integers(3), bool(rng.integers(2))
    while True:
        n, channels, side = log_uniform(rng, 1, 256), log_uniform(rng, 1, 2048), log_uniform(rng, 1, 128)
        shape = [(n, channels), (n, channels, side, side), (n, side, side, channels)][layout]
        if math.prod(shape) <= (limit or LARGEST) and math.prod(shape) > channels:
            break
    return [Draw(f"batch_norm_{which}", batchnorm.workload(which, shape, last=layout == 2), allocates)
            for which in batchnorm.PASSES]


def draw_softmax(rng, limit):
    """Up to 65 536 rows of 2 to 131 072 classes."""
    allocates = bool(rng.integers(2))
    shape = matrix(rng, limit, 65536, (2, 131072))
    return [Draw(kernel, softmax.workload(kernel, shape), allocates) for kernel in softmax.WITH_OUT]


def draw_activation(rng, limit):
    """Any of the functions, half of them with dropout of 0.1 to 0.5; up to 65 536 rows of up to 8192 channels."""
    names = list(activation.FUNCTIONS)
    name, allocates = names[rng.integers(len(names))], bool(rng.integers(2))
    p = round(rng.uniform(0.1, 0.5), 2) if rng.integers(2) else 0.0
    shape = matrix(rng, limit, 65536, (1, 8192))
    return [Draw(direction, activation.workload(direction, name, shape, p), allocates)
            for direction in activation.DIRECTIONS]


def draw_dropout(rng, limit):
    allocates, n = bool(rng.integers(2)), log_uniform(rng, 1, limit or LARGEST)
    return [Draw(kernel, dropout.workload(kernel, f"{n:,}", n), allocates) for kernel in dropout.KERNELS]


def draw_layer_norm(rng, limit):
    """Layer and RMS normalisation of up to 65 536 rows of 8 to 16 384 elements."""
    shape = matrix(rng, limit, 65536, (8, 16384))
    return [Draw(which, layernorm.workload(which, shape)) for which in layernorm.PASSES]


def draw_embedding(rng, limit):
    """Up to 65 536 indices, uniform or by Zipf's law, of a table of up to 262 144 rows of up to 2048 elements."""
    kind, allocates = embedding.INDICES[rng.integers(2)], bool(rng.integers(2))
    while True:
        count, columns = matrix(rng, limit, 65536, (1, 2048))
        rows = log_uniform(rng, 2, 2**18)
        if rows * columns <= (limit or LARGEST):
            break
    return [Draw(kernel, embedding.workload(kernel, kind, count, columns, rows), allocates)
            for kernel in embedding.PASSES]


FAMILIES = {"adam": draw_adam, "optimizers": draw_optimizer, "models": draw_model, "batch_norm": draw_batch_norm,
            "softmax": draw_softmax, "activation": draw_activation, "dropout": draw_dropout,
            "layer_norm": draw_layer_norm, "embedding": draw_embedding}
"""name → function of (rng, limit) that returns what is drawn at once: the functions on one shape. `limit`, unless it is
None, replaces the largest number of elements. A family's place is part of its seed: new ones come last."""
