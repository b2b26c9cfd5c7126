"""fastopt's optimizers beside their peers, as ratios: `python bench/ratios.py` prints the tables.

Contenders are timed in turn within each round, so that what else the machine does meets all of them. A ratio is the
median over the rounds of (peer's time / fastopt's), beside it the middle half of the rounds, and the ratio of the best
rounds, which is the one to look at on a busy machine. fastopt's own figure is its best round.

Names given as arguments (`python bench/ratios.py adam models`) choose some of adam, models, others. Peers that are not
installed are left out. FASTOPT_NUM_THREADS sets the threads, the peers' too.
"""

import statistics
import sys
import time
from functools import partial

import bench_adam
import bench_adaptive
import bench_layerwise
import bench_sgd
import bench_sign
import peers
import pytest
from models import CLIP, CONTENDERS, MODELS
from models import contender as model_contender
from optimizers import SIZES, contender, contenders

import fastopt

PAUSE = 0.03
"""Seconds between contenders: one OpenMP library's threads go on spinning for a while and would hold the next up."""

WARM = 0.006
"""Seconds of calls before the timed ones: a processor that slept is slow for some milliseconds."""


def timed(run, least):
    """Seconds a call, of at least so many calls and 2 ms."""
    start = time.perf_counter()
    while time.perf_counter() - start < WARM:
        run()
    calls, start = 0, time.perf_counter()
    while True:
        for _ in range(least):
            run()
        calls += least
        now = time.perf_counter()
        if now - start > 0.002:
            return (now - start) / calls


def race(makers, rounds, least):
    """{name: seconds of each round}, of the functions that `makers` make, without those whose package is missing."""
    runs, times = {}, {}
    for name, make in makers.items():
        try:
            runs[name], times[name] = make(), []
        except pytest.skip.Exception as reason:
            print(f"({name}: {reason})", file=sys.stderr)
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(PAUSE)
            times[name].append(timed(run, least))
    return times


def cells(times, names):
    """For each peer how many times fastopt's time it takes: median, middle half, and the best rounds of both."""
    texts = []
    for peer in names:
        ratios = [theirs / ours for theirs, ours in zip(times.get(peer, ()), times["fastopt"], strict=peer in times)]
        if ratios:
            low, middle, high = statistics.quantiles(ratios, n=4)
            best = min(times[peer]) / min(times["fastopt"])
            texts.append(f"{middle:.2f} ({low:.2f} – {high:.2f}), best {best:.2f}")
        else:
            texts.append("")
    return " | ".join(texts)


def table(title, *columns):
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def row(label, fastopt_s, *rest):
    print(f"| {' | '.join([label, fastopt_s, *rest])} |", flush=True)


def one(case, name, n):
    """The function to time for one tensor."""
    return contender(case, name, n)[0]


def adam():
    names = (*peers.OPTIMIZERS, "numpy", "reference", "same streams")
    table("Adam, one tensor: others' time / fastopt's", "elements", "fastopt", *names)
    for size in ("1", "1k", "100k", "1M", "10M", "50M"):
        n = SIZES[size]
        takes_part = set(contenders(bench_adam.ADAM, n))
        makers = {name: partial(one, bench_adam.ADAM, name, n) for name in ("fastopt", *names) if name in takes_part}
        times = race(makers, 15 if n >= 10_000_000 else 61, 1 if n >= 1_000_000 else 50 if n < 10_000 else 5)
        seconds = min(times["fastopt"])
        time_text = f"{seconds * 1e6:.2f} µs" if n < 10_000 else f"{seconds / n * 1e9:.3f} ns/element"
        row(size, time_text, cells(times, names))


def models():
    names = ("torch", "numpy")
    table("Whole models: others' time / fastopt's", "model", "fastopt", *names)
    for kind, case in (("AdamW", bench_adam.ADAMW), ("SGD", bench_sgd.MOMENTUM)):
        for model in MODELS:
            small = model.startswith("10 ")
            for clip in (None, CLIP):
                makers = {name: partial(lambda *given: model_contender(*given)[0], kind, case, name, model, clip)
                          for name in ("fastopt", *names) if name in CONTENDERS[model]}
                times = race(makers, 61 if small else 25, 5 if small else 1)
                row(f"{case}, {model}{', clipped by norm' if clip else ''}",
                    f"{statistics.median(times['fastopt']) * 1e6:.1f} µs", cells(times, names))


def others():
    names = ("torch", "same streams")
    for size in ("100k", "50M"):
        n = SIZES[size]
        table(f"Every optimizer, {size} elements: others' time / fastopt's",
              "function", "fastopt, ns/element", "bytes/element", "GB/s", *names)
        for family in (bench_sgd, bench_adaptive, bench_adam, bench_sign, bench_layerwise):
            for case in family.CASES:
                makers = {name: partial(one, case, name, n) for name in ("fastopt", *names)
                          if name != "torch" or case.torch}
                times = race(makers, *((31, 5) if size == "100k" else (9, 1)))
                seconds = min(times["fastopt"]) / n
                row(str(case), f"{seconds * 1e9:.3f}", str(case.bytes), f"{case.bytes / seconds / 1e9:.0f}",
                    cells(times, names))


if __name__ == "__main__":
    print(f"fastopt {fastopt.__version__}, {fastopt.get_num_threads()} threads")
    for workload in sys.argv[1:] or ("adam", "models", "others"):
        {"adam": adam, "models": models, "others": others}[workload]()
