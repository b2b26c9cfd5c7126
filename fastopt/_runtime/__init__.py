"""What every kernel stands on, compiled or written once: arrays, threads, the chunk driver, dispatch."""

HOW_TO_BUILD = "run `pip install -e .` in the source tree (a C compiler is needed)"

try:
    from fastopt._runtime import arrays, binding, cpu, driver, hyper, parallel
except ImportError as error:
    raise ImportError(f"fastopt: not built ({error}): {HOW_TO_BUILD}") from None

__all__ = ["arrays", "binding", "cpu", "driver", "hyper", "parallel"]
