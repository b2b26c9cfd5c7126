"""What each ISA level gains, kernel by kernel: `python bench/levels.py` prints the table of docs/levels.md.

One thread, arrays that stay in the second-level cache, levels interleaved, the median of the rounds.
"""

import itertools
import statistics
import time

import numpy as np

import fastopt
from fastopt._runtime import dispatch

N = 32_768
ROUNDS = 41


def workloads():
    """(kernel module, name, function of no arguments, elements)."""
    rng = np.random.default_rng(0)

    def arrays(count):
        return [np.abs(rng.standard_normal(N, dtype=np.float32)) for _ in range(count)]

    for kernel, name, states, options in (
        ("sgd", "sgd", 0, {"lr": 1e-9}),
        ("sgd", "sgd, momentum", 1, {"lr": 1e-9, "momentum": 0.9, "step": 2}),
        ("sgd", "momentum", 1, {"lr": 1e-9}),
        ("adaptive", "adagrad", 1, {}),
        ("adaptive", "adadelta", 2, {}),
        ("adaptive", "rmsprop", 1, {}),
        ("adam", "adam", 2, {"step": 2}),
        ("adam", "adamax", 2, {"step": 2}),
        ("sign", "lion", 1, {}),
        ("sign", "rprop", 2, {}),
        ("layerwise", "lars", 1, {"lr": 1e-9}),
        ("layerwise", "lamb", 2, {"step": 2}),
    ):
        function, args = getattr(fastopt, name.split(",")[0]), arrays(2 + states)
        yield kernel, name, (lambda function=function, args=args, options=options: function(*args, **options)), N
    x = rng.standard_normal((512, 64), dtype=np.float32)
    one, out = np.ones(64, np.float32), np.empty_like(x)
    _, cache = fastopt.batch_norm_forward(x, one, one)
    yield "batchnorm", "batch_norm_forward", lambda: fastopt.batch_norm_forward(x, one, one, out=out), x.size
    yield "batchnorm", "batch_norm_backward", lambda: fastopt.batch_norm_backward(x, cache, out=out), x.size
    for shape in ((3277, 10), (328, 100), (32, 1024)):
        logits = rng.standard_normal(shape, dtype=np.float32)
        labels = rng.integers(0, shape[1], shape[0])
        grad = np.empty_like(logits)
        yield ("softmax", f"log_softmax {shape}",
               lambda logits=logits, grad=grad: fastopt.log_softmax(logits, out=grad), logits.size)
        yield ("cross_entropy", f"softmax_cross_entropy {shape}",
               lambda logits=logits, labels=labels, grad=grad: fastopt.softmax_cross_entropy(logits, labels, out=grad),
               logits.size)


def main():
    levels = {level: dispatch.load(level) for level in dispatch.available()}
    print(f"| kernel | function | {' | '.join(f'{level}, ns/element' for level in levels)} | gain |")
    print("|---|---|" + "---|" * (len(levels) + 1))
    with fastopt.num_threads(1):
        for kernel, name, call, elements in workloads():
            times = {level: [] for level in levels}
            for _ in range(ROUNDS):
                for level, kernels in levels.items():
                    dispatch.active = kernels
                    call()
                    start = time.perf_counter()
                    for _ in range(5):
                        call()
                    times[level].append((time.perf_counter() - start) / 5 / elements * 1e9)
            medians = [statistics.median(times[level]) for level in levels]
            gains = " × ".join(f"{a / b:.2f}" for a, b in itertools.pairwise(medians))
            print(f"| {kernel} | {name} | {' | '.join(f'{median:.3f}' for median in medians)} | {gains} |")


if __name__ == "__main__":
    main()
