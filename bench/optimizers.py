"""What the optimizers' benchmarks share: cases, sizes, contenders, the check before the timing."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import peers
import pytest
from record import record, require_memory

import fastopt
from fastopt._probe import bytes_per_element, same_streams

SIZES = {"1": 1, "10": 10, "100": 100, "1k": 1000, "10k": 10_000, "100k": 100_000, "1M": 1_000_000,
         "10M": 10_000_000, "50M": 50_000_000, "100M": 100_000_000}
BLOCK = 50_000
"""Larger arrays are repetitions of so many elements."""


@dataclass(frozen=True, eq=False)
class Case:
    """One function of fastopt with one choice of options."""

    name: str
    states: tuple
    numpy: Callable
    """(param, grad, *states): a step at t = 2 as a NumPy user writes it, in place."""
    options: dict = field(default_factory=dict)
    stepped: bool = True
    passes: tuple = ()
    """What each pass over (param, grad, *states) does to them, for `same_streams`; without it one pass that updates all
    but grad."""
    torch: tuple | None = None
    """torch.optim's class and its arguments."""
    note: str = ""
    initial: dict = field(default_factory=dict)
    """What states hold before the first step, where that is not 0."""
    numpy_out: Callable | None = None
    """As `numpy` but with out=, and a scratch array as last argument."""
    peers: tuple = ()
    """Of peers.OPTIMIZERS, besides torch."""
    sizes: tuple = ("100k", "50M")

    def __str__(self):
        return self.name + (f" {self.note}" if self.note else "")

    @property
    def streams(self):
        return self.passes or ("ur" + "u" * len(self.states),)

    @property
    def bytes(self):
        """Moved for each element."""
        return bytes_per_element(self.streams)

    def call(self, module, arrays, step):
        """A function of no arguments that takes this step on these arrays."""
        states = dict(zip(self.states, arrays[2:], strict=True))
        step = {"step": step} if self.stepped else {}
        return functools.partial(getattr(module, self.name), *arrays[:2], **states, **self.options, **step)

    def start(self, arrays, param, grad):
        """Fill (param, grad, *states) with what they are before the first step, repeated."""
        for array, part in zip(arrays, (param, grad, *(self.initial.get(state, 0.0) for state in self.states)),
                               strict=True):
            if array.size:
                array.reshape(-1, param.size)[...] = part
        return arrays


@functools.cache
def block(n):
    """A parameter and its gradient, or the part of them that is repeated."""
    return np.random.default_rng(0).standard_normal((2, min(n, BLOCK)), dtype=np.float32)


@functools.cache
def large(k):
    return np.empty(max(SIZES.values()), np.float32)


def fresh(case, n, share):
    """param, grad and states before the first step; `share`: large ones in memory that other cases have had, so that
    its pages need not be made anew."""
    count = 2 + len(case.states)
    if share and n > 10_000_000:
        require_memory(0 if large.cache_info().currsize >= count else 4 * max(SIZES.values()) * count)
        arrays = [large(k)[:n] for k in range(count)]
    else:
        arrays = [np.empty(n, np.float32) for _ in range(count)]
    return case.start(arrays, *block(n))


@functools.cache
def exact_steps(case, n):
    """The block's parameter before, and after two steps in float64. (Repetitions change no trust ratio: both norms grow
    alike.)"""
    param, grad = block(n).astype(np.float64)
    arrays = case.start([np.empty_like(param) for _ in range(2 + len(case.states))], param, grad)
    for step in (1, 2):
        case.call(fastopt.reference, arrays, step)()
    return param, arrays[0]


def check(before, after, exact, tolerance=1e-5):
    """`after` is where the two steps from `before` lead, to a small part of them; the largest error."""
    allowed = 4 * np.spacing(np.abs(exact).astype(np.float32)) + tolerance * np.abs(exact - before).max()
    error = np.abs(after - exact)
    assert (error <= allowed).all(), f"off by {error.max()}, allowed {allowed.min()}"
    return float(error.max())


def steps(case, contender, arrays):
    """Functions that take the first step on `arrays`, that take the second, which is the one to time, and that give the
    parameter."""
    if contender in ("fastopt", "reference"):
        module = fastopt if contender == "fastopt" else fastopt.reference
        return case.call(module, arrays, 1), case.call(module, arrays, 2), lambda: arrays[0]
    if contender in ("numpy", "numpy out="):
        second = (functools.partial(case.numpy, *arrays) if contender == "numpy" else
                  functools.partial(case.numpy_out, *arrays, np.empty_like(arrays[0])))
        return case.call(fastopt, arrays, 1), second, lambda: arrays[0]
    step, param = peers.OPTIMIZERS[contender](case, arrays)
    return step, step, param


def contender(case, name, n, *, share=False):
    """The function to time, checked, and the largest error found."""
    arrays = fresh(case, n, share)
    if name == "same streams":
        return same_streams(arrays, case.streams), 0.0
    first, second, param = steps(case, name, arrays)
    first()
    second()
    before, exact = exact_steps(case, n)
    after = param()
    error = check(before, after[: before.size], exact)
    assert (after.reshape(-1, before.size) == after[: before.size]).all()
    return second, error


def contenders(case, n):
    """Who takes part: all but the slow ones at every size."""
    names = ["fastopt", "same streams"]
    if case.torch:
        names.append("torch")
    if n <= 50_000_000:
        names += [peer for peer in case.peers if n <= 10_000_000 or peer != "thinc"]
    if n <= 10_000_000:
        names.append("numpy")
        if case.numpy_out:
            names.append("numpy out=")
    if n <= 1_000_000:
        names.append("reference")
    return names


def rows(cases):
    """Parametrise a test (benchmark, case, size, name)."""
    return pytest.mark.parametrize(("case", "size", "name"), [
        pytest.param(case, size, name, id=f"{case}-{size}-{name}")
        for case in cases for size in case.sizes for name in contenders(case, SIZES[size])])


def bench_case(benchmark, case, size, name):
    if benchmark.disabled and SIZES[size] > 1_000_000:
        pytest.skip("more than 1 M elements: only timed")
    run, error = contender(case, name, SIZES[size], share=True)
    record(benchmark, run, kernel=case, shape=size, elements=SIZES[size], contender=name, error=error,
           moved=case.bytes)
