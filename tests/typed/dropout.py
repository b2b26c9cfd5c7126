"""Dropout as a user's program calls it: mypy checks every type here against the installed package."""

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import fastopt

Array = NDArray[np.float32]

x: Array = np.zeros((8, 3), np.float32)
y, cache = fastopt.dropout_forward(x, 0.5, np.random.default_rng(0))
assert_type(y, Array)
assert_type(cache.key, int)
assert_type(fastopt.dropout_backward(y, cache, out=y), Array)
fastopt.dropout_forward(x, 0.5, 7, training=False, out=x)

# Errors: mypy would report an unused "type: ignore" here.
fastopt.dropout_forward(x, 0.5, None)  # type: ignore[arg-type]
fastopt.dropout_forward(x, "half", 7)  # type: ignore[arg-type]
cache.key = 3  # type: ignore[misc]
