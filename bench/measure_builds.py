"""Two builds of fastopt beside each other: `python bench/measure_builds.py BEFORE AFTER`, the folders that hold them.

Calls on one thread, and the time of the import after NumPy's. Each build has a worker process; they are asked in turn,
medians. Arrays have the same offsets in both, so that neither 4K aliasing nor alignment differs.
"""

import argparse
import os
import subprocess
import sys
from functools import partial

import numpy as np

import fastopt
from fastopt.bench import timing
from fastopt.bench.table import Table

SIZES = (1, 100, 1000, 16_000, 1_000_000)
LOGITS = ((64, 10), (160, 100), (1000, 1000))
IMAGES = ((64, 250), (16, 64, 32, 32))
IMPORT = """
import numpy, os, sys, time
start = time.perf_counter()
import fastopt
print(time.perf_counter() - start)
assert os.path.samefile(os.path.dirname(fastopt.__path__[0]), sys.argv[-1]), fastopt.__path__
"""


def workloads():
    """(name, function of no arguments)"""
    rng, memory, used = np.random.default_rng(0), np.zeros(2**25, np.float32), 0
    memory = memory[-memory.ctypes.data // 4 % 1024:]       # from the start of a page

    def array(*shape):
        nonlocal used
        start = used + 144 * (used // 1024 % 7)
        made = memory[start : start + int(np.prod(shape))].reshape(shape)
        used = (start + made.size + 2047) // 1024 * 1024
        made[...] = rng.random(shape, np.float32)
        return made

    for n in SIZES:
        adam, sgd, lamb = ([array(n) for _ in range(count)] for count in (4, 2, 4))
        yield f"adam, {n}", partial(fastopt.adam, *adam, step=10)
        yield f"sgd, {n}", partial(fastopt.sgd, *sgd, lr=1e-3)
        yield f"lamb, {n}", partial(fastopt.lamb, *lamb, step=10)
    for shape in LOGITS:
        x, out, labels = array(*shape), array(*shape), rng.integers(0, shape[1], shape[0])
        yield f"log_softmax, {shape}", partial(fastopt.log_softmax, x, out=out)
        yield f"softmax, {shape}", partial(fastopt.softmax, x, out=out)
        yield f"softmax_cross_entropy, {shape}", partial(fastopt.softmax_cross_entropy, x, labels)
    for shape in IMAGES:
        x, out, vectors = array(*shape), array(*shape), [array(shape[1]) for _ in range(4)]
        _, cache = fastopt.batch_norm_forward(x, *vectors)
        yield f"batch_norm_forward, {shape}", partial(fastopt.batch_norm_forward, x, *vectors, out=out)
        yield f"batch_norm_backward, {shape}", partial(fastopt.batch_norm_backward, x, cache)
        yield f"batch_norm_inference, {shape}", partial(fastopt.batch_norm_inference, x, *vectors, out=out)


def work():
    """Print the names of the workloads; then, for each number that comes in, seconds a call of that workload."""
    assert os.path.samefile(os.path.dirname(fastopt.__path__[0]), sys.argv[-1]), fastopt.__path__
    names, calls = zip(*workloads(), strict=True)
    print("|".join(names), flush=True)
    for line in sys.stdin:
        call = calls[int(line)]
        print(timing.seconds(call, max(1, int(2e-3 / timing.seconds(call)))), flush=True)


def started(folder, *arguments):
    """A process whose fastopt is that of the folder, which it checks."""
    return subprocess.Popen([sys.executable, *arguments, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            text=True, bufsize=1, cwd=os.sep,     # where no other fastopt comes first
                            env={**os.environ, "PYTHONPATH": folder, "FASTOPT_NUM_THREADS": "1"})


def asked(worker, number):
    worker.stdin.write(f"{number}\n")
    return float(worker.stdout.readline())


def imported(folder):
    return float(started(folder, "-c", IMPORT).communicate()[0])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", metavar="BEFORE AFTER", nargs=2, type=os.path.abspath)
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args(argv)
    table = Table(("call", "before, µs", "after, µs", "ratio"), "lrrr")
    print(table.head())

    def row(name, measures):
        before, after = timing.medians(timing.in_turn(dict(enumerate(measures)), rounds=options.rounds)).values()
        print(table.row(name, f"{before * 1e6:.3f}", f"{after * 1e6:.3f}", f"{after / before:.3f}"), flush=True)

    workers = [started(folder, os.path.abspath(__file__), "--work") for folder in options.folders]
    names, _ = (worker.stdout.readline().strip().split("|") for worker in workers)
    for number, name in enumerate(names):
        for worker in workers:
            asked(worker, number)       # warm
        row(name, [partial(asked, worker, number) for worker in workers])
    for worker in workers:
        worker.communicate()
    row("import, after NumPy", [partial(imported, folder) for folder in options.folders])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work()
    else:
        main()
