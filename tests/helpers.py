"""Comparisons and inputs shared by the tests of several families."""

import gc
import importlib
import inspect
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import fastopt

THREADS = (1, 2, 3, 7, 16)
"""Thread counts that must all give the same bits."""

AWKWARD = (1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 127, 128, 129, 255, 256, 257)
"""Array sizes around multiples of the vector width and of unrolled loops."""

SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1.1754942e-38, 1.1754944e-38, -1e-20, 1e-20, 0.1, -3.5, 1e19, -2e19,
     3.4028235e38, -3.4028235e38, np.inf, -np.inf, np.nan],
    np.float32,
)
"""Zeros, subnormals, the smallest normal number, numbers whose squares overflow, the largest, infinities, NaN."""


def bits(array):
    """The array's bits as unsigned integers, with all NaNs mapped to one."""
    array = np.asarray(array)
    kind = {4: np.uint32, 8: np.uint64}[array.itemsize]
    return np.where(np.isnan(array), np.full_like(array, np.nan), array).view(kind)


def assert_same_bits(actual, expected, what=""):
    """Fail if a bit differs. All NaNs are equal: which of two an operation returns depends on the processor."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, what
    assert actual.shape == expected.shape, what
    different = np.flatnonzero(bits(actual).ravel() != bits(expected).ravel())
    if different.size:
        first = different[0]
        raise AssertionError(
            f"{what}: {different.size} of {actual.size} elements differ, first [{first}]: "
            f"{actual.ravel()[first]!r} instead of {expected.ravel()[first]!r}"
        )


def random_bits(rng, shape):
    """float32 of random bit patterns, which include every exponent, NaN and infinities."""
    return rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)


def unaligned(array, offset):
    """A copy of `array` that starts `offset` elements after a 64-byte boundary."""
    buffer = np.empty(array.size + 32, array.dtype)
    start = -(buffer.ctypes.data // array.itemsize) % (64 // array.itemsize) + offset
    copy = buffer[start : start + array.size].reshape(array.shape)
    copy[...] = array
    return copy


def misaligned(array):
    """A copy of `array` that starts one byte after an aligned address."""
    raw = np.empty(array.nbytes + 1, np.uint8)
    copy = raw[1:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def ulps(actual, exact):
    """|actual − exact| in float32 units in the last place (ULP) of `exact`, which is float64 or wider."""
    exact = np.asarray(exact)
    _, exponent = np.frexp(exact.astype(np.float64))
    unit = np.ldexp(1.0, np.maximum(exponent, -125) - 24)
    return np.abs(np.asarray(actual, np.float64) - exact.astype(np.float64)) / unit


def parameters(function):
    """Names, kinds and defaults of a function's parameters, without annotations."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def compiled(name, level="baseline"):
    """The module built from tests/compiled/<name>.pyx at `level`. Where it is not built, the test is skipped."""
    try:
        return importlib.import_module(f"compiled.{name}_{level}")
    except ModuleNotFoundError:
        pytest.skip(f"tests/compiled/{name}.pyx is not built: only an editable or in-place build does that")


def bytecodes(call, interrupt_before=0):
    """How many bytecodes `call` executes in Python code; KeyboardInterrupt is raised before the given one.

    Garbage is not collected meanwhile: Python ignores exceptions in what that runs, such as Hypothesis's gc callback.
    """
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            count += 1
            if count == interrupt_before:
                raise KeyboardInterrupt
        return trace

    before, collects = sys.gettrace(), gc.isenabled()
    gc.disable()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
    return count


def interrupted(call, at):
    """Call, with a KeyboardInterrupt before the bytecode of number `at`, from 1; return whether it came so far."""
    try:
        bytecodes(call, at)
    except KeyboardInterrupt:
        return True
    return False


def every_instant(make, call, arrays_of):
    """Interrupt `call` on what `make` returns at every bytecode: its arrays are then all as before, or all as after."""
    done = make()
    before = [array.copy() for array in arrays_of(done)]
    call(done)
    after = arrays_of(done)
    instant, reached = 1, True
    while reached:
        made = make()
        reached = interrupted(lambda made=made: call(made), instant)
        same = [all(np.array_equal(a, b) for a, b in zip(arrays_of(made), wanted, strict=True))
                for wanted in (before, after)]
        assert same in ([True, False], [False, True]), instant
        assert reached or same[1]
        instant += 1
    assert instant > 31


def run(code, **environment):
    """Run `code` in a new interpreter, in a folder without fastopt, and return what it prints.

    Keyword arguments are environment variables; None removes one.
    """
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(fastopt.__path__[0]), **environment}
    environment = {name: value for name, value in environment.items() if value is not None}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, cwd=os.path.dirname(__file__),
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
