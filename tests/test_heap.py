"""`keep_heap`: page faults of a loop that allocates and frees the same arrays; huge pages of state."""

import ctypes
import os
import sys

import pytest
from helpers import run

import fastopt

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
LOOP = """
import os, resource
import numpy as np
import fastopt

if "KEEP" in os.environ:
    assert fastopt.keep_heap() is True

def step():
    # Of 1 to 20 MB, the largest one freed last: at the top of the heap, where glibc trims.
    for size in (1, 3, 8, 20):
        kept = [np.empty(size * 250_000, np.float32) for _ in range(3)]
        for array in kept:
            array[::1024] = 1.0

for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10)
"""


@pytest.mark.skipif(not GLIBC, reason="needs glibc")
def test_temporary_arrays_cause_no_page_faults():
    environment = {"MALLOC_TRIM_THRESHOLD_": None, "MALLOC_MMAP_THRESHOLD_": None, "GLIBC_TUNABLES": None}
    as_installed, kept = (float(run(LOOP, KEEP=keep, **environment)) for keep in (None, "1"))
    assert as_installed > 100
    assert kept < as_installed / 10


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_it_changes_nothing(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", None)
    assert fastopt.keep_heap() is False


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert fastopt.keep_heap() is False


@pytest.mark.skipif(not GLIBC, reason="needs glibc")
@pytest.mark.parametrize(("most", "set_"), [(2**30, True), (2**25, True), (0, False)])
def test_what_glibc_refuses(most, set_, monkeypatch):
    """Some releases take at most 32 MiB as the size from which arrays are mapped."""
    accepted = []

    class Libc:
        gnu_get_libc_version = None

        @staticmethod
        def mallopt(option, value):
            if option == -3 and value > most:
                return 0
            accepted.append((option, value))
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc)
    assert fastopt.keep_heap() is set_
    assert accepted == ([(-3, most), (-1, 2**31 - 1)] if set_ else [])


HUGE = """
import re
import numpy as np
import fastopt

def huge():
    with open("/proc/self/smaps_rollup") as file:
        return int(re.search(r"AnonHugePages: +([0-9]+) kB", file.read())[1]) // 1024

ones = np.ones(8_000_000, np.float32)       # 32 MB
print(huge())
opt = fastopt.Adam(average_decay=0.9)
opt.update(ones, ones.copy())
print(huge())
saved = opt.state_dict()
print(huge())
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux")
def test_state_lies_in_huge_pages_where_an_array_of_numpys_does():
    array, state, saved = map(int, run(HUGE).split())
    if array < 24:
        pytest.skip("NumPy's own arrays have no huge pages here")
    assert state >= 3.5 * array     # with m, v and the average four; where memory is fragmented a few are missing
    assert saved >= 6.5 * array
