"""What the commands of `fastopt` share: their parser, types of arguments, a training's options, one-line errors."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from fastopt.demo.augment import AUGMENTATIONS
from fastopt.demo.settings import (
    ACTIVATIONS,
    INITS,
    NETWORKS,
    OPTIMIZERS,
    SCHEDULES,
    Settings,
    SettingsError,
    option_of,
)

PACKAGES = {"sklearn": "scikit-learn", "google": "protobuf", "markdown_it": "markdown-it-py",
            "mdit_py_plugins": "mdit-py-plugins"}
"""What a package is called that has another name than the module."""


class Refused(Exception):
    """What the user asked for cannot be done: one line. `main` prints it and returns exit status 2."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line. Its subparsers are of the same class."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports of the packages of an extra: if one is missing, Refused says how to install the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in ("", "fastopt"):
            raise
        raise Refused(f'{PACKAGES.get(module, module)} is not installed; run: pip install "fastopt[{extra}]"') from None


def whole(smallest: int, largest: int | None = None) -> Callable[[str], int]:
    """An argparse type: an int within the limits, both inclusive."""
    limits = f"of at least {smallest}" if largest is None else f"in [{smallest}, {largest}]"

    def parse(text: str) -> int:
        number = integer(text, f"expected an int {limits}")
        if number < smallest or (largest is not None and number > largest):
            raise argparse.ArgumentTypeError(f"expected an int {limits}, got {text!r}")
        return number
    return parse


def positive(text: str) -> float:
    """An argparse type: a finite number above 0."""
    value = number(text, "expected a finite number above 0")
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text!r}")
    return value


def integer(text: str, expected: str = "expected an int") -> int:
    """An argparse type: an int."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}") from None


def number(text: str, expected: str = "expected a number") -> float:
    """An argparse type: a float."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}") from None


def batch_size(text: str) -> int | None:
    """An argparse type: an int, or None for all."""
    return None if text == "all" else integer(text, "expected an int or all")


def change(text: str) -> tuple[str, float]:
    """An argparse type: a key of AUGMENTATIONS, or such as shift=0.1, as a name and an amount."""
    name, equals, amount = text.partition("=")
    if name not in AUGMENTATIONS:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(AUGMENTATIONS)}, got {name!r}")
    return name, number(amount, f"expected a number after {name}=") if equals else AUGMENTATIONS[name][0]


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for each setting. Options that are not given leave no trace in the arguments."""
    default = Settings()

    def add(group: Any, option: str, help: str, **kinds: Any) -> None:
        group.add_argument(option, help=help, default=argparse.SUPPRESS, **kinds)

    model = parser.add_argument_group("the network")
    add(model, "--network", "pixels: fully connected layers; tokens: the same after an embedding of each pixel's grey "
                            f"level and a LayerNorm (default: {default.network})", choices=NETWORKS)
    add(model, "--hidden", "units of each hidden layer; none at all for softmax regression (default: "
                           f"{' '.join(map(str, default.hidden))})", type=integer, nargs="*", metavar="N")
    add(model, "--activation", f"of the hidden layers (default: {default.activation})", choices=ACTIVATIONS)
    add(model, "--init", "initial weights: He's or Xavier's normal distribution, one of standard deviation 0.01, or 0 "
                         f"(default: {default.init})", choices=INITS)
    add(model, "--no-batch-norm", "hidden layers with a bias in place of BatchNorm", dest="batch_norm",
        action="store_false")
    add(model, "--dropout", f"probability of dropping a hidden unit (default: {default.dropout:g})", type=number,
        metavar="P")

    steps = parser.add_argument_group("the steps")
    add(steps, "--optimizer", f"one of {', '.join(OPTIMIZERS)} (default: {default.optimizer})",
        choices=tuple(OPTIMIZERS), metavar="NAME")
    add(steps, "--lr", "peak learning rate (default: one tuned for the optimizer)", type=number)
    add(steps, "--momentum", "momentum, or β₁ (default: the optimizer's)", type=number, metavar="M")
    add(steps, "--beta2", "β₂, decay of the average of squared gradients (default: the optimizer's)", type=number,
        metavar="B")
    add(steps, "--schedule", f"of the learning rate (default: {default.schedule})", choices=SCHEDULES)
    add(steps, "--warmup", "share of the updates in which the learning rate first rises "
                           f"(default: {default.warmup:g})", type=number, metavar="SHARE")
    add(steps, "--final-lr", "what the rate falls to, over the peak, except for the constant schedule "
                             f"(default: {default.final_lr:g})", type=number, metavar="RATIO")
    add(steps, "--clip-norm", "largest norm of all gradients together (default: no limit)", type=number, metavar="NORM")
    add(steps, "--average", "validate and test with averaged weights of this decay, such as 0.99", type=number,
        metavar="DECAY")
    add(steps, "--batch-size", f"images per update, or all (default: {default.batch_size})", type=batch_size,
        metavar="N")
    add(steps, "--epochs", f"passes over the training images (default: {default.epochs})", type=integer, metavar="N")
    add(steps, "--seed", "determines weights, batches, dropout and augmentation "
                         f"(default: {default.seed})", type=integer, metavar="N")

    against = parser.add_argument_group("against overfitting", "--l1, --l2 and --decoupled concern matrices only.")
    add(against, "--l1", f"L1 regularisation (default: {default.l1:g})", type=number, metavar="LAMBDA")
    add(against, "--l2", "L2 regularisation (default: one tuned for the optimizer)", type=number, metavar="LAMBDA")
    add(against, "--decoupled", "decoupled weight decay, as AdamW's (default: one tuned for adamw, adan, lion, sophia "
                                "and lamb, which have no other)", type=number, metavar="LAMBDA")
    amounts = ", ".join(f"{name}={offered.default:g}" for name, offered in AUGMENTATIONS.items())
    add(against, "--augment", f"change images at random, each time they are seen: some of {amounts}, which are the "
                              "default amounts", type=change, nargs="+", metavar="CHANGE")


def settings_from(arguments: argparse.Namespace) -> Settings:
    """The settings that the options say.

    Raises
    ------
    Refused
        One of them is out of range, or two contradict each other.
    """
    values = {name: value for name, value in vars(arguments).items() if name in Settings.__dataclass_fields__}
    for name in ("hidden", "augment"):
        if name in values:
            values[name] = tuple(values[name])
    try:
        settings = Settings(**values)
    except SettingsError as error:
        raise Refused(as_argument(error)) from None
    if "final_lr" in values and settings.schedule == "constant":
        raise Refused(f"argument --final-lr: expected none with --schedule constant, got {settings.final_lr:g}")
    return settings


def as_argument(error: SettingsError) -> str:
    """The message of a SettingsError with the name of the option."""
    return f"argument {option_of(error.name)}: {error.message}"
