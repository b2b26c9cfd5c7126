"""Measure the errors of the kernels' exp, expm1 and log1p for all 2³² float32 inputs, or every STRIDE-th.

    python scripts/exp_table.py [--stride N] [--level LEVEL] [--function NAME]

Prints, for each function and class of results (normal, subnormal, NaN, …), the largest error in units in the last place
(ULP) and its input. The error is infinite if just one of result and exact value is NaN or infinite. The exact value is
that of NumPy's float64 function, whose own error is below 1e-8 ULP. All 2³² inputs take about ten minutes per function.
"""

import argparse
import importlib
import sys
from pathlib import Path

import numpy as np

from fastopt._runtime import arrays, dispatch

BLOCK = 1 << 22
FUNCTIONS = {"exp": np.exp, "expm1": np.expm1, "log1p": np.log1p}


def distance(actual, exact):
    """|actual − exact| in float32 ULP; inf where just one of them is NaN or infinite."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
        _, exponent = np.frexp(exact)
        error = np.abs(actual - exact) / np.ldexp(1.0, np.maximum(exponent, -125) - 24)
        same = (actual == rounded) | (np.isnan(actual) & np.isnan(rounded))
        odd = ~(np.isfinite(actual) & np.isfinite(rounded))
    # A result that overflows one float32 too early or too late has an error of 1 ULP.
    with np.errstate(invalid="ignore"):
        near = odd & (np.abs(np.clip(actual, -(2.0**128), 2.0**128) - exact) <= 2.0**104)
    return np.where(same & odd, 0.0, np.where(odd & ~near, np.inf, np.where(near, 1.0, error)))


def sweep(name, level, stride):
    """{"all" | region: (largest distance, input)} for one function."""
    kernel = getattr(importlib.import_module(f"compiled.elementary_{level}"), name)
    worst = {}
    for start in range(0, 1 << 32, BLOCK * stride):
        bits = np.arange(start, min(start + BLOCK * stride, 1 << 32), stride, dtype=np.uint64).astype(np.uint32)
        x = bits.view(np.float32)
        y = np.empty_like(x)
        kernel(arrays.Array(x, "x"), arrays.Array(y, "y", writable=True))
        with np.errstate(all="ignore"):
            exact = FUNCTIONS[name](x.astype(np.float64))
            gap = distance(y.astype(np.float64), exact)
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
            print(f"{name:6} {region:10} {gap:.4f} ULP at {x!r} ({float(x).hex()})", flush=True)


if __name__ == "__main__":
    main()
