"""The benchmarks' rows: which contenders take part, what is recorded of each, and the summary at the end."""

from pathlib import Path

import pytest

import fastopt
from fastopt._runtime import dispatch
from fastopt.bench import timing
from fastopt.bench.contenders import ROOF, UnavailableError, library, prepare

SIZES = {"1": 1, "10": 10, "100": 100, "1k": 1000, "10k": 10_000, "100k": 100_000, "1M": 1_000_000,
         "10M": 10_000_000, "50M": 50_000_000, "100M": 100_000_000}

LARGEST = {"fastopt": 10**9, ROOF: 10**9, "torch": 10**9, "numpy": 30_000_000, "thinc": 30_000_000,
           "reference": 5_000_000}
"""library → elements of the largest workload that it takes part in; the others are slow or take too much memory."""
LARGEST_PEER = 50_000_000
"""Of a library that is not named above."""
LARGEST_CHECK = 5_000_000
"""Elements of the largest workload that is done with --benchmark-disable, for the check alone; 30 M for fastopt."""

SLOW = 0.05
"""A call that takes more seconds is timed in three rounds."""

ALL_THREADS = fastopt.get_num_threads()

RECORDED = []
"""What was recorded in this run, for the summary."""


def contenders(workload):
    """Names of the contenders that take part in a workload."""
    return [name for name in workload.contenders if workload.elements <= LARGEST.get(library(name), LARGEST_PEER)]


def rows(workloads, names=None):
    """Parametrise a test (benchmark, workload, name).

    Parameters
    ----------
    workloads : iterable of fastopt.bench.contenders.Workload
    names : callable, optional
        From a workload to the names of its contenders; by default all that take part.
    """
    return pytest.mark.parametrize(("workload", "name"), [
        pytest.param(workload, name, id=f"{workload.title}-{workload.shape}-{name}")
        for workload in workloads for name in (names or contenders)(workload)])


def bench_row(benchmark, workload, name):
    """Check a contender's result and time it, in the group of its workload."""
    if benchmark.disabled and workload.elements > (30_000_000 if name == "fastopt" else LARGEST_CHECK):
        pytest.skip("a large workload: only timed")
    require_memory(4 * workload.elements * (1 + len(workload.passes[0].split()[0])))
    try:
        contender, error = prepare(workload, name)
    except UnavailableError as reason:
        pytest.skip(str(reason))
    threads = 1 if contender.one_thread else fastopt.get_num_threads()
    level = dispatch.active.level if library(name) in ("fastopt", ROOF) else None
    benchmark.group = str(workload)
    benchmark.name = ", ".join(filter(None, [name, level, f"{threads} thread{'s' if threads > 1 else ''}"]))
    info = benchmark.extra_info
    info.update({
        "kernel": workload.title, "shape": workload.shape, "elements": workload.elements, "contender": name,
        "threads": threads, "level": level, "bytes/element": workload.moved, "allocates": contender.allocates,
        "largest error": error,
    })
    if timing.seconds(contender.call) > SLOW and not benchmark.disabled:
        benchmark.pedantic(contender.call, rounds=3)
    else:
        benchmark(contender.call)
    if benchmark.stats is not None:     # None with --benchmark-disable
        info["ns/element"] = benchmark.stats.stats.median / workload.elements * 1e9
        info["GB/s"] = workload.moved / info["ns/element"]
        if (contender.one_thread or threads == ALL_THREADS) and level in (None, BEST):
            RECORDED.append(info)


BEST = dispatch.active.level


def summary():
    """(workload, fastopt's ns/element, GB/s, share of the roof, NumPy's and the fastest peer's time over fastopt's) of
    each workload, on all threads at the best level; where a library has several forms, of the fastest."""
    groups, found = {}, []
    for info in RECORDED:
        times = groups.setdefault((f"{info['kernel']} {info['shape']}", info["bytes/element"]), {})
        name, time = library(info["contender"]), info["ns/element"]
        times[name] = min(time, times.get(name, time))
    for (group, moved), times in groups.items():
        if "fastopt" in times:
            ours = times["fastopt"]
            peers = {name: times[name] / ours for name in times if name not in ("fastopt", ROOF, "numpy", "reference")}
            fastest = min(peers, key=peers.get, default=None)
            found.append((group, ours, moved / ours, times.get(ROOF, 0.0) / ours or None,
                          times.get("numpy", 0.0) / ours or None, fastest, peers.get(fastest)))
    return found


def require_memory(needed):
    """Skip the test unless 1.5 times `needed` bytes of memory are available."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        free = int(meminfo.read_text().split("MemAvailable:")[1].split()[0]) * 1024
        if free < 1.5 * needed:
            pytest.skip(f"{needed / 1e9:.1f} GB of arrays do not fit in {free / 1e9:.1f} GB of memory")
