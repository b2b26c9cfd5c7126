"""What every optimizer's formula shares. A scalar is computed in double and rounded once to the arrays' type.

The functions compute in the type of `param`: with float32 arrays they define the result that the kernels match bit for
bit, and with float64 arrays the same code is an oracle.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastopt._options import DEFAULTS, refuse_unknown

Array = NDArray[Any]


def complete(function: Callable[..., None], options: Mapping[str, Any], **own: float) -> SimpleNamespace:
    """The shared options that were given to `function`, the defaults of the others, and those the function defines."""
    refuse_unknown(function, options)
    given = {**DEFAULTS, **options, **own}
    return SimpleNamespace(**{name: value if value is None or name in ("average", "maximize") else float(value)
                              for name, value in given.items()})


def floats(*numbers: float) -> tuple[float, ...]:
    """Numbers as Python floats: arithmetic with a numpy.float32 would be rounded to float32."""
    return tuple(map(float, numbers))


def scaled(param: Array, grad: Array, o: SimpleNamespace) -> Array:
    """The gradient scaled and clipped by value."""
    f = param.dtype.type
    g = f(-o.grad_scale if o.maximize else o.grad_scale) * grad
    return g if o.clip_value is None else np.clip(g, -f(o.clip_value), f(o.clip_value))


def regularised(param: Array, g: Array, o: SimpleNamespace) -> Array:
    """The gradient plus the derivatives of the L2 and L1 terms."""
    f = param.dtype.type
    if o.weight_decay:
        g = g + f(o.weight_decay) * param
    if o.l1:
        g = g + f(o.l1) * np.sign(param)
    return g


def gradient(param: Array, grad: Array, o: SimpleNamespace) -> Array:
    """The gradient as it reaches a formula: scaled, clipped, regularised."""
    return regularised(param, scaled(param, grad, o), o)


def decayed(param: Array, lr: float, decoupled_weight_decay: float, shrink: float = 1.0) -> Array:
    """The parameter after decoupled weight decay; `shrink` is the factor of an optimizer's own decay."""
    return param * param.dtype.type((1.0 - lr * decoupled_weight_decay) * shrink)


def update_average(param: Array, o: SimpleNamespace) -> None:
    """Exponential moving average of a parameter, after its update."""
    if o.average is not None:
        f = param.dtype.type
        o.average[...] = f(o.average_decay) * o.average + f(1.0 - o.average_decay) * param


def greater(a: Array, b: Array) -> Array:
    """The greater of two, NaN if one is NaN, a if they are equal (numpy.maximum does not specify which of −0 and 0)."""
    return np.where((a >= b) | np.isnan(a), a, b)


def block_squares(x: Array) -> Iterator[float]:
    """Yield the sum of squares of each block of 8192 elements, in double and in the kernels' order.

    A block has 16 lanes: lane l adds the elements i with i mod 16 = l in order; then the lanes are added in order.
    """
    x = x.ravel().astype(np.float64)
    for start in range(0, x.size, 8192):
        block = x[start : start + 8192]
        lanes = np.zeros((-(-block.size // 16), 16))
        lanes.ravel()[: block.size] = block * block
        yield add_in_order(np.cumsum(lanes, axis=0)[-1].tolist())


def add_in_order(numbers: Iterable[float]) -> float:
    """The plain sum of doubles: Python's sum() compensates rounding errors from 3.12 on."""
    total = 0.0
    for number in numbers:
        total += number
    return total


def norm(x: Array) -> float:
    """Euclidean norm: the blocks' sums added in order."""
    return math.sqrt(add_in_order(block_squares(x)))
