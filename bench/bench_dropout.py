"""Dropout, forward and backward.

    pytest bench/bench_dropout.py
"""

import peers  # noqa: F401 (registers them)
from rows import SIZES, bench_row, rows

from fastopt.bench.dropout import KERNELS, workload

WORKLOADS = [workload(kernel, size, SIZES[size]) for kernel in KERNELS for size in ("1k", "100k", "10M")]


@rows(WORKLOADS)
def test_dropout(benchmark, workload, name):
    bench_row(benchmark, workload, name)
