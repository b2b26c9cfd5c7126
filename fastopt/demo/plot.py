"""The learning curves as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from fastopt.demo.trainer import Epoch, rank


def suffixes() -> list[str]:
    """Endings of the names of pictures that can be written. For .pgf Matplotlib runs LaTeX, which may be missing."""
    return [f".{name}" for name in Figure().canvas.get_supported_filetypes() if name != "pgf"]


def learning_curves(path: str, histories: Mapping[str, Sequence[Epoch]]) -> None:
    """Draw loss and accuracy over epochs: of the first history all, in front; of the others the validations."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for order, (name, history) in enumerate(histories.items()):
        validated = [epoch for epoch in history if epoch.validation_loss is not None]
        # Curves that are almost equal: the later ones wider, paler and behind.
        style: dict[str, Any] = {"color": f"C{order}", "zorder": 3 - order, "linewidth": 1.5 + 3 * order,
                                 "alpha": 1 - 0.5 * min(order, 1)}
        for epochs, kind, dashes in ((history, "training", ":"), (validated, "validation", "-")):
            if order and kind == "training":
                continue
            style |= {"label": f"{name}, {kind}", "linestyle": dashes, "marker": "." if len(epochs) == 1 else None}
            x = [epoch.epoch for epoch in epochs]
            losses = [epoch.loss if kind == "training" else epoch.validation_loss for epoch in epochs]
            accuracies = [epoch.accuracy if kind == "training" else epoch.validation_accuracy for epoch in epochs]
            left.plot(x, losses, **style)
            right.plot(x, [100 * (accuracy or 0.0) for accuracy in accuracies], **style)
    best = max((epoch for epoch in next(iter(histories.values())) if epoch.validation_loss is not None), key=rank)
    assert best.validation_accuracy is not None
    right.plot(best.epoch, 100 * best.validation_accuracy, "o", color="C0", zorder=4,
               label=f"best: {best.validation_accuracy:.2%}")
    left.set(title="Loss", xlabel="epoch", ylabel="cross-entropy", yscale="log")
    right.set(title="Accuracy", xlabel="epoch", ylabel="%")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
