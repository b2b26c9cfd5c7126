"""`fastopt search` on the command line."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from typing import TYPE_CHECKING, Any

from fastopt.demo.arguments import Parser, Refused, add_settings, as_argument, needs, settings_from, whole
from fastopt.demo.search.space import KINDS, Space, SpaceError
from fastopt.demo.settings import Settings, SettingsError

if TYPE_CHECKING:       # loaded when the command runs
    from fastopt.demo.data import Dataset
    from fastopt.demo.search.caviar import Plan
    from fastopt.demo.search.results import Results
    from fastopt.demo.search.trials import Trial
    from fastopt.demo.search.workers import Workers

CAVIAR: dict[str, Any] = {"space": None, "method": "random", "trials": 24, "rounds": 4, "jobs": None, "results": None}
PANDA: dict[str, Any] = {"stage": 4}
"""Options of one strategy alone, and their defaults."""
WATCHED: dict[str, Any] = {"schedule": "constant", "warmup": 0.0, "epochs": 40}
"""Defaults of a training that is watched: its learning rate is changed by what is seen, not by a schedule."""


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command to those of `fastopt`."""
    parser = commands.add_parser(
        "search", help="find hyper-parameters", usage="fastopt search [options]",
        description="Find hyper-parameters for a network that classifies images: by many trainings in parallel, of "
                    "which the better ones go on (caviar), or by watching one training (panda). Whatever is not "
                    "searched is set by the options of fastopt train. Validation images decide; test images judge "
                    "once, at the end.")
    parser.add_argument("--data", metavar="FILE",
                        help="an .npz file of images and labels (default: the 1797 digits that scikit-learn contains)")
    parser.add_argument("--strategy", choices=("caviar", "panda"), default="caviar", help="(default: caviar)")
    caviar = parser.add_argument_group("caviar")

    def add_option(group: Any, option: str, help: str, **kinds: Any) -> None:
        group.add_argument(option, help=help, default=argparse.SUPPRESS, **kinds)

    add_option(caviar, "--space", "what is searched: a range of numbers as NAME=LOW..HIGH, or values as NAME=A,B,C; "
                                  f"the names are {', '.join(KINDS)} (default: a wide space)", nargs="+",
               metavar="NAME=RANGE")
    add_option(caviar, "--method", "how points are chosen (default: random)", choices=("random", "grid"))
    add_option(caviar, "--trials", f"points in each round (default: {CAVIAR['trials']})", type=whole(2, 100_000),
               metavar="N")
    add_option(caviar, "--rounds", "each after the first in the box of the best quarter of the last one's points "
                                   f"(default: {CAVIAR['rounds']})", type=whole(1, 100), metavar="N")
    add_option(caviar, "--jobs", "processes (default: as many as there are cores for this program)",
               type=whole(1, 1024), metavar="N")
    add_option(caviar, "--results", "keep the finished trials, and go on from those that are there", metavar="FILE")
    panda = parser.add_argument_group("panda", "The learning rate is constant, without warm-up, and there are 40 "
                                               "epochs, unless options say otherwise.")
    add_option(panda, "--stage", f"epochs between two looks at the curve (default: {PANDA['stage']})", type=whole(2),
               metavar="N")
    output = parser.add_argument_group("what is written")
    output.add_argument("--table", metavar="FILE", help="all trials, or stages, as .csv")
    output.add_argument("--plot", metavar="FILE", help="a picture of them")
    add_settings(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Search; return the exit status."""
    settings = prepared(arguments)
    try:
        if arguments.strategy == "panda":
            from fastopt.demo.search.watch import watch
            data = load(arguments)
            check_outputs(arguments)
            return watch(settings, data, arguments)
        return run_caviar(arguments, settings)
    except KeyboardInterrupt:
        print(f"fastopt search: {stopped(arguments)}", file=sys.stderr)
        return 130
    except (ArithmeticError, BrokenExecutor, MemoryError, OSError) as error:
        print(f"fastopt search: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1


def prepared(arguments: argparse.Namespace) -> Settings:
    """The settings of what is not searched, after the options, packages and files have been checked.

    Raises
    ------
    Refused
        One of them is wrong.
    """
    strange = PANDA if arguments.strategy == "caviar" else CAVIAR
    for name in strange:
        if hasattr(arguments, name):
            raise Refused(f"argument --{name}: expected none with --strategy {arguments.strategy}")
    for name, value in (CAVIAR | PANDA).items():
        setattr(arguments, name, getattr(arguments, name, value))
    if arguments.strategy == "panda":
        for name, value in WATCHED.items():
            setattr(arguments, name, getattr(arguments, name, value))
    settings = settings_from(arguments)
    with needs("search"):
        import optuna  # noqa: F401
        import tqdm  # noqa: F401
        if settings.augment:
            import scipy.ndimage  # noqa: F401
        if arguments.plot is not None:
            import matplotlib.figure  # noqa: F401
    return settings


def check_outputs(arguments: argparse.Namespace) -> None:
    """Raise Refused unless the table and the picture can be written."""
    from fastopt.demo.outputs import check_file
    names = ("results", "table", "plot")
    for name, other in itertools.combinations(names, 2):
        path, before = getattr(arguments, other), getattr(arguments, name)
        if path is not None and before is not None and os.path.realpath(path) == os.path.realpath(before):
            raise Refused(f"argument --{other}: expected another file than --{name}, got {path!r}")
    if arguments.table is not None:
        check_file("--table", arguments.table, [".csv"])
    if arguments.plot is not None:
        from fastopt.demo import plot
        check_file("--plot", arguments.plot, plot.suffixes())


def load(arguments: argparse.Namespace) -> Dataset:
    """The data; Refused if they cannot be read."""
    with needs("search"):
        import sklearn  # noqa: F401
    from fastopt.demo import data
    try:
        return data.digits() if arguments.data is None else data.load(arguments.data)
    except data.DataError as error:
        raise Refused(f"argument --data: {error}") from None


def space_of(arguments: argparse.Namespace, settings: Settings) -> Space:
    """The space that the options say; Refused if it contradicts them or cannot be searched."""
    given = {name.replace("_", "-") for name in Settings.__dataclass_fields__ if hasattr(arguments, name)}
    try:
        if arguments.space is None:
            space = Space.wide(settings, given | ({"layers", "units"} if "hidden" in given else set()))
        else:
            space = Space.parse(arguments.space)
            for name in space.names:
                if name in given:
                    raise SpaceError(f"{name} is searched and cannot be given as --{name}")
            if "hidden" in given and {"layers", "units"} <= set(space.names):
                raise SpaceError("layers and units are searched and cannot be given as --hidden")
        space.check(settings)
    except SpaceError as error:
        raise Refused(f"argument --space: {error}") from None
    return space


def check_data(space: Space, settings: Settings, data: Dataset) -> None:
    """Raise Refused unless the largest batch fits the data, and the network."""
    from fastopt.demo.trainer import Trainer
    point = {parameter.name: parameter.choices[0] if parameter.choices else parameter.low
             for parameter in space.parameters}
    for parameter in space.parameters:
        if parameter.name == "batch-size":
            point["batch-size"] = max(parameter.choices) if parameter.choices else parameter.high
    try:
        Trainer(space.settings(settings, point), data)
    except SettingsError as error:
        searched = error.name.replace("_", "-") in space.names
        raise Refused(f"argument --space: {error.name.replace('_', '-')}: {error.message}" if searched
                      else as_argument(error)) from None


def run_caviar(arguments: argparse.Namespace, settings: Settings) -> int:
    """Many trainings in parallel."""
    import fastopt
    from fastopt.demo.search.caviar import Plan
    from fastopt.demo.search.workers import Workers
    space = space_of(arguments, settings)
    data = load(arguments)
    check_data(space, settings, data)
    check_outputs(arguments)
    plan = Plan(space, settings, arguments.method, arguments.trials, arguments.rounds)
    jobs = min(fastopt.get_num_threads() if arguments.jobs is None else arguments.jobs, arguments.trials)
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        results = stack.enter_context(opened(arguments.results, plan, data)) if arguments.results else None
        workers = stack.enter_context(Workers(jobs, data))
        trials = search_and_show(plan, workers, results)
        seconds = time.perf_counter() - start
        return report(arguments, plan, data, workers, trials, seconds)


def opened(path: str, plan: Plan, data: Dataset) -> Results:
    """The results file; Refused if it cannot be used."""
    from fastopt.demo.search.results import Results, ResultsError
    try:
        return Results(path, plan, data)
    except ResultsError as error:
        raise Refused(f"argument --results: {error}") from None
    except OSError as error:
        raise Refused(f"argument --results: expected a file that can be written, got {path!r}: "
                      f"{error.strerror}") from None


def search_and_show(plan: Plan, workers: Workers, results: Results | None) -> list[Trial]:
    """All trials, with a line for each range of each round, and a progress bar on a terminal."""
    from tqdm import tqdm

    from fastopt.demo.search.caviar import search
    with tqdm(unit="trial", leave=False, disable=None) as bar:
        best = 0.0

        def announce(number: int, space: Space, points: int, finished: Sequence[Trial]) -> None:
            nonlocal best
            told = f", {len(finished)} of them finished before" if finished else ""
            tqdm.write(f"Round {number} of {plan.rounds}, {points} trials{told}:\n{space}\n")
            bar.reset(points)
            bar.set_description(f"round {number}")
            for trial in finished:
                advance(trial)

        def keep(trial: Trial) -> None:
            if results is not None:
                results.keep(trial)
            advance(trial)

        def advance(trial: Trial) -> None:
            nonlocal best
            best = max(best, trial.score[0])
            bar.set_postfix_str(f"best validation accuracy {best:.2%}", refresh=False)
            bar.update()

        return search(plan, workers, {} if results is None else results.finished, keep, announce)


def report(arguments: argparse.Namespace, plan: Plan, data: Dataset, workers: Workers, trials: list[Trial],
           seconds: float) -> int:
    """Print and write the results; the exit status."""
    from fastopt.demo.search.table import command, table, write_csv
    from fastopt.demo.search.trials import COMPLETE, ranked
    from fastopt.demo.search.workers import judge
    best = ranked(trials)[0]
    print(f"The best of {len(trials)} trials by validation, of {sum(len(trial.history) for trial in trials)} epochs "
          f"in {seconds:.1f} s on {workers.jobs} processes:\n\n{table(trials)}\n")
    if arguments.table is not None:
        write_csv(arguments.table, trials)
        print(f"All trials: {arguments.table}")
    if best.end != COMPLETE:
        raise ArithmeticError("no trial was trained to the end, the best ones diverged: try smaller learning rates")
    judged = [future.result() for future in [workers.submit(judge, each) for each in (best.settings, plan.settings)]]
    names = [f"trial {best.name}", "default"]
    print(f"                   validation      test ({len(data.test.x)} images, which chose nothing)")
    for name, result in zip(names, judged, strict=True):
        figures = "diverged" if result is None else f"{result[0].validation_accuracy:10.2%}{result[1]:10.2%}"
        print(f"{name:19}{figures}")
    print(f"\nTrial {best.name} again:\n  {command(best.settings, arguments.data)}")
    if arguments.plot is not None:
        from fastopt.demo.search.plot import draw
        draw(arguments.plot, plan.space, trials, None if judged[1] is None else judged[1][0])
        print(f"\nPicture: {arguments.plot}")
    return 0


def stopped(arguments: argparse.Namespace) -> str:
    """What is left of a search that the user stopped, and how to go on."""
    if arguments.strategy == "panda" or arguments.results is None:
        advice = "" if arguments.strategy == "panda" else ", which --results FILE would do after each trial"
        return f"stopped; nothing was saved{advice}"
    return f"stopped; the finished trials are in {arguments.results}, the same command goes on"

