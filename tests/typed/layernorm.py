"""Layer and RMS normalisation as a user's program calls them: mypy checks every type here against the package."""

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import fastopt

Array = NDArray[np.float32]

x: Array = np.zeros((8, 3), np.float32)
one: Array = np.ones(3, np.float32)
y, cache = fastopt.layer_norm_forward(x, one, one, eps=1e-6)
assert_type(y, Array)
assert_type(cache.mean, NDArray[np.float64])
dx, dgamma, dbeta = fastopt.layer_norm_backward(y, cache, out=(y, None, None))
assert_type(dbeta, Array)
y, rms_cache = fastopt.rms_norm_forward(x, one, out=y)
assert_type(rms_cache.invrms, NDArray[np.float64])
assert_type(fastopt.rms_norm_backward(y, rms_cache), tuple[Array, Array])

# Errors: mypy would report an unused "type: ignore" here.
fastopt.layer_norm_backward(y, rms_cache)  # type: ignore[arg-type]
fastopt.layer_norm_forward(x, one)  # type: ignore[call-arg]
