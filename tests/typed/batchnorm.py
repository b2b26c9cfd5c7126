"""BatchNorm as a user's program calls it: mypy checks every type here against the installed package."""

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import fastopt

Array = NDArray[np.float32]

x: Array = np.ones((8, 3), np.float32)
bn = fastopt.BatchNorm(3, relu=True)
assert_type(bn.forward(x, training=True), Array)
assert_type(bn.backward(x, out=x), Array)
assert_type(bn.gamma, Array)
assert_type(bn.dbeta, Array)
assert_type(bn.running_mean, Array)
bn.load_state_dict(bn.state_dict())

y, cache = fastopt.batch_norm_forward(x, bn.gamma, bn.beta, bn.running_mean, bn.running_var, channel_axis=-1)
assert_type(y, Array)
dx, dgamma, dbeta = fastopt.batch_norm_backward(y, cache)
assert_type(dx, Array)
assert_type(dgamma, Array)
assert_type(dbeta, Array)
assert_type(fastopt.batch_norm_inference(x, bn.gamma, bn.beta, bn.running_mean, bn.running_var), Array)

# Errors: mypy would report an unused "type: ignore" here.
fastopt.BatchNorm(3.0)  # type: ignore[arg-type]
bn.forward(np.ones((8, 3)))  # type: ignore[arg-type]
fastopt.batch_norm_forward(x, bn.gamma)  # type: ignore[call-arg]
fastopt.batch_norm_backward(y, x)  # type: ignore[arg-type]
