"""What a learning curve says, and what is changed then: the table of rules of the panda strategy."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fastopt.demo.augment import AUGMENTATIONS
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Epoch


@dataclass(frozen=True)
class Figures:
    """A stage's learning curve in figures."""

    epochs: int
    loss: float
    """Training loss of the last epoch; inf if the training has diverged."""
    fall: float
    """Share by which the training loss fell since the epoch before the stage, or since the stage's first."""
    rises: int
    """Epochs whose training loss is above that of the epoch before."""
    accuracy: float
    """Training accuracy of the last epoch."""
    validation_accuracy: float
    validation_loss: float
    """The lowest one."""
    guessing: float = math.inf
    """The loss of equal probabilities for all classes."""

    @property
    def gap(self) -> float:
        """Training accuracy minus validation accuracy."""
        return self.accuracy - self.validation_accuracy

    @property
    def diverged(self) -> bool:
        """Whether the steps have destroyed the network: the loss is not finite, or rises and is that of guessing."""
        return not math.isfinite(self.loss) or (self.rises > 0 and self.loss >= self.guessing)


DIVERGED = Figures(0, math.inf, -math.inf, 0, 0.0, 0.0, math.inf)
"""Of a stage whose loss became inf or NaN."""


def figures_of(stage: Sequence[Epoch], before: Epoch | None = None, classes: int = 10) -> Figures:
    """The figures of a stage's epochs, after a certain one or from the start of the training."""
    curve = [epoch.loss for epoch in ([] if before is None else [before]) + list(stage)]
    last = stage[-1]
    assert last.validation_accuracy is not None
    losses = [epoch.validation_loss for epoch in stage if epoch.validation_loss is not None]
    return Figures(len(stage), last.loss, 1 - last.loss / curve[0] if curve[0] else 0.0,
                   sum(b > a for a, b in itertools.pairwise(curve)), last.accuracy,
                   last.validation_accuracy, min(losses), math.log(classes))


class Change(NamedTuple):
    """A change of the settings; `apply` returns None where there is nothing left to change."""

    name: str
    apply: Callable[[Settings], Settings | None]


class Rule(NamedTuple):
    """A symptom, why it matters, and the changes that are tried, one after the other as they are taken back."""

    name: str
    holds: Callable[[Figures], bool]
    reason: Callable[[Figures], str]
    changes: tuple[Change, ...]


def lower_lr(settings: Settings) -> Settings | None:
    lr = float(f"{settings.peak_lr / 3:.3g}")
    return dataclasses.replace(settings, lr=lr) if lr >= 1e-7 else None


def raise_lr(settings: Settings) -> Settings | None:
    lr = float(f"{settings.peak_lr * 3:.3g}")
    return dataclasses.replace(settings, lr=lr) if lr <= 10 else None


def more_dropout(settings: Settings) -> Settings | None:
    dropout = round(settings.dropout + 0.1, 3)
    return dataclasses.replace(settings, dropout=dropout) if settings.hidden and dropout <= 0.5 else None


def more_decay(settings: Settings) -> Settings | None:
    resolved, decoupled = settings.resolved, settings.choice.decoupled_only
    decay = float(f"{3 * ((resolved.decoupled if decoupled else resolved.l2) or 1e-4):.3g}")
    if decay > 1:
        return None
    return dataclasses.replace(settings, decoupled=decay) if decoupled else dataclasses.replace(settings, l2=decay)


def augmented(settings: Settings) -> Settings | None:
    if settings.augment:
        return None
    return dataclasses.replace(settings, augment=tuple((name, AUGMENTATIONS[name][0]) for name in ("shift", "rotate")))


def learns_steadily(figures: Figures) -> bool:
    """Whether there is much left to learn, and each epoch brings a little of it."""
    return figures.rises == 0 and figures.accuracy < 0.9


LOWER, RAISE = Change("lower lr", lower_lr), Change("raise lr", raise_lr)

RULES = (
    Rule("diverges", lambda figures: figures.diverged,
         lambda figures: f"the loss is {'that of guessing' if math.isfinite(figures.loss) else 'no longer finite'}: "
                         "the steps are far too large", (LOWER,)),
    Rule("overfits", lambda figures: figures.gap > 0.015 and figures.accuracy > 0.9,
         lambda figures: f"training accuracy is {100 * figures.gap:.1f} points above validation: it learns by heart",
         (Change("more dropout", more_dropout), Change("more decay", more_decay), Change("augmentation", augmented))),
    Rule("oscillates", lambda figures: figures.rises >= max(2, figures.epochs / 2),
         lambda figures: f"the loss rose in {figures.rises} of {figures.epochs} epochs: the steps jump across the "
                         "minimum",
         (LOWER,)),
    Rule("creeps", lambda figures: figures.fall < 0.4 and learns_steadily(figures),
         lambda figures: f"the loss falls in every epoch, but only by {figures.fall:.0%}: the steps are too small",
         (RAISE,)),
    Rule("stalls", lambda figures: figures.fall < 0.05 and not learns_steadily(figures),
         lambda figures: f"the loss fell by {max(0.0, figures.fall):.0%} only: a plateau", (LOWER,)),
)
"""The first one that holds, and has a change left, is followed."""


class Proposal(NamedTuple):
    """What is changed for the next stage."""

    rule: str
    change: str
    reason: str
    before: Settings
    settings: Settings


def propose(figures: Figures, settings: Settings, refused: Collection[str] = ()) -> Proposal | None:
    """What to change after a stage with these figures; None: go on.

    Parameters
    ----------
    figures : Figures
    settings : Settings
        Those of the stage.
    refused : collection of str
        Names of changes that were taken back.
    """
    for rule in RULES:
        if rule.holds(figures):
            for change in rule.changes:
                changed = None if change.name in refused else change.apply(settings)
                if changed is not None:
                    return Proposal(rule.name, change.name, rule.reason(figures), settings, changed)
    return None
