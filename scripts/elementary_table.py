"""Measure the errors of the kernels' elementary functions for all 2³² float32 inputs, or every STRIDE-th.

    python scripts/elementary_table.py [--stride N] [--level LEVEL] [--function NAME]

Prints, for each function and class of results (normal, subnormal, NaN, …), the largest error in units in the last place
(ULP) and its input. The error is infinite if just one of result and exact value is NaN or infinite. The exact value is
computed in float64 with an error below 1e-4 ULP. All 2³² inputs take about ten minutes per function,
exact gelu several hours where SciPy is not installed.

A derivative of silu or gelu is the sum of two terms that cancel at its zero. Near it, the unit is that of the larger
term, which lies in [1/8, 1/4].
"""

import argparse
import importlib
import math
import sys
from pathlib import Path

import numpy as np

from fastopt._runtime import arrays, dispatch

try:
    from scipy.special import ndtr
except ImportError:
    ndtr = None

BLOCK = 1 << 22


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-np.maximum(x, -700.0)))


def normal(x):
    """Φ(x), the normal distribution function."""
    if ndtr is not None:
        return ndtr(x)
    return 0.5 * np.fromiter(map(math.erfc, (x * -math.sqrt(0.5)).tolist()), np.float64, x.size)


def gated(function, lowest):
    """function(x), except that −0 is taken below lowest, where a product of x would be inf · 0."""
    return lambda x: np.where(x < lowest, -0.0, function(np.maximum(x, lowest)))


def gated_slope(function, largest):
    """function(x) with |x| ≤ largest, beyond which it is 0 or 1."""
    return lambda x: function(np.clip(x, -largest, largest))


def cubic(x):
    return math.sqrt(8.0 / math.pi) * x * (1.0 + 0.044715 * x * x)


def gelu_tanh_slope(x):
    v = cubic(x)
    return sigmoid(v) * (1.0 + math.sqrt(8.0 / math.pi) * x * (1.0 + 3.0 * 0.044715 * x * x) * sigmoid(-v))


FUNCTIONS = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log1p": np.log1p,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "silu": gated(lambda x: x * sigmoid(x), -200.0),
    "gelu": gated(lambda x: x * normal(x), -30.0),
    "gelu_tanh": gated(lambda x: x * sigmoid(cubic(x)), -15.0),
    "silu_slope": gated_slope(lambda x: sigmoid(x) * (1.0 + x * sigmoid(-x)), 200.0),
    "gelu_slope": gated_slope(lambda x: normal(x) + x * np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi), 30.0),
    "gelu_tanh_slope": gated_slope(gelu_tanh_slope, 15.0),
    "sigmoid_slope_of": lambda y: y * (1.0 - y),
    "tanh_slope_of": lambda y: (1.0 - y) * (1.0 + y),
}
CANCELS = {"silu_slope": -2.0, "gelu_slope": -1.5, "gelu_tanh_slope": -1.5}
"""From where to 0 a derivative's terms cancel."""


def distance(actual, exact, least=0.0):
    """|actual − exact| in float32 ULP of max(|exact|, least); inf where just one of them is NaN or infinite."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
        _, exponent = np.frexp(np.maximum(np.abs(exact), np.maximum(least, 2.0**-126)))
        error = np.abs(actual - exact) / np.ldexp(1.0, exponent - 24)
        same = (actual == rounded) | (np.isnan(actual) & np.isnan(rounded))
        odd = ~(np.isfinite(actual) & np.isfinite(rounded))
    # A result that overflows one float32 too early or too late has an error of 1 ULP.
    with np.errstate(invalid="ignore"):
        near = odd & (np.abs(np.clip(actual, -(2.0**128), 2.0**128) - exact) <= 2.0**104)
    return np.where(same & odd, 0.0, np.where(odd & ~near, np.inf, np.where(near, 1.0, error)))


def errors(name, x, y):
    """The errors in ULP of y = NAME(x), and the exact values."""
    with np.errstate(all="ignore"):
        exact = FUNCTIONS[name](x.astype(np.float64))
        least = np.where((x < 0.0) & (x > CANCELS[name]), 0.125, 0.0) if name in CANCELS else 0.0
        return distance(y.astype(np.float64), exact, least), exact


def sweep(name, level, stride):
    """{"all" | region: (largest distance, input)} for one function."""
    kernel = getattr(importlib.import_module(f"compiled.elementary_{level}"), name)
    worst = {}
    for start in range(0, 1 << 32, BLOCK * stride):
        bits = np.arange(start, min(start + BLOCK * stride, 1 << 32), stride, dtype=np.uint64).astype(np.uint32)
        x = bits.view(np.float32)
        y = np.empty_like(x)
        kernel(arrays.Array(x, "x"), arrays.Array(y, "y", writable=True))
        gap, exact = errors(name, x, y)
        magnitude = np.abs(exact)
        regions = {
            "all": slice(None), "NaN": np.isnan(exact), "infinite": magnitude > 3.4028235e38,
            "normal": (magnitude >= 2.0**-126) & (magnitude <= 3.4028235e38),
            "subnormal": (magnitude < 2.0**-126) & (magnitude >= 2.0**-150), "zero": magnitude < 2.0**-150,
        }
        for region, where in regions.items():
            there = gap[where]
            if there.size:
                at = int(there.argmax())
                if region not in worst or there[at] > worst[region][0]:
                    worst[region] = float(there[at]), float(x[where][at])
    return worst


def main():
    sys.path.append(str(Path(__file__).parent.parent / "tests"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stride", type=int, default=1, help="measure every STRIDE-th bit pattern (default: all)")
    parser.add_argument("--level", default=dispatch.active.level, choices=dispatch.available())
    parser.add_argument("--function", choices=FUNCTIONS)
    options = parser.parse_args()
    for name in [options.function] if options.function else FUNCTIONS:
        for region, (gap, x) in sweep(name, options.level, options.stride).items():
            print(f"{name:16} {region:10} {gap:.4f} ULP at {x!r} ({float(x).hex()})", flush=True)


if __name__ == "__main__":
    main()
