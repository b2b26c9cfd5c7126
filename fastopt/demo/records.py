"""What a training writes about itself, after each epoch: its history as a file, and TensorBoard's events."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

from fastopt.demo.trainer import Epoch, Trainer

SUFFIXES = (".json", ".csv")
COLUMNS = [field.name for field in dataclasses.fields(Epoch)]


@contextlib.contextmanager
def removed_after_an_error(path: Path) -> Iterator[None]:
    """Around writing a file, such as to a full disk."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


class History:
    """A file with an entry for each epoch: JSON, which has the settings too, or CSV."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def __call__(self, trainer: Trainer) -> None:
        """Write the whole history. The file is replaced at once: a reader never sees half of it."""
        epochs = [dataclasses.asdict(epoch) for epoch in trainer.history]
        partial = self.path.with_name(f".{self.path.name[:200]}.partial")
        with removed_after_an_error(partial), partial.open("w", encoding="utf-8", newline="") as file:
            if self.path.suffix.lower() == ".json":
                json.dump({"settings": trainer.settings.resolved.as_json(), "history": epochs}, file, indent=1)
            else:
                rows = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                rows.writeheader()
                rows.writerows(epochs)
        os.replace(partial, self.path)


def holds_events(folder: str) -> bool:
    """Whether event files of another training are in the folder."""
    return any(Path(folder).glob("events.out.tfevents.*"))


class TensorBoard:
    """Event files in a folder, for ``tensorboard --logdir FOLDER``.

    Parameters
    ----------
    folder : str
    epochs : int
        Those that the training has behind it: events of later ones, which a killed process wrote, do not count.
    """

    def __init__(self, folder: str, epochs: int = 0) -> None:
        from tensorboardX import SummaryWriter
        self.writer = SummaryWriter(folder, purge_step=epochs + 1 if epochs else None)

    def __call__(self, trainer: Trainer) -> None:
        epoch = trainer.history[-1]
        values = {"loss/training": epoch.loss, "accuracy/training": epoch.accuracy, "lr": epoch.lr,
                  "loss/validation": epoch.validation_loss, "accuracy/validation": epoch.validation_accuracy}
        for name, value in values.items():
            if value is not None:
                self.writer.add_scalar(name, value, epoch.epoch)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
