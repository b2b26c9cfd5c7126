"""Caviar: many trainings at once, as fish lay eggs, round by round, each in a smaller space.

(Andrew Ng's name for it; a panda, panda.py, has one child and watches it.) Everything is determined by the plan and its
seed: neither the number of processes, nor which of them is faster, nor an interruption changes a trial or the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

import numpy as np

from fastopt.demo.search.halving import Halving
from fastopt.demo.search.space import Point, Space
from fastopt.demo.search.trials import COMPLETE, DIVERGED, STOPPED, Trial
from fastopt.demo.search.workers import Part, Workers, train
from fastopt.demo.settings import Settings

AHEAD = 4
"""Trials per process that may have begun: some wait until those before them have come to the same rung."""


@dataclass(frozen=True)
class Plan:
    """What a search consists of."""

    space: Space
    settings: Settings
    """Of what is not searched."""
    method: str = "random"
    """How the first round's points are chosen: random or grid. The other rounds' are as well, in their spaces."""
    trials: int = 24
    """In each round; a grid may have fewer."""
    rounds: int = 4

    def points(self, space: Space, number: int) -> list[Point]:
        """The points of a round, from 1."""
        rng = np.random.default_rng([self.settings.seed, number])
        if self.method == "grid":       # in random order: neighbours in a row would mislead the pruner
            grid = space.grid(self.trials)
            return [grid[i] for i in rng.permutation(len(grid))]
        return [space.sample(rng) for _ in range(self.trials)]


def search(plan: Plan, workers: Workers, finished: Mapping[tuple[int, int], Trial], keep: Callable[[Trial], object],
           announce: Callable[[int, Space, int, list[Trial]], object]) -> list[Trial]:
    """All trials of a plan.

    Parameters
    ----------
    finished : mapping
        Trials that need not be trained again, by round and number.
    keep : callable
        Called with each trial that ends and is not among those.
    announce : callable
        Called at the start of each round with its number, its space, how many trials it has, and those of them that
        are finished.
    """
    space, trials = plan.space, []
    for number in range(1, plan.rounds + 1):
        points = plan.points(space, number)
        of_round = [finished.get((number, i)) or Trial(number, i, point, plan.space.settings(plan.settings, point))
                    for i, point in enumerate(points, 1)]
        announce(number, space, len(of_round), [trial for trial in of_round if trial.end])
        Round(of_round, plan.settings.epochs, keep).run(workers)
        trials += of_round
        space = space.zoom(points, [trial.score for trial in of_round])
    return trials


class Round:
    """Trials of which a third goes on at each rung."""

    def __init__(self, trials: list[Trial], epochs: int, keep: Callable[[Trial], object]) -> None:
        self.trials, self.epochs, self.keep = trials, epochs, keep
        self.halving = Halving(len(trials), epochs)
        self.turn = [0] * len(self.halving.rungs)
        """The trial that is compared next, at each rung."""
        for trial in trials:
            trial.passed = 0

    def run(self, workers: Workers) -> None:
        """Train until all trials have ended."""
        running: dict[Future[Part], Trial] = {}
        self.compare()
        while not all(trial.end for trial in self.trials):
            for trial in self.ready(list(running.values()), workers.jobs):
                reached = [rung for rung in self.halving.rungs if rung > len(trial.history)]
                target = min(reached, default=self.epochs)
                running[workers.submit(train, trial.settings, trial.state, target)] = trial
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                trial, part = running.pop(future), future.result()
                trial.history, trial.state = part.history, part.state
                if part.state is None:
                    self.finish(trial, DIVERGED)
                elif len(trial.history) == self.epochs:
                    self.finish(trial, COMPLETE)
            self.compare()

    def ready(self, running: list[Trial], jobs: int) -> list[Trial]:
        """The trials to train next, the first ones first, one for each process that is free."""
        begun = [trial for trial in self.trials if trial.history and not trial.end]
        room = AHEAD * jobs - len(begun) - sum(not trial.history for trial in running)
        found: list[Trial] = []
        for trial in self.trials:
            if len(found) == jobs - len(running):
                break
            if trial.end or any(trial is other for other in running):
                continue
            if trial.history:
                if sum(rung <= len(trial.history) for rung in self.halving.rungs) > trial.passed:
                    continue                    # waits to be compared
            elif room > 0:
                room -= 1
            else:
                continue
            found.append(trial)
        return found

    def compare(self) -> None:
        """Ask the pruner about the trials that have come to a rung, as far as those before them have as well."""
        for number, rung in enumerate(self.halving.rungs):
            while self.turn[number] < len(self.trials):
                index = self.turn[number]
                trial = self.trials[index]
                if len(trial.history) >= rung:
                    goes_on = self.halving.goes_on(index, trial.history, number)
                    trial.passed = number + 1
                    if not goes_on and not trial.end:
                        self.finish(trial, STOPPED)
                elif not trial.end:
                    break
                self.turn[number] += 1

    def finish(self, trial: Trial, end: str) -> None:
        trial.end, trial.state = end, None
        self.keep(trial)
