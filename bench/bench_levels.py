"""fastopt at every instruction-set level, on one thread and on all, and the roof on one thread: more rows for the
groups of the other files.

    pytest bench/bench_levels.py

`python bench/measure_levels.py` and `python bench/measure_threads.py` time levels and threads in turn instead.
"""

import bench_activation
import bench_adam
import bench_adaptive
import bench_batchnorm
import bench_dropout
import bench_layernorm
import bench_layerwise
import bench_sgd
import bench_sign
import bench_softmax
import pytest
from rows import bench_row

import fastopt
from fastopt._runtime import dispatch
from fastopt.bench.activation import DIRECTIONS
from fastopt.bench.contenders import ROOF

BY_NAME = {str(workload): workload for family in (bench_adam, bench_adaptive, bench_layerwise, bench_sgd, bench_sign,
                                                  bench_batchnorm, bench_layernorm, bench_softmax,
                                                  bench_dropout, bench_activation)
           for workload in family.WORKLOADS}
NAMES = [
    "adam 100k", "adam 50M", "sgd 100k", "sgd 50M", "sgd (momentum) 100k", "adagrad 100k", "rmsprop 100k", "lion 100k",
    "rprop 100k", "lamb 100k",
    *(f"batch_norm_{which} {shape}" for shape in ("(64, 256)", "(32, 64, 56, 56)")
      for which in ("forward", "backward", "inference")),
    *(f"layer_norm_{which} {shape}" for shape in ("(64, 512)", "(4096, 768)") for which in ("forward", "backward")),
    *(f"{kernel} {shape}" for shape in ("(1024, 10)", "(1024, 1000)", "(512, 32000)")
      for kernel in ("log_softmax", "softmax_cross_entropy")),
    "dropout_forward 100k", "dropout_forward 10M",
    *(f"{direction}, {name} (1024, 1024)" for name in ("relu", "relu, dropout 0.3", "gelu", "tanh")
      for direction in DIRECTIONS),
]


def rows():
    """(workload, contender, level, threads), without what the other files measure: the best level on all threads."""
    most, best = fastopt.get_num_threads(), dispatch.active.level
    for name in NAMES:
        for level in dispatch.available():
            for threads in dict.fromkeys((1, most)):
                for contender in ("fastopt", ROOF):
                    if (level, threads) != (best, most) and (contender != ROOF or (level, threads) == (best, 1)):
                        yield pytest.param(BY_NAME[name], contender, level, threads,
                                           id=f"{name}-{contender}-{level}-{threads}")


@pytest.mark.parametrize(("workload", "name", "level", "threads"), list(rows()))
def test_level(benchmark, monkeypatch, workload, name, level, threads):
    monkeypatch.setattr(dispatch, "active", dispatch.load(level))
    with fastopt.num_threads(threads):
        bench_row(benchmark, workload, name)
