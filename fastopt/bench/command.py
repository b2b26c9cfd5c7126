"""`fastopt bench`: how fast the kernels are on this machine, at a glance. bench/ measures with more care."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

import fastopt
from fastopt._runtime import dispatch
from fastopt.bench import batchnorm, optimizers, softmax, timing
from fastopt.bench.contenders import CONTENDERS, ROOF, Workload, checked_calls, library
from fastopt.bench.table import Table, percent

PEERS = ("torch", "numba")
FEWEST_ROUNDS = 5

TABLE = Table(("kernel", "shape", "ns/element", "GB/s", "of roof", "NumPy", *PEERS), "lrrrrrrr",
              (22, 18, 11, 7, 8, 8, 8, 8))


def workloads(quick: bool) -> Iterator[Workload]:
    """The table's rows; with `quick` only small ones, which stay in the cache."""
    for n in (10_000, 100_000) if quick else (100_000, 1_000_000, 5_000_000):
        for case in (optimizers.MOMENTUM, optimizers.ADAM):
            yield optimizers.one_tensor(case, f"{n:,}", n)
    for width in (64,) if quick else (128, 2048):
        yield optimizers.model(optimizers.ADAM, f"784-{width}-{width}-10", optimizers.layers(784, width, width, 10))
    for shape in ((256, 256),) if quick else ((256, 1024), (4096, 1024), (32, 64, 28, 28)):
        for which in batchnorm.PASSES:
            yield batchnorm.workload(which, shape)
    for shape in ((1024, 10), (128, 100)) if quick else ((1024, 10), (1024, 1000), (256, 32_000)):
        for kernel in ("log_softmax", "softmax_cross_entropy"):
            yield softmax.workload(kernel, shape)


def contenders(workload: Workload) -> list[str]:
    """Names of those that take part: of a peer the form that writes into a given array, where it has one."""
    made = CONTENDERS[workload.kernel]
    peers = [f"{peer} out=" if f"{peer} out=" in made else peer for peer in PEERS]
    return ["fastopt", ROOF, "numpy", *(peer for peer in peers if peer in made)]


def measure(workload: Workload, seconds: float, missing: list[str]) -> dict[str, float]:
    """Median seconds of each library's call, after a check of its result; why one is missing is added to `missing`."""
    calls = {library(name): call for name, call in checked_calls(workload, contenders(workload), missing).items()}
    warm = timing.WARM if any(peer in calls for peer in PEERS) else 0.0
    return timing.medians(timing.race(calls, rounds=FEWEST_ROUNDS, least_seconds=seconds, warm=warm))


def line(workload: Workload, times: dict[str, float]) -> str:
    """A row of the table; peers' times over ours."""
    ours = times["fastopt"]
    ratios = (f"{times[name] / ours:.2f}" if name in times else "" for name in ("numpy", *PEERS))
    return TABLE.row(workload.title, workload.shape, f"{ours / workload.elements * 1e9:.3f}",
                     f"{workload.moved * workload.elements / ours / 1e9:.1f}", percent(times[ROOF] / ours), *ratios)


def records(workload: Workload, times: dict[str, float]) -> list[dict[str, Any]]:
    """What the JSON file holds of a row."""
    return [{"kernel": workload.title, "shape": workload.shape, "elements": workload.elements, "contender": name,
             "threads": fastopt.get_num_threads(), "bytes/element": workload.moved, "seconds": seconds,
             "level": dispatch.active.level if name in ("fastopt", ROOF) else None,
             "ns/element": seconds / workload.elements * 1e9,
             "GB/s": workload.moved * workload.elements / seconds / 1e9}
            for name, seconds in times.items()]


def run(*, quick: bool = False, seconds: float = 0.4, path: str | None = None) -> None:
    """Print the table, and write the JSON file if there is a path.

    Raises
    ------
    WrongResultError
        A contender's result is wrong.
    OSError
        The file cannot be written.
    """
    print(f"fastopt {fastopt.__version__}, level {dispatch.active.level}, threads: {fastopt.get_num_threads()}\n")
    print(TABLE.head(), flush=True)
    # glibc keeps freed blocks that are no larger than the largest one freed so far. Without this one, as in a program
    # that has only begun, NumPy's time would be that of its temporary arrays' page faults.
    np.empty(30_000_000, np.uint8)
    missing: list[str] = []
    found = []
    for workload in workloads(quick):
        times = measure(workload, seconds, missing)
        print(line(workload, times), flush=True)
        found += records(workload, times)
    print("\nof roof: the time of a loop that only moves the same arrays, over ours.\n"
          f"NumPy, {', '.join(PEERS)}: its time over ours.")
    for reason in missing:
        print(f"({reason})")
    if path is not None:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"config": fastopt.show_config(mode="dicts"), "results": found}, file, indent=1)
        print(f"Figures: {path}")
