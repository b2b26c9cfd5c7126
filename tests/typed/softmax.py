"""Softmax as a user's program calls it: mypy checks every type here against the installed package."""

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import fastopt

Array = NDArray[np.float32]

logits: Array = np.zeros((8, 3), np.float32)
labels = np.zeros(8, np.int64)
loss, dlogits = fastopt.softmax_cross_entropy(logits, labels, label_smoothing=0.1, out=logits)
assert_type(loss, float)
assert_type(dlogits, Array)
losses, _ = fastopt.softmax_cross_entropy(logits, labels, reduction="none")
assert_type(losses, Array)
assert_type(fastopt.softmax_cross_entropy_loss(logits, labels, reduction="sum"), float)

assert_type(fastopt.softmax_cross_entropy_loss(logits, [0, 1, 2, 0, 1, 2, 0, 1]), float)
assert_type(fastopt.softmax_cross_entropy_loss(logits, np.eye(3)[labels]), float)

y = fastopt.softmax(logits, axis=0)
assert_type(y, Array)
assert_type(fastopt.softmax_backward(logits, y, axis=0, out=logits), Array)
assert_type(fastopt.log_softmax(logits), Array)
assert_type(fastopt.hardmax(logits), Array)

# Errors: mypy would report an unused "type: ignore" here.
fastopt.softmax_cross_entropy(logits, labels, reduction="average")  # type: ignore[call-overload]
fastopt.softmax(np.zeros((8, 3)))  # type: ignore[arg-type]
fastopt.softmax(logits, axis="last")  # type: ignore[arg-type]
