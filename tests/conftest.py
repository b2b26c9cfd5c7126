"""Fixtures that every family's tests use: each built level, forced threads, comparisons by bits."""

import numpy as np
import pytest

import fastopt
from fastopt._runtime import dispatch, driver, parallel


@pytest.fixture(params=dispatch.available())
def level(request, monkeypatch):
    """Run the test once at each level that is built and that this machine runs."""
    monkeypatch.setattr(dispatch, "active", dispatch.load(request.param))
    return request.param


@pytest.fixture
def always_parallel():
    """No work is too small for threads."""
    before = parallel.swap_serial_below(0.0)
    yield
    parallel.swap_serial_below(before)


@pytest.fixture
def chunk():
    """A function that sets the driver's chunk size until the test ends."""
    before = driver.swap_chunk(8192)
    driver.swap_chunk(before)
    yield driver.swap_chunk
    driver.swap_chunk(before)


@pytest.fixture
def rng():
    return np.random.default_rng(20250131)


def pytest_report_header():
    return f"fastopt {fastopt.__version__} from {fastopt.__path__[0]}, levels {', '.join(dispatch.available())}"
