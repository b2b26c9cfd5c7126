"""log-softmax, softmax, and cross-entropy with its gradient.

    pytest bench/bench_softmax.py
"""

import functools

import numpy as np
import peers  # noqa: F401 (registers them)
from rows import SIZES, bench_row, contenders, rows

from fastopt.bench.contenders import ROOF, Contender, contender
from fastopt.bench.softmax import PASSES, workload

SHAPES = [(64, 10), (1024, 10), (128, 1000), (1024, 1000), (16384, 100), (512, 32000), (256, 50257)]
CURVE = [(1, n) if n <= 100 else (n // 100, 100) for n in SIZES.values() if n != 50_000_000]
"""For the time per element over the size: rows of 100."""
FOR_CURVE = ("fastopt", ROOF, "torch out=", "numpy")


def numpy_out(kernel):
    """Register NumPy's form without temporary arrays, a function of x, labels, out and a scratch array."""
    def register(function):
        @contender("numpy out=", kernel)
        def make(problem):
            call = functools.partial(function, problem.x, problem.labels, problem.out, problem.part)
            return Contender(call, one_thread=True)
        return function
    return register


@numpy_out("log_softmax")
def numpy_out_log_softmax(x, labels, out, part):
    np.subtract(x, x.max(axis=1, keepdims=True), out=out)
    np.exp(out, out=part)
    out -= np.log(part.sum(axis=1, keepdims=True))
    return out


@numpy_out("softmax")
def numpy_out_softmax(x, labels, out, part):
    np.subtract(x, x.max(axis=1, keepdims=True), out=out)
    np.exp(out, out=out)
    out /= out.sum(axis=1, keepdims=True)
    return out


@numpy_out("softmax_cross_entropy")
def numpy_out_cross_entropy(x, labels, out, part):
    rows, largest = np.arange(len(x)), x.max(axis=1, keepdims=True)
    np.subtract(x, largest, out=out)
    at_labels = out[rows, labels]
    np.exp(out, out=out)
    total = out.sum(axis=1, keepdims=True)
    out *= 1 / (total * len(x))
    out[rows, labels] -= np.float32(1 / len(x))
    return (np.log(total[:, 0]) - at_labels).mean(), out


WORKLOADS = [workload(kernel, shape) for kernel in PASSES for shape in SHAPES]
CURVE_WORKLOADS = [workload("log_softmax", shape) for shape in CURVE if shape not in SHAPES]


@rows(WORKLOADS)
def test_softmax(benchmark, workload, name):
    bench_row(benchmark, workload, name)


@rows(CURVE_WORKLOADS, lambda workload: [name for name in contenders(workload) if name in FOR_CURVE])
def test_curve(benchmark, workload, name):
    bench_row(benchmark, workload, name)
