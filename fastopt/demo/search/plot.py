"""Pictures of a search: all trials across their parameters, and a watched training's stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from fastopt.demo.search.panda import Stage
from fastopt.demo.search.space import LOG, LOG_OF_REST, Parameter, Space
from fastopt.demo.search.trials import COMPLETE, Trial, ranked
from fastopt.demo.trainer import Epoch

FLOOR = 1e-3
"""The smallest error that is drawn."""
COLUMNS = 4
"""At most."""
BEST = "C3"
COLORS = ("C0", "C1", "C2", "C4", "C5", "C6", "C8", "C9")
"""Of the rounds."""


def draw(path: str, space: Space, trials: Sequence[Trial], default: Epoch | None) -> None:
    """Draw each trial as a line across all parameters, and its accuracy over each parameter.

    Parameters
    ----------
    path : str
    space : Space
        The first round's, whose ranges are the axes.
    trials : sequence of Trial
    default : Epoch, optional
        The best epoch with the default settings.
    """
    shown = [trial for trial in trials if trial.history]
    best = ranked(list(shown))[0]
    rows = math.ceil(len(space.parameters) / COLUMNS)
    columns = math.ceil(len(space.parameters) / rows)
    figure = Figure(figsize=(11, 3.8 + 2.7 * rows), layout="constrained")
    figure.suptitle(title(best, len(trials), default), fontsize=13)
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[1.4] + [1] * rows)
    draw_lines(figure.add_subplot(grid[0, :]), space, shown, best)
    panels: list[Any] = []
    for i, parameter in enumerate(space.parameters):
        row, column = divmod(i, columns)
        axes = figure.add_subplot(grid[row + 1, column], sharey=panels[0] if panels else None)
        draw_points(axes, parameter, shown, best, default)
        if column == 0:
            axes.set_ylabel("validation accuracy")
        else:
            axes.tick_params(labelleft=False)
        panels.append(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=130)


def title(best: Trial, trials: int, default: Epoch | None) -> str:
    than = "" if default is None else f", the default settings {default.validation_accuracy:.2%}"
    return f"The best of {trials} trials has {best.score[0]:.2%} of the validation images right{than}"


def draw_lines(axes: Any, space: Space, trials: Sequence[Trial], best: Trial) -> None:
    """Parallel coordinates: an axis for each parameter, on its scale, and one for the accuracy."""
    complete = [trial for trial in ranked(list(trials)) if trial.end == COMPLETE]
    colors = colormaps["viridis"](Normalize()(np.array([height(trial) for trial in complete])))
    low, high = limits(trials)

    def line(trial: Trial, **style: Any) -> None:
        positions = [parameter.position(trial.point[parameter.name]) for parameter in space.parameters]
        axes.plot([*positions, (height(trial) - low) / (high - low)], **style)

    for trial in trials:
        if trial.end != COMPLETE:
            line(trial, color="0.87", linewidth=0.8, zorder=1)
    for trial, color in reversed(list(zip(complete, colors, strict=True))):
        line(trial, color=color, linewidth=1.2, zorder=2)
    line(best, color=BEST, linewidth=2.5, zorder=3)
    count = len(space.parameters)
    ticks_of_accuracy = [((y - low) / (high - low), text) for y, text in accuracies(low, high)]
    for x, ticks in enumerate([*map(ticks_of, space.parameters), ticks_of_accuracy]):
        axes.axvline(x, color="0.3", linewidth=0.8, zorder=4)
        for position, text in ticks:
            axes.annotate(text, (x, position), xytext=(4, 0), textcoords="offset points", fontsize=8, va="center",
                          zorder=5, bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8})
    axes.set_xticks(range(count + 1), [*space.names, "validation\naccuracy"])
    axes.tick_params(length=0)
    axes.set(xlim=(-0.05, count + 0.25), ylim=(-0.04, 1.04), yticks=[])
    axes.set_title("The trials with all epochs, the brighter the better; the best in red; stopped ones in grey",
                   fontsize=10)
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_points(axes: Any, parameter: Parameter, trials: Sequence[Trial], best: Trial, default: Epoch | None) -> None:
    """The accuracy of the trials over a parameter, on its scale."""
    for number in sorted({trial.round for trial in trials}):
        color = COLORS[(number - 1) % len(COLORS)]
        styles: dict[str, dict[str, Any]] = {"stopped": {"facecolors": "none", "edgecolors": color, "alpha": 0.6},
                                             "all epochs": {"color": color, "linewidths": 0}}
        for told, style in styles.items():
            drawn = [t for t in trials if t.round == number and (t.end == COMPLETE) == (told == "all epochs")]
            if drawn:
                axes.scatter([parameter.position(t.point[parameter.name]) for t in drawn], list(map(height, drawn)),
                             s=22, label=f"round {number}, {told}", **style)
    axes.scatter([parameter.position(best.point[parameter.name])], [height(best)], s=110, facecolors="none",
                 edgecolors=BEST, linewidths=2, label="best", zorder=4)
    if default is not None:
        assert default.validation_accuracy is not None
        axes.axhline(stretched(default.validation_accuracy), color="0.4", linewidth=1, linestyle="--",
                     label="default settings")
    low, high = limits(trials)
    axes.set(xlim=(-0.04, 1.04), ylim=(low, high), xlabel=parameter.name if parameter.choices
             else f"{parameter.name} ({parameter.kind.scale.name} scale)")
    axes.set_xticks(*zip(*ticks_of(parameter), strict=True))
    axes.set_yticks(*zip(*accuracies(low, high), strict=True))
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)


def stretched(accuracy: float) -> float:
    """A height on which halving the error is the same step everywhere."""
    return -math.log10(max(1 - accuracy, FLOOR))


def height(trial: Trial) -> float:
    return stretched(max(trial.score[0], 0.0) if trial.best is None else trial.best.validation_accuracy or 0.0)


def limits(trials: Sequence[Trial]) -> tuple[float, float]:
    heights = [height(trial) for trial in trials]
    return max(min(heights) - 0.1, 0.0), max(heights) + 0.15


def accuracies(low: float, high: float) -> list[tuple[float, str]]:
    """Heights and labels of round accuracies between two heights."""
    steps = (0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
    found = [(stretched(step), f"{100 * step:g} %") for step in steps if low <= stretched(step) <= high]
    return found or [((low + high) / 2, f"{1 - 10 ** -((low + high) / 2):.2%}")]


def ticks_of(parameter: Parameter) -> list[tuple[float, str]]:
    """Positions and labels of a few values of a parameter."""
    if parameter.choices:
        return [(parameter.position(choice), str(choice)) for choice in parameter.choices]
    low, high = parameter.low, parameter.high
    if parameter.kind.scale is LOG and high / low >= 30:
        decades = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        if not parameter.kind.integer:
            return [(parameter.position(10.0**k), f"$10^{{{k}}}$") for k in decades[::math.ceil(len(decades) / 6)]]
    if parameter.kind.scale is LOG_OF_REST:
        values = [value for value in (0.0, 0.9, 0.99, 0.999, 0.9999, 0.99999) if low <= value <= high]
        if len(values) >= 2:
            return [(parameter.position(value), f"{value:g}") for value in values]
    if parameter.kind.integer and high - low <= 5:
        return [(parameter.position(value), str(value)) for value in range(int(low), int(high) + 1)]
    evenly = [parameter.at(position) for position in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return list({f"{value:.3g}": (parameter.position(value), f"{value:.3g}") for value in evenly}.values())


def draw_stages(path: str, stages: Sequence[Stage]) -> None:
    """Draw loss and accuracy over the epochs of all stages; what was taken back is drawn pale."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    kept = sum(stage.kept and stage.tried is not None for stage in stages)
    tried = sum(stage.tried is not None for stage in stages)
    figure.suptitle(f"{tried} changes were tried, {kept} of them kept", fontsize=13)
    upper, lower = figure.subplots(2, 1, sharex=True)
    x = 0
    styles: tuple[tuple[Any, str, str, str], ...] = (
        (upper, "loss", "C0", "training"), (upper, "validation_loss", "C1", "validation"),
        (lower, "accuracy", "C0", "training"), (lower, "validation_accuracy", "C1", "validation"))
    for stage in stages:
        epochs = np.arange(x, x + len(stage.epochs)) + 1
        for axes, figure_name, color, label in styles:
            axes.plot(epochs, [getattr(epoch, figure_name) for epoch in stage.epochs], ".-", color=color,
                      alpha=1 if stage.kept else 0.3, label=label if stage is stages[0] else None)
        end = x + max(len(stage.epochs), 1)
        for axes in (upper, lower):
            if not stage.kept:
                axes.axvspan(x + 0.5, end + 0.5, color="0.93", zorder=0)
            axes.axvline(x + 0.5, color="0.8", linewidth=0.8, zorder=0)
        told = "go on" if stage.tried is None else stage.tried.change + ("" if stage.kept else "\ntaken back")
        upper.annotate("start" if stage is stages[0] else told, ((x + end + 1) / 2, 1.02),
                       xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8)
        x = end
    upper.set(ylabel="cross-entropy", yscale="log")
    lower.set(ylabel="accuracy", xlabel="epochs, those that were taken back included")
    for axes in (upper, lower):
        axes.legend(fontsize="small")
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=130)
