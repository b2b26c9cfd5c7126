"""Activation functions as a user's program calls them: mypy checks every type here against the package."""

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import fastopt

Array = NDArray[np.float32]

x: Array = np.zeros((8, 3), np.float32)
bias: Array = np.zeros(3, np.float32)
y, cache = fastopt.activation_forward(x, "relu", bias, dropout=0.5, rng=np.random.default_rng(0), out=x)
assert_type(y, Array)
assert_type(cache.saved, Array | None)
dx, dbias = fastopt.activation_backward(y, cache, out=(y, None))
assert_type(dx, Array)
assert_type(dbias, Array | None)
fastopt.activation_forward(x, "gelu")
fastopt.activation_forward(x, "leaky_relu", channel_axis=1, negative_slope=0.2, rng=7)

# Errors: mypy would report an unused "type: ignore" here.
fastopt.activation_forward(x, "softplus")  # type: ignore[arg-type]
fastopt.activation_forward(x, "relu", dropout="half")  # type: ignore[arg-type]
cache.key = 3  # type: ignore[misc]
