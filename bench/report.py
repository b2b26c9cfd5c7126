"""From pytest-benchmark's JSON to the tables in README.md and docs/speed.md and the pictures in docs/.

    pytest bench --benchmark-json=results.json
    python bench/report.py results.json [more.json ...]

Of several files the medians' median counts. Every benchmark says in `extra_info` what was measured: "kernel", "shape",
"elements", "contender", "threads", "level", "allocates". A row of the table is one kernel on one shape, with the result
in a new array or not. Where our results go into given arrays, a peer counts with its fastest form; where ours are new
arrays, so must be the peer's. docs/speed.md has every row, README.md those of README_ROWS.

`--sweep FILE ...` does the same with files of `measure_sweep.py --json`: a table for each level, a headline and a
picture.

`--section NAME=FILE` puts a file's text between the marks of that name (bench/measure_epoch.py's table, for one).
"""

import argparse
import json
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from fastopt.bench.contenders import ROOF, library
from fastopt.bench.table import Table, number, percent

ROOT = Path(__file__).resolve().parents[1]
NO_PEERS = ("fastopt", "numpy", "reference", ROOF)
LEVELS = (None, "baseline", "v3", "v4")

README_ROWS = (
    ("adam", "1k"), ("adam", "100k"), ("adam", "50M"), ("AdamW", "ResNet-50, 161 tensors"),
    ("batch_norm_forward", "(32, 64, 56, 56)"), ("batch_norm_backward", "(32, 64, 56, 56)"),
    ("batch_norm_backward", "(8, 512, 7, 7)"), ("batch_norm_inference", "(32, 64, 56, 56)"),
    ("log_softmax", "(1024, 1000)"), ("softmax", "(1024, 1000)"), ("softmax_cross_entropy", "(1024, 1000)"),
    ("softmax_cross_entropy", "(256, 50257)"),
)
"""Kernel and shape of the rows of the README, in this order; with results in given arrays."""
SWEEP_PICTURE = "speed_sweep.svg"
"""In docs/ and in the README."""

TABLE = Table(("workload", "shape", "fastopt, ns/element", "fastest peer", "peer's time / ours", "NumPy's time / ours",
               "share of the roof"), "llrlrrr")


@dataclass(frozen=True)
class Entry:
    """One contender on one workload."""

    kernel: str
    shape: str
    elements: int
    contender: str
    threads: int | None
    level: str | None
    allocates: bool
    seconds: float

    @property
    def ns(self):
        """Nanoseconds per element."""
        return self.seconds / self.elements * 1e9

    @property
    def library(self):
        return library(self.contender)


@dataclass(frozen=True)
class Row:
    """Ours beside the fastest peer, NumPy and the roof; those that were not measured are None."""

    ours: Entry
    peer: Entry | None
    numpy: Entry | None
    roof: Entry | None

    @property
    def workload(self):
        return self.ours.kernel + (", new array" if self.ours.allocates else "")

    @property
    def ratio(self):
        """The fastest peer's time over ours."""
        return self.peer.seconds / self.ours.seconds if self.peer else None

    @property
    def numpy_ratio(self):
        return self.numpy.seconds / self.ours.seconds if self.numpy else None

    @property
    def share(self):
        """The time of the loop that only moves the same arrays, over ours."""
        return self.roof.seconds / self.ours.seconds if self.roof else None

    @property
    def lost(self):
        return self.ratio is not None and self.ratio < 1


def load(paths):
    """(entries, machine in words) of pytest-benchmark's files."""
    seconds, machine = {}, ""
    for path in paths:
        results = json.loads(Path(path).read_text("utf-8"))
        machine = machine or in_words(results.get("machine_info", {}))
        for benchmark in results["benchmarks"]:
            info = benchmark["extra_info"]
            if benchmark.get("stats") is None or "kernel" not in info:
                continue
            key = (info["kernel"], info["shape"], int(info["elements"]), info["contender"], info.get("threads"),
                   info.get("level"), bool(info.get("allocates", False)))
            seconds.setdefault(key, []).append(benchmark["stats"]["median"])
    return [Entry(*key, statistics.median(medians)) for key, medians in seconds.items()], machine


def in_words(machine_info):
    cpu = machine_info.get("cpu", {})
    facts = [cpu.get("brand_raw"), f"{cpu['count']} CPUs" if cpu.get("count") else None]
    return ", ".join(fact for fact in facts if fact)


def table_rows(entries):
    """The rows, kernel by kernel in the order of the benchmarks: our entries at the best level, with most threads."""
    groups = {}
    for entry in entries:
        groups.setdefault(entry.kernel, {}).setdefault(entry.shape, []).append(entry)
    rows = []
    for group in (group for shapes in groups.values() for group in shapes.values()):
        for allocates in (False, True):
            ours = [entry for entry in group if entry.library == "fastopt" and entry.allocates == allocates]
            if not ours:
                continue
            best = max(ours, key=lambda entry: (entry.threads or 0, LEVELS.index(entry.level), -entry.seconds))
            others = comparable(group, best.threads or 1)
            alike = [entry for entry in others if entry.allocates or not allocates]
            rows.append(Row(best,
                            fastest(entry for entry in alike if entry.library not in NO_PEERS),
                            fastest(entry for entry in alike if entry.library == "numpy"),
                            fastest(entry for entry in others if entry.contender == ROOF)))
    return rows


