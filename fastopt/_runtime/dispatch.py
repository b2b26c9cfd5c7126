"""At import, choose for every kernel the highest ISA level that is built and that this machine supports."""

import importlib
import os
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType

from fastopt._runtime import HOW_TO_BUILD, cpu

LEVELS = ("baseline", "v3", "v4")


def kernels_at(level: str) -> set[str]:
    """Names of the kernels built at `level`."""
    package = importlib.import_module(f"fastopt._isa.{level}")
    files = [file for folder in package.__path__ for file in os.listdir(folder)]
    return {file.partition(".")[0] for file in files if file.endswith(tuple(EXTENSION_SUFFIXES))}


def available() -> list[str]:
    """The levels at which any kernel is built and that this machine supports, lowest first."""
    machine = LEVELS.index(cpu.level())
    return [level for level in LEVELS[: machine + 1] if kernels_at(level)]


class Kernels:
    """The kernel modules of one level as attributes, imported when they are first used: few programs use them all."""

    def __init__(self, level: str, names: dict[str, str]) -> None:
        self.level = level
        self._names = names

    def __getattr__(self, kernel: str) -> ModuleType:
        if kernel not in self.__dict__.get("_names", ()):
            raise AttributeError(f"no kernel {kernel!r} is built")
        module = importlib.import_module(self._names[kernel])
        setattr(self, kernel, module)       # found without this function from now on
        return module

    def __dir__(self) -> list[str]:
        return sorted(self._names)


def load(level: str) -> Kernels:
    """Return the kernel modules, each at the highest level up to `level` at which it is built."""
    names = {kernel: f"fastopt._isa.{candidate}.{kernel}"
             for candidate in LEVELS[: LEVELS.index(level) + 1] for kernel in kernels_at(candidate)}
    return Kernels(level, names)


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
