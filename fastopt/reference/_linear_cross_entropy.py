"""Cross-entropy of a final linear layer, computed in double and rounded once to float32."""

from typing import Any

import numpy as np

from fastopt._typing import Labels
from fastopt.reference._cross_entropy import cross_entropy
from fastopt.reference._formula import Array
from fastopt.reference._softmax import result


def linear_cross_entropy(x: Array, weight: Array, labels: Labels, bias: Array | None = None, *, reduction: str = "mean",
                         ignore_index: int = -100, label_smoothing: float = 0.0, class_weight: Array | None = None,
                         count_correct: bool = False, chunk: int | None = None, out: tuple[Array, ...] | None = None,
                         ) -> tuple[Any, ...]:
    """See `fastopt.linear_cross_entropy`; `chunk` is ignored: all logits are computed at once."""
    logits = x.astype(np.float64) @ weight.astype(np.float64).T
    if bias is not None:
        logits = logits + bias
    z = np.empty(logits.shape)
    loss, _, correct = cross_entropy(logits, labels, reduction, ignore_index, label_smoothing, class_weight,
                                     count_correct, z)
    gradients = [z @ weight, z.T @ x] if bias is None else [z @ weight, z.T @ x, z.sum(0)]
    gradients = [result(gradient, None if out is None else out[i]) for i, gradient in enumerate(gradients)]
    return (loss, *gradients, correct) if count_correct else (loss, *gradients)
