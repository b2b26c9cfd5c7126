"""How long libgomp's threads spin before they sleep: set only while libgomp is being loaded."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SPINS = "1000"
"""Iterations of libgomp's waiting loop, each a pause instruction: 25 to 60 µs on x86-64 (docs/threads.md)."""


@contextmanager
def short_spin() -> Iterator[None]:
    """Let a libgomp that is loaded inside the ``with`` block spin for microseconds, unless the user configured it.

    libgomp reads its environment once, when it is loaded, and by default spins for milliseconds. Next to the threads of
    NumPy's BLAS, which also spin, that costs whole time slices. The variable is set in C's environment only and removed
    again, so that neither ``os.environ`` nor a child process sees it. A libgomp that is already loaded keeps its
    setting.
    """
    if sys.platform != "linux" or {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        yield
        return
    os.putenv("GOMP_SPINCOUNT", SPINS)
    try:
        yield
    finally:
        os.unsetenv("GOMP_SPINCOUNT")
