"""What `fastopt train` prints before and after the training."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, recall_score

from fastopt.demo.fit import stopped_early
from fastopt.demo.trainer import Trainer

LARGEST_MATRIX = 16
"""Classes up to which a confusion matrix is printed; of more, the classes that are confused most."""


def start(trainer: Trainer) -> str:
    """The data, the layers, and the steps."""
    data, settings = trainer.data, trainer.settings.resolved
    counts = ", ".join(f"{len(examples.x)} {part}" for part, examples in (
        ("training", data.train), ("validation", data.validation), ("test", data.test)))
    numbers = {"momentum": settings.momentum, "beta2": settings.beta2, "L1": settings.l1, "L2": settings.l2,
               "decoupled weight decay": settings.decoupled, "norm clipped to": settings.clip_norm,
               "weights averaged with": settings.average, **dict(settings.augment)}
    steps = [f"{settings.optimizer}: learning rate {settings.peak_lr:g} ({settings.schedule})",
             *(f"{name} {value:g}" for name, value in numbers.items() if value),
             f"{trainer.steps_per_epoch} batches an epoch"]
    shape = " × ".join(map(str, data.shape))
    return "\n".join([f"{data.name}: {counts} images", f"of {shape}, {data.classes} classes", "",
                      *summary(trainer), "", *textwrap.wrap(", ".join(steps), 80)])


def summary(trainer: Trainer) -> list[str]:
    """A row for each layer: its output's shape for N images, and the number of its parameters."""
    x: Any = trainer.data.train.x[:2]
    rows = [("layer", "output", "parameters")]
    total = 0
    for layer in trainer.network.layers:
        x = layer.forward(x, False)
        count = sum(param.size for param in layer.params.values())
        total += count
        rows.append((title(layer), f"(N, {', '.join(map(str, x.shape[1:]))})", f"{count:,}"))
    rows.append(("total", "", f"{total:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [f"{name:{widths[0]}}   {shape:{widths[1]}}   {count:>{widths[2]}}" for name, shape, count in rows]


def title(layer: Any) -> str:
    """A layer's class, and what it does besides."""
    name = type(layer).__name__
    activation = "relu" if getattr(layer, "relu", False) else getattr(layer, "activation", "identity")
    if name == "Activation":
        return str(activation)
    if name == "Dropout":
        return f"Dropout {layer.p:g}"
    return name if activation == "identity" else f"{name}, {activation}"


def end(trainer: Trainer, patience: int | None) -> str:
    """What the best epoch reached: validation, and the test images, class by class. `load_best` has been called."""
    best, test = trainer.best, trainer.data.test
    assert best is not None
    loss, accuracy = trainer.network.evaluate(test)
    predicted = trainer.network.logits(test.x).argmax(axis=1)
    right = int(np.sum(predicted == test.labels))
    lines = []
    if len(trainer.history) < trainer.settings.epochs and stopped_early(trainer, patience):
        lines = [f"Stopped early: none of the last {patience} validations was better."]
    return "\n".join([
        *lines,
        f"Best epoch: {best.epoch}, with validation loss {best.validation_loss:.4f} and accuracy "
        f"{best.validation_accuracy:.2%}.",
        f"Its weights on the test images: loss {loss:.4f}, accuracy {accuracy:.2%}, {right} of {len(predicted)} right.",
        "",
        *confusions(test.labels, predicted, trainer.data.classes)])


def confusions(labels: Any, predicted: Any, classes: int) -> list[str]:
    """The confusion matrix with the accuracy of each class; of many classes the pairs that are confused most."""
    matrix = confusion_matrix(labels, predicted, labels=range(classes))
    accuracies = recall_score(labels, predicted, labels=range(classes), average=None, zero_division=np.nan)
    if classes > LARGEST_MATRIX:
        worst = [f"class {i}: {accuracies[i]:.1%}" for i in np.argsort(accuracies)[:10]]
        wrong = matrix - np.diag(np.diag(matrix))
        places = [np.unravel_index(i, wrong.shape) for i in np.argsort(-wrong, axis=None)[:10]]
        pairs = [f"{i} as {j}: {wrong[i, j]}" for i, j in places if wrong[i, j]]
        return ["Least accurate classes", *worst, *(["Most frequent confusions", *pairs] if pairs else [])]
    width = max(4, len(str(matrix.max())) + 2)
    rows = ["label   predicted as", " " * 5 + "".join(f"{i:{width}}" for i in range(classes)) + "  accuracy"]
    for i, row in enumerate(matrix):
        cells = "".join(f"{count or '·':>{width}}" for count in row)
        rows.append(f"{i:5}{cells}" + (f"{accuracies[i]:10.1%}" if row.any() else f"{'–':>10}"))
    return rows
