"""A training: its network, optimizer, random generators and history, epoch by epoch; as one state, to go on from."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastopt
from fastopt.demo.augment import augment
from fastopt.demo.data import Dataset
from fastopt.demo.network import Network, make_layers
from fastopt.demo.settings import Settings, SettingsError

STREAMS = ("weights", "batches", "dropped", "augmented", "sampled")
"""The random generators: initial weights, order of the images, dropout, augmentation, Sophia's labels. Each is one of
its own, so that changing a setting changes nothing that it does not concern."""
HESSIAN_EVERY = 10
"""Steps from one estimate of Sophia's Hessian to the next: the paper's k."""


class Diverged(ArithmeticError):
    """The loss is no longer finite."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch did."""

    epoch: int
    """From 1."""
    step: int
    """Updates made so far."""
    lr: float
    """Of the last update."""
    loss: float
    """The mean of the batches' losses, of the training images as they were seen."""
    accuracy: float
    """The same of the accuracies."""
    seconds: float
    """Of the training alone, without the validation."""
    augmenting: float = 0.0
    """Seconds of those in which images were changed."""
    validation_loss: float | None = None
    """None in epochs without validation."""
    validation_accuracy: float | None = None


class Trainer:
    """A training of a network, whose state can be saved after each epoch.

    Parameters
    ----------
    settings : Settings
    data : Dataset
    kernels : module
        fastopt, fastopt.reference or fastopt.demo.plain.

    Attributes
    ----------
    network, optimizer
    history : list of Epoch
    best : Epoch or None
        The first one with the highest validation accuracy; of equal ones, the one with the lowest validation loss.
    best_state : dict or None
        The network's state then, with the averaged weights if there are any.
    running : tuple of float
        The means so far of the loss and the accuracy of the current epoch, for a progress bar.

    Raises
    ------
    SettingsError
        Settings that do not fit the data.
    """

    def __init__(self, settings: Settings, data: Dataset, kernels: ModuleType = fastopt) -> None:
        self.settings, self.data, self.kernels = settings, data, kernels
        images = len(data.train.x)
        if settings.batch_size is not None and settings.batch_size > images:
            raise SettingsError("batch_size", f"expected at most {images}, the number of training images, got "
                                              f"{settings.batch_size}")
        if settings.batch_norm and settings.hidden and images == 1:
            raise SettingsError("batch_norm", "expected it with a single training image, whose statistics say nothing")
        self.rngs = dict(zip(STREAMS, np.random.default_rng(settings.seed).spawn(len(STREAMS)), strict=True))
        layers = make_layers(settings, data, kernels, self.rngs["weights"], self.rngs["dropped"])
        self.network = Network(kernels, layers)
        self.optimizer = settings.make_optimizer(kernels, settings.epochs * self.steps_per_epoch)
        self.history: list[Epoch] = []
        self.best: Epoch | None = None
        self.best_state: dict[int, Any] | None = None
        self.running = (0.0, 0.0)
        self._augmenting = 0.0

    @property
    def steps_per_epoch(self) -> int:
        images = len(self.data.train.x)
        return images // (self.settings.batch_size or images)

    def batches(self) -> list[NDArray[np.int64]]:
        """A random order of the training images, in ⌊images / batch_size⌋ batches of at least batch_size."""
        return np.array_split(self.rngs["batches"].permutation(len(self.data.train.x)), self.steps_per_epoch)

    def run_epoch(self, *, validate: bool = True, each_step: Callable[[float], object] | None = None) -> Epoch:
        """Train on every training image once and return what happened; it is added to the history.

        Raises
        ------
        Diverged
            The loss is inf or NaN.
        """
        number = len(self.history) + 1
        loss, right, seen = 0.0, 0, 0
        self._augmenting = 0.0
        start = time.perf_counter()
        with np.errstate(over="ignore", invalid="ignore"):      # Diverged reports it
            for batch in self.batches():
                batch_loss, batch_right = self._step(batch)
                loss += batch_loss * len(batch)
                right += batch_right
                seen += len(batch)
                self._require_finite(batch_loss, f"in epoch {number}")
                self.running = (loss / seen, right / seen)
                if each_step is not None:
                    each_step(batch_loss)
        seconds = time.perf_counter() - start
        epoch = Epoch(number, self.last.step, self.last.lr, *self.running, seconds, self._augmenting)
        if validate:
            with self.averaged():
                with np.errstate(over="ignore", invalid="ignore"):
                    validation_loss, validation_accuracy = self.network.evaluate(self.data.validation)
                self._require_finite(validation_loss, f"after epoch {number}")
                epoch = dataclasses.replace(epoch, validation_loss=validation_loss,
                                            validation_accuracy=validation_accuracy)
                if self.best is None or rank(epoch) > rank(self.best):
                    self.best, self.best_state = epoch, self.network.state_dict()
        self.history.append(epoch)
        return epoch

    def _require_finite(self, loss: float, when: str) -> None:
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} {when}: try a smaller --lr than {self.settings.peak_lr:g}")

    def _step(self, batch: NDArray[np.int64]) -> tuple[float, int]:
        """One update; the mean loss of its images, and how many of them were classified rightly before it."""
        x, labels = self.data.train.x[batch], self.data.train.labels[batch]
        if self.settings.augment:
            start = time.perf_counter()
            x = augment(x, self.data.shape, self.settings.augment, self.rngs["augmented"])
            self._augmenting += time.perf_counter() - start
        if self.settings.optimizer == "sophia" and self.optimizer.step_count % HESSIAN_EVERY == 0:
            self.optimizer.update_hessian(self.network.params, self.network.hessian(x, self.rngs["sampled"]))
        result = self.network.loss_and_gradients(x, labels)
        self.last = self.optimizer.update(self.network.params, self.network.grads)
        return result

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """With the averaged weights, if there are any, in place of the current ones."""
        averages, params = self.optimizer.averages, self.network.params
        current = {key: params[key].copy() for key in averages}
        for key, average in averages.items():
            params[key][...] = average
        try:
            yield
        finally:
            for key, param in current.items():
                params[key][...] = param

    def load_best(self) -> None:
        """Give the network the weights and running statistics of the best epoch, to judge it: the training is over."""
        assert self.best_state is not None
        self.network.load_state_dict(self.best_state)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` of a trainer of equal settings and data needs to go on with the same bits."""
        return {
            "settings": json.dumps(self.settings.resolved.as_json()),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rngs": {name: json.dumps(rng.bit_generator.state) for name, rng in self.rngs.items()},
            "history": json.dumps([dataclasses.asdict(epoch) for epoch in self.history]),
            "best": None if self.best is None else {"epoch": self.best.epoch, "network": self.best_state},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the trainer whose state it is was. The network and the optimizer are new objects then.

        Raises
        ------
        ValueError
            The state is of another training, or of none. Nothing has changed then.
        """
        fresh = Trainer(self.settings, self.data, self.kernels)
        try:
            fresh._load(state)
        except Exception as error:      # a state can hold anything
            raise ValueError(f"state: expected that of a training with equal settings and data, got {error}") from error
        vars(self).update(vars(fresh))

    def _load(self, state: dict[str, Any]) -> None:
        """Take over a state; if a part of it is wrong, the trainer is of no use any more."""
        self._step(self.batches()[0])       # gives the optimizer a state: a template of one
        template = self.state_dict()
        best = None if state["best"] is None else {"epoch": 1, "network": template["network"]}
        require_form(state, {**template, "best": best})
        if state["settings"] != template["settings"]:
            raise ValueError("other settings")
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, rng in self.rngs.items():
            rng.bit_generator.state = json.loads(state["rngs"][name])
        self.history = [epoch_of(entry) for entry in json.loads(state["history"])]
        numbers = [(epoch.epoch, epoch.step) for epoch in self.history]
        if numbers != [(i, i * self.steps_per_epoch) for i in range(1, min(len(numbers), self.settings.epochs) + 1)]:
            raise ValueError("a history that does not count epochs and steps one by one")
        if len(numbers) * self.steps_per_epoch != self.optimizer.step_count:
            raise ValueError("a history and an optimizer of different numbers of steps")
        if {*state["optimizer"]["steps"].values()} != {self.optimizer.step_count}:
            raise ValueError("parameters of different numbers of steps")
        validated = [epoch for epoch in self.history if epoch.validation_accuracy is not None]
        self.best = max(validated, key=rank, default=None)      # the first one of equals
        if (self.best and self.best.epoch) != (best and state["best"]["epoch"]):
            raise ValueError("a best epoch that is not the history's")
        self.best_state = None if best is None else state["best"]["network"]


def epoch_of(entry: Any) -> Epoch:
    """The Epoch of which an entry of a history was made; a ValueError if it was made of none."""
    validated = entry.get("validation_loss") is not None
    template = Epoch(1, 1, 0.0, 0.0, 0.0, 0.0, 0.0, *([0.0, 0.0] if validated else []))
    require_form(entry, dataclasses.asdict(template), "history")
    return Epoch(**entry)


def require_form(state: Any, template: Any, where: str = "state") -> None:
    """Raise a ValueError unless a state has the template's keys, and types, shapes and dtypes of values."""
    if isinstance(template, dict) and isinstance(state, dict):
        if state.keys() != template.keys():
            raise ValueError(f"{where} with the keys {', '.join(map(str, state))}")
        for key, part in template.items():
            require_form(state[key], part, f"{where}[{key!r}]")
    elif type(state) is not type(template) or (isinstance(template, np.ndarray) and (
            state.shape != template.shape or state.dtype != template.dtype)):
        raise ValueError(f"{where} of type {type(state).__name__} {getattr(state, 'shape', '')}".rstrip())


def rank(epoch: Epoch) -> tuple[float, float]:
    """What the best epoch has most of."""
    assert epoch.validation_accuracy is not None
    assert epoch.validation_loss is not None
    return epoch.validation_accuracy, -epoch.validation_loss
