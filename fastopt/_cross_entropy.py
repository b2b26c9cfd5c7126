"""Softmax cross-entropy: loss and gradient in one pass over the logits."""

import numpy as np
from numpy.ma import MaskedArray

from fastopt._runtime import dispatch
from fastopt._runtime.arrays import Array, require_disjoint
from fastopt._runtime.hyper import Ranges

_ranges = Ranges(ignore_index="int [-9.3e18, 9.3e18]", label_smoothing="[0, 1)")


def check_options(reduction, ignore_index, label_smoothing):
    """ignore_index as an int, all three checked."""
    if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")
    _ranges(ignore_index, label_smoothing)
    ignore_index = int(ignore_index)
    if not -2**63 <= ignore_index < 2**63 - 1:      # the largest int64 stands for all larger labels
        raise ValueError(f"ignore_index: expected an int in [-2**63, 2**63 - 1), got {ignore_index}")
    return ignore_index


def integer_labels(labels, rows, classes, ignore_index, *, or_distributions=False):
    """Labels as a C-contiguous int64 array, each one valid; None for what may be distributions."""
    masked = isinstance(labels, MaskedArray)
    if not isinstance(labels, np.ndarray) or masked or labels.dtype.kind not in "iu" or labels.shape != rows:
        if (or_distributions and isinstance(labels, np.ndarray) and not masked and labels.dtype.kind not in "iu"
                and labels.shape != rows):
            return None
        raise _refusal(labels, rows, classes, or_distributions)
    given = labels
    if labels.dtype.kind == "u" and labels.dtype.itemsize == 8:
        labels = np.minimum(labels, 2**63 - 1)      # what does not fit int64 must not come round to a valid label
    labels = np.array(labels, np.int64, order="C")  # our own: no other thread may change them once they are checked
    wrong = dispatch.active.cross_entropy.first_wrong_label(Array(labels, "labels", kind="q"), classes, ignore_index)
    if wrong >= 0:
        index = ", ".join(str(i) for i in np.unravel_index(wrong, rows))
        raise ValueError(f"labels: expected {ignore_index} (ignore_index) or a class in [0, {classes}), got "
                         f"labels[{index}] = {given.flat[wrong]}")
    return labels


def _refusal(labels, rows, classes, or_distributions):
    """The error that says what is wrong with labels."""
    wanted = f"integers of shape {rows}"
    if or_distributions:
        wanted += f" or C-contiguous float32 of shape {(*rows, classes)}"
    if not isinstance(labels, np.ndarray) or isinstance(labels, MaskedArray):
        return TypeError(f"labels: expected {wanted}, got {type(labels).__name__}")
    integers = labels.dtype.kind in "iu" and not (or_distributions and labels.ndim > len(rows))
    return (ValueError if integers else TypeError)(f"labels: expected {wanted}, got {labels.dtype} {labels.shape}")


def require_apart(labels, name, out):
    """Refuse an output over the caller's labels (the kernel reads a copy of them)."""
    if np.may_share_memory(out, labels):
        raise ValueError(f"{name}: expected memory of its own, got an array that overlaps labels")


def check_weight(class_weight, classes):
    """class_weight as an Array, checked, or None."""
    if class_weight is None:
        return None
    array = Array(class_weight, "class_weight", shape=(classes,))
    wrong = np.flatnonzero(~((class_weight >= 0) & np.isfinite(class_weight)))
    if wrong.size:
        raise ValueError(f"class_weight: expected finite weights ≥ 0, got class_weight[{wrong[0]}] = "
                         f"{class_weight[wrong[0]]}")
    return array


def _cross_entropy(logits, labels, reduction, ignore_index, label_smoothing, class_weight, count_correct, out,
                   gradient):
    """(loss, gradient or None, correct)"""
    x = Array(logits, "logits")
    shape = x.shape
    if not shape or shape[-1] == 0:
        raise ValueError(f"logits: expected at least one class along the last axis, got shape {shape}")
    ignore_index = check_options(reduction, ignore_index, label_smoothing)
    rows, classes = shape[:-1], shape[-1]
    count = x.size // classes
    label = integer_labels(labels, rows, classes, ignore_index, or_distributions=True)
    target = None
    if label is None:
        target = Array(labels, "labels", shape=shape)
        if count_correct:
            raise ValueError("count_correct: expected False with labels that are distributions, got True")
    else:
        label = Array(label, "labels", kind="q")
    weight = check_weight(class_weight, classes)
    d = slope = None
    if gradient:
        d = np.empty(shape, np.float32) if out is None else out
        slope = Array(d, "out", writable=True, shape=shape)
        require_disjoint(None if out is logits else x, target, weight, slope)
        if label is not None and out is not None:
            require_apart(labels, "out", d)
    divisor = 1.0
    if reduction == "mean":
        divisor = (float(count) if label is None
                   else dispatch.active.cross_entropy.normaliser(label, ignore_index, weight))
    losses = np.empty(rows, np.float32) if reduction == "none" else None
    loss, correct = dispatch.active.cross_entropy.cross_entropy(
        x, label, target, weight, slope, None if losses is None else Array(losses, "loss", writable=True),
        count, classes, divisor, ignore_index, label_smoothing, bool(count_correct))
    return loss if losses is None else losses, d, correct


