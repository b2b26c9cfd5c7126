"""Embeddings as a user's program calls them: mypy checks every type here against the installed package."""

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import fastopt

Array = NDArray[np.float32]

weight: Array = np.zeros((10, 3), np.float32)
words = np.zeros((4, 5), np.int32)
y = fastopt.embedding_forward(weight, words)
assert_type(y, Array)
assert_type(fastopt.embedding_backward(y, words, 10, padding_idx=0), Array)
assert_type(fastopt.embedding_backward(y, words, np.int64(10), out=weight), Array)

# Errors: mypy would report an unused "type: ignore" here.
fastopt.embedding_forward(np.zeros((10, 3)), words)  # type: ignore[arg-type]
fastopt.embedding_forward(weight, [1, 2])  # type: ignore[arg-type]
fastopt.embedding_backward(y, words)  # type: ignore[call-arg]
