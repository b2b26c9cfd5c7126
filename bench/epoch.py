"""One training epoch from end to end: all NumPy, with fastopt, with torch. `python bench/epoch.py` prints the table.

The demo's network (matrix product, BatchNorm, ReLU, twice; softmax cross-entropy; Adam) in three widths. Matrix
products are NumPy's, or torch's own, and timed by themselves: the rest is what the kernels do, and what copying a
batch costs. fastopt trains with its pool of threads, with one thread, and in OpenMP's regions instead of the pool.
First all contenders train one epoch from the same weights on the same batches, and must reach the same loss. Then they
train in turn, an epoch each, and medians are printed.

`--settings` runs the fastopt row, or the only one of `--contenders`, in fresh processes, in turn, once for each of the
ways to share the cores between the kernels' threads and BLAS's (docs/threads.md has the outcome).
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np

import fastopt
from fastopt._bench_contenders import (
    numpy_adam,
    numpy_batch_norm_backward,
    numpy_batch_norm_forward,
    numpy_softmax_cross_entropy,
)
from fastopt._runtime import parallel

INPUTS, CLASSES = 784, 10
CONTENDERS = ("numpy", "fastopt", "fastopt, 1 thread", "fastopt, OpenMP regions", "torch")
PAUSE = 0.05
"""Seconds between contenders, so that no one's threads still spin when the next begins."""

