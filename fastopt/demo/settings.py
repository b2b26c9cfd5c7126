"""Everything that determines a training: two runs of equal settings and data give the same bits."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import fastopt
from fastopt import schedules
from fastopt.demo.augment import AUGMENTATIONS

ACTIVATIONS = ("relu", "tanh", "sigmoid", "gelu")
INITS = ("he", "xavier", "normal", "zero")
NETWORKS = ("pixels", "tokens")
SCHEDULES = ("constant", "piecewise", "exponential", "inverse-time", "cosine")


class Choice(NamedTuple):
    """An optimizer as it is offered: fastopt's class, options of it, the peak learning rate, and the weight decay."""

    name: str
    lr: float
    decay: float
    """L2, or decoupled where the class's own weight decay is."""
    options: Mapping[str, Any] = MappingProxyType({})
    decoupled_only: bool = False
    l2_only: bool = False
    momentum: str | None = "betas"
    """The option that the momentum goes to; with betas it is the first one. None: it has none."""
    beta2: str | None = "betas"
    """The same of β₂, the decay of the squares' average; with betas it is the second one."""


# Rates and decays were chosen by validation accuracy alone: that of the default network after 20 epochs, on random
# divisions of the 1437 digits that are not test images into 1197 and 240. Of 15 pairs for each optimizer (rates by
# factors of 3, decays by factors of 10; 84 choices for rprop) it is the best one of 8 trainings, or one as good that is
# more moderate. In 10 trainings on other divisions, the mean is 98.5 % for sgd, nesterov, sgdm, asgd and adamw, 98.4 %
# for momentum, rmsprop, radam, adan and lars, 98.3 % for adagrad and nadam, 98.2 % for adadelta, lion and rprop, 98.1 %
# for adam and adamax, 98.0 % for sophia and lamb; its standard error is about 0.2 %.
OPTIMIZERS = {
    "sgd": Choice("SGD", 0.9, 1e-2, momentum="momentum", beta2=None),
    "momentum": Choice("Momentum", 0.05, 1e-2, momentum="momentum", beta2=None),
    "nesterov": Choice("Momentum", 0.05, 1e-2, {"nesterov": True}, momentum="momentum", beta2=None),
    "sgdm": Choice("SGDM", 0.9, 1e-2, momentum="beta", beta2=None),
    "asgd": Choice("ASGD", 0.9, 1e-2, momentum=None, beta2=None),
    "adagrad": Choice("Adagrad", 0.06, 1e-4, momentum=None, beta2=None),
    "adadelta": Choice("Adadelta", 3.0, 1e-3, momentum=None, beta2="rho"),
    "rmsprop": Choice("RMSprop", 3e-3, 1e-4, momentum="momentum", beta2="alpha"),
    "adam": Choice("Adam", 3e-3, 1e-4),
    "adamw": Choice("AdamW", 9e-3, 0.1, decoupled_only=True),
    "adamax": Choice("Adamax", 0.015, 1e-3),
    "nadam": Choice("NAdam", 9e-3, 1e-3),
    "radam": Choice("RAdam", 0.027, 1e-3),
    "adan": Choice("Adan", 0.027, 1e-2, decoupled_only=True),
    "lion": Choice("Lion", 9e-4, 0.1, decoupled_only=True),
    # Rprop is made for gradients of all images. With those of mini-batches, whose signs change by chance, its own
    # factors of 0.5 and 1.2 reach 96 % at best. The first step is the largest one, because lr is above it.
    "rprop": Choice("Rprop", 0.3, 1e-3, {"etas": (0.97, 1.005), "step_sizes": (1e-6, 0.01)}, l2_only=True,
                    momentum=None, beta2=None),
    "sophia": Choice("Sophia", 3e-3, 1.0, decoupled_only=True),
    "lars": Choice("LARS", 9.0, 1e-2, momentum="momentum", beta2=None),
    "lamb": Choice("LAMB", 0.01, 0.1, decoupled_only=True),
}
"""By the name that `--optimizer` takes."""


