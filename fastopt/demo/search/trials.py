"""A trial: a point of the space, and how far the training of its settings has come."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fastopt.demo.search.space import Point
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Epoch, rank

COMPLETE, STOPPED, DIVERGED = "complete", "stopped", "diverged"
"""How a trial ends: with all epochs, at a rung, or with a loss that is inf or NaN."""


@dataclass
class Trial:
    """A point and its training."""

    round: int
    """From 1."""
    number: int
    """In its round, from 1."""
    point: Point
    settings: Settings
    history: list[Epoch] = field(default_factory=list)
    end: str | None = None
    """COMPLETE, STOPPED or DIVERGED; None as long as the trial is running or waiting."""
    state: dict[str, Any] | None = None
    """The trainer's, between two rungs."""
    passed: int = 0
    """Rungs at which it was compared."""

    @property
    def name(self) -> str:
        return f"{self.round}.{self.number}"

    @property
    def best(self) -> Epoch | None:
        """The epoch that `Trainer.best` would be."""
        best = None
        for epoch in self.history:
            if best is None or rank(epoch) > rank(best):
                best = epoch
        return best

    @property
    def score(self) -> tuple[float, float]:
        """The best epoch's validation accuracy, and its loss for equal ones. Trials that diverged come last."""
        best = None if self.end == DIVERGED else self.best
        if best is None:
            return -1.0, -math.inf
        accuracy, loss = rank(best)
        return accuracy, loss if math.isfinite(loss) else -math.inf


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """The best first: those with all epochs ahead of the others, of equal ones the earlier."""
    return sorted(trials, key=lambda trial: (trial.end != COMPLETE, -trial.score[0], -trial.score[1]))
