"""`fastopt bench`: how fast the kernels are on this machine, at a glance. bench/ measures with more care.

Contenders are timed in turn, round by round, after their results have been compared; medians count. Beside them stands
the memory roof: a loop that loads and stores the same arrays and does next to nothing else.
"""

import json
import math
import statistics
import time
from dataclasses import dataclass

import numpy as np

import fastopt
from fastopt import _bench_contenders as contenders
from fastopt._probe import bytes_per_element, same_streams
from fastopt._runtime import dispatch

ROOF = "same streams"
PEERS = ("torch", "numba")
PAUSE = 0.02
"""Seconds before a contender's turn where there are peers: OpenMP's threads go on spinning for so long."""
WARM = 0.006
"""Seconds of calls after a pause, before those that are timed: a processor that slept is slow for some milliseconds."""
LEAST = 0.001
"""Seconds that a contender's turn takes at least, by repetition."""
FEWEST_ROUNDS = 5


@dataclass(frozen=True)
class Workload:
    """One kernel on one shape."""

    kernel: str
    shape: str
    elements: int
    passes: tuple
    """What each pass over memory does with each array: see fastopt._probe."""
    makers: dict


def workloads(quick):
    """The table's rows; with `quick` small ones alone, that stay in the cache."""
    for n in (10_000, 100_000) if quick else (100_000, 1_000_000, 5_000_000):
        yield Workload("sgd, momentum", f"{n:,}", n, ("uru",), contenders.sgd(n))
        yield Workload("adam", f"{n:,}", n, ("uruu",), contenders.adam(n))
    for width in (64,) if quick else (128, 2048):
        shapes = [shape for inputs, outputs in ((784, width), (width, width), (width, 10))
                  for shape in ((inputs, outputs), (outputs,))]
        yield Workload("Adam, whole model", f"784-{width}-{width}-10", sum(map(math.prod, shapes)), ("uruu",),
                       contenders.model_adam(*shapes))
    for shape in ((256, 256),) if quick else ((256, 1024), (4096, 1024), (32, 64, 28, 28)):
        for which, passes in (("forward", ("r- rw",)), ("backward", ("rr- rrw",)), ("inference", ("rw",))):
            yield Workload(f"batch_norm_{which}", str(shape), math.prod(shape), passes,
                           contenders.batch_norm(shape, which))
    for shape in ((1024, 10), (128, 100)) if quick else ((1024, 10), (1024, 1000), (256, 32_000)):
        for kernel, make in (("log_softmax", contenders.log_softmax),
                             ("softmax_cross_entropy", contenders.cross_entropy)):
            yield Workload(kernel, str(shape), math.prod(shape), ("rw",), make(shape))


class Different(Exception):
    """A contender's result is not what the kernel's is."""


def prepare(workload, skip):
    """{contender: function to time}, after one call of each, whose results agree. Missing packages go into `skip`."""
    calls, expected = {}, None
    for name, make in workload.makers.items():
        if name in skip:
            continue
        try:
            call, result = make()
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != name:
                raise
            skip.append(name)
            continue
        call()
        if expected is None:
            expected = result.copy()
        error = float(np.abs(result - expected).max(initial=0.0))
        if not error <= 1e-4 * float(np.abs(expected).max(initial=0.0)):
            raise Different(f"{workload.kernel} {workload.shape}: {name}'s result differs by {error:.2g}")
        calls[name] = call
    arrays = [contenders.noise(workload.elements) for _ in workload.passes[0].split()[0]]
    calls[ROOF] = same_streams(arrays, list(workload.passes))
    return calls


def race(calls, seconds):
    """{contender: median seconds of a call}, timed in turn for so long and at least FEWEST_ROUNDS times."""
    repeats = {}
    for name, call in calls.items():
        start = time.perf_counter()
        call()
        repeats[name] = max(1, math.ceil(LEAST / max(time.perf_counter() - start, 1e-7)))
    times = {name: [] for name in calls}
    pause = PAUSE if any(name in calls for name in PEERS) else 0.0
    begin = time.perf_counter()
    while len(times[ROOF]) < FEWEST_ROUNDS or time.perf_counter() - begin < seconds:
        for name, call in calls.items():
            time.sleep(pause)
            warm = time.perf_counter() + (WARM if pause else 0.0)
            if repeats[name] > 1:       # wakes helpers, fills caches
                call()
            while time.perf_counter() < warm:
                call()
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.median(rounds) for name, rounds in times.items()}


HEADER = (f"{'kernel':22} {'shape':>18} {'ns/element':>11} {'GB/s':>7} {'of roof':>8} {'NumPy':>8}"
          + "".join(f" {name:>8}" for name in PEERS))


def line(workload, times):
    """A row of the table; peers' times over ours."""
    ours = times["fastopt"]
    moved = bytes_per_element(workload.passes) * workload.elements
    ratios = (f"{times[name] / ours:.2f}" if name in times else "" for name in ("numpy", *PEERS))
    figures = (f"{ours / workload.elements * 1e9:11.3f} {moved / ours / 1e9:7.1f} {times[ROOF] / ours:8.0%}"
               + "".join(f" {ratio:>8}" for ratio in ratios))
    return f"{workload.kernel:22} {workload.shape:>18} {figures}".rstrip()


def records(workload, times):
    """What the JSON file holds of a row."""
    size = bytes_per_element(workload.passes)
    return [{"kernel": workload.kernel, "shape": workload.shape, "elements": workload.elements, "contender": name,
             "threads": fastopt.get_num_threads(), "bytes/element": size, "seconds": seconds,
             "level": dispatch.active.level if name in ("fastopt", ROOF) else None,
             "ns/element": seconds / workload.elements * 1e9, "GB/s": size * workload.elements / seconds / 1e9}
            for name, seconds in times.items()]


def run(*, quick=False, seconds=0.4, path=None):
    """Print the table and write the JSON file if asked to."""
    print(f"fastopt {fastopt.__version__}, level {dispatch.active.level}, threads: {fastopt.get_num_threads()}\n")
    print(HEADER, flush=True)
    skip, found = [], []
    for workload in workloads(quick):
        times = race(prepare(workload, skip), seconds)
        print(line(workload, times), flush=True)
        found += records(workload, times)
    print("\nof roof: the time of a loop that only moves the same arrays, over ours.\n"
          f"NumPy{''.join(f', {name}' for name in PEERS if name not in skip)}: its time over ours.")
    for name in skip:
        print(f"({name} is not installed)")
    if path is not None:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"config": fastopt.show_config(mode="dicts"), "results": found}, file, indent=1)
        print(f"Figures: {path}")
