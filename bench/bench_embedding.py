"""Rows of a table by index, and the gradient of the table.

    pytest bench/bench_embedding.py
"""

import peers  # noqa: F401 (registers them)
from rows import bench_row, rows

from fastopt.bench.embedding import INDICES, PASSES, workload

SHAPES = [(700, 128, 10_000), (100_000, 64, 50_000), (4096, 300, 30_000)]
"""(positions, columns, rows of the table)"""

WORKLOADS = [workload(kernel, kind, *shape) for kernel in PASSES for kind in INDICES for shape in SHAPES]


@rows(WORKLOADS)
def test_embedding(benchmark, workload, name):
    bench_row(benchmark, workload, name)