SETTINGS = {
    "as installed": {},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "FASTOPT_NUM_THREADS=1": {"FASTOPT_NUM_THREADS": "1"},
    "OPENBLAS_NUM_THREADS=1": {"OPENBLAS_NUM_THREADS": "1"},
    "both 1": {"FASTOPT_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
}


class Products:
    """np.matmul or torch.mm, and the seconds spent in it."""

    def __init__(self, multiply=np.matmul):
        self.multiply, self.seconds = multiply, 0.0

    def __call__(self, a, b, **out):
        start = time.perf_counter()
        result = self.multiply(a, b, **out)
        self.seconds += time.perf_counter() - start
        return result


class NumpyAdam:
    """The loop over parameters that a NumPy user writes."""

    def __init__(self):
        self.t, self.state = 0, {}

    def update(self, params, grads):
        self.t += 1
        for key, p in params.items():
            m, v = self.state.setdefault(key, (np.zeros_like(p), np.zeros_like(p)))
            numpy_adam(p, grads[key], m, v, self.t)


NUMPY = SimpleNamespace(Adam=NumpyAdam, batch_norm_forward=numpy_batch_norm_forward,
                        batch_norm_backward=numpy_batch_norm_backward,
                        softmax_cross_entropy=numpy_softmax_cross_entropy)


class Network:
    """Two hidden layers, with the kernels of fastopt or NUMPY, and the threads that the contender's name asks for."""

    def __init__(self, name, weights):
        self.kernels = NUMPY if name == "numpy" else fastopt
        self.threads = 1 if name.endswith("1 thread") else fastopt.get_num_threads()
        self.pool = not name.endswith("OpenMP regions")
        self.products, self.opt = Products(), self.kernels.Adam()
        self.params = {"bias": np.zeros(CLASSES, np.float32)}
        self.running = []
        for i, weight in enumerate(weights):
            self.params[f"weight{i}"] = weight.copy()
            if i < len(weights) - 1:
                outputs = weight.shape[1]
                self.params |= {f"gamma{i}": np.ones(outputs, np.float32), f"beta{i}": np.zeros(outputs, np.float32)}
                self.running.append((np.zeros(outputs, np.float32), np.ones(outputs, np.float32)))
        self.grads = {key: np.empty_like(param) for key, param in self.params.items()}

    def step(self, x, labels):
        p, g, product, last = self.params, self.grads, self.products, len(self.running)
        inputs, caches = [x], []
        for i, running in enumerate(self.running):
            h, cache = self.kernels.batch_norm_forward(
                product(inputs[i], p[f"weight{i}"]), p[f"gamma{i}"], p[f"beta{i}"], *running, relu=True)
            inputs.append(h)
            caches.append(cache)
        logits = product(inputs[last], p[f"weight{last}"]) + p["bias"]
        loss, d = self.kernels.softmax_cross_entropy(logits, labels, out=logits)
        d.sum(axis=0, out=g["bias"])
        for i in reversed(range(last + 1)):
            product(inputs[i].T, d, out=g[f"weight{i}"])
            if i > 0:
                d = product(d, p[f"weight{i}"].T)
                d, g[f"gamma{i - 1}"], g[f"beta{i - 1}"] = self.kernels.batch_norm_backward(d, caches[i - 1])
        self.opt.update(p, g)
        return loss

    def epoch(self, x, labels, batches):
        """(mean loss, seconds, seconds in matrix products)"""
        before = parallel.swap_pool(self.pool)
        self.products.seconds, start = 0.0, time.perf_counter()
        with fastopt.num_threads(self.threads):
            losses = [self.step(x[batch], labels[batch]) for batch in batches]
        seconds = time.perf_counter() - start
        parallel.swap_pool(before)
        return statistics.fmean(losses), seconds, self.products.seconds


class TorchNetwork:
    """The same in torch. Its products inside autograd are timed in an epoch of their own, which is slower as a whole;
    the total is that of a plain one."""

    def __init__(self, weights):
        import torch as t
        self.t, self.products = t, Products(t.mm)
        t.set_num_threads(fastopt.get_num_threads())
        self.weights = [t.nn.Parameter(t.from_numpy(weight.copy())) for weight in weights]
        self.norms = [t.nn.BatchNorm1d(weight.shape[1]) for weight in weights[:-1]]
        self.bias = t.nn.Parameter(t.zeros(CLASSES))
        params = [*self.weights, self.bias, *(p for norm in self.norms for p in norm.parameters())]
        self.opt = t.optim.Adam(params, fused=True)
        products = self.products

        class Timed(t.autograd.Function):
            @staticmethod
            def forward(ctx, a, b):
                ctx.save_for_backward(a, b)
                return products(a, b)

            @staticmethod
            def backward(ctx, d):
                a, b = ctx.saved_tensors
                return products(d, b.t()) if ctx.needs_input_grad[0] else None, products(a.t(), d)

        self.timed = Timed.apply

    def pass_over(self, product, x, labels, batches):
        losses = []
        for batch in batches:
            h, target = x[batch], labels[batch]
            for weight, norm in zip(self.weights, self.norms, strict=False):
                h = self.t.relu(norm(product(h, weight)))
            loss = self.t.nn.functional.cross_entropy(product(h, self.weights[-1]) + self.bias, target)
            self.opt.zero_grad(set_to_none=True)
            loss.backward()
            self.opt.step()
            losses.append(loss.item())
        return statistics.fmean(losses)

    def epoch(self, *data):
        data = [self.t.from_numpy(array) for array in data]
        start = time.perf_counter()
        loss = self.pass_over(self.t.mm, *data)
        seconds = time.perf_counter() - start
        self.products.seconds = 0.0
        self.pass_over(self.timed, *data)
        return loss, seconds, self.products.seconds


def measure(width, contenders, batch, examples, seconds):
    """{contender: (median seconds of an epoch, of them in matrix products)}"""
    rng = np.random.default_rng(0)
    sizes = (INPUTS, width, width, CLASSES)
    weights = [fastopt.init.he_normal(shape, rng) for shape in itertools.pairwise(sizes)]
    x = rng.standard_normal((examples, INPUTS), dtype=np.float32)
    labels = (x @ rng.standard_normal((INPUTS, CLASSES), dtype=np.float32)).argmax(axis=1)
    batches = rng.permutation(examples).reshape(-1, batch)
    networks = {}
    for name in contenders:
        try:
            networks[name] = TorchNetwork(weights) if name == "torch" else Network(name, weights)
        except ModuleNotFoundError as error:
            print(f"({name}: {error.name} is not installed)", file=sys.stderr)
    losses = {name: network.epoch(x, labels, batches)[0] for name, network in networks.items()}
    low, high = min(losses.values()), max(losses.values())
    if not high - low < 1e-3 * low:
        raise AssertionError(f"losses of the first epoch differ: {losses}")
    times, start = {name: [] for name in networks}, time.perf_counter()
    while time.perf_counter() - start < seconds or len(times[next(iter(times))]) < 3:
        for name, network in networks.items():
            time.sleep(PAUSE)
            times[name].append(network.epoch(x, labels, batches)[1:])
    return {name: [statistics.median(column) for column in zip(*rounds, strict=True)]
            for name, rounds in times.items()}


def compare(options):
    results = {width: measure(width, options.contenders, options.batch, options.examples, options.seconds)
               for width in options.widths}
    if options.json:
        print(json.dumps(results))
        return
    print(f"One epoch of {options.examples} examples in batches of {options.batch}, "
          f"{fastopt.get_num_threads()} threads, milliseconds\n")
    print("| width | | whole | matrix products | rest | whole, all-NumPy = 1 | rest, all-NumPy = 1 |\n"
          "|---:|---|---:|---:|---:|---:|---:|")
    for width, rows in results.items():
        for name, (whole, products) in rows.items():
            base = rows.get("numpy", (whole, products))
            print(f"| {width} | {name} | {whole * 1e3:.1f} | {products * 1e3:.1f} | {(whole - products) * 1e3:.1f} | "
                  f"{base[0] / whole:.2f} | {(base[0] - base[1]) / (whole - products):.2f} |")


def compare_settings(options):
    contender = options.contenders[0] if len(options.contenders) == 1 else "fastopt"
    command = [sys.executable, __file__, "--json", "--contenders", contender, "--batch", str(options.batch),
               "--examples", str(options.examples), "--seconds", str(options.seconds),
               "--widths", *map(str, options.widths)]
    found = {name: [] for name in SETTINGS}
    for _ in range(options.repeats):
        for name, changes in SETTINGS.items():
            done = subprocess.run(command, env=os.environ | changes, check=True, capture_output=True, text=True)
            found[name].append(json.loads(done.stdout))
    print(f"One epoch of {options.examples} examples in batches of {options.batch} with {contender}, milliseconds: "
          "whole (matrix products + rest)\n")
    print(f"| setting | {' | '.join(f'width {width}' for width in options.widths)} |")
    print(f"|---|{'---|' * len(options.widths)}")
    for name, runs in found.items():
        cells = []
        for width in map(str, options.widths):
            whole = statistics.median(run[width][contender][0] for run in runs) * 1e3
            products = statistics.median(run[width][contender][1] for run in runs) * 1e3
            cells.append(f"{whole:.1f} ({products:.1f} + {whole - products:.1f})")
        print(f"| {name} | {' | '.join(cells)} |")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--examples", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring, for each width")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--settings", action="store_true", help="compare ways to share the processor with BLAS")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each of the settings")
    parser.add_argument("--json", action="store_true", help="print seconds: whole, matrix products")
    options = parser.parse_args(argv)
    (compare_settings if options.settings else compare)(options)


if __name__ == "__main__":
    main()
