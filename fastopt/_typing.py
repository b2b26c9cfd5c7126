"""Types that the public signatures share."""

from collections.abc import Callable, Mapping, Sequence, ValuesView
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float32Array: TypeAlias = NDArray[np.float32]
FloatArray: TypeAlias = NDArray[np.floating[Any]]

# Not Iterable: every NumPy array is Iterable[Any], whatever its dtype.
_Params: TypeAlias = Float32Array | Mapping[Any, "_Params"] | Sequence["_Params"]
Params: TypeAlias = _Params | ValuesView[_Params]
"""What `update` changes: one array, or a model's arrays by key or by position, in containers that may be nested."""
_Grads: TypeAlias = FloatArray | Mapping[Any, "_Grads | None"] | Sequence["_Grads | None"]
Grads: TypeAlias = _Grads | ValuesView[_Grads | None]
"""Their gradients, in the same containers; None where there is none."""

Labels: TypeAlias = NDArray[Any] | Sequence[Any]
"""Classes, or a distribution for each row: an array, or a nested list."""

Schedule: TypeAlias = Callable[[int], float]
"""From the step's number, which starts at 1, to a learning rate."""
LearningRate: TypeAlias = float | Schedule
PerParam: TypeAlias = Callable[[Any, Float32Array], Mapping[str, Any]]
"""From a parameter's key and array to the hyper-parameters that differ for it."""

State: TypeAlias = dict[Any, dict[str, Float32Array]]
"""An optimizer's state arrays, by the parameter's key and the state's name."""
StateDict: TypeAlias = dict[str, Any]
"""Nested dicts of arrays, numbers and strings: what `state_dict` returns and `save_state` writes."""
