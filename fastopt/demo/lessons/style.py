"""How the pictures of all lessons look. The report applies `STYLE` while it calls a picture's function and saves it."""

from __future__ import annotations

from typing import Any

from cycler import cycler
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, PURPLE, BROWN, GREY = (
    "#0072b2", "#d55e00", "#009e73", "#b2182b", "#7b3fa0", "#8c6d1f", "#6b7280")
"""Distinguishable with a colour vision deficiency, and dark enough for lines on white."""
INK = "#1f2328"
WIDTH = 7.2
"""Of a picture in inches: as wide as the text."""

STYLE: dict[str, Any] = {
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, PURPLE, RED, BROWN, GREY]),
    "grid.color": "#e3e6ea",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "image.cmap": "Blues",
    "svg.fonttype": "path",
    "svg.hashsalt": "fastopt",      # the same names of elements in every run
}


def subplots(rows: int = 1, columns: int = 1, *, height: float = 3.0, **options: Any) -> tuple[Figure, Any]:
    """A figure as wide as the text, `height` inches high, and its axes, as Figure.subplots returns them."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)
