"""The pictures of docs/: small SVGs, the same bytes from the same results. Used by report.py.

Readable on light and dark backgrounds: transparent, with text in a grey that has contrast to both. Every library has
one colour and marker in all pictures, its forms differ in the line. Colours are Okabe and Ito's, which colour-blind
readers can distinguish.
"""

import math

import matplotlib
from matplotlib.figure import Figure
from report import NO_PEERS, geometric_mean

from fastopt.bench.contenders import ROOF, library

GREY = "#777777"
LOOKS = {
    "fastopt": ("#0072B2", "o"), "torch": ("#D55E00", "s"), "jax": ("#009E73", "D"), "tensorflow": ("#E69F00", "^"),
    "onednn": ("#CC79A7", "v"), "numba": ("#56B4E9", "P"), "deepspeed": ("#999933", "*"), "thinc": ("#882255", "X"),
    "numpy": (GREY, "p"), "reference": (GREY, "d"), ROOF: (GREY, None),
}
"""library → colour and marker"""
LINES = {ROOF: (0, (5, 3)), "numpy out=": "--", "torch out=": "--", "reference": ":"}
"""contender → style of its line, where that is not solid"""
OURS, LOST = LOOKS["fastopt"][0], "#D55E00"
"""Colours of a ratio of at least 1 and of one below."""
STYLE = {
    "svg.hashsalt": "fastopt", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10,
    "text.color": GREY, "axes.labelcolor": GREY, "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
    "axes.titlecolor": GREY, "grid.color": GREY, "grid.alpha": 0.25, "axes.grid": True, "axes.axisbelow": True,
    "legend.frameon": False, "path.simplify": True,
}
TICKS = (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100)
"""Of a logarithmic axis of ratios."""

OVER_SIZE = ("adam", "sgd")
"""Kernels drawn over size."""

MODELS = ("10 tensors, 110 k", "ResNet-50, 161 tensors", "GPT-2, 148 tensors")
BATCH_NORM = ("(64, 256)", "(256, 1024)", "(4096, 1024)", "(32, 64, 56, 56)", "(8, 512, 7, 7)", "(64, 256, 14, 14)")
SOFTMAX = ("(64, 10)", "(1024, 10)", "(128, 1000)", "(1024, 1000)", "(16384, 100)", "(512, 32000)", "(256, 50257)")
BARS = {
    "adam": ("1k", "100k", "1M", "10M", "50M"), "AdamW": MODELS, "SGD": MODELS, "batch_norm_forward": BATCH_NORM,
    "batch_norm_backward": BATCH_NORM, "batch_norm_inference": BATCH_NORM, "log_softmax": SOFTMAX,
    "softmax_cross_entropy": SOFTMAX,
}
"""kernel → shapes that have a bar, where results go into given arrays. A row that a peer wins has one, too."""


def has_bar(row):
    return row.lost or (not row.ours.allocates and row.ours.shape in BARS.get(row.ours.kernel, ()))


def draw_rows(folder, entries, rows):
    """Write the pictures of pytest-benchmark's results, those that they suffice for; return their paths."""
    paths = []
    with matplotlib.rc_context(STYLE):
        for kernel in OVER_SIZE:
            if figure := over_size(entries, kernel):
                paths.append(save(figure, folder / f"speed_{kernel}.svg"))
        if figure := shares(rows):
            paths.append(save(figure, folder / "speed_roof.svg"))
        if figure := ratios(rows):
            paths.append(save(figure, folder / "speed_ratios.svg"))
    return paths


def save(figure, path):
    figure.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return path


def over_size(entries, kernel):
    """Time per element over the number of elements, each contender with its largest number of threads; None for fewer
    than three sizes."""
    best = {}
    for entry in entries:
        if entry.kernel == kernel:
            key, rank = (entry.contender, entry.elements), (entry.threads or 0, entry.level or "", -entry.seconds)
            best[key] = max(best.get(key, (rank, entry)), (rank, entry), key=lambda pair: pair[0])
    sizes = {elements for contender, elements in best if contender == "fastopt"}
    if len(sizes) < 3:
        return None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    ends = []
    for contender in sorted({contender for contender, _ in best}):
        points = sorted((entry.elements, entry.ns) for (name, _), (_, entry) in best.items() if name == contender)
        ours, (color, mark) = contender == "fastopt", LOOKS.get(library(contender), (GREY, "."))
        axes.plot(*zip(*points, strict=True), color=color, marker=mark, markersize=5, linewidth=2.6 if ours else 1.4,
                  linestyle=LINES.get(contender, "-"), zorder=4 if ours else 3)
        ends.append((points[-1], "memory roof" if contender == ROOF else contender, color))
    axes.set(xscale="log", yscale="log", xlabel="elements of the tensor", ylabel="nanoseconds per element",
             title=f"{kernel}: time per element, lower is better")
    label_ends(axes, ends)
    return figure


