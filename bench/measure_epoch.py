"""One training epoch from end to end, all NumPy, with fastopt, with torch: `python bench/measure_epoch.py` prints the
table.

The demo's network (matrix product, BatchNorm, ReLU, twice; softmax cross-entropy; Adam) in three widths. Matrix
products are NumPy's, or torch's own, and timed by themselves: the rest is what the kernels do, and what copying a
batch costs. First all contenders train one epoch from the same weights on the same batches, and must reach the same
loss. Then they train in turn, an epoch each, and medians are printed.

`--settings` runs the fastopt row, or the only one of `--contenders`, in fresh processes, in turn, once for each of the
ways to share the cores between the kernels' threads and BLAS's (docs/threads.md has the outcome).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import numpy as np

import fastopt
from fastopt.bench import timing
from fastopt.bench.batchnorm import numpy_batch_norm_backward, numpy_batch_norm_forward
from fastopt.bench.contenders import UnavailableError, WrongResultError, torch
from fastopt.bench.optimizers import numpy_adam
from fastopt.bench.softmax import numpy_cross_entropy
from fastopt.bench.table import Table
from fastopt.demo.network import Network

INPUTS, CLASSES, SEED = 784, 10, 0
CONTENDERS = ("numpy", "fastopt", "fastopt, 1 thread", "torch")
PAUSE = 0.05
"""Seconds between contenders, so that no contender's threads still spin when the next one begins."""

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
                        softmax_cross_entropy=lambda logits, labels, out: numpy_cross_entropy(logits, labels))


class TimedNetwork(Network):
    """The demo's network with the kernels and the threads that a contender's name asks for."""

    def __init__(self, name, sizes):
        super().__init__(NUMPY if name == "numpy" else fastopt, sizes, np.random.default_rng(SEED))
        self.threads = 1 if name.endswith("1 thread") else fastopt.get_num_threads()
        self.product, self.opt = Products(), self.kernels.Adam()

    def epoch(self, x, labels, batches):
        """(mean loss, seconds, seconds of them in matrix products)"""
        losses = []
        self.product.seconds, start = 0.0, time.perf_counter()
        with fastopt.num_threads(self.threads):
            for batch in batches:
                losses.append(self.loss_and_gradients(x[batch], labels[batch]))
                self.opt.update(self.params, self.grads)
        return statistics.fmean(losses), time.perf_counter() - start, self.product.seconds


class TorchNetwork:
    """The same in torch. Products inside autograd are timed in an epoch of its own, which is slower as a whole; the
    total is that of a plain one."""

    def __init__(self, sizes):
        self.t = t = torch()
        self.products = Products(t.mm)
        params = Network(fastopt, sizes, np.random.default_rng(SEED)).params
        weights = [param for key, param in params.items() if key.startswith("weight")]
        self.weights = [t.nn.Parameter(t.from_numpy(weight)) for weight in weights]
        self.norms = [t.nn.BatchNorm1d(weight.shape[1]) for weight in weights[:-1]]
        self.bias = t.nn.Parameter(t.zeros(CLASSES))
        self.opt = t.optim.Adam(
            [*self.weights, self.bias, *(p for norm in self.norms for p in norm.parameters())], fused=True)
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
    rng = np.random.default_rng(1)
    sizes = (INPUTS, width, width, CLASSES)
    x = rng.standard_normal((examples, INPUTS), dtype=np.float32)
    labels = (x @ rng.standard_normal((INPUTS, CLASSES), dtype=np.float32)).argmax(axis=1)
    batches = rng.permutation(examples).reshape(-1, batch)
    networks = {}
    for name in contenders:
        try:
            networks[name] = TorchNetwork(sizes) if name == "torch" else TimedNetwork(name, sizes)
        except UnavailableError as reason:
            print(f"({name}: {reason})", file=sys.stderr)
    losses = {name: network.epoch(x, labels, batches)[0] for name, network in networks.items()}
    low, high = min(losses.values()), max(losses.values())
    if not high - low < 1e-3 * low:
        raise WrongResultError(f"losses of the first epoch differ: {losses}")
    epochs = {name: partial(network.epoch, x, labels, batches) for name, network in networks.items()}
    times = timing.in_turn(epochs, rounds=3, least_seconds=seconds, pause=PAUSE)
    return {name: [statistics.median(column) for column in list(zip(*rounds, strict=True))[1:]]
            for name, rounds in times.items()}


def compare(options):
    results = {width: measure(width, options.contenders, options.batch, options.examples, options.seconds)
               for width in options.widths}
    if options.json:
        print(json.dumps(results))
        return
    print(f"One epoch of {options.examples} examples in batches of {options.batch}, "
          f"{fastopt.get_num_threads()} threads, milliseconds\n")
    table = Table(("width", "", "whole", "matrix products", "rest", "whole, all-NumPy = 1", "rest, all-NumPy = 1"),
                  "rlrrrrr")
    print(table.head())
    for width, rows in results.items():
        for name, (whole, products) in rows.items():
            base = rows.get("numpy", (whole, products))
            print(table.row(width, name, f"{whole * 1e3:.1f}", f"{products * 1e3:.1f}",
                            f"{(whole - products) * 1e3:.1f}", f"{base[0] / whole:.2f}",
                            f"{(base[0] - base[1]) / (whole - products):.2f}"))


def compare_settings(options):
    contender = options.contenders[0] if len(options.contenders) == 1 else "fastopt"
    command = [sys.executable, __file__, "--json", "--contenders", contender, "--batch", str(options.batch),
               "--examples", str(options.examples), "--seconds", str(options.seconds),
               "--widths", *map(str, options.widths)]

    def run(changes):
        done = subprocess.run(command, env=os.environ | changes, check=True, capture_output=True, text=True)
        return json.loads(done.stdout)

    found = timing.in_turn({name: partial(run, changes) for name, changes in SETTINGS.items()}, rounds=options.repeats)
    print(f"One epoch of {options.examples} examples in batches of {options.batch} with {contender}, milliseconds: "
          "whole (matrix products + rest)\n")
    table = Table(("setting", *(f"width {width}" for width in options.widths)), "l" * (1 + len(options.widths)))
    print(table.head())
    for name, runs in found.items():
        cells = []
        for width in map(str, options.widths):
            whole, products = (statistics.median(run[width][contender][i] for run in runs) * 1e3 for i in (0, 1))
            cells.append(f"{whole:.1f} ({products:.1f} + {whole - products:.1f})")
        print(table.row(name, *cells))


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
