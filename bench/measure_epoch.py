"""One training epoch from end to end, all NumPy, with fastopt, with torch: `python bench/measure_epoch.py` prints the
table.

Four networks (networks.py): fully connected in three widths, with BatchNorm and with dropout, convolutional, and a
language model; Adam. Matrix products and copies are NumPy's, or torch's own, and timed by themselves. Each contender
trains in a process of its own, from the same weights on the same batches. The mean loss of the first epoch must be the
same for all of them (with dropout, nearly); then they train in turn, an epoch each, and medians are printed.

`--settings` compares, with the fastopt row or the only one of `--contenders`, the ways to share the cores between the
kernels' threads and BLAS's (docs/threads.md has the outcome).
"""

import argparse
import statistics
import sys
from contextlib import ExitStack

import networks
import trainers

import fastopt
from fastopt.bench import timing
from fastopt.bench.contenders import UnavailableError, WrongResultError
from fastopt.bench.table import Table, number

NETWORKS = ("mlp", "dropout", "conv", "language")
PAUSE = 0.05
"""Seconds between contenders, so that no contender's threads still spin when the next one begins."""
TOLERANCE = 1e-3
"""Of the first epoch's mean loss, between all contenders, relative."""
TOLERANCE_DROPOUT = 0.25
"""The same where each contender drops other elements."""

SETTINGS = {
    "as installed": {},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "FASTOPT_NUM_THREADS=1": {"FASTOPT_NUM_THREADS": "1"},
    "OPENBLAS_NUM_THREADS=1": {"OPENBLAS_NUM_THREADS": "1"},
    "both 1": {"FASTOPT_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
}


def measure(task, rows, options):
    """{name: median Epoch} for rows of {name: (contender, changes of the environment)}."""
    epochs = {}
    for _ in range(options.repeats):
        with ExitStack() as stack:
            workers = {}
            for name, (contender, environment) in rows.items():
                try:
                    workers[name] = trainers.Worker(environment, options.keep_heap, contender, task,
                                                    options.examples, options.batch)
                except UnavailableError as reason:
                    print(f"({name}: {reason})", file=sys.stderr)
                else:
                    stack.callback(workers[name].close)
            losses = {name: worker.first.loss for name, worker in workers.items()}
            low, high = min(losses.values()), max(losses.values())
            if not high - low <= (TOLERANCE_DROPOUT if task.dropout else TOLERANCE) * low:
                raise WrongResultError(f"losses of the first epoch differ: {losses}")
            found = timing.in_turn({name: worker.epoch for name, worker in workers.items()}, rounds=3,
                                   least_seconds=options.seconds / options.repeats, pause=PAUSE)
        for name, several in found.items():
            epochs.setdefault(name, []).extend(several)
    return {name: median(several) for name, several in epochs.items()}


def median(epochs):
    """The median of each part, of the rest and of the page faults; the whole is the sum of the parts' medians, so that
    an epoch in which the products were slow does not decide what the other parts are."""
    parts = {part: statistics.median(epoch.parts[part] for epoch in epochs) for part in trainers.PARTS}
    rest = statistics.median(epoch.seconds - sum(epoch.parts.values()) for epoch in epochs)
    faults = [epoch.faults for epoch in epochs]
    return trainers.Epoch(epochs[0].loss, sum(parts.values()) + rest, parts,
                          None if None in faults else statistics.median(faults))


def described(options):
    return (f"One epoch of {options.examples} examples in batches of {options.batch}, {fastopt.get_num_threads()} "
            f"threads{', heap kept' if options.keep_heap else ''}")


def compare(tasks, options):
    print(f"{described(options)}, milliseconds. Products: matrix products and im2col. Layers: BatchNorm with ReLU; "
          "bias, ReLU and dropout. Rest: batches, embeddings, other biases, means; torch's bookkeeping. Faults: page "
          "faults a step.\n")
    table = Table(("network", "", "whole", "products", "layers", "loss", "update", "rest", "faults",
                   "speed, numpy = 1", "speed without products"), "ll" + "r" * 9)
    print(table.head())
    for title, task in tasks.items():
        rows = measure(task, {name: (name, {}) for name in options.contenders
                              if task.dropout or name not in networks.WITHOUT}, options)
        for name, epoch in rows.items():
            base = rows.get("numpy", epoch)
            print(table.row(
                title, name, *(f"{seconds * 1e3:.1f}" for seconds in (
                    epoch.seconds, *epoch.parts.values(), epoch.seconds - sum(epoch.parts.values()))),
                number(epoch.faults, 0), f"{base.seconds / epoch.seconds:.2f}",
                f"{without_products(base) / without_products(epoch):.2f}"), flush=True)


def without_products(epoch):
    return epoch.seconds - epoch.parts["products"]


def compare_settings(tasks, options):
    contender = options.contenders[0] if len(options.contenders) == 1 else "fastopt"
    found = {title: measure(task, {name: (contender, changes) for name, changes in SETTINGS.items()}, options)
             for title, task in tasks.items()}
    print(f"{described(options)} as installed, with {contender}, milliseconds: whole (matrix products + rest)\n")
    table = Table(("setting", *found), "l" * (1 + len(found)))
    print(table.head())
    for name in SETTINGS:
        epochs = [rows[name] for rows in found.values()]
        print(table.row(name, *(f"{epoch.seconds * 1e3:.1f} ({epoch.parts['products'] * 1e3:.1f} + "
                                f"{without_products(epoch) * 1e3:.1f})" for epoch in epochs)))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="network", help=f"of {', '.join(NETWORKS)} (default: all)")
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 512, 2048],
                        help="of the hidden layers of mlp and dropout")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--examples", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring, for each network")
    parser.add_argument("--contenders", nargs="+", choices=trainers.CONTENDERS, default=trainers.CONTENDERS)
    parser.add_argument("--settings", action="store_true", help="compare ways to share the processor with BLAS")
    parser.add_argument("--repeats", type=int, default=1, help="processes for each contender or setting, one by one")
    parser.add_argument("--keep-heap", action="store_true", help="glibc keeps freed memory: no page faults")
    options = parser.parse_args(argv)
    unknown = set(options.networks) - set(NETWORKS)
    if unknown:
        parser.error(f"expected networks of {', '.join(NETWORKS)}, got {', '.join(sorted(unknown))}")
    tasks = networks.tasks(options.networks or NETWORKS, options.widths)
    (compare_settings if options.settings else compare)(tasks, options)


if __name__ == "__main__":
    main()
