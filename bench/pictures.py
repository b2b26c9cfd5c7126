"""The pictures of docs/: small SVGs, the same bytes from the same results. Used by report.py.

Readable on light and dark backgrounds: transparent, with text in a grey that has contrast to both. Colours are Okabe
and Ito's, which colour-blind readers can distinguish; lines differ in their markers, too.
"""

import matplotlib
from matplotlib.figure import Figure
from report import NO_PEERS

from fastopt.bench.contenders import ROOF, library

COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#999933", "#882255")
MARKS = "osD^vP*X"
GREY = "#777777"
STYLE = {
    "svg.hashsalt": "fastopt", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10,
    "text.color": GREY, "axes.labelcolor": GREY, "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
    "axes.titlecolor": GREY, "grid.color": GREY, "grid.alpha": 0.25, "axes.grid": True, "axes.axisbelow": True,
    "legend.frameon": False, "path.simplify": True,
}
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


def draw(folder, entries, rows):
    """Write the pictures that the results suffice for; return their paths."""
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
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    contenders = sorted({contender for contender, _ in best},
                        key=lambda name: (name != "fastopt", name == ROOF, library(name) in NO_PEERS, name))
    for order, contender in enumerate(contenders):
        points = sorted((entry.elements, entry.ns) for (name, _), (_, entry) in best.items() if name == contender)
        if contender == ROOF:
            style = {"color": GREY, "linestyle": "--", "label": "memory roof"}
        else:
            style = {"color": COLORS[order % len(COLORS)], "marker": MARKS[order % len(MARKS)], "markersize": 5,
                     "linewidth": 2.6 if contender == "fastopt" else 1.4, "label": contender,
                     "zorder": 4 if contender == "fastopt" else 3}
        axes.plot(*zip(*points, strict=True), **style)
    axes.set(xscale="log", yscale="log", xlabel="elements", ylabel="ns", title=f"{kernel}: time per element")
    figure.legend(loc="outside right upper")
    return figure


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
        ticks = [tick for tick in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= tick <= high]
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
                xlabel="time of a loop that only moves the same arrays / ours", colors=COLORS[0],
                texts=[f"{row.share:.0%}" for row in rows], log=False)


def ratios(rows):
    """The fastest peer's time over ours as bars, sorted, those below 1 in another colour."""
    rows = sorted((row for row in rows if row.peer and has_bar(row)), key=lambda row: -row.ratio)
    if not rows:
        return None
    assert all(row.peer.library not in NO_PEERS for row in rows)
    return bars([label(row) for row in rows], [row.ratio for row in rows], title="The fastest peer's time / ours",
                xlabel="1: as fast as we are", colors=[COLORS[1] if row.lost else COLORS[0] for row in rows],
                texts=[f"{row.ratio:.2f} {row.peer.library}" for row in rows], log=True)
