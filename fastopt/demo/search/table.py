"""Trials as text: a table of the best, the command that repeats one, and a CSV file of all."""

from __future__ import annotations

import csv
import dataclasses
import shlex
from collections.abc import Sequence

from fastopt.demo.search.space import Value
from fastopt.demo.search.trials import COMPLETE, Trial, ranked
from fastopt.demo.settings import Settings, option_of

TOP = 10
"""Rows of the table."""


def table(trials: Sequence[Trial]) -> str:
    """The best trials: validation accuracy and loss of the best epoch, epochs trained, and the point."""
    best = ranked(trials)[:TOP]
    names = list(best[0].point)
    rows = [["trial", "accuracy", "loss", "epochs", *names]]
    for trial in best:
        epoch, end = trial.best, "" if trial.end == COMPLETE else f" {trial.end}"
        figures = (f"{epoch.validation_accuracy:.2%}", f"{epoch.validation_loss:.4f}") if epoch else ("-", "-")
        rows.append([trial.name, *figures, f"{len(trial.history)}{end}", *(shown(trial.point[name]) for name in names)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def shown(value: Value) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def command(settings: Settings, data: str | None = None) -> str:
    """The `fastopt train` command that trains with these settings, on the data of a file."""
    words = ["fastopt", "train"]
    if data is not None:
        words += ["--data", data]
    for field in dataclasses.fields(Settings):
        value = getattr(settings, field.name)
        if value == field.default:
            continue
        words.append(option_of(field.name))
        if field.name == "hidden":
            words += map(str, value)
        elif field.name == "augment":
            words += [f"{name}={amount!r}" for name, amount in value]
        elif field.name == "batch_size" and value is None:
            words.append("all")
        elif field.name != "batch_norm":
            words.append(value if isinstance(value, str) else repr(value))
    return shlex.join(words)


def write_csv(path: str, trials: Sequence[Trial]) -> None:
    """Write a row for each trial, in their order."""
    names = list(trials[0].point)
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["round", "trial", "end", "epochs", "validation_accuracy", "validation_loss", "best_epoch",
                       *names])
        for trial in trials:
            best = trial.best
            figures = (best.validation_accuracy, best.validation_loss, best.epoch) if best else ("", "", "")
            rows.writerow([trial.round, trial.number, trial.end, len(trial.history), *figures,
                           *(trial.point[name] for name in names)])
