"""Layer and RMS normalisation, forward and backward.

    pytest bench/bench_layernorm.py
"""

import peers  # noqa: F401 (registers them)
from rows import bench_row, rows

from fastopt.bench.layernorm import PASSES, workload

# Transformers' tokens and widths, and short rows.
SHAPES = [(64, 512), (512, 1024), (4096, 768), (100_000, 64)]
WORKLOADS = [workload(which, shape) for shape in SHAPES for which in PASSES]


@rows(WORKLOADS)
def test_layernorm(benchmark, workload, name):
    bench_row(benchmark, workload, name)
