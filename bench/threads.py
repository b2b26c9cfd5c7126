"""When a second thread pays: `python bench/threads.py` prints the table of docs/threads.md.

Adam, sgd and log-softmax on sizes around the break-even, one thread and two (or as many as asked for), interleaved,
medians. Work is what the serial threshold compares: the time it takes one thread.
"""

import statistics
import sys
import time

import numpy as np

import fastopt
from fastopt._runtime import parallel

ROUNDS = 201


def timed(call, threads):
    with fastopt.num_threads(threads):
        call()
        start = time.perf_counter()
        for _ in range(5):
            call()
        return (time.perf_counter() - start) / 5 * 1e6


def main(threads):
    rng = np.random.default_rng(0)
    before = parallel.swap_serial_below(0.0)
    print(f"| function | elements | 1 thread, µs | {threads} threads, µs | ratio |")
    print("|---|---|---|---|---|")
    for name in ("adam", "sgd", "log_softmax"):
        for elements in (16384, 24576, 32768, 49152, 65536, 131072, 262144):
            arrays = [np.abs(rng.standard_normal(elements, dtype=np.float32)) for _ in range(4)]
            call = {
                "adam": lambda arrays=arrays: fastopt.adam(*arrays, step=2, lr=1e-9),
                "sgd": lambda arrays=arrays: fastopt.sgd(*arrays[:2], lr=1e-9),
                "log_softmax": lambda arrays=arrays: fastopt.log_softmax(arrays[0].reshape(-1, 128),
                                                                         out=arrays[1].reshape(-1, 128)),
            }[name]
            times = [(timed(call, 1), timed(call, threads)) for _ in range(ROUNDS)]
            one, many = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"| {name} | {elements} | {one:.1f} | {many:.1f} | {one / many:.2f} |")
    parallel.swap_serial_below(before)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
