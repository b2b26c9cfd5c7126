"""fastopt at every instruction-set level, on one thread and on all, and on one thread the loop that only moves the same
arrays: more rows for the groups of the other files.

    pytest bench/bench_levels.py

`python bench/levels.py` and `python bench/threads.py` time levels and threads in turn instead.
"""

import bench_adam
import bench_adaptive
import bench_batchnorm
import bench_layerwise
import bench_sgd
import bench_sign
import bench_softmax
import pytest
from optimizers import bench_case

import fastopt
from fastopt._runtime import dispatch

CASES = {str(case): case for family in (bench_adam, bench_adaptive, bench_layerwise, bench_sgd, bench_sign)
         for case in family.CASES}
WORKLOADS = [
    *((bench_case, CASES[name], size) for name in ("adam", "sgd") for size in ("100k", "50M")),
    *((bench_case, CASES[name], "100k") for name in ("sgd (momentum)", "adagrad", "rmsprop", "lion", "rprop", "lamb")),
    *((bench_batchnorm.test_batch_norm, what, shape, False)
      for what in bench_batchnorm.PASSES for shape in ((64, 256), (32, 64, 56, 56))),
    *((bench_softmax.test_softmax, kernel, shape)
      for kernel in ("log_softmax", "softmax_cross_entropy") for shape in ((1024, 10), (1024, 1000), (512, 32000))),
]


def rows():
    """(workload, contender, level, threads), without what the other files measure: the best level on all threads."""
    everyone = fastopt.get_num_threads()
    for function, *arguments in WORKLOADS:
        for level in dispatch.available():
            for threads in dict.fromkeys((1, everyone)):
                for contender in ("fastopt", "same streams"):
                    best = level == dispatch.active.level
                    if (best and threads == everyone) or (contender == "same streams" and not (best and threads == 1)):
                        continue
                    label = f"{' '.join(map(str, arguments))}-{contender}-{level}-{threads}"
                    yield pytest.param(function, arguments, contender, level, threads, id=label)


@pytest.mark.parametrize(("function", "arguments", "contender", "level", "threads"), list(rows()))
def test_level(benchmark, monkeypatch, function, arguments, contender, level, threads):
    monkeypatch.setattr(dispatch, "active", dispatch.load(level))
    with fastopt.num_threads(threads):
        function(benchmark, *arguments, contender)