def softmax_cross_entropy(logits, labels, *, reduction="mean", ignore_index=-100, label_smoothing=0.0,
                          class_weight=None, count_correct=False, out=None):
    """Cross-entropy of the softmax of logits, and its gradient with respect to the logits.

    With a row's target weights τⱼ = wⱼ · ((1 − ε) · yⱼ + ε / n), where y is one-hot or a distribution::

        loss = −Σⱼ τⱼ · log softmax(x)ⱼ
        dlogitsⱼ = (softmax(x)ⱼ · Σₖ τₖ − τⱼ) / normaliser

    Parameters
    ----------
    logits : float32 array, C-contiguous
        Scores; the last axis is the classes'.
    labels : integer array of shape logits.shape[:-1], or float32 array of logits' shape
        Classes (any integer type, any layout, read-only or not), or one distribution a row (one-hot, soft).
    reduction : "mean", "sum" or "none"
        The mean divides by the number of labels that are not ignored, with class_weight by the sum of their weights,
        with distributions by the number of rows. "none" gives one loss a row and the gradient of their sum.
    ignore_index : int
        Rows with this label have loss 0 and gradient 0, and count in no mean.
    label_smoothing : float
        ε in [0, 1): so much of each target is spread evenly over the classes.
    class_weight : float32 array of shape (classes,), optional
        Finite weights w ≥ 0.
    count_correct : bool
        Return also how many labels are their row's largest logit (the first of them, as numpy.argmax).
    out : float32 array of logits' shape, optional
        Receives the gradient. May be `logits` itself, which the gradient then overwrites: no second array is needed.

    Returns
    -------
    loss : float, or float32 array for reduction="none"
        NaN for a mean over nothing: no rows, or all of them ignored.
    dlogits : float32 array
        `out`, or a new array.
    correct : int
        With count_correct only.

    Raises
    ------
    TypeError, ValueError
        An argument that is not as described, a label out of range among them; nothing has been written then.

    Notes
    -----
    The form of torch.nn.functional.cross_entropy, smoothing and weights included. A target of 0 asks nothing of its
    logit: 0 · −inf counts as 0 here, and is NaN in PyTorch.

    With class labels, the loss is within 2 units in the last place of the exact result and the gradient within 2.5 (2.0
    is the most that was seen); at the label of a confident row it is −Σ of the others and not a rounded softmax − 1.
    With distributions and smoothing, two
    terms are subtracted that may be near each other: there the unit is that of the larger one. A logit more than 125
    below its row's largest counts as 125 below it: visible where reduction="sum" meets class weights of 1e10 and more,
    as a gradient of 1e-55 times the weight.
    """
    loss, d, correct = _cross_entropy(logits, labels, reduction, ignore_index, label_smoothing, class_weight,
                                      count_correct, out, True)
    return (loss, d, correct) if count_correct else (loss, d)


def softmax_cross_entropy_loss(logits, labels, *, reduction="mean", ignore_index=-100, label_smoothing=0.0,
                               class_weight=None, count_correct=False):
    """The loss of `fastopt.softmax_cross_entropy` alone: no gradient is computed or written.

    Parameters
    ----------
    logits, labels, reduction, ignore_index, label_smoothing, class_weight, count_correct
        As there.

    Returns
    -------
    loss : float, or float32 array for reduction="none"
        With count_correct a pair (loss, correct).

    Raises
    ------
    TypeError, ValueError
        As there.

    Notes
    -----
    The same bits as the other function's loss.
    """
    loss, _, correct = _cross_entropy(logits, labels, reduction, ignore_index, label_smoothing, class_weight,
                                      count_correct, None, False)
    return (loss, correct) if count_correct else loss
