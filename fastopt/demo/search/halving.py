"""Successive halving: which trials are worth more epochs.

At a few epochs, the rungs, a trial goes on only if its validation accuracy is among the best third of those that the
trials before it had at the same rung. Optuna's pruner decides (`optuna.pruners.SuccessiveHalvingPruner`). It is asked
in the trials' order, whenever they finish: what it answers does not depend on the number of processes.
"""

from __future__ import annotations

import optuna

from fastopt.demo.trainer import Epoch

FACTOR = 3
"""One of so many trials goes on, so many times as long."""


def rungs(epochs: int) -> list[int]:
    """The epochs after which trials are compared: the first at a ninth of all, the last at a third at most."""
    found, rung = [], max(1, epochs // FACTOR**2)
    while FACTOR * rung <= epochs:
        found.append(rung)
        rung *= FACTOR
    return found


class Halving:
    """The pruner, and the trials of a round as it has seen them."""

    def __init__(self, trials: int, epochs: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.rungs = rungs(epochs)
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=max(self.rungs[:1], default=1),
                                                        reduction_factor=FACTOR)
        self._study = optuna.create_study(direction="maximize", pruner=pruner,
                                          sampler=optuna.samplers.RandomSampler(seed=0))
        self._trials = [self._study.ask() for _ in range(trials)]

    def goes_on(self, trial: int, history: list[Epoch], rung: int) -> bool:
        """Whether a trial goes on after the epochs of a rung, to be asked once for each trial and rung, in order."""
        reported = 0 if rung == 0 else self.rungs[rung - 1]
        for epoch in history[reported:self.rungs[rung]]:
            assert epoch.validation_accuracy is not None
            self._trials[trial].report(epoch.validation_accuracy, epoch.epoch)
        return not self._trials[trial].should_prune()