def label_ends(axes, ends):
    """Write the lines' names beside the axes, each joined to its last point; names that would overlap move up."""
    low, high = (math.log(limit) for limit in axes.get_ylim())
    place = -1.0
    for (x, y), name, color in sorted(ends, key=lambda end: end[0][1]):
        place = max((math.log(y) - low) / (high - low), place + 0.047)
        axes.annotate(name, (x, y), xytext=(1.02, place), textcoords="axes fraction", va="center", color=color,
                      fontsize=9, fontweight="bold" if name == "fastopt" else None, annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.7, "alpha": 0.6, "shrinkB": 3,
                                  "relpos": (0.0, 0.5)})


def draw_sweep(path, sweeps):
    """A line for each kernel and level, a dot for each workload, a bar at the geometric mean."""
    names = list(sweeps[0].kernels())
    step = len(sweeps) + 0.6
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.9 + 0.27 * step * len(names)), layout="constrained")
        axes = figure.subplots()
        for place, kernel in enumerate(names):
            for line, run in enumerate(sweeps):
                ratios, y = [row.ratio() for row in run.kernels().get(kernel, ())], step * place + line
                if not ratios:
                    continue
                axes.scatter(ratios, [y] * len(ratios), s=16, linewidth=0, alpha=0.45,
                             color=[LOST if ratio < 1 else OURS for ratio in ratios])
                mean = geometric_mean(ratios)
                axes.plot([mean, mean], [y - 0.42, y + 0.42], color=OURS, linewidth=2.5)
                axes.annotate(f"{run.level}: {mean:.1f}", (1.0, y), xytext=(6, 0), xycoords=("axes fraction", "data"),
                              textcoords="offset points", va="center", fontsize=8)
        axes.axvline(1.0, color=GREY, linewidth=1.5)
        axes.set(title="The fastest peer's time / ours\na dot for each random shape, a bar at the geometric mean",
                 xlabel="1: as fast as we are; right of it we are faster", xscale="log",
                 ylim=(step * len(names) - 0.8, -0.8))
        axes.set_yticks([step * place + (len(sweeps) - 1) / 2 for place in range(len(names))], names)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        ticks = [tick for tick in TICKS if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        return [save(figure, path)]


def bars(labels, values, *, title, xlabel, colors, texts, log):
    """Horizontal bars and a line at 1, from which they start on a logarithmic axis."""
    figure = Figure(figsize=(8, 0.9 + 0.22 * len(values)), layout="constrained")
    axes = figure.subplots()
    places = range(len(values))
    axes.barh(places, [value - log for value in values], left=float(log), color=colors, height=0.7)
    axes.axvline(1.0, color=GREY, linewidth=1.5)
    for place, value, text in zip(places, values, texts, strict=True):
        axes.annotate(text, (max(value, float(log)), place), xytext=(4, 0), textcoords="offset points", va="center",
                      fontsize=8)
    axes.set(title=title, xlabel=xlabel, xscale="log" if log else "linear", ylim=(len(values) - 0.4, -0.6))
    axes.set_yticks(places, labels, fontsize=8)
    axes.grid(visible=False, axis="y")
    if log:
        low, high = min(0.8, *values), max(2.0, *values)
        ticks = [tick for tick in TICKS if low <= tick <= high]
        axes.set_xlim(low / 1.1, high * (high / low) ** 0.25)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    else:
        axes.set_xlim(0.0, 1.15 * max(1.0, *values))
    return figure


def label(row):
    return f"{row.workload} {row.ours.shape}"


def shares(rows):
    """Share of the roof as bars, the lowest at the bottom."""
    rows = sorted((row for row in rows if row.share is not None and has_bar(row)), key=lambda row: -row.share)
    if not rows:
        return None
    return bars([label(row) for row in rows], [row.share for row in rows], title="Share of the memory roof",
                xlabel="time of a loop that only moves the same arrays / ours; 1 is the roof", colors=OURS,
                texts=[f"{row.share:.0%}" for row in rows], log=False)


def ratios(rows):
    """The fastest peer's time over ours as bars, sorted, those below 1 in another colour."""
    rows = sorted((row for row in rows if row.peer and has_bar(row)), key=lambda row: -row.ratio)
    if not rows:
        return None
    assert all(row.peer.library not in NO_PEERS for row in rows)
    return bars([label(row) for row in rows], [row.ratio for row in rows], title="The fastest peer's time / ours",
                xlabel="1: as fast as we are; above it we are faster",
                colors=[LOST if row.lost else OURS for row in rows],
                texts=[f"{row.ratio:.2f} {row.peer.library}" for row in rows], log=True)
