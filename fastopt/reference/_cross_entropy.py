"""Softmax cross-entropy, computed in double and rounded once to float32."""

from typing import Any

import numpy as np

from fastopt._typing import Labels
from fastopt.reference._formula import Array
from fastopt.reference._softmax import moments, result


def cross_entropy(logits: Array, labels: Labels, reduction: str, ignore_index: int, label_smoothing: float,
                  class_weight: Array | None, count_correct: bool, out: Array | None) -> tuple[Any, Array, int]:
    """(loss, gradient, correct)"""
    *rows, classes = logits.shape
    labels = np.asarray(labels)
    x = logits.reshape(-1, classes)
    n = len(x)
    label_smoothing = float(label_smoothing)
    weight = np.ones(classes) if class_weight is None else class_weight.astype(np.float64)
    with np.errstate(all="ignore"):
        distance, rest, log_sum = moments(x) if n else (x.astype(np.float64), np.ones((0, 1)), np.ones((0, 1)))
        used: Array = np.ones((n, 1), bool)
        divisor: Any = n
        if labels.dtype.kind in "iu" and labels.shape != logits.shape:
            labels = labels.reshape(-1, 1)
            used = labels != ignore_index
            safe = np.where(used, labels, 0).astype(np.int64)
            target = np.zeros((n, classes))
            np.put_along_axis(target, safe, 1.0, 1)
            divisor = np.sum(weight[safe] * used)
        else:
            target = labels.astype(logits.dtype).reshape(-1, classes).astype(np.float64)
        tau = weight * ((1.0 - label_smoothing) * target + label_smoothing / classes)
        total = tau.sum(1, keepdims=True)
        loss: Any = total * log_sum - np.where(tau == 0, 0.0, tau * distance).sum(1, keepdims=True)
        loss = np.where(used, loss, 0.0)
        # The softmax of the largest element is 1 / (1 + rest); this form does not cancel if that element is the label.
        slope = np.where(distance == 0, (total - tau) - total * (rest / (1.0 + rest)),
                         total * np.exp(distance) / (1.0 + rest) - tau)
        if reduction == "mean":
            slope = slope / divisor
            loss = float(loss.sum() / divisor)
        elif reduction == "sum":
            loss = float(loss.sum())
        else:
            loss = loss.astype(np.float32).reshape(rows)
        slope = np.where(used, slope, 0.0)
        correct = 0
        if count_correct and n:
            correct = int(np.sum((x.argmax(1)[:, None] == labels) & used & ~np.isnan(rest)))
    return loss, result(slope.reshape(logits.shape), out), correct


def softmax_cross_entropy(logits: Array, labels: Labels, *, reduction: str = "mean", ignore_index: int = -100,
                          label_smoothing: float = 0.0, class_weight: Array | None = None, count_correct: bool = False,
                          out: Array | None = None) -> tuple[Any, ...]:
    """See `fastopt.softmax_cross_entropy`."""
    loss, d, correct = cross_entropy(logits, labels, reduction, ignore_index, label_smoothing, class_weight,
                                     count_correct, out)
    return (loss, d, correct) if count_correct else (loss, d)


def softmax_cross_entropy_loss(logits: Array, labels: Labels, *, reduction: str = "mean", ignore_index: int = -100,
                               label_smoothing: float = 0.0, class_weight: Array | None = None,
                               count_correct: bool = False) -> Any:
    """See `fastopt.softmax_cross_entropy_loss`."""
    loss, _, correct = cross_entropy(logits, labels, reduction, ignore_index, label_smoothing, class_weight,
                                     count_correct, None)
    return (loss, correct) if count_correct else loss
