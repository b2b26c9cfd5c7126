"""Bias, activation function and dropout, forward and backward.

    pytest bench/bench_activation.py
"""

import peers_activation  # noqa: F401 (registers them)
from rows import bench_row, rows

from fastopt.bench.activation import DIRECTIONS, workload

P = 0.3
WIDTHS = [(128, 256), (1024, 1024), (16384, 1024)]
FUNCTIONS = ("sigmoid", "tanh", "gelu", "gelu_tanh", "silu")

WORKLOADS = [workload(direction, "relu", shape, p) for p in (0.0, P) for shape in WIDTHS for direction in DIRECTIONS]
WORKLOADS += [workload(direction, name, (1024, 1024)) for name in FUNCTIONS for direction in DIRECTIONS]


@rows(WORKLOADS)
def test_activation(benchmark, workload, name):
    bench_row(benchmark, workload, name)