def comparable(group, threads):
    """Of each contender the entries with its largest number of threads that is not larger than ours."""
    allowed = [entry for entry in group if (entry.threads or 1) <= threads]
    most = {entry.contender: max(other.threads or 1 for other in allowed if other.contender == entry.contender)
            for entry in allowed}
    return [entry for entry in allowed if (entry.threads or 1) == most[entry.contender]]


def fastest(entries):
    return min(entries, key=lambda entry: entry.seconds, default=None)


# Text.

def table(rows):
    """The rows in Markdown; the ratio of a row that a peer wins is in bold."""
    return TABLE.lines((row.workload, row.ours.shape, number(row.ours.ns, 3), row.peer.library if row.peer else "–",
                        f"**{number(row.ratio)}**" if row.lost else number(row.ratio), number(row.numpy_ratio),
                        percent(row.share)) for row in rows)


def geometric_mean(values):
    return math.exp(statistics.fmean(map(math.log, values)))


def summary(rows):
    """How the rows with a peer do, in a sentence or two."""
    rows = [row for row in rows if row.peer]
    if not rows:
        return "No peer was installed."
    lowest = min(rows, key=lambda row: row.ratio)
    lost = sum(row.lost for row in rows)
    mean = number(geometric_mean(row.ratio for row in rows))
    return (f"Over the {len(rows)} rows with a peer the fastest peer takes {mean} times as long in the geometric mean; "
            f"the lowest ratio is {number(lowest.ratio)} ({lowest.workload} {lowest.ours.shape}, "
            f"{lowest.peer.library}). "
            + (f"{lost} of them are below 1." if lost else "None is below 1."))


def measured_on(rows, machine):
    threads = sorted({row.ours.threads for row in rows if row.ours.threads})
    where = "; ".join(filter(None, [machine, f"{'/'.join(map(str, threads))} threads" if threads else ""]))
    return f" Measured on: {where}." if where else ""


def page(rows, machine):
    """The text between the marks of docs/speed.md: every row."""
    return f"{table(rows)}\n\n{summary(rows)}{measured_on(rows, machine)}"


def short_page(rows, machine):
    """The text between the marks of the README: a few rows."""
    by_name = {(row.ours.kernel, row.ours.shape): row for row in rows if not row.ours.allocates}
    chosen = [by_name[name] for name in README_ROWS if name in by_name]
    return f"{table(chosen)}\n\nIn bold: the peer is faster. {summary(rows)}{measured_on(rows, machine)}"


def put(path, name, text):
    """Replace what stands between the marks `<!-- begin: name -->` and `<!-- end: name -->` of a file."""
    path = Path(path)
    old = path.read_text("utf-8")
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
        raise ValueError(f"{path}: expected the marks {begin} and {end} once, in this order")
    before, rest = old.split(begin)
    path.write_text(f"{before}{begin}\n{text.strip()}\n{end}{rest.split(end)[1]}", "utf-8")


def draw(which, *arguments):
    """Call that function of pictures.py, where matplotlib is installed."""
    try:
        import pictures
    except ModuleNotFoundError as error:
        print(f"no pictures: {error.name} is not installed", file=sys.stderr)
        return
    for picture in getattr(pictures, which)(*arguments):
        print(picture)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", nargs="*", help="files of pytest --benchmark-json")
    parser.add_argument("--root", type=Path, default=ROOT, help="where README.md and docs/ are (default: this project)")
    parser.add_argument("--print", action="store_true", help="print every row; write nothing")
    parser.add_argument("--sweep", nargs="+", default=[], metavar="FILE", help="files of measure_sweep.py --json")
    parser.add_argument("--section", action="append", default=[], metavar="NAME=FILE",
                        help="put a file's text between the marks NAME of docs/*.md")
    options = parser.parse_args(argv)
    if not (options.results or options.sweep or options.section):
        parser.error("expected files of results, --sweep or --section")

    rows = []
    if options.results:
        entries, machine = load(options.results)
        rows = table_rows(entries)
        if not rows:
            parser.error("no benchmark of fastopt in " + ", ".join(options.results))
        if options.print:
            print(page(rows, machine))
            return 0
        put(options.root / "README.md", "speed", short_page(rows, machine))
        put(options.root / "docs/speed.md", "speed", page(rows, machine))
        draw("draw_rows", options.root / "docs", entries, rows)
    if options.sweep:
        import sweep

        sweeps = sweep.merged(options.sweep)
        put(options.root / "README.md", "sweep", sweep.headline(sweeps, f"docs/{SWEEP_PICTURE}"))
        put(options.root / "docs/speed.md", "sweep", sweep.page(sweeps, SWEEP_PICTURE))
        draw("draw_sweep", options.root / "docs" / SWEEP_PICTURE, sweeps)
    for section in options.section:
        name, _, file = section.partition("=")
        pages = [page for page in sorted((options.root / "docs").glob("*.md"))
                 if f"<!-- begin: {name} -->" in page.read_text("utf-8")]
        if not pages or not file:
            parser.error(f"argument --section: expected NAME=FILE with a NAME marked in docs/*.md, got {section!r}")
        for marked in pages:
            put(marked, name, Path(file).read_text("utf-8"))
    if rows:
        print(summary(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
