"""fastopt's optimizers beside their peers, as ratios: `python bench/measure_ratios.py` prints the tables.

Contenders are timed in turn within each round, so that other load on the machine affects all of them alike. A ratio is
the median over the rounds of (peer's time / fastopt's), beside it the middle half of the rounds, and the ratio of the
best rounds, which is the one to look at on a busy machine. fastopt's own figure is its best round.

Libraries that are not installed are left out. FASTOPT_NUM_THREADS sets the threads, the peers' too.
"""

import argparse
import sys

import bench_adam
import bench_adaptive
import bench_layerwise
import bench_sgd
import bench_sign
from models import models
from rows import SIZES, contenders

import fastopt
from fastopt.bench import timing
from fastopt.bench.contenders import CONTENDERS, ROOF, checked_calls
from fastopt.bench.optimizers import one_tensor
from fastopt.bench.table import Table

FAMILIES = (bench_sgd, bench_adaptive, bench_adam, bench_sign, bench_layerwise)
ADAM_SIZES = ("1", "1k", "100k", "1M", "10M", "50M")


MISSING = []


def race(workload, names, rounds):
    """Seconds of each round of fastopt and of those of `names` that take part."""
    takes_part = [name for name in contenders(workload) if name == "fastopt" or name in names]
    calls = checked_calls(workload, takes_part, MISSING)
    if workload.elements >= 10_000_000:
        rounds = min(rounds, 9)
    return timing.race(calls, rounds=rounds, warm=timing.WARM, turn=0.002)


def cells(times, names):
    """For each peer how many times fastopt's time it takes: median, middle half, and the best rounds of both."""
    found = []
    for name in names:
        if name in times:
            ratio = timing.ratio(times[name], times["fastopt"])
            found.append(f"{ratio.median:.2f} ({ratio.low:.2f} – {ratio.high:.2f}), best {ratio.best:.2f}")
        else:
            found.append("")
    return found


def adam(options):
    sizes = options.sizes or ADAM_SIZES
    names = [name for name in (ROOF, *CONTENDERS["adam"]) if name != "fastopt"]
    yield "Adam, one tensor", Table(("elements", "fastopt", *names), "lr" + "l" * len(names))
    for size in sizes:
        workload = one_tensor(bench_adam.ADAM, size, SIZES[size])
        times = race(workload, names, options.rounds)
        ours = min(times["fastopt"])
        per_element = f"{ours / workload.elements * 1e9:.3f} ns/element"
        yield size, f"{ours * 1e6:.2f} µs" if workload.elements < 10_000 else per_element, *cells(times, names)


def whole_models(options):
    names = ("torch", "numpy")
    yield "Whole models", Table(("model", "fastopt", *names), "lrll")
    for case in (bench_adam.ADAMW, bench_sgd.MOMENTUM):
        for workload in models(case):
            times = race(workload, names, options.rounds)
            yield str(workload), f"{min(times['fastopt']) * 1e6:.1f} µs", *cells(times, names)


def all_optimizers(options):
    names = ("torch", ROOF)
    yield "Every optimizer", Table(("function", "elements", "fastopt, ns/element", "bytes/element", "GB/s", *names),
                                   "lrrrrll")
    for size in options.sizes or ("100k", "50M"):
        for family in FAMILIES:
            for case in family.CASES:
                workload = one_tensor(case, size, SIZES[size])
                times = race(workload, names, options.rounds)
                ns = min(times["fastopt"]) / workload.elements * 1e9
                yield str(case), size, f"{ns:.3f}", workload.moved, f"{workload.moved / ns:.0f}", *cells(times, names)


TABLES = {"adam": adam, "models": whole_models, "all": all_optimizers}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)} (default: all three)")
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), help="of single tensors")
    parser.add_argument("--rounds", type=int, default=31, help="9 from 10 M elements on (default: 31)")
    options = parser.parse_args(argv)
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"argument TABLE: expected some of {', '.join(TABLES)}, got {', '.join(sorted(unknown))}")
    print(f"fastopt {fastopt.__version__}, {fastopt.get_num_threads()} threads; others' time / fastopt's")
    for name in options.tables or TABLES:
        lines = TABLES[name](options)
        title, table = next(lines)
        print(f"\n{title}\n\n{table.head()}", flush=True)
        for row in lines:
            print(table.row(*row), flush=True)
    for reason in MISSING:
        print(f"({reason})", file=sys.stderr)


if __name__ == "__main__":
    main()
