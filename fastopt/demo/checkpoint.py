"""Checkpoints: a file from which a training goes on with the same bits, as if it had never been stopped.

The file is one of `fastopt.save_state`, replaced atomically, with checksums::

    program, version    "fastopt train", 1
    data                SHA-256 of the images and labels
    validation_freq     epochs from one validation to the next
    trainer             what `Trainer.state_dict` returns: settings, network with BatchNorm's statistics, optimizer with
                        averaged weights, random generators, history, and the best epoch with its network
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import fastopt
from fastopt.demo.data import Dataset
from fastopt.demo.settings import option_of, shown
from fastopt.demo.trainer import Trainer

NAME = "checkpoint.npz"
PROGRAM, VERSION = "fastopt train", 1


class CheckpointError(Exception):
    """No training can go on from the file: one line."""


class Checkpoint:
    """The checkpoint of a training, in a folder that is created with the first one. Called after each epoch, it saves.

    Parameters
    ----------
    folder : str
    validation_freq : int
        Of the training: a training that goes on with another one could have another best epoch.
    best_only : bool
        Save only epochs that are the best so far.

    Raises
    ------
    FileExistsError
        When called: another process has replaced the file since it was loaded or saved.
    """

    def __init__(self, folder: str, validation_freq: int = 1, best_only: bool = False) -> None:
        self.path = Path(folder) / NAME
        self.validation_freq, self.best_only = validation_freq, best_only
        self._ours: tuple[int, int] | None = None

    def __call__(self, trainer: Trainer) -> None:
        if self.best_only and trainer.best is not trainer.history[-1]:
            return
        self.path.parent.mkdir(exist_ok=True)
        if identity(self.path) != self._ours:
            raise FileExistsError(f"{self.path}: expected the checkpoint of this training, got one that another "
                                  "process has written; it is left as it is")
        fastopt.save_state(self.path, {
            "program": PROGRAM, "version": VERSION, "data": fingerprint(trainer.data),
            "validation_freq": self.validation_freq, "trainer": trainer.state_dict()})
        self._ours = identity(self.path)

    def load(self, trainer: Trainer) -> None:
        """Bring a trainer to where the one was that was saved.

        Raises
        ------
        CheckpointError
            There is no checkpoint, or it is damaged, foreign, or of other settings or data. Nothing has changed then.
        """
        found = identity(self.path)
        state = self._read()
        if not same(state.get("program"), PROGRAM):
            raise CheckpointError(f"{self.path}: expected a checkpoint of fastopt train, got another program's state")
        if not same(state.get("version"), VERSION):
            raise CheckpointError(f"{self.path}: expected version {VERSION}, got {state.get('version')}")
        try:
            saved = {"validation_freq": state["validation_freq"], **json.loads(state["trainer"]["settings"])}
            given = {"validation_freq": self.validation_freq,
                     **json.loads(json.dumps(trainer.settings.resolved.as_json()))}
            for name, value in given.items():
                if saved[name] != value:
                    raise CheckpointError(f"{self.path}: expected the checkpoint's {typed(name, saved[name])}, got "
                                          f"{typed(name, value)}")
            if not same(state["data"], fingerprint(trainer.data)):
                raise CheckpointError(f"{self.path}: expected the data of the checkpoint, got other images or labels")
            validated = [entry["validation_loss"] is not None for entry in json.loads(state["trainer"]["history"])]
            if validated != [number % self.validation_freq == 0 or number == trainer.settings.epochs
                             for number in range(1, len(validated) + 1)]:
                raise ValueError("a history of other validations")
            trainer.load_state_dict(state["trainer"])
        except CheckpointError:
            raise
        except Exception as error:      # a state that some other program saved can hold anything
            raise CheckpointError(f"{self.path}: expected a checkpoint of fastopt train, got {error}") from None
        self._ours = found

    def epochs(self) -> int | None:
        """How many epochs the checkpoint holds; None if there is no good one."""
        try:
            return len(json.loads(self._read()["trainer"]["history"]))
        except Exception:       # as in load
            return None

    def _read(self) -> dict[Any, Any]:
        try:
            return fastopt.load_state(self.path)
        except FileNotFoundError:
            raise CheckpointError(f"{self.path}: expected a checkpoint, got no such file") from None
        except OSError as error:
            raise CheckpointError(f"{self.path}: expected a readable file, got {error.strerror}") from None
        except ValueError as error:
            raise CheckpointError(" ".join(str(error).split())) from None


def same(value: Any, expected: Any) -> bool:
    """Whether a value of a file is the expected one, and of its type."""
    return type(value) is type(expected) and bool(value == expected)


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one that replaced it; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def typed(name: str, value: Any) -> str:
    """A setting as an option."""
    option = option_of(name)
    if name == "batch_norm":
        return f"no {option}" if value else option
    if name == "batch_size" and value is None:
        return f"{option} all"
    if name == "hidden" and not value:
        return f"{option} without a number"
    if value is None or value == []:
        return f"no {option}"
    if name == "augment":
        value = [f"{change}={shown(amount)}" for change, amount in value]
    parts = value if isinstance(value, list) else [value]
    return " ".join([option, *(part if isinstance(part, str) else shown(part) for part in parts)])


def fingerprint(data: Dataset) -> str:
    """SHA-256 of all images and labels."""
    digest = hashlib.sha256(repr((data.shape, data.classes, data.levels)).encode())
    for array in (*data.train, *data.validation, *data.test):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
