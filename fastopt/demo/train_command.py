"""`fastopt train` on the command line."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastopt.demo.arguments import Parser, Refused, add_settings, as_argument, needs, settings_from, whole
from fastopt.demo.settings import Settings, SettingsError

if TYPE_CHECKING:       # loaded when the command runs
    from fastopt.demo.checkpoint import Checkpoint
    from fastopt.demo.trainer import Epoch, Trainer


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command to those of `fastopt`."""
    parser = commands.add_parser(
        "train", help="train a network on real images, and compare with plain NumPy", usage="fastopt train [options]",
        description="Train a network to classify images, scikit-learn's digits unless --data names others; judge it on "
                    "test images; then train the same with NumPy as one writes it.")
    parser.add_argument("--data", metavar="FILE",
                        help="an .npz file of images and labels (default: the 1797 digits that scikit-learn contains)")
    parser.add_argument("--threads", type=whole(1, 1024), default=1, metavar="N",
                        help="of the kernels and of NumPy's BLAS (default: 1, the fastest for a small network)")
    add_settings(parser)
    course = parser.add_argument_group("the course of the training")
    course.add_argument("--validation-freq", type=whole(1), default=1, metavar="N",
                        help="validate every N epochs, and after the last (default: 1)")
    course.add_argument("--patience", type=whole(1), metavar="N",
                        help="stop after N validations without a better one (default: never)")
    course.add_argument("--checkpoint", metavar="DIR", help="save the training in DIR after each epoch")
    course.add_argument("--save-best-only", action="store_true", help="save only epochs that are the best so far")
    course.add_argument("--resume", action="store_true", help="go on from the checkpoint, with the same bits as a "
                                                              "training that was never stopped")
    output = parser.add_argument_group("what is written")
    output.add_argument("--history", metavar="FILE", help="all epochs, as .json or .csv")
    output.add_argument("--tensorboard", metavar="DIR", help="events for TensorBoard")
    output.add_argument("--plot", metavar="FILE", help="the learning curves as a picture")
    compared = parser.add_mutually_exclusive_group()
    compared.add_argument("--reference", action="store_true",
                          help="compare with fastopt.reference too, bit by bit; it is slow")
    compared.add_argument("--no-comparison", action="store_true", help="do not train again with plain NumPy")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train a network; return the exit status."""
    try:
        trainer, checkpoint = prepared(arguments)
        train(arguments, trainer, checkpoint)
    except KeyboardInterrupt:
        print(f"fastopt train: {stopped(arguments)}", file=sys.stderr)
        return 130
    except (ArithmeticError, MemoryError, OSError) as error:
        print(f"fastopt train: {error}", file=sys.stderr)
        return 1
    return 0


def prepared(arguments: argparse.Namespace) -> tuple[Trainer, Checkpoint | None]:
    """The trainer and the checkpoint, after everything that can be wrong has been checked; nothing is written.

    Raises
    ------
    Refused
        Options are wrong or contradict each other, a package is missing, a file or folder cannot be written, the data
        cannot be read, or the checkpoint is not one to go on from.
    """
    settings = settings_from(arguments)
    for option, given in (("--save-best-only", arguments.save_best_only), ("--resume", arguments.resume)):
        if given and arguments.checkpoint is None:
            raise Refused(f"argument {option}: expected --checkpoint DIR with it, got none")
    import_packages(arguments, settings)
    from fastopt.demo import data
    from fastopt.demo.checkpoint import CheckpointError
    from fastopt.demo.trainer import Trainer
    check_outputs(arguments)
    checkpoint = checkpoint_of(arguments)
    if checkpoint is not None and checkpoint.path.exists() and not arguments.resume:
        raise Refused("argument --checkpoint: expected a folder without a checkpoint, or --resume to go on from it, "
                      f"got {str(checkpoint.path)!r}")
    try:
        trainer = Trainer(settings, data.digits() if arguments.data is None else data.load(arguments.data))
        if checkpoint is not None and arguments.resume:
            checkpoint.load(trainer)
    except data.DataError as error:
        raise Refused(f"argument --data: {error}") from None
    except SettingsError as error:
        raise Refused(as_argument(error)) from None
    except CheckpointError as error:
        raise Refused(f"argument --resume: {error}") from None
    return trainer, checkpoint


def import_packages(arguments: argparse.Namespace, settings: Settings) -> None:
    """Import the packages of extras that the arguments need, so that a missing one is reported at once."""
    packages = ["sklearn.metrics", "threadpoolctl", "tqdm"]
    packages += ["scipy.ndimage"] * bool(settings.augment) + ["matplotlib.figure"] * (arguments.plot is not None)
    with needs("demo"):
        for package in packages:
            importlib.import_module(package)
    if arguments.tensorboard is not None:
        with needs("tensorboard"):
            importlib.import_module("tensorboardX")


def check_outputs(arguments: argparse.Namespace) -> None:
    """Raise Refused unless everything that is going to be written can be."""
    from fastopt.demo.outputs import check_file, check_folder
    from fastopt.demo.records import SUFFIXES, holds_events
    if arguments.history is not None:
        check_file("--history", arguments.history, SUFFIXES)
    if arguments.plot is not None:
        from fastopt.demo import plot
        check_file("--plot", arguments.plot, plot.suffixes())
    for option in ("checkpoint", "tensorboard"):
        if getattr(arguments, option) is not None:
            check_folder(f"--{option}", getattr(arguments, option))
    if arguments.tensorboard is not None and not arguments.resume and holds_events(arguments.tensorboard):
        raise Refused("argument --tensorboard: expected a folder without events, or --resume to go on with them, got "
                      f"{arguments.tensorboard!r}")


def checkpoint_of(arguments: argparse.Namespace) -> Checkpoint | None:
    """What the arguments say about checkpoints."""
    from fastopt.demo.checkpoint import Checkpoint
    if arguments.checkpoint is None:
        return None
    return Checkpoint(arguments.checkpoint, arguments.validation_freq, arguments.save_best_only)


def train(arguments: argparse.Namespace, trainer: Trainer, checkpoint: Checkpoint | None) -> None:
    """Train, report, compare, draw."""
    from threadpoolctl import threadpool_limits

    import fastopt
    from fastopt.demo import report
    print(f"{report.start(trainer)}\n")
    if arguments.resume:
        print(f"Resumed after epoch {len(trainer.history)} of {trainer.settings.epochs}.\n")
    with fastopt.num_threads(arguments.threads), threadpool_limits(arguments.threads, "blas"):
        fit_and_record(arguments, trainer, checkpoint)
        trainer.load_best()
        print(f"\n{report.end(trainer, arguments.patience)}")
        histories: dict[str, Sequence[Epoch]] = {"fastopt": trainer.history}
        if not arguments.no_comparison:
            histories = compare(arguments, trainer)
    if arguments.plot is not None:
        from fastopt.demo import plot
        plot.learning_curves(arguments.plot, histories)
        print(f"\nLearning curves: {arguments.plot}")


def fit_and_record(arguments: argparse.Namespace, trainer: Trainer, checkpoint: Checkpoint | None) -> None:
    """Train, with all that is written after each epoch."""
    from fastopt.demo.fit import Callback, fit
    from fastopt.demo.records import History, TensorBoard
    callbacks: list[Callback] = [] if checkpoint is None else [checkpoint]
    if arguments.history is not None:
        history = History(arguments.history)
        if trainer.history:
            history(trainer)        # even if there is nothing left to train
        callbacks.append(history)
    with contextlib.ExitStack() as stack:
        if arguments.tensorboard is not None:
            board = TensorBoard(arguments.tensorboard, len(trainer.history))
            stack.callback(board.close)
            callbacks.append(board)
        fit(trainer, validation_freq=arguments.validation_freq, patience=arguments.patience, callbacks=callbacks)


def compare(arguments: argparse.Namespace, trainer: Trainer) -> dict[str, Sequence[Epoch]]:
    """Train again with NumPy and maybe the reference, print the comparison, and return all histories."""
    import fastopt.reference
    from fastopt.demo import comparison, plain
    modules = {"NumPy as one writes it": plain}
    if arguments.reference:
        modules["fastopt.reference"] = fastopt.reference
    trained = comparison.train_with(modules, trainer, arguments.validation_freq)
    print(f"\n{comparison.table(trainer, trained)}")
    if reference := trained.get("fastopt.reference"):
        print(comparison.bits(trainer, reference))
    return {"fastopt": trainer.history, **{name: other.history for name, other in trained.items() if other is not None}}


def stopped(arguments: argparse.Namespace) -> str:
    """What is left of a training that the user stopped, and how to go on."""
    checkpoint = checkpoint_of(arguments)
    if checkpoint is None:
        return "stopped; nothing was saved, which --checkpoint DIR would do after each epoch"
    epochs = checkpoint.epochs()
    if epochs is None:
        return "stopped before the first checkpoint; nothing was saved"
    command = ["fastopt", *arguments.argv, *([] if arguments.resume else ["--resume"])]
    return f"stopped; epoch {epochs} is saved, go on with: {shlex.join(command)}"
