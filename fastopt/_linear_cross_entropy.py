"""Cross-entropy of a final linear layer, with the logits of one chunk of rows in memory at a time."""

from typing import Any, SupportsFloat, SupportsIndex

import numpy as np

from fastopt._cross_entropy import Reduction, check_options, check_weight
from fastopt._labels import as_array, class_labels
from fastopt._runtime import dispatch
from fastopt._runtime.arrays import Array, require_disjoint, require_disjoint_from_copied
from fastopt._runtime.hyper import integer
from fastopt._typing import Float32Array, Labels

_LOGITS = 1 << 23       # elements of the logits of a default chunk: 32 MiB
_PRODUCT = 1 << 20      # elements of a matrix product before it is added to dweight: 4 MiB


def _outputs(out: Any, arrays: list[Array]) -> tuple[tuple[Float32Array, ...], list[Array]]:
    """The gradients' arrays, new or given, and their Arrays."""
    names = [f"d{array.name}" for array in arrays]
    if out is None:
        out = tuple(np.empty(array.shape, np.float32) for array in arrays)
    elif not isinstance(out, tuple) or len(out) != len(arrays):
        raise TypeError(f"out: expected a tuple ({', '.join(names)}), got {type(out).__name__}")
    held = [Array(target, ("out", name), writable=True, shape=array.shape)
            for target, name, array in zip(out, names, arrays, strict=True)]
    return out, held


def linear_cross_entropy(x: Float32Array, weight: Float32Array, labels: Labels, bias: Float32Array | None = None,
                         *, reduction: Reduction = "mean", ignore_index: SupportsIndex = -100,
                         label_smoothing: SupportsFloat = 0.0, class_weight: Float32Array | None = None,
                         count_correct: bool = False, chunk: SupportsIndex | None = None,
                         out: tuple[Float32Array, ...] | None = None) -> tuple[Any, ...]:
    """Softmax cross-entropy of a linear layer's output, and the gradients of its input, weight and bias.

    ::

        logits = x · weightᵀ + bias
        loss, dlogits = softmax_cross_entropy(logits, labels)
        dx = dlogits · weight,  dweight = dlogitsᵀ · x,  dbias = Σ dlogits over the rows

    This is computed in chunks of rows, so that the (rows, classes) logits are never in memory as a whole.

    Parameters
    ----------
    x : float32 array of shape (rows, features), C-contiguous
        The layer's input.
    weight : float32 array of shape (classes, features), C-contiguous
        One row per class, as in torch.nn.Linear.
    labels : integer array of shape (rows,) or (rows, 1), or list
        Classes, of any integer type. Those of one-hot rows are ``labels.argmax(axis=-1)``.
    bias : float32 array of shape (classes,), optional
    reduction, ignore_index, label_smoothing, class_weight, count_correct
        As in `fastopt.softmax_cross_entropy`.
    chunk : int, optional
        Rows in a chunk, at least 1. By default the logits of a chunk take 32 MiB, or are one row.
    out : tuple of float32 arrays (dx, dweight) or (dx, dweight, dbias), optional
        Receive the gradients.

    Returns
    -------
    loss : float, or float32 array for reduction="none"
    dx, dweight : float32 arrays
        Those of `out`, or new ones; with bias also dbias.
    correct : int
        Only with count_correct; last in the tuple.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described. Nothing has been written then.

    Notes
    -----
    Beside arguments and results this needs chunk · classes + max(2²⁰, features) float32 and 16 bytes per row. With
    50 257 classes the default chunk is 166 rows, 32 MiB, where the logits of 8192 rows would take 1.5 GiB and their
    gradient as much again.

    The matrix products are NumPy's, so their bits depend on its BLAS and on the chunk. Chunks are added in float32, in
    order.
    """
    source, weights = Array(x, "x"), Array(weight, "weight")
    if len(source.shape) != 2:
        raise ValueError(f"x: expected shape (rows, features), got {source.shape}")
    rows, features = source.shape
    if len(weights.shape) != 2 or weights.shape[1] != features or weights.shape[0] == 0:
        raise ValueError(f"weight: expected shape (classes, {features}) with at least one class, got {weights.shape}")
    classes = weights.shape[0]
    offset = None if bias is None else Array(bias, "bias", shape=(classes,))
    ignore_index = check_options(reduction, ignore_index, label_smoothing)
    count = max(1, _LOGITS // classes) if chunk is None else integer(chunk, "chunk", 1)
    classes_given = as_array(labels)
    label, checked = class_labels(classes_given, (rows,), classes, ignore_index)
    scale = check_weight(class_weight, classes)
    given = [source, weights] if offset is None else [source, weights, offset]
    gradients, held = _outputs(out, given)
    names = ["x", "weight", "bias", *(f"out[{i}]" for i in range(len(gradients)))]
    for array, name in zip((x, weight, bias, *gradients), names, strict=True):
        if array is not None and not isinstance(array, np.ndarray):     # needed for the matrix products
            raise TypeError(f"{name}: expected a NumPy array, got {type(array).__name__}")
    require_disjoint(*given, scale, *held)
    for gradient in gradients:
        require_disjoint_from_copied(gradient, "out", classes_given, "labels")

    kernel = dispatch.active.cross_entropy
    divisor = 1.0
    if reduction == "mean":
        divisor = kernel.normaliser(checked, scale, ignore_index)
    losses = np.empty(rows, np.float32) if reduction == "none" else None
    count = min(count, max(rows, 1))
    logits = np.empty((count, classes), np.float32)
    block = min(classes, max(1, _PRODUCT // max(features, 1)))
    product = np.empty((block, features), np.float32)
    loss: Any = 0.0
    correct = 0
    for gradient in gradients[1:]:
        gradient[...] = 0.0
    for start in range(0, rows, count):
        part = x[start : start + count]
        z = logits[: len(part)]
        np.matmul(part, weight.T, out=z)
        if bias is not None:
            z += bias
        slope = Array(z, "logits", writable=True)
        part_labels = Array(label[start : start + count], "labels", kind="q")
        row_losses = None if losses is None else Array(losses[start : start + count], "loss", writable=True)
        part_loss, part_correct = kernel.cross_entropy(
            slope, part_labels, None, scale, slope, row_losses, divisor=divisor, ignore_index=ignore_index,
            smoothing=label_smoothing, count_correct=count_correct)
        loss += part_loss
        correct += part_correct
        np.matmul(z, weight, out=gradients[0][start : start + count])
        for first in range(0, classes, block):
            last = min(first + block, classes)
            np.matmul(z[:, first:last].T, part, out=product[: last - first])
            gradients[1][first:last] += product[: last - first]
        if bias is not None:
            gradients[2][...] += z.sum(0)
    if losses is not None:
        loss = losses
    elif rows == 0 and reduction == "mean":
        loss = float("nan")
    return (loss, *gradients, correct) if count_correct else (loss, *gradients)