class SettingsError(ValueError):
    """A setting out of range, or two that contradict each other."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name, self.message = name, message


def shown(value: Any) -> str:
    """A value in a message: numbers as they are typed."""
    if isinstance(value, tuple):
        return " ".join(map(shown, value))
    return f"{value:.12g}" if type(value) is float else repr(value)


def option_of(name: str) -> str:
    """The option of the command line that a setting has."""
    return "--no-batch-norm" if name == "batch_norm" else f"--{name.replace('_', '-')}"


WHOLE = {"batch_size": (1, 10**9), "epochs": (1, 10**9), "seed": (0, None)}
"""The least and the largest value of those settings that are ints."""
MOST_UNITS = 10**9
"""Of a hidden layer."""
INTERVALS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "dropout": ("[0, 1)", lambda value: 0 <= value < 1),
    "lr": ("(0, 1e30]", lambda value: 0 < value <= 1e30),
    "momentum": ("[0, 1)", lambda value: 0 <= value < 1),
    "beta2": ("[0, 1)", lambda value: 0 <= value < 1),
    "l1": ("[0, 1e30]", lambda value: 0 <= value <= 1e30),
    "l2": ("[0, 1e30]", lambda value: 0 <= value <= 1e30),
    "decoupled": ("[0, 1e30]", lambda value: 0 <= value <= 1e30),
    "warmup": ("[0, 1)", lambda value: 0 <= value < 1),
    "final_lr": ("[1e-9, 1]", lambda value: 1e-9 <= value <= 1),
    "average": ("[0, 1)", lambda value: 0 <= value < 1),
    "clip_norm": ("[1e-30, 1e30]", lambda value: 1e-30 <= value <= 1e30),
}
"""The intervals of those settings that are numbers. NaN is in none of them."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `fastopt train` can be told about a training. Numbers are checked when it is created.

    Parameters
    ----------
    network : {"pixels", "tokens"}
        See network.py.
    hidden : tuple of int
        Units of each hidden layer, from the input on; empty for softmax regression.
    activation, init : str
        One of ACTIVATIONS, INITS.
    batch_norm : bool
        Between each hidden layer's product and its activation.
    dropout : float
        Probability of dropping a hidden unit, in [0, 1).
    optimizer : str
        A key of OPTIMIZERS.
    lr : float, optional
        The peak learning rate; by default the optimizer's in OPTIMIZERS.
    momentum : float, optional
        In [0, 1): the momentum of sgd, momentum, nesterov, sgdm, rmsprop and lars, β₁ of the optimizers with betas. By
        default the class's.
    beta2 : float, optional
        In [0, 1): β₂ of the optimizers with betas, ρ of adadelta, α of rmsprop. By default the class's.
    l1, l2, decoupled : float, optional
        Regularisation of the matrices: see `fastopt.Options`. By default none of them but the optimizer's own, l2 or
        decoupled, as OPTIMIZERS says.
    schedule : str
        One of SCHEDULES. All but constant fall from lr to lr · final_lr, of the update after the last.
    warmup : float
        Share of the updates in which the learning rate rises linearly, in [0, 1).
    final_lr : float
        In [1e-9, 1].
    average : float, optional
        Decay of the averaged weights, with which the network is then evaluated: in [0, 1).
    clip_norm : float, optional
        Largest norm of all gradients together.
    augment : tuple of (name, amount)
        Keys of AUGMENTATIONS, each once: see augment.py.
    batch_size : int, optional
        Images per update: 1 is stochastic, None (all of them) batch gradient descent.
    epochs : int
    seed : int
        Determines the initial weights, the batches, what is dropped, and how images are changed.

    Raises
    ------
    SettingsError
        A value out of its range, or two that contradict each other.
    """

    network: str = "pixels"
    hidden: tuple[int, ...] = (128, 64)
    activation: str = "relu"
    init: str = "he"
    batch_norm: bool = True
    dropout: float = 0.0
    optimizer: str = "adam"
    lr: float | None = None
    momentum: float | None = None
    beta2: float | None = None
    l1: float = 0.0
    l2: float | None = None
    decoupled: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.05
    final_lr: float = 0.01
    average: float | None = None
    clip_norm: float | None = None
    augment: tuple[tuple[str, float], ...] = ()
    batch_size: int | None = 32
    epochs: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("network", NETWORKS), ("activation", ACTIVATIONS), ("init", INITS),
                              ("optimizer", tuple(OPTIMIZERS)), ("schedule", SCHEDULES)):
            if getattr(self, name) not in choices:
                raise SettingsError(name, f"expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if type(self.batch_norm) is not bool:
            raise SettingsError("batch_norm", f"expected True or False, got {self.batch_norm!r}")
        if type(self.hidden) is not tuple or not all(type(units) is int and 1 <= units <= MOST_UNITS
                                                     for units in self.hidden):
            raise SettingsError("hidden", f"expected ints in [1, {MOST_UNITS}], got {shown(self.hidden)}")
        for name, (least, most) in WHOLE.items():
            value = getattr(self, name)
            if not (type(value) is int and least <= value <= (value if most is None else most)) and not (
                    name == "batch_size" and value is None):
                limits = f"of at least {least}" if most is None else f"in [{least}, {most}]"
                raise SettingsError(name, f"expected an int {limits}, got {shown(value)}")
        for name, (interval, holds) in INTERVALS.items():
            value = getattr(self, name)
            if value is None and getattr(type(self), name) is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not holds(value):
                raise SettingsError(name, f"expected a number in {interval}, got {shown(value)}")
        self._check_augment()
        self._check_contradictions()

    def _check_augment(self) -> None:
        if type(self.augment) is not tuple or not all(type(change) is tuple and len(change) == 2
                                                      for change in self.augment):
            raise SettingsError("augment", f"expected pairs of a name and an amount, got {self.augment!r}")
        names = [name for name, _ in self.augment]
        for name, amount in self.augment:
            if name not in AUGMENTATIONS:
                raise SettingsError("augment", f"expected some of {', '.join(AUGMENTATIONS)}, got {name!r}")
            if names.count(name) > 1:
                raise SettingsError("augment", f"expected each name once, got {name} {names.count(name)} times")
            largest = AUGMENTATIONS[name].largest
            if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not 0 < amount <= largest:
                raise SettingsError("augment", f"expected {name} in (0, {largest:g}], got {shown(amount)}")

    def _check_contradictions(self) -> None:
        if self.batch_norm and self.hidden and self.batch_size == 1:
            raise SettingsError("batch_size", "expected at least 2 with BatchNorm, whose statistics are those of a "
                                              "batch, got 1: add --no-batch-norm")
        if self.dropout and not self.hidden:
            raise SettingsError("dropout", f"expected 0 without hidden layers, got {shown(self.dropout)}")
        if self.choice.decoupled_only and self.l2 is not None:
            raise SettingsError("l2", f"expected none for {self.optimizer}, whose weight decay is decoupled: use "
                                      f"--decoupled, got {shown(self.l2)}")
        if self.choice.l2_only and self.decoupled is not None:
            raise SettingsError("decoupled", f"expected none for {self.optimizer}, whose lr is only that of the first "
                                             f"step, got {shown(self.decoupled)}")
        for name in ("momentum", "beta2"):
            value = getattr(self, name)
            if value is not None and getattr(self.choice, name) is None:
                raise SettingsError(name, f"expected none, because {self.optimizer} has none, got {shown(value)}")

    @property
    def choice(self) -> Choice:
        return OPTIMIZERS[self.optimizer]

    @property
    def peak_lr(self) -> float:
        return self.choice.lr if self.lr is None else self.lr

    @property
    def resolved(self) -> Settings:
        """The same training with every default of the optimizer in OPTIMIZERS written out."""
        l2, decoupled, default = self.l2, self.decoupled, self.choice.decay
        if self.choice.decoupled_only:
            decoupled = default if decoupled is None else decoupled
        elif l2 is None:
            l2 = default if decoupled is None else 0.0
        return dataclasses.replace(self, lr=self.peak_lr, l2=l2, decoupled=decoupled)

    def as_json(self) -> dict[str, Any]:
        """The settings by name, of JSON's types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Settings:
        """The settings that `as_json` returned, maybe by way of a file."""
        return cls(**{**values, "hidden": tuple(values["hidden"]),
                      "augment": tuple((name, amount) for name, amount in values["augment"])})

    def make_schedule(self, steps: int) -> Callable[[int], float]:
        """The learning rate of each of so many updates."""
        lr, final = self.peak_lr, self.final_lr
        warmup = math.ceil(self.warmup * steps)
        after = max(1, steps - warmup)
        decay: Callable[[int], float]
        match self.schedule:
            case "constant":
                decay = schedules.constant(lr)
            case "piecewise" if after >= 3:     # in three equal parts
                decay = schedules.piecewise_constant([after // 3, 2 * after // 3], [lr, lr * final**0.5, lr * final])
            case "exponential" | "piecewise":
                decay = schedules.exponential_decay(lr, after, final)
            case "inverse-time":
                decay = schedules.inverse_time_decay(lr, after, 1 / final - 1)
            case _:
                decay = schedules.cosine(lr, after, alpha=final)
        if not warmup:
            return decay
        return schedules.join([schedules.linear_warmup(lr, warmup, initial=lr / warmup), decay], [warmup])

    def _momenta(self) -> dict[str, Any]:
        """The optimizer's options that momentum and beta2 stand for."""
        options: dict[str, Any] = {}
        for position, (value, name) in enumerate(((self.momentum, self.choice.momentum),
                                                  (self.beta2, self.choice.beta2))):
            if value is None:
                continue
            assert name is not None
            if name == "betas":
                taken = inspect.signature(getattr(fastopt, self.choice.name)).parameters
                betas = options.get("betas", taken["betas"].default)
                options["betas"] = (*betas[:position], value, *betas[position + 1 :])
            else:
                options[name] = value
        return options

    def make_optimizer(self, kernels: ModuleType, steps: int) -> Any:
        """The optimizer, of the module `kernels`, for a training of so many updates."""
        choice = self.choice
        resolved = self.resolved
        if choice.decoupled_only:
            decay = {"weight_decay": resolved.decoupled}
        else:
            decay = {"weight_decay": resolved.l2}
            if resolved.decoupled:
                decay["decoupled_weight_decay"] = resolved.decoupled
        options: dict[str, Any] = {**choice.options, **self._momenta(), **decay, "l1": self.l1,
                                   "clip_norm": self.clip_norm}
        if self.average is not None:
            options |= {"average_decay": self.average, "average_warmup": True}
        unregularised = dict.fromkeys((*decay, "l1"), 0.0)

        def matrices_only(key: Any, param: Any) -> dict[str, float]:
            """No regularisation of biases, gammas and betas."""
            return {} if param.ndim == 2 else unregularised

        return getattr(kernels, choice.name)(self.make_schedule(steps), **options, per_param=matrices_only)
