"""Cross-entropy of a final linear layer, computed in double and rounded once to float32."""

import numpy as np

from fastopt.reference._cross_entropy import cross_entropy
from fastopt.reference._softmax import result


def linear_cross_entropy(x, weight, labels, bias=None, *, reduction="mean", ignore_index=-100, label_smoothing=0.0,
                         class_weight=None, count_correct=False, chunk=None, out=None):
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
