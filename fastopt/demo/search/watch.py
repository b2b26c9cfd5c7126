"""The panda strategy on the command line: what is printed and written of a watched training."""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence

from threadpoolctl import threadpool_limits

import fastopt
from fastopt.demo.arguments import Refused, as_argument
from fastopt.demo.data import Dataset
from fastopt.demo.search.panda import Panda, Stage
from fastopt.demo.search.rules import Figures, Proposal
from fastopt.demo.search.table import shown
from fastopt.demo.settings import Settings, SettingsError, option_of


def watch(settings: Settings, data: Dataset, arguments: argparse.Namespace) -> int:
    """Train, print each stage, and write what the arguments say; the exit status."""
    stages = settings.epochs // arguments.stage
    if stages == 0:
        raise Refused(f"argument --stage: expected at most {settings.epochs}, the number of epochs, got "
                      f"{arguments.stage}")
    try:
        panda = Panda(settings, data)
    except SettingsError as error:
        raise Refused(as_argument(error)) from None
    print(f"{stages} stages of {arguments.stage} epochs, from lr {settings.peak_lr:g} on:\n")
    seen: list[Stage] = []
    with fastopt.num_threads(1), threadpool_limits(1, "blas"):
        for stage in panda.watch(stages, arguments.stage):
            print(f"stage {stage.number:<3} {told(stage)}", flush=True)
            seen.append(stage)
        best = panda.trainer.best
        if best is None:
            raise ArithmeticError(f"every stage diverged, the last one with lr {seen[-1].settings.peak_lr:g}: start "
                                  "with a smaller --lr")
        if arguments.table is not None:
            write_csv(arguments.table, seen)
        if arguments.plot is not None:
            from fastopt.demo.search.plot import draw_stages
            draw_stages(arguments.plot, seen)
        panda.trainer.load_best()
        test = panda.trainer.network.evaluate(data.test)[1]
    print(f"\nBest of the epochs that were kept, number {best.epoch}: validation accuracy "
          f"{best.validation_accuracy:.2%}, test accuracy {test:.2%} ({len(data.test.x)} images, which chose nothing).")
    print(f"Settings at the end: {changed(settings, panda.trainer.settings) or 'those at the start'}.")
    for name, path in (("Stages", arguments.table), ("Picture", arguments.plot)):
        if path is not None:
            print(f"{name}: {path}")
    return 0


def told(stage: Stage) -> str:
    """The lines of a stage."""
    lines = [sentence(stage.figures)]
    if stage.tried is not None:
        before = f", {stage.compared:.4f} before" if math.isfinite(stage.compared) else ""
        lines.append(f"{stage.tried.change} {'kept' if stage.kept else 'taken back'}: lowest validation loss "
                     f"{stage.figures.validation_loss:.4f}{before}")
    if (proposal := stage.proposal) is not None:
        lines.append(f"{proposal.reason}: {changed(proposal.before, proposal.settings)}")
    return f"\n{' ' * 10}".join(lines)


def sentence(figures: Figures) -> str:
    """A stage's curve in words."""
    if not figures.epochs:
        return "the loss is no longer finite"
    fell = "fell" if figures.fall >= 0 else "rose"
    return (f"training loss {figures.loss:.4f}, {fell} by {abs(figures.fall):.0%}, rose in {figures.rises} of "
            f"{figures.epochs} epochs; accuracy {figures.accuracy:.2%}, validation {figures.validation_accuracy:.2%}")


def changed(old: Settings, new: Settings) -> str:
    """What differs, such as lr 0.003 → 0.001."""
    found = []
    for name, value in new.resolved.as_json().items():
        before = old.resolved.as_json()[name]
        if value != before:
            found.append(f"{option_of(name)[2:]} {words(before)} → {words(value)}")
    return ", ".join(found)


def words(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return " ".join(f"{name}={amount:g}" for name, amount in value) or "none"
    return shown(value) if isinstance(value, (int, float, str)) else str(value)


def write_csv(path: str, stages: Sequence[Stage]) -> None:
    """Write a row for each stage."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["stage", "tried", "kept", "loss", "fall", "rises", "accuracy", "validation_accuracy",
                       "validation_loss", "rule", "proposal"])
        for stage in stages:
            f = stage.figures
            rows.writerow([stage.number, name(stage.tried), stage.kept, f.loss, f.fall, f.rises, f.accuracy,
                           f.validation_accuracy, f.validation_loss, stage.proposal.rule if stage.proposal else "",
                           name(stage.proposal)])


def name(proposal: Proposal | None) -> str:
    return "" if proposal is None else proposal.change
