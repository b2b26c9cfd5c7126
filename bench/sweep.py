"""The results of a sweep: its rows, their file, and the tables made of them."""

import json
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import another_build
from report import NO_PEERS, geometric_mean, in_words

from fastopt.bench.contenders import library
from fastopt.bench.table import Table, number, percent

LARGE = 100_000
"""Elements from which on the cost of a call, which decides the ratios of small workloads, hardly matters."""

TABLE = Table(("kernel", "shapes", "geometric mean", "of the large", "below 1", "lowest", "NumPy's time / ours"),
              "lrrrrrr")
TABLE_BEFORE = Table(("kernel", "shapes", "geometric mean", "before", "of the large", "before", "below 1", "before",
                      "lowest", "before", "NumPy's time / ours"), "lrrrrrrrrrr")
WORST = Table(("kernel", "shape", "fastopt, ns/element", "fastest peer", "peer's time / ours"), "llrlr")


def mean(ratios):
    """The geometric mean as text; a dash for none."""
    ratios = list(ratios)
    return number(geometric_mean(ratios) if ratios else None)


@dataclass(frozen=True)
class Row:
    """One workload; `times` has each contender's seconds of a call, round by round."""

    kernel: str
    workload: str
    shape: str
    elements: int
    allocates: bool
    times: dict[str, list[float]]

    def seconds(self, contender):
        return statistics.median(self.times[contender])

    def ours(self, name="fastopt"):
        """The contender that is fastopt: "fastopt", or "before", which other forms of it begin with."""
        return next((contender for contender in self.times if library(contender) == name), None)

    @property
    def peer(self):
        """The fastest peer; None if there was none."""
        others = [name for name in self.times if library(name) not in (*NO_PEERS, another_build.NAME)]
        return min(others, key=self.seconds, default=None)

    def ratio(self, name="fastopt"):
        """The fastest peer's time over ours."""
        return self.seconds(self.peer) / self.seconds(self.ours(name))

    @property
    def is_close(self):
        """Whether a round of ours took longer than a round of the fastest peer."""
        return self.peer is not None and max(self.times[self.ours()]) > min(self.times[self.peer])

    @property
    def numpy(self):
        """NumPy's time over ours; None where it did not take part."""
        return self.seconds("numpy") / self.seconds(self.ours()) if "numpy" in self.times else None


@dataclass(frozen=True)
class Sweep:
    """One run: rows in the order in which they were drawn."""

    seed: int | str
    level: str
    threads: int
    machine: str
    rows: list[Row]

    def save(self, path):
        Path(path).write_text(json.dumps(asdict(self), indent=1), "utf-8")

    @property
    def compared(self):
        """The rows in which a peer took part."""
        return [row for row in self.rows if row.peer]

    @property
    def has_before(self):
        return any(row.ours(another_build.NAME) for row in self.compared)

    @property
    def lost(self):
        """The rows that a peer wins, the worst first."""
        return sorted((row for row in self.compared if row.ratio() < 1), key=Row.ratio)

    def kernels(self):
        """kernel → its rows"""
        found = {}
        for row in self.compared:
            found.setdefault(row.kernel, []).append(row)
        return found

    def table(self):
        """A line for each kernel and one for all: the fastest peer's time over ours."""
        groups = self.kernels()
        if len(groups) > 1:
            groups["all"] = self.compared
        names = ("fastopt", another_build.NAME) if self.has_before else ("fastopt",)
        lines = []
        for kernel, rows in groups.items():
            ratios = [[row.ratio(name) for row in rows if row.ours(name)] for name in names]
            large = [[row.ratio(name) for row in rows if row.ours(name) and row.elements >= LARGE] for name in names]
            lines.append((kernel, len(rows), *(mean(column) for column in (*ratios, *large)),
                          *(percent(sum(ratio < 1 for ratio in column) / len(column) if column else None)
                            for column in ratios),
                          *(number(min(column, default=None)) for column in ratios),
                          mean(row.numpy for row in rows if row.numpy)))
        return (TABLE_BEFORE if self.has_before else TABLE).lines(lines)

    def worst(self, rows=None):
        """The rows that a peer wins, or those given, as a table."""
        return WORST.lines(
            (row.workload + (", new array" if row.allocates else ""), row.shape,
             number(row.seconds(row.ours()) / row.elements * 1e9, 3), library(row.peer), number(row.ratio()))
            for row in (self.lost if rows is None else rows))

    def measured_on(self):
        return ", ".join(filter(None, [f"Seed {self.seed}", self.level, f"{self.threads} threads", self.machine])) + "."

    def summary(self):
        """The sweep in a sentence."""
        rows = self.compared
        if not rows:
            return "No peer was installed."
        lowest = min(rows, key=Row.ratio)
        return (f"At {self.level}, over {len(rows)} random workloads, the fastest peer takes "
                f"{mean(row.ratio() for row in rows)} times as long as fastopt in the geometric mean "
                f"({mean(row.ratio() for row in rows if row.elements >= LARGE)} from {LARGE:,} elements on); "
                f"{len(self.lost)} ratios are below 1, the lowest is {number(lowest.ratio())} ({lowest.workload}"
                f"{', new array' if lowest.allocates else ''} {lowest.shape}, {library(lowest.peer)}).")


def load(path):
    found = json.loads(Path(path).read_text("utf-8"))
    return Sweep(**{**found, "rows": [Row(**row) for row in found["rows"]]})


def machine():
    """The processor in words; "" without py-cpuinfo, which comes with pytest-benchmark."""
    try:
        import cpuinfo
    except ImportError:
        return ""
    return in_words({"cpu": cpuinfo.get_cpu_info()})


# Text of README.md and docs/speed.md; of several runs at one level, with other seeds, the rows count together.

def merged(paths):
    """One sweep for each level, the highest level first."""
    found = {}
    for path in paths:
        sweep = load(path)
        found.setdefault(sweep.level, []).append(sweep)
    return [replace(runs[0], seed=" and ".join(str(seed) for seed in dict.fromkeys(run.seed for run in runs)),
                    rows=[row for run in runs for row in run.rows])
            for _, runs in sorted(found.items(), reverse=True)]


def headline(sweeps, picture):
    return (" ".join(sweep.summary() for sweep in sweeps) + f" Measured on: {sweeps[0].machine}; "
            f"{sweeps[0].threads} threads.\n\n![the fastest peer's time over ours, a dot for each workload]({picture})")


def page(sweeps, picture):
    parts = [f"![the fastest peer's time over ours, a dot for each workload]({picture})"]
    for sweep in sweeps:
        parts.append(f"### {sweep.level}\n\n{sweep.measured_on()} {sweep.summary()}\n\n{sweep.table()}")
        if sweep.lost:
            parts.append(f"The rows that a peer wins at {sweep.level}:\n\n{sweep.worst()}")
    return "\n\n".join(parts)
