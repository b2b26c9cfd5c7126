"""compare_builds.py BEFORE AFTER: two built source trees, call times in turn on one thread, and import time.

Each tree has a worker process, which is asked for one case after the other. Arrays have the same offsets in both, so
that neither 4K aliasing nor alignment differs. A row is the median over ROUNDS and the ratio AFTER / BEFORE.
"""

import os
import statistics
import subprocess
import sys
import time

ROUNDS = 21
IMPORT = "import numpy, time; start = time.perf_counter(); import fastopt; print(time.perf_counter() - start)"


def cases():
    """Calls without arguments, by name."""
    import numpy as np

    import fastopt

    rng, memory, used = np.random.default_rng(0), np.zeros(2**25, np.float32), 0
    memory = memory[-memory.ctypes.data // 4 % 1024:]       # from the start of a page

    def array(*shape):
        nonlocal used
        start = used + 144 * (used // 1024 % 7)
        made = memory[start : start + int(np.prod(shape))].reshape(shape)
        used = (start + made.size + 2047) // 1024 * 1024
        made[...] = rng.random(shape, np.float32)
        return made

    made = {}
    for n in (1, 100, 1000, 16_000, 1_000_000):
        adam, sgd, lamb = ([array(n) for _ in range(count)] for count in (4, 2, 4))
        made[f"adam {n}"] = lambda a=adam: fastopt.adam(*a, step=10)
        made[f"sgd {n}"] = lambda a=sgd: fastopt.sgd(*a, lr=1e-3)
        made[f"lamb {n}"] = lambda a=lamb: fastopt.lamb(*a, step=10)
    for shape in ((64, 10), (160, 100), (1000, 1000)):
        x, out, labels = array(*shape), array(*shape), rng.integers(0, 10, shape[0])
        made[f"log_softmax {shape}"] = lambda x=x, out=out: fastopt.log_softmax(x, out=out)
        made[f"softmax {shape}"] = lambda x=x, out=out: fastopt.softmax(x, out=out)
        made[f"softmax_cross_entropy {shape}"] = lambda x=x, y=labels: fastopt.softmax_cross_entropy(x, y)
    for shape in ((64, 250), (16, 64, 32, 32)):
        x, out, vectors = array(*shape), array(*shape), [array(shape[1]) for _ in range(4)]
        _, cache = fastopt.batch_norm_forward(x, *vectors)
        made[f"batch_norm_forward {shape}"] = lambda x=x, v=vectors, out=out: fastopt.batch_norm_forward(x, *v, out=out)
        made[f"batch_norm_backward {shape}"] = lambda x=x, cache=cache: fastopt.batch_norm_backward(x, cache)
        made[f"batch_norm_inference {shape}"] = lambda x=x, v=vectors, out=out: fastopt.batch_norm_inference(
            x, *v, out=out)
    return made


def work():
    """Print the names of the cases; then, for each name that comes in, nanoseconds a call."""
    calls, counts = cases(), {}
    print("|".join(calls), flush=True)
    for line in sys.stdin:
        call = calls[line.strip()]
        if call not in counts:
            counts[call], end = 0, time.perf_counter() + 0.05
            while time.perf_counter() < end:
                call()
                counts[call] += 1
        count = max(1, counts[call] // 25)
        start = time.perf_counter()
        for _ in range(count):
            call()
        print((time.perf_counter() - start) / count * 1e9, flush=True)


def environment(tree):
    return {**os.environ, "PYTHONPATH": os.path.abspath(tree), "FASTOPT_NUM_THREADS": "1"}


def compare(trees):
    workers = [subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                env=environment(tree), bufsize=1) for tree in trees]
    (names, _) = (worker.stdout.readline().strip().split("|") for worker in workers)

    def ask(worker, name):
        worker.stdin.write(f"{name}\n")
        return float(worker.stdout.readline())

    for name in names:
        row("ns", name, [[ask(worker, name) for worker in workers] for _ in range(ROUNDS + 1)])
    row("ms", "import, after NumPy", [[float(subprocess.run(
        [sys.executable, "-c", IMPORT], env=environment(tree), cwd="/", capture_output=True, text=True,
        check=True).stdout) * 1e3 for tree in trees] for _ in range(ROUNDS)])
    for worker in workers:
        worker.communicate()


def row(unit, name, times):
    before, after = (statistics.median(column) for column in zip(*times[1:], strict=True))
    print(f"{name:36} {before:11.1f} {after:11.1f} {unit}  {after / before:.3f}", flush=True)


if len(sys.argv) == 3:
    compare(sys.argv[1:])
else:
    work()
