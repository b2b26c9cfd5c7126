"""Softmax cross-entropy: loss and gradient in one pass over the logits."""

import reprlib
from typing import Any, Literal, SupportsFloat, SupportsIndex, overload

import numpy as np

from fastopt._labels import labels_or_distributions, require_classes
from fastopt._runtime import dispatch
from fastopt._runtime.arrays import (
    Array,
    array_like,
    copied_int64,
    require_disjoint,
    require_disjoint_from_copied,
)
from fastopt._runtime.hyper import Ranges, integer
from fastopt._typing import Float32Array, Labels

Reduction = Literal["mean", "sum", "none"]

_ranges = Ranges(label_smoothing="[0, 1)")


def check_options(reduction: str, ignore_index: SupportsIndex, label_smoothing: SupportsFloat) -> int:
    """Validate the options; return ignore_index as an int."""
    if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reprlib.repr(reduction)}")
    _ranges(label_smoothing)
    # int64_copy maps every uint64 label above 2**63 − 1 to that value
    return integer(ignore_index, "ignore_index", -2**63, 2**63 - 1)


def check_weight(class_weight: Any, classes: int) -> Array | None:
    """class_weight as a validated Array, or None."""
    if class_weight is None:
        return None
    array = Array(class_weight, "class_weight", shape=(classes,))
    weights = np.asarray(class_weight)      # it may be any object with a buffer
    wrong = np.flatnonzero(~((weights >= 0) & np.isfinite(weights)))
    if wrong.size:
        raise ValueError(f"class_weight: expected finite weights ≥ 0, got class_weight[{wrong[0]}] = "
                         f"{weights[wrong[0]]}")
    return array


