"""The same training again with the layers and optimizers of other modules than fastopt: accuracy, time and bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np

from fastopt.demo.fit import fit
from fastopt.demo.trainer import Diverged, Epoch, Trainer

LARGE = 0.1
"""Share of augmentation in the time of a training from which the table mentions it."""


def train_with(modules: Mapping[str, ModuleType], trainer: Trainer, validation_freq: int) -> dict[str, Trainer | None]:
    """Repeat a training from its beginning, for as many epochs, with each of the named modules; None if it diverged."""
    trained: dict[str, Trainer | None] = {}
    for name, kernels in modules.items():
        other = Trainer(trainer.settings, trainer.data, kernels)
        try:
            fit(other, epochs=len(trainer.history), validation_freq=validation_freq, label=name, lines=False)
        except Diverged:
            trained[name] = None
        else:
            other.load_best()
            trained[name] = other
    return trained


def table(trainer: Trainer, others: Mapping[str, Trainer | None]) -> str:
    """Test accuracy and time of a training with fastopt and of the others."""
    ours = seconds(trainer.history)
    rows = ["The same training with    test accuracy      time"]
    for name, other in {"fastopt": trainer, **others}.items():
        if other is None:
            rows.append(f"{name:22}{'diverged':>17}")
            continue
        time = seconds(other.history)
        times = "" if other is trainer else f"   {time / ours:.2f} times fastopt's"
        rows.append(f"{name:22}{other.network.evaluate(other.data.test)[1]:17.2%}{time:8.2f} s{times}")
    augmenting = sum(epoch.augmenting for epoch in trainer.history)
    if augmenting > LARGE * ours:
        rows.append(f"Changing the images took {augmenting:.2f} s of fastopt's time, and costs the others the same.")
    return "\n".join(rows)


def seconds(history: Sequence[Epoch]) -> float:
    """The time of a training, without its validations."""
    return sum(epoch.seconds for epoch in history)


def bits(trainer: Trainer, other: Trainer) -> str:
    """Whether the best weights and running statistics of two trainings have the same bits."""
    assert trainer.best is not None
    assert other.best is not None
    if trainer.best.epoch != other.best.epoch:
        return f"fastopt.reference has another best epoch, {other.best.epoch}."
    a, b = (np.concatenate([array.ravel() for state in network.state_dict().values() for array in state.values()])
            for network in (trainer.network, other.network))
    different = int(np.sum(a.view(np.uint32) != b.view(np.uint32)))
    if different == 0:
        return f"fastopt.reference: all {a.size:,} weights and statistics have the same bits."
    return (f"fastopt.reference: {different:,} of {a.size:,} weights and statistics have other bits, and\n"
            f"differ by at most {np.abs(a - b).max():.1g}: exp and log round differently from NumPy's.")
