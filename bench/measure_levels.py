"""What each ISA level gains, kernel by kernel: `python bench/measure_levels.py` prints the table of docs/levels.md.

One thread, arrays that stay in the second-level cache, levels in turn, medians.
"""

import argparse
import contextlib
import itertools
from functools import partial

import bench_adaptive
import bench_layerwise
import bench_sgd
import bench_sign
import numpy as np

import fastopt
from fastopt._runtime import dispatch
from fastopt.bench import activation, optimizers, timing
from fastopt.bench.contenders import prepare
from fastopt.bench.table import Table

N = 32_768


def workloads():
    """(kernel module, name, function of no arguments, elements)"""
    for kernel, cases in (("sgd", bench_sgd.CASES), ("adaptive", bench_adaptive.CASES), ("adam", [optimizers.ADAM]),
                          ("sign", bench_sign.CASES), ("layerwise", bench_layerwise.CASES)):
        for case in cases:
            yield kernel, str(case), case.step(fastopt, optimizers.OneTensor(case, N).streams, 2), N
    rng = np.random.default_rng(0)
    x = rng.standard_normal((512, 64), dtype=np.float32)
    one, out = np.ones(64, np.float32), np.empty_like(x)
    _, cache = fastopt.batch_norm_forward(x, one, one)
    yield "batchnorm", "batch_norm_forward", partial(fastopt.batch_norm_forward, x, one, one, out=out), x.size
    yield "batchnorm", "batch_norm_backward", partial(fastopt.batch_norm_backward, x, cache, out=out), x.size
    x = rng.standard_normal((64, 512), dtype=np.float32)
    one, out = np.ones(512, np.float32), np.empty_like(x)
    _, cache = fastopt.layer_norm_forward(x, one, one)
    _, rms_cache = fastopt.rms_norm_forward(x, one)
    yield "layernorm", "layer_norm_forward", partial(fastopt.layer_norm_forward, x, one, one, out=out), x.size
    yield "layernorm", "layer_norm_backward", partial(fastopt.layer_norm_backward, x, cache, out=out), x.size
    yield "layernorm", "rms_norm_forward", partial(fastopt.rms_norm_forward, x, one, out=out), x.size
    yield "layernorm", "rms_norm_backward", partial(fastopt.rms_norm_backward, x, rms_cache, out=out), x.size
    for shape in ((3277, 10), (328, 100), (32, 1024)):
        logits = rng.standard_normal(shape, dtype=np.float32)
        labels, out = rng.integers(0, shape[1], shape[0]), np.empty_like(logits)
        yield "softmax", f"log_softmax {shape}", partial(fastopt.log_softmax, logits, out=out), logits.size
        yield ("cross_entropy", f"softmax_cross_entropy {shape}",
               partial(fastopt.softmax_cross_entropy, logits, labels, out=out), logits.size)
    weight, indices = rng.standard_normal((300, 128), dtype=np.float32), rng.integers(300, size=700)
    dy, total = rng.standard_normal((700, 128), dtype=np.float32), np.zeros_like(weight)
    yield "embedding", "embedding_forward", partial(fastopt.embedding_forward, weight, indices, out=dy.copy()), dy.size
    yield ("embedding", "embedding_backward", partial(fastopt.embedding_backward, dy, indices, 300, out=total),
           dy.size)
    x, out = rng.standard_normal(N, dtype=np.float32), np.empty(N, np.float32)
    yield "dropout", "dropout_forward", partial(fastopt.dropout_forward, x, 0.5, 1, out=out), N
    for name, p in (*dict.fromkeys(activation.FUNCTIONS, 0.0).items(), ("relu", 0.5)):
        for direction in activation.DIRECTIONS:
            workload = activation.workload(direction, name, (N // 256, 256), p)
            yield "activation", workload.title, prepare(workload, "fastopt")[0].call, workload.elements


@contextlib.contextmanager
def using(level):
    """Call the kernels of this level."""
    before, dispatch.active = dispatch.active, dispatch.load(level)
    try:
        yield
    finally:
        dispatch.active = before


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=41)
    options = parser.parse_args(argv)
    levels = dispatch.available()
    table = Table(("kernel", "function", *(f"{level}, ns/element" for level in levels), "gain"),
                  "ll" + "r" * len(levels) + "l")
    print(table.head())
    with fastopt.num_threads(1):
        for kernel, name, call, elements in workloads():
            times = timing.race(dict.fromkeys(levels, call), rounds=options.rounds, turn=2e-4, around=using)
            medians = [median / elements * 1e9 for median in timing.medians(times).values()]
            gains = " × ".join(f"{a / b:.2f}" for a, b in itertools.pairwise(medians))
            print(table.row(kernel, name, *(f"{median:.3f}" for median in medians), gains), flush=True)


if __name__ == "__main__":
    main()
