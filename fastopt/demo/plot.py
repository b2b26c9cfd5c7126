"""The learning curves as a picture."""

from pathlib import Path

from matplotlib.figure import Figure


def problem(path):
    """Why no picture can be written there, or None: to be asked before the training, not after it."""
    kinds = Figure().canvas.get_supported_filetypes()
    path = Path(path)
    kind = path.suffix[1:].lower()
    if kind not in kinds:
        return f"expected a name ending in one of .{', .'.join(sorted(kinds))}, got {path.name!r}"
    try:
        if path.is_dir() or not path.absolute().parent.is_dir():
            return f"expected a file in a folder that exists, got {str(path)!r}"
        existed = path.exists()
        path.open("ab").close()
    except OSError as error:
        return f"expected a file that can be written, got {str(path)!r}: {error.strerror}"
    if not existed:
        path.unlink()
    return None


def learning_curves(path, results):
    """Draw loss and accuracy by epoch; `results` is {name: Result}, the first one drawn in front."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for order, (name, result) in enumerate(results.items()):
        epochs = range(1, len(result.losses) + 1)
        style = {"label": name, "color": f"C{order}", "zorder": 3 - order,
                 "marker": "." if len(epochs) == 1 else None,
                 "linewidth": 1.5 + 3 * order, "alpha": 1 - 0.5 * order}    # wider and paler behind the first
        left.plot(epochs, result.losses, **style)
        right.plot(epochs, [100 * accuracy for accuracy in result.accuracies], **style)
    front = next(iter(results.values()))
    right.plot(front.best_epoch, 100 * front.best_accuracy, "o", color="C0", zorder=4,
               label=f"kept: {front.best_accuracy:.2%}")
    left.set(title="Training loss", xlabel="epoch", ylabel="cross-entropy", yscale="log")
    right.set(title="Validation accuracy", xlabel="epoch", ylabel="%")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    figure.savefig(path, dpi=150)
