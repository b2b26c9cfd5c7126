"""fastopt beside every installed peer on random shapes: `python bench/measure_sweep.py --seed 1`.

For each kernel `--count` workloads are drawn (draws.py); another seed gives others: tune on some, report on others.
Every contender's result is checked, then they are timed in turn, each after 100 ms of calls. A ratio is the median time
of the fastest peer in the same layout over ours: where our result is a new array in each call, so is the peer's; where
it goes into a given array, a peer counts with its fastest form. A row in which a round of ours took longer than a
round of the fastest peer is not decided: it gets four times as many rounds (fewer of slow calls), of the contenders
that could be the fastest.

FASTOPT_ISA limits the peers as well: FASTOPT_ISA=v3 compares AVX2 with AVX2 on any machine (DeepSpeed, which is
compiled for the processor that it runs on, then takes no part). FASTOPT_NUM_THREADS sets everyone's threads.
"""

import argparse
import os
import sys

import another_build
import numpy as np
from draws import FAMILIES
from rows import contenders
from sweep import Row, Sweep, machine

import fastopt
from fastopt._runtime import dispatch
from fastopt.bench import timing
from fastopt.bench.contenders import ROOF, UnavailableError, WrongResultError, library, prepare

LOWEST = 10
"""Rows of each kernel that are printed."""
TURN = 0.002
SECONDS, LEAST_ROUNDS = 3.0, 3
"""A row takes about so long at most, unless that would be fewer rounds."""
MORE_ROUNDS = 3
"""Further rounds of a row that is not decided, as a multiple of `--rounds`."""
NEAR = 1.5
"""A peer takes part in them if its time is below this multiple of the fastest peer's."""
LIMITS = {"v3": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
                 "NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": ""},
          "baseline": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41",
                       "XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2", "NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}}
"""level → environment variables by which peers are limited to it; they read them when they are imported."""
UNLIMITED = ("deepspeed",)
LEFT_OUT = (ROOF, "reference", "numpy out=", "fastopt in place")


def limit_peers(level):
    """Before any of them is imported."""
    os.environ.update(LIMITS.get(level, {}))


def is_ours(contender):
    return library(contender) in ("fastopt", another_build.NAME)


def measure(draw, rounds, missing):
    """The row of a draw. Why a contender takes no part is added to `missing`."""
    calls = {}
    for name in contenders(draw.workload):
        if name in LEFT_OUT or (library(name) in UNLIMITED and dispatch.active.level in LIMITS):
            continue
        try:
            contender = prepare(draw.workload, name)[0]
        except UnavailableError as reason:
            missing.setdefault(str(reason))
            continue
        except WrongResultError as reason:
            if is_ours(name):
                raise
            missing.setdefault(f"{reason}: not timed")
            continue
        if contender.allocates == draw.allocates or not (is_ours(name) or draw.allocates):
            calls[name] = contender.call
    times = race(calls, rounds)
    row = Row(draw.kernel, draw.workload.title, draw.workload.shape, draw.workload.elements, draw.allocates, times)
    if row.is_close:
        near = [name for name in calls if is_ours(name) or row.seconds(name) < NEAR * row.seconds(row.peer)]
        for name, more in race({name: calls[name] for name in near}, MORE_ROUNDS * rounds).items():
            times[name] += more
    return row


def race(calls, rounds):
    """Seconds of each contender's rounds: `rounds` of them, or fewer of slow calls."""
    slow = sum(timing.seconds(call) for call in calls.values())
    return timing.race(calls, rounds=max(LEAST_ROUNDS, min(rounds, int(SECONDS / (2 * slow)))),
                       warm=timing.WARM, turn=TURN)


def sweep(families, count, seed, rounds, limit, missing):
    """The rows, as they are measured."""
    for name in families:
        rng = np.random.default_rng([seed, list(FAMILIES).index(name)])
        for _ in range(count):
            for draw in FAMILIES[name](rng, limit):
                yield measure(draw, rounds, missing)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument("--count", type=int, default=60, help="draws of each family (default: 60)")
    parser.add_argument("--rounds", type=int, default=7, help="of each row; at least 3 of slow ones (default: 7)")
    parser.add_argument("--limit", type=int, help="elements of a workload, at most (default: as draws.py says)")
    parser.add_argument("--before", metavar="FOLDER", type=os.path.abspath,
                        help="another build of fastopt, which takes part")
    parser.add_argument("--json", metavar="FILE", help="save the results, for report.py --sweep")
    options = parser.parse_args(argv)
    if unknown := set(options.families) - set(FAMILIES):
        parser.error(f"argument FAMILY: expected some of {', '.join(FAMILIES)}, got {', '.join(sorted(unknown))}")
    level, missing = dispatch.active.level, {}
    limit_peers(level)
    if options.before:
        another_build.register(another_build.load(options.before))
    found = Sweep(options.seed, level, fastopt.get_num_threads(), machine(), [])
    families = options.families or list(FAMILIES)
    for row in sweep(families, options.count, options.seed, options.rounds, options.limit, missing):
        found.rows.append(row)
        print(found.worst([row]).splitlines()[-1] if row.peer else f"| {row.workload} | {row.shape} |",
              file=sys.stderr, flush=True)
        if options.json:
            found.save(options.json)
    print(f"{found.measured_on()}\n\n{found.summary()}\n\n{found.table()}")
    for kernel, rows in found.kernels().items():
        print(f"\n{kernel}: the lowest\n\n{found.worst(sorted(rows, key=Row.ratio)[:LOWEST])}")
    for reason in missing:
        print(f"({reason})", file=sys.stderr)


if __name__ == "__main__":
    main()
