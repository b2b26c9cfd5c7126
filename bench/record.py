"""One row of the results: what was measured, how right it was, what it took. bench/report.py reads these names."""

import time
from pathlib import Path

import pytest

import fastopt
from fastopt._runtime import dispatch

ONE_THREAD = {"numpy", "numpy out=", "reference", "thinc"}
"""Contenders that use one thread whatever is asked for; the others get as many as fastopt."""

SLOW = 0.05
"""Seconds a call from which on three rounds must do."""

RECORDED = []
"""What was recorded in this run, for the summary."""


def record(benchmark, run, *, kernel, shape, elements, contender, error, moved=None, allocates=False):
    """Time `run` in the group of its kernel and shape.

    moved: bytes that the workload moves for each element, whoever computes it; None where that makes no sense.
    allocates: whether memory for the result is made within the timing. error: the largest that the check found.
    """
    threads = 1 if contender in ONE_THREAD else fastopt.get_num_threads()
    level = dispatch.active.level if contender == "fastopt" else None
    benchmark.group = f"{kernel} {shape}"
    benchmark.name = ", ".join(filter(None, [
        contender, level, f"{threads} thread{'s' if threads > 1 else ''}", "new arrays" if allocates else None]))
    info = benchmark.extra_info
    info.update({
        "kernel": str(kernel), "shape": str(shape), "elements": elements, "contender": contender, "threads": threads,
        "level": level, "bytes/element": moved, "allocates": allocates, "largest error": float(error),
    })
    start = time.perf_counter()
    run()
    if time.perf_counter() - start > SLOW and not benchmark.disabled:
        benchmark.pedantic(run, rounds=3)
    else:
        benchmark(run)
    if benchmark.stats is not None:     # --benchmark-disable: for the check alone
        info["ns/element"] = benchmark.stats.stats.median / elements * 1e9
        info["GB/s"] = None if moved is None else moved / info["ns/element"]
        RECORDED.append(info)


def counts(info):
    """Whether a row is of the best level and on all threads that its contender can use."""
    return (info["threads"] == fastopt.get_num_threads() or info["contender"] in ONE_THREAD) and (
        info["level"] in (None, dispatch.active.level))


def summary():
    """A line for each group: fastopt, its share of the memory roof, and how much longer others take."""
    groups, lines = {}, []
    for info in filter(counts, RECORDED):
        times = groups.setdefault((f"{info['kernel']} {info['shape']}", info["bytes/element"]), {})
        name, time = info["contender"], info["ns/element"]
        times[name] = min(time, times.get(name, time))
    for (group, moved), times in groups.items():
        if "fastopt" in times:
            ours, roof, numpy = times["fastopt"], times.get("same streams"), times.get("numpy")
            peers = {name: time for name, time in times.items()
                     if name not in ("fastopt", "same streams", "numpy", "numpy out=", "reference")}
            line = f"{group:54}{ours:10.3f}"
            line += f"{moved / ours:8.1f}" if moved else " " * 8
            line += f"{roof / ours:13.2f}" if roof else " " * 13
            line += f"{numpy / ours:12.1f}x" if numpy else " " * 13
            if peers:
                fastest = min(peers, key=peers.get)
                line += f"   {peers[fastest] / ours:.2f}x ({fastest})"
            lines.append(line.rstrip())
    if lines:
        lines.insert(0, f"{'':54}{'ns/element':>10}{'GB/s':>8}{'of the roof':>13}{'NumPy takes':>13}"
                        "   the fastest peer takes")
    return lines


def require_memory(needed):
    """Skip where so many bytes, and half as many again, are not to be had."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        free = int(meminfo.read_text().split("MemAvailable:")[1].split()[0]) * 1024
        if free < 1.5 * needed:
            pytest.skip(f"{needed / 1e9:.1f} GB of arrays do not fit in {free / 1e9:.1f} GB of memory")
