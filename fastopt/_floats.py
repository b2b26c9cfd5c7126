"""Numbers of any type as float32 or float64, of which none may become inf."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastopt._integers import element


def converted(source: NDArray[Any], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """`source` as a C-contiguous, aligned array of `dtype`: a copy, unless it is that. A finite number that is beyond
    the range of `dtype` is a ValueError."""
    try:
        with np.errstate(over="raise", under="ignore", invalid="ignore"):
            return np.require(source, dtype, ["C_CONTIGUOUS", "ALIGNED"])
    except FloatingPointError:
        with np.errstate(all="ignore"):
            beyond = np.isinf(source.astype(dtype)) & np.isfinite(source)
        raise ValueError(f"{name}: expected numbers in the range of {dtype}, got "
                         f"{element(source, name, int(beyond.argmax()))}") from None
