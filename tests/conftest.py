"""Fixtures shared by the tests of all families: ISA levels, forced threading, chunk sizes, random numbers."""

import signal

import numpy as np
import pytest

import fastopt
from fastopt._runtime import dispatch, driver, parallel


@pytest.fixture(params=dispatch.available())
def level(request, monkeypatch):
    """Run the test once for each ISA level that is built and that this machine supports."""
    monkeypatch.setattr(dispatch, "active", dispatch.load(request.param))
    return request.param


@pytest.fixture
def always_parallel():
    """Use threads for work of any size, and never back off."""
    before, backs_off = parallel.swap_serial_below(0.0), parallel.swap_back_off(False)
    yield
    parallel.swap_serial_below(before)
    parallel.swap_back_off(backs_off)


@pytest.fixture
def chunk():
    """A function that sets the driver's chunk size for the rest of the test."""
    before = driver.swap_chunk(8192)
    driver.swap_chunk(before)
    yield driver.swap_chunk
    driver.swap_chunk(before)


@pytest.fixture
def rng():
    return np.random.default_rng(20250131)


def pytest_sessionstart():
    """A shell starts what runs in the background with SIGINT ignored, and what tests start would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header():
    return f"fastopt {fastopt.__version__} from {fastopt.__path__[0]}, levels {', '.join(dispatch.available())}"
