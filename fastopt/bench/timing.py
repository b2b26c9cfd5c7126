"""Every stopwatch of the benchmarks, except pytest-benchmark's.

Contenders are timed in turn, round by round: other load on the machine then affects all of them alike.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
Name = TypeVar("Name")

WARM = 0.1
"""Seconds of calls before the timed ones, where contenders have threads of different libraries. For the first 20 ms the
previous contender's OpenMP threads may spin and take the cores, and on a virtual machine it takes tens of milliseconds
until a second core is fully awake: after a pause and 6 ms of calls two threads took three times as long."""


def seconds(call: Callable[[], Any], repeats: int = 1) -> float:
    """Mean seconds of a call, over `repeats` calls in succession."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def in_turn(measures: Mapping[Name, Callable[[], T]], *, rounds: int, least_seconds: float = 0.0,
            pause: float = 0.0) -> dict[Name, list[T]]:
    """What each measure returned in each round.

    Parameters
    ----------
    measures : mapping
        name → function of no arguments; one round calls each of them once.
    rounds : int
        The smallest number of rounds.
    least_seconds : float
        The shortest duration: rounds are added until it has passed.
    pause : float
        Seconds of sleep before each measure.
    """
    found: dict[Name, list[T]] = {name: [] for name in measures}
    begin, done = time.perf_counter(), 0
    while done < rounds or time.perf_counter() - begin < least_seconds:
        for name, measure in measures.items():
            time.sleep(pause)
            found[name].append(measure())
        done += 1
    return found


def race(calls: Mapping[Name, Callable[[], Any]], *, rounds: int, least_seconds: float = 0.0, warm: float = 0.0,
         turn: float = 0.001, around: Callable[[Name], AbstractContextManager[Any]] | None = None,
         ) -> dict[Name, list[float]]:
    """Seconds of a call of each contender in each round.

    Parameters
    ----------
    calls : mapping
        name → function of no arguments.
    rounds, least_seconds
        As in `in_turn`.
    warm : float
        Seconds of calls before the timed ones.
    turn : float
        Seconds that a contender's timed calls take in each round, at least.
    around : callable, optional
        From a name to the context manager within which its calls are made.
    """
    def measure(name: Name, call: Callable[[], Any]) -> Callable[[], float]:
        def context() -> AbstractContextManager[Any]:
            return nullcontext() if around is None else around(name)

        with context():
            repeats = max(1, math.ceil(turn / max(seconds(call), 1e-7)))

        def timed() -> float:
            with context():
                end = time.perf_counter() + warm
                if repeats > 1:         # wakes threads, fills caches
                    call()
                while time.perf_counter() < end:
                    call()
                return seconds(call, repeats)
        return timed

    return in_turn({name: measure(name, call) for name, call in calls.items()}, rounds=rounds,
                   least_seconds=least_seconds)


def medians(times: Mapping[Name, list[float]]) -> dict[Name, float]:
    return {name: statistics.median(column) for name, column in times.items()}


class Ratio(NamedTuple):
    """One contender's time over another's: quartiles over the rounds, and the ratio of the two best rounds."""

    low: float
    median: float
    high: float
    best: float


def ratio(theirs: list[float], ours: list[float]) -> Ratio:
    """theirs / ours, round by round."""
    low, median, high = statistics.quantiles([a / b for a, b in zip(theirs, ours, strict=True)], n=4)
    return Ratio(low, median, high, min(theirs) / min(ours))
