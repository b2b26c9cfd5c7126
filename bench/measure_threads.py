"""When a second thread pays: `python bench/measure_threads.py` prints the table of docs/threads.md.

Adam, sgd and log-softmax on sizes around the break-even, on one thread and on several, in turn, medians. What the
serial threshold compares is the time on one thread.
"""

import argparse
from functools import partial

import numpy as np

import fastopt
from fastopt._runtime import parallel
from fastopt.bench import timing
from fastopt.bench.table import Table

SIZES = (16384, 24576, 32768, 49152, 65536, 131072, 262144)


def workloads(sizes):
    """(function, elements, function of no arguments)"""
    rng = np.random.default_rng(0)
    for name in ("adam", "sgd", "log_softmax"):
        for elements in sizes:
            arrays = [np.abs(rng.standard_normal(elements, dtype=np.float32)) for _ in range(4)]
            rows = [array.reshape(-1, 128) for array in arrays]
            yield name, elements, {"adam": partial(fastopt.adam, *arrays, step=2, lr=1e-9),
                                   "sgd": partial(fastopt.sgd, *arrays[:2], lr=1e-9),
                                   "log_softmax": partial(fastopt.log_softmax, rows[0], out=rows[1])}[name]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2, help="how many to compare with one (default: 2)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="elements, multiples of 128")
    parser.add_argument("--rounds", type=int, default=201)
    options = parser.parse_args(argv)
    table = Table(("function", "elements", "1 thread, µs", f"{options.threads} threads, µs", "ratio"), "lrrrr")
    print(table.head())
    before, backs_off = parallel.swap_serial_below(0.0), parallel.swap_back_off(False)
    for name, elements, call in workloads(options.sizes):
        times = timing.race({1: call, options.threads: call}, rounds=options.rounds, turn=2e-4,
                            around=fastopt.num_threads)
        one, several = timing.medians(times).values()
        print(table.row(name, elements, f"{one * 1e6:.1f}", f"{several * 1e6:.1f}", f"{one / several:.2f}"), flush=True)
    parallel.swap_serial_below(before)
    parallel.swap_back_off(backs_off)


if __name__ == "__main__":
    main()
