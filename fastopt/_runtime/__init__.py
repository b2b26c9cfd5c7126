"""What every kernel builds on: validated arrays, threads, the chunk driver, dispatch over instruction-set levels."""

from fastopt._runtime.spin import short_spin

HOW_TO_BUILD = "run `pip install -e .` in the source tree (a C compiler is needed)"

try:
    with short_spin():
        from fastopt._runtime import parallel  # loads libgomp, so it comes first
    from fastopt._runtime import (
        arrays,
        binding,
        channels,
        containers,
        cpu,
        driver,
        hyper,
        model,
        progress,
        slices,
        strided,
        updates,
    )
except ImportError as error:
    raise ImportError(f"fastopt: not built ({error}): {HOW_TO_BUILD}") from None

__all__ = [
    "arrays", "binding", "channels", "containers", "cpu", "driver", "hyper", "model", "parallel", "progress", "slices",
    "strided", "updates",
]
