"""The learning curves as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fastopt.demo.train import Result


def problem(name: str) -> str | None:
    """Why no picture can be written to the file, or None; called before the training rather than after it."""
    formats = Figure().canvas.get_supported_filetypes()
    path = Path(name)
    if path.suffix[1:].lower() not in formats:
        return f"expected a name ending in one of .{', .'.join(sorted(formats))}, got {path.name!r}"
    try:
        if path.is_dir() or not path.absolute().parent.is_dir():
            return f"expected a file in an existing folder, got {name!r}"
        existed = path.exists()
        path.open("ab").close()
    except OSError as error:
        return f"expected a writable file, got {name!r}: {error.strerror}"
    if not existed:
        path.unlink()
    return None


def learning_curves(path: str, results: Mapping[str, Result]) -> None:
    """Draw loss and accuracy over epochs of each named result, the first one in front."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for order, (name, result) in enumerate(results.items()):
        epochs = range(1, len(result.losses) + 1)
        style: dict[str, Any] = {
            "label": name, "color": f"C{order}", "zorder": 3 - order, "marker": "." if len(epochs) == 1 else None,
            "linewidth": 1.5 + 3 * order, "alpha": 1 - 0.5 * order}     # equal curves: a wider, paler one behind
        left.plot(epochs, result.losses, **style)
        right.plot(epochs, [100 * accuracy for accuracy in result.accuracies], **style)
    front = next(iter(results.values()))
    right.plot(front.best_epoch, 100 * front.best_accuracy, "o", color="C0", zorder=4,
               label=f"best: {front.best_accuracy:.2%}")
    left.set(title="Training loss", xlabel="epoch", ylabel="cross-entropy", yscale="log")
    right.set(title="Validation accuracy", xlabel="epoch", ylabel="%")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    figure.savefig(path, dpi=150)
