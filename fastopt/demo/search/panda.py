"""Panda: one model that is watched, as a panda watches its only child.

After every few epochs, a stage, its learning curve is read (rules.py). What is proposed is tried for a stage, from the
same state of the training; if that stage is worse, the change is taken back: the next one starts from the state before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fastopt
from fastopt.demo.data import Dataset
from fastopt.demo.search.rules import DIVERGED, LOWER, Figures, Proposal, figures_of, propose
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Diverged, Epoch, Trainer


@dataclass(frozen=True)
class Stage:
    """A few epochs with the same settings, and what came of them."""

    number: int
    settings: Settings
    figures: Figures
    tried: Proposal | None
    """What was changed for this stage."""
    compared: float
    """The lowest validation loss of the last stage that was kept; inf if there is none."""
    kept: bool
    """Whether the training goes on from its end, otherwise from its start."""
    proposal: Proposal | None
    """What is changed for the next stage; None: nothing, or it is the last."""
    epochs: tuple[Epoch, ...]


class Panda:
    """A watched training.

    Attributes
    ----------
    trainer : Trainer
        As far as it has come, without what was taken back.
    """

    def __init__(self, settings: Settings, data: Dataset) -> None:
        self.trainer = Trainer(settings, data)

    def watch(self, stages: int, epochs: int) -> Iterator[Stage]:
        """Train so many stages of so many epochs, including those that are taken back."""
        proposal: Proposal | None = None
        last: Figures | None = None
        refused: set[str] = set()
        for number in range(1, stages + 1):
            tried, compared = proposal, math.inf if last is None else last.validation_loss
            settings = self.trainer.settings if tried is None else tried.settings
            trainer, figures = self._stage(settings, epochs)
            worse = figures.diverged or (tried is not None and figures.validation_loss > compared)
            done = trainer.history[len(self.trainer.history):]
            if not worse:
                self.trainer, last = trainer, figures
            if tried is not None:
                refused = refused | {tried.change} if worse else set()
            if figures.diverged and (last is None or tried is None or tried.change == LOWER.name):
                proposal = propose(figures, settings)       # smaller steps still
            else:
                assert last is not None
                proposal = propose(last, self.trainer.settings, refused)
            yield Stage(number, settings, figures, tried, compared, not worse,
                        None if number == stages else proposal, tuple(done))

    def _stage(self, settings: Settings, epochs: int) -> tuple[Trainer, Figures]:
        """Train on with settings, in a new trainer: the present one stays as it is."""
        trainer = Trainer(settings, self.trainer.data)
        if self.trainer.history:
            trainer.load_state_dict(carried(self.trainer, trainer))
        before = trainer.history[-1] if trainer.history else None
        try:
            stage = [trainer.run_epoch() for _ in range(epochs)]
        except Diverged:
            return trainer, DIVERGED
        return trainer, figures_of(stage, before, trainer.data.classes)


def carried(old: Trainer, new: Trainer) -> dict[str, Any]:
    """The state of one trainer for another, of the same network but for its dropout layers."""
    positions = [[i for i, layer in enumerate(trainer.network.layers) if not isinstance(layer, fastopt.Dropout)]
                 for trainer in (old, new)]
    moved = dict(zip(*positions, strict=True))

    def network(state: dict[int, Any]) -> dict[int, Any]:
        return {i: {} for i in range(len(new.network.layers))} | {moved[i]: state[i] for i in moved}

    def by_key(states: dict[str, Any]) -> dict[str, Any]:
        keys = {key: key.partition(".")[::2] for key in states}
        return {f"{moved[int(layer)]}.{name}": states[key] for key, (layer, name) in keys.items()}

    state = old.state_dict()
    optimizer = {name: by_key(part) if isinstance(part, dict) else part for name, part in state["optimizer"].items()}
    best = state["best"] and {**state["best"], "network": network(state["best"]["network"])}
    return {**state, "settings": json.dumps(new.settings.resolved.as_json()), "network": network(state["network"]),
            "optimizer": optimizer, "best": best}
