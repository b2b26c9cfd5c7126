"""From pytest-benchmark's JSON to the tables in README.md and docs/speed.md and the pictures in docs/.

    pytest bench --benchmark-json=results.json
    python bench/report.py results.json [more.json ...]

Of several files the medians' median counts. Every benchmark says in `extra_info` what was measured: "kernel", "shape",
"elements", "contender", "threads", "level", "allocates". A row of the table is one kernel on one shape, with the result
in a new array or not. Where our results go into given arrays, a peer counts with its fastest form; where ours are new
arrays, so must be the peer's. Rows that a peer wins stay in.

`--section NAME=FILE` puts a file's text between the marks of that name (bench/epoch.py's tables, for one).
"""

import argparse
import json
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = ("fastopt", "fastopt out=")
NUMPY = ("numpy", "numpy out=")
ROOF = "same streams"
NO_PEERS = (*OURS, *NUMPY, ROOF, "reference")
LEVELS = (None, "baseline", "v3", "v4")

BATCH_NORM = ("(64, 256)", "(256, 1024)", "(4096, 1024)", "(32, 64, 56, 56)", "(8, 512, 7, 7)", "(64, 256, 14, 14)")
SOFTMAX = ("(64, 10)", "(1024, 10)", "(128, 1000)", "(1024, 1000)", "(16384, 100)", "(512, 32000)", "(256, 50257)")
MODELS = ("10 tensors, 110 k", "ResNet-50, 161 tensors", "GPT-2, 148 tensors")
HEADLINE = {
    "adam": ("1k", "100k", "1M", "10M", "50M"), "AdamW": MODELS, "SGD": MODELS, "batch_norm_forward": BATCH_NORM,
    "batch_norm_backward": BATCH_NORM, "batch_norm_inference": BATCH_NORM, "log_softmax": SOFTMAX,
    "softmax_cross_entropy": SOFTMAX,
}
"""The rows of the README and of the pictures, where results go into given arrays; docs/speed.md has all rows. One that
we lose stands in both."""


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
        """Nanoseconds an element."""
        return self.seconds / self.elements * 1e9


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

    @property
    def headline(self):
        return self.lost or (not self.ours.allocates and self.ours.shape in HEADLINE.get(self.ours.kernel, ()))


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
            ours = [entry for entry in group if entry.contender in OURS and entry.allocates == allocates]
            if not ours:
                continue
            best = max(ours, key=lambda entry: (entry.threads or 0, LEVELS.index(entry.level), -entry.seconds))
            others = comparable(group, best.threads or 1)
            alike = [entry for entry in others if entry.allocates or not allocates]
            rows.append(Row(best,
                            fastest(entry for entry in alike if entry.contender not in NO_PEERS),
                            fastest(entry for entry in alike if entry.contender in NUMPY),
                            fastest(entry for entry in others if entry.contender == ROOF)))
    return rows


def comparable(group, threads):
    """Of each contender the entries with its most threads, as far as ours has so many."""
    allowed = [entry for entry in group if (entry.threads or 1) <= threads]
    most = {entry.contender: max(other.threads or 1 for other in allowed if other.contender == entry.contender)
            for entry in allowed}
    return [entry for entry in allowed if (entry.threads or 1) == most[entry.contender]]


def fastest(entries):
    return min(entries, key=lambda entry: entry.seconds, default=None)


# Text.

def number(value, digits=2):
    """Three digits that mean something, or two after the point; nothing for None."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.{digits}f}"


def table(rows):
    """The rows in Markdown; a lost row's ratio is in bold."""
    lines = ["| workload | shape | fastopt, ns/element | fastest peer | peer's time / ours | NumPy's time / ours "
             "| share of the roof |", "|---|---|---:|---|---:|---:|---:|"]
    for row in rows:
        ratio = f"**{number(row.ratio)}**" if row.lost else number(row.ratio)
        share = "–" if row.share is None else f"{row.share:.0%}"
        peer = row.peer.contender if row.peer else "–"
        lines.append(f"| {row.workload} | {row.ours.shape} | {number(row.ours.ns, 3)} | {peer} | {ratio} "
                     f"| {number(row.numpy_ratio)} | {share} |")
    return "\n".join(lines)


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
            f"{lowest.peer.contender}). "
            + (f"{lost} of them are below 1." if lost else "None is below 1."))


def page(rows, machine, *, everything):
    """The text between the marks: of the README, or of docs/speed.md, which has every row."""
    threads = sorted({row.ours.threads for row in rows if row.ours.threads})
    where = "; ".join(filter(None, [machine, f"{'/'.join(map(str, threads))} threads" if threads else ""]))
    chosen = rows if everything else [row for row in rows if row.headline]
    return f"{table(chosen)}\n\n{summary(rows)}" + (f" Measured on: {where}." if where else "")


def put(path, name, text):
    """Replace what stands between the marks `<!-- begin: name -->` and `<!-- end: name -->` of a file."""
    path = Path(path)
    old = path.read_text("utf-8")
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
        raise ValueError(f"{path}: expected the marks {begin} and {end} once, in this order")
    before, rest = old.split(begin)
    path.write_text(f"{before}{begin}\n{text.strip()}\n{end}{rest.split(end)[1]}", "utf-8")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", nargs="*", help="files of pytest --benchmark-json")
    parser.add_argument("--root", type=Path, default=ROOT, help="where README.md and docs/ are (default: this project)")
    parser.add_argument("--print", action="store_true", help="print every row; write nothing")
    parser.add_argument("--section", action="append", default=[], metavar="NAME=FILE",
                        help="put a file's text between the marks NAME of docs/*.md")
    options = parser.parse_args(argv)
    if not options.results and not options.section:
        parser.error("expected files of results, or --section")

    rows = []
    if options.results:
        entries, machine = load(options.results)
        rows = table_rows(entries)
        if not rows:
            parser.error("no benchmark of fastopt in " + ", ".join(options.results))
        if options.print:
            print(page(rows, machine, everything=True))
            return 0
        put(options.root / "README.md", "speed", page(rows, machine, everything=False))
        put(options.root / "docs/speed.md", "speed", page(rows, machine, everything=True))
        try:
            import pictures
        except ModuleNotFoundError as error:
            print(f"no pictures: {error.name} is not installed", file=sys.stderr)
        else:
            for picture in pictures.draw(options.root / "docs", entries, rows):
                print(picture)
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
