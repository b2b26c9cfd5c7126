"""The adapters as a user's program calls them: mypy checks every type here against the installed package."""

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import fastopt
from fastopt.adapters.thinc import Optimizer

Array = NDArray[np.float32]

x: Array = np.ones(3, np.float32)
optimizer = Optimizer(fastopt.Adam(lr=0.1, average_decay=0.9))
assert_type(optimizer((1, "W"), x, x.copy(), lr_scale=0.5), tuple[Array, Array])
assert_type(optimizer.step_schedules(), None)
assert_type(optimizer.last_score, tuple[int, float] | None)
assert_type(fastopt.adapters.thinc.Optimizer(fastopt.Lion()).opt, fastopt.Optimizer)

# Errors: mypy would report an unused "type: ignore" here.
Optimizer(fastopt.Adam)  # type: ignore[arg-type]
optimizer("W", x, x)  # type: ignore[arg-type]
