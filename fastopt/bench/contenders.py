"""What is compared: the shape of a contender, the registry of all contenders, and the check before the timing.

A contender is a function that takes a problem (one workload's arrays) and returns a `Contender`. `@contender` puts it
into the registry, where all benchmarks find it.
"""

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, TypeAlias

import numpy as np

import fastopt
from fastopt.bench.roof import bytes_per_element, roof

ROOF = "roof"
"""The name of the memory roof, which takes part in every workload."""


class UnavailableError(Exception):
    """A contender cannot take part; the message says why."""


class WrongResultError(Exception):
    """A contender's result is further from the exact one than its workload allows."""


def parts(returned: Any) -> Sequence[Any]:
    """Several results are a tuple or a list."""
    return returned if isinstance(returned, (tuple, list)) else [returned]


@dataclass(frozen=True)
class Contender:
    """One way to do a workload."""

    call: Callable[[], Any]
    """Does it once; this is what is timed. For an optimizer it is the second step: its maker has taken the first."""
    result: Callable[[Any], Sequence[Any]] = parts
    """From what `call` returned to the arrays that are checked."""
    allocates: bool = False
    """Whether each call makes a new array for its result."""
    one_thread: bool = False
    """Whether it runs on one thread, whatever number fastopt uses."""


class Problem(Protocol):
    """The arrays of one workload, and what must come out."""

    @property
    def streams(self) -> Sequence[np.ndarray]:
        """One array for each letter of the workload's passes."""

    def clear(self) -> None:
        """Overwrite outputs, so that an earlier contender's result is not taken for the next one's."""

    def check(self, name: str, result: Sequence[Any]) -> tuple[float, bool]:
        """The largest error of a result, and whether that is small enough for this contender."""


Maker: TypeAlias = Callable[[Any], Contender]

CONTENDERS: dict[str, dict[str, Maker]] = {}
"""kernel → contender → maker. The first word of a contender's name is its library; "out=" and "new array" say which
form of it. `add_case` and `add_model` of optimizers.py fill in what every optimizer has."""


def contender(name: str, *kernels: str) -> Callable[[Maker], Maker]:
    """Register the decorated maker as `name` for each of these kernels."""
    def register(make: Maker) -> Maker:
        for kernel in kernels:
            CONTENDERS.setdefault(kernel, {})[name] = make
        return make
    return register


def library(name: str) -> str:
    """Whose code a contender is: "torch" of "torch out="."""
    return name.partition(" ")[0]


@dataclass(frozen=True)
class Workload:
    """One kernel on one shape: what a row of a table is about. Its arrays are made by `build`."""

    kernel: str
    """The key in CONTENDERS."""
    shape: str
    elements: int
    passes: tuple[str, ...]
    """What each pass over memory does with each array, see `fastopt.bench.roof`."""
    build: Callable[[], Problem]
    note: str = ""
    """Follows the kernel's name, where workloads differ in more than the shape."""

    def __str__(self) -> str:
        return f"{self.title} {self.shape}"

    @property
    def title(self) -> str:
        return self.kernel + self.note

    @property
    def moved(self) -> int:
        """Bytes that are loaded and stored for each element."""
        return bytes_per_element(self.passes)

    @property
    def contenders(self) -> list[str]:
        """Names of all contenders, fastopt and the roof first."""
        return list(dict.fromkeys(["fastopt", ROOF, *CONTENDERS[self.kernel]]))


def prepare(workload: Workload, name: str) -> tuple[Contender, float]:
    """Make a contender, and check the result of one call of it.

    Parameters
    ----------
    workload : Workload
    name : str
        One of `workload.contenders`.

    Returns
    -------
    Contender, float
        The contender and the largest error of its result; 0 for the roof, which computes nothing.

    Raises
    ------
    UnavailableError
        Its library is not installed, or cannot do this workload.
    WrongResultError
        Its result is wrong.
    """
    problem = workload.build()
    if name == ROOF:
        return Contender(roof(problem.streams, workload.passes)), 0.0
    made = CONTENDERS[workload.kernel][name](problem)
    problem.clear()
    error, right = problem.check(name, made.result(made.call()))
    if not right:
        raise WrongResultError(f"{workload}: {name}'s result differs by {error:.2g}")
    return made, error


def checked_calls(workload: Workload, names: Sequence[str], missing: list[str]) -> dict[str, Callable[[], Any]]:
    """The calls of those contenders that can take part; the reasons of the others are added to `missing`, once each."""
    calls = {}
    for name in names:
        try:
            calls[name] = prepare(workload, name)[0].call
        except UnavailableError as reason:
            if str(reason) not in missing:
                missing.append(str(reason))
    return calls


def noise(*shape: int, seed: int = 0, period: int = 100_003) -> np.ndarray:
    """Standard normal float32 numbers, repeated after `period` elements."""
    block = np.random.default_rng(seed).standard_normal(min(int(np.prod(shape)), period), dtype=np.float32)
    return np.resize(block, shape)


def load(name: str) -> ModuleType:
    """Import a library; UnavailableError where it is missing or does not work."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] == name.partition(".")[0]:
            raise UnavailableError(f"{name.partition('.')[0]} is not installed") from None
        raise UnavailableError(f"{name} cannot be imported: {error}") from error


def torch() -> Any:
    """torch, with as many threads as fastopt has now."""
    module = load("torch")
    module.set_num_threads(fastopt.get_num_threads())
    return module


def numba() -> Any:
    """numba, with as many threads as fastopt has now, or as it was started with if those are fewer."""
    module = load("numba")
    module.set_num_threads(min(fastopt.get_num_threads(), module.config.NUMBA_NUM_THREADS))
    return module
