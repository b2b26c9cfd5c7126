"""At import, choose for every kernel the highest ISA level that is built and that this machine supports."""

import importlib
import os
import pkgutil
from types import SimpleNamespace

from fastopt._runtime import HOW_TO_BUILD, cpu

LEVELS = ("baseline", "v3", "v4")


def kernels_at(level: str) -> set[str]:
    """Names of the kernels built at `level`."""
    package = importlib.import_module(f"fastopt._isa.{level}")
    return {module.name for module in pkgutil.iter_modules(package.__path__)}


def available() -> list[str]:
    """The levels at which any kernel is built and that this machine supports, lowest first."""
    machine = LEVELS.index(cpu.level())
    return [level for level in LEVELS[: machine + 1] if kernels_at(level)]


def load(level: str) -> SimpleNamespace:
    """Return a namespace of kernel modules, each at the highest level up to `level` at which it is built."""
    kernels = SimpleNamespace(level=level)
    best = {kernel: candidate for candidate in LEVELS[: LEVELS.index(level) + 1] for kernel in kernels_at(candidate)}
    for kernel, candidate in best.items():
        setattr(kernels, kernel, importlib.import_module(f"fastopt._isa.{candidate}.{kernel}"))
    return kernels


def choose(ceiling: str | None) -> str:
    """Return the highest available level up to `ceiling` (None: no ceiling)."""
    if ceiling is not None and ceiling not in LEVELS:
        raise ImportError(f"FASTOPT_ISA: expected one of {', '.join(LEVELS)}, got {ceiling!r}")
    highest = LEVELS[-1] if ceiling is None else ceiling
    levels = [level for level in available() if LEVELS.index(level) <= LEVELS.index(highest)]
    if not levels:
        raise ImportError(f"fastopt: not built (no kernels found): {HOW_TO_BUILD}")
    return levels[-1]


active = load(choose(os.environ.get("FASTOPT_ISA") or None))
"""The kernels in use: `active.adam.adam(...)`."""