def _cross_entropy(logits: Float32Array, labels: Labels, *, reduction: Reduction, ignore_index: SupportsIndex,
                   label_smoothing: SupportsFloat, class_weight: Float32Array | None, count_correct: bool,
                   out: Float32Array | None = None, gradient: bool) -> tuple[Any, Float32Array | None, int]:
    """(loss, gradient or None, correct)"""
    x = Array(logits, "logits")
    shape = x.shape
    if not shape or shape[-1] == 0:
        raise ValueError(f"logits: expected at least one class along the last axis, got shape {shape}")
    ignore_index = check_options(reduction, ignore_index, label_smoothing)
    rows, classes = shape[:-1], shape[-1]
    copied: Any = labels
    label, target = copied_int64(labels, "labels", x), None
    if label is not None:
        require_classes(label, copied, classes, ignore_index)
    else:
        label, target, copied = labels_or_distributions(labels, x, rows, classes, ignore_index)
        if target is not None and count_correct:
            raise ValueError("count_correct: expected False with labels that are distributions, got True")
    weight = check_weight(class_weight, classes)
    d = slope = None
    if gradient:
        d = np.empty(shape, np.float32) if out is None else out
        slope = array_like(d, "out", True, x)
        require_disjoint(None if out is logits else x, target, weight, slope)
        if copied is not None and out is not None:
            require_disjoint_from_copied(d, "out", copied, "labels")
    kernel = dispatch.active.cross_entropy
    divisor = 1.0
    if reduction == "mean":
        divisor = (float(x.size // classes) if label is None
                   else kernel.normaliser(label, weight, ignore_index))
    losses = np.empty(rows, np.float32) if reduction == "none" else None
    row_losses = None if losses is None else Array(losses, "loss", writable=True)
    loss, correct = kernel.cross_entropy(
        x, label, target, weight, slope, row_losses, divisor=divisor, ignore_index=ignore_index,
        smoothing=label_smoothing, count_correct=count_correct)
    return loss if losses is None else losses, d, correct


@overload
def softmax_cross_entropy(logits: Float32Array, labels: Labels, *, reduction: Literal["mean", "sum"] = ...,
                          ignore_index: SupportsIndex = ..., label_smoothing: SupportsFloat = ...,
                          class_weight: Float32Array | None = ..., count_correct: Literal[False] = ...,
                          out: Float32Array | None = ...) -> tuple[float, Float32Array]: ...
@overload
def softmax_cross_entropy(logits: Float32Array, labels: Labels, *, reduction: Literal["mean", "sum"] = ...,
                          ignore_index: SupportsIndex = ..., label_smoothing: SupportsFloat = ...,
                          class_weight: Float32Array | None = ..., count_correct: Literal[True],
                          out: Float32Array | None = ...) -> tuple[float, Float32Array, int]: ...
@overload
def softmax_cross_entropy(logits: Float32Array, labels: Labels, *, reduction: Literal["none"],
                          ignore_index: SupportsIndex = ..., label_smoothing: SupportsFloat = ...,
                          class_weight: Float32Array | None = ..., count_correct: Literal[False] = ...,
                          out: Float32Array | None = ...) -> tuple[Float32Array, Float32Array]: ...
@overload
def softmax_cross_entropy(logits: Float32Array, labels: Labels, *, reduction: Literal["none"],
                          ignore_index: SupportsIndex = ..., label_smoothing: SupportsFloat = ...,
                          class_weight: Float32Array | None = ..., count_correct: Literal[True],
                          out: Float32Array | None = ...) -> tuple[Float32Array, Float32Array, int]: ...
@overload
def softmax_cross_entropy(logits: Float32Array, labels: Labels, *, reduction: Reduction = ...,
                          ignore_index: SupportsIndex = ..., label_smoothing: SupportsFloat = ...,
                          class_weight: Float32Array | None = ..., count_correct: bool = ...,
                          out: Float32Array | None = ...) -> tuple[Any, ...]: ...
def softmax_cross_entropy(logits: Float32Array, labels: Labels, *, reduction: Reduction = "mean",
                          ignore_index: SupportsIndex = -100, label_smoothing: SupportsFloat = 0.0,
                          class_weight: Float32Array | None = None, count_correct: bool = False,
                          out: Float32Array | None = None) -> tuple[Any, ...]:
    """Cross-entropy of the softmax of logits, and its gradient with respect to the logits.

    With a row's target weights τⱼ = wⱼ · ((1 − ε) · yⱼ + ε / n), where y is one-hot or a distribution::

        loss = −Σⱼ τⱼ · log softmax(x)ⱼ
        dlogitsⱼ = (softmax(x)ⱼ · Σₖ τₖ − τⱼ) / normaliser

    Parameters
    ----------
    logits : float32 array, C-contiguous
        Scores, with the classes along the last axis, of which there is at least one.
    labels : array or nested list
        Integers of shape ``logits.shape[:-1]`` or ``(*logits.shape[:-1], 1)``, a column for (rows, classes): classes.
        Or numbers of logits' shape: one distribution per row, one-hot or soft, of bool, any integer or any float type;
        they are converted to float32 by a copy, unless they are C-contiguous float32. A finite number beyond float32's
        range is refused, as by `cast`, and so are integers of shape (..., 1) with one class, which might be either.
    reduction : "mean", "sum" or "none"
        The mean divides by the number of labels that are not ignored, with class_weight by the sum of their weights,
        with distributions by the number of rows. "none" returns one loss per row and the gradient of their sum.
    ignore_index : int
        Rows with this label have loss 0 and gradient 0 and are not counted in the mean.
    label_smoothing : float
        ε in [0, 1), the part of each target that is distributed evenly over the classes.
    class_weight : float32 array of shape (classes,), optional
        Finite weights w ≥ 0.
    count_correct : bool
        Also return the number of labels that are numpy.argmax of their row.
    out : float32 array of logits' shape, optional
        Receives the gradient. May be `logits` itself, which the gradient then overwrites.

    Returns
    -------
    loss : float, or float32 array for reduction="none"
        NaN for the mean of no rows, or of ignored ones only.
    dlogits : float32 array
        `out`, or a new array.
    correct : int
        Only with count_correct.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or a label is out of range. Nothing has been written then.

    Notes
    -----
    The form of torch.nn.functional.cross_entropy, including smoothing and weights. One difference: a target of 0 with a
    logit of −inf contributes 0 to the loss, where PyTorch returns NaN.

    With class labels, the error of the loss is at most 2 units in the last place and that of the gradient 3
    (measured: 2.5), also at the label of a confident row, where softmax − 1 would be rounded to 0. With distributions
    or smoothing, the gradient is a difference that may cancel; the unit is then that of the larger term. A logit more
    than 125 below the largest of its row is treated as 125 below it, which can only be seen with reduction="sum" and
    class weights above 1e10, as a gradient of 1e-55 times the weight.
    """
    loss, d, correct = _cross_entropy(
        logits, labels, reduction=reduction, ignore_index=ignore_index, label_smoothing=label_smoothing,
        class_weight=class_weight, count_correct=count_correct, out=out, gradient=True)
    return (loss, d, correct) if count_correct else (loss, d)


@overload
def softmax_cross_entropy_loss(logits: Float32Array, labels: Labels, *, reduction: Literal["mean", "sum"] = ...,
                               ignore_index: SupportsIndex = ..., label_smoothing: SupportsFloat = ...,
                               class_weight: Float32Array | None = ...,
                               count_correct: Literal[False] = ...) -> float: ...
@overload
def softmax_cross_entropy_loss(logits: Float32Array, labels: Labels, *, reduction: Literal["mean", "sum"] = ...,
                               ignore_index: SupportsIndex = ..., label_smoothing: SupportsFloat = ...,
                               class_weight: Float32Array | None = ...,
                               count_correct: Literal[True]) -> tuple[float, int]: ...
@overload
def softmax_cross_entropy_loss(logits: Float32Array, labels: Labels, *, reduction: Literal["none"],
                               ignore_index: SupportsIndex = ..., label_smoothing: SupportsFloat = ...,
                               class_weight: Float32Array | None = ...,
                               count_correct: Literal[False] = ...) -> Float32Array: ...
@overload
def softmax_cross_entropy_loss(logits: Float32Array, labels: Labels, *, reduction: Literal["none"],
                               ignore_index: SupportsIndex = ..., label_smoothing: SupportsFloat = ...,
                               class_weight: Float32Array | None = ...,
                               count_correct: Literal[True]) -> tuple[Float32Array, int]: ...
@overload
def softmax_cross_entropy_loss(logits: Float32Array, labels: Labels, *, reduction: Reduction = ...,
                               ignore_index: SupportsIndex = ..., label_smoothing: SupportsFloat = ...,
                               class_weight: Float32Array | None = ...,
                               count_correct: bool = ...) -> Any: ...
def softmax_cross_entropy_loss(logits: Float32Array, labels: Labels, *, reduction: Reduction = "mean",
                               ignore_index: SupportsIndex = -100, label_smoothing: SupportsFloat = 0.0,
                               class_weight: Float32Array | None = None, count_correct: bool = False) -> Any:
    """The loss of `fastopt.softmax_cross_entropy`, without the gradient.

    ::

        loss = −Σⱼ τⱼ · log softmax(x)ⱼ

    Parameters
    ----------
    logits, labels, reduction, ignore_index, label_smoothing, class_weight, count_correct
        As in `fastopt.softmax_cross_entropy`.

    Returns
    -------
    loss : float, or float32 array for reduction="none"
        With count_correct, a pair (loss, correct).

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.softmax_cross_entropy`.

    Notes
    -----
    The same bits as the loss of that function.
    """
    loss, _, correct = _cross_entropy(
        logits, labels, reduction=reduction, ignore_index=ignore_index, label_smoothing=label_smoothing,
        class_weight=class_weight, count_correct=count_correct, gradient=False)
    return (loss, correct) if count_correct else loss
