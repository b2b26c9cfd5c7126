"""Fixtures shared by the tests of all families: ISA levels, forced threading, chunk sizes, random numbers."""

from types import SimpleNamespace

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
def changes_labels(monkeypatch):
    """A function that takes labels: once a call has checked its labels, these become 0, as if by another thread."""
    kernel = dispatch.active.cross_entropy

    def start(labels):
        def first_wrong_label(*arguments):
            wrong = kernel.first_wrong_label(*arguments)
            labels[...] = 0
            return wrong

        stand_in = SimpleNamespace(first_wrong_label=first_wrong_label, cross_entropy=kernel.cross_entropy,
                                   normaliser=kernel.normaliser)
        monkeypatch.setattr(dispatch, "active", SimpleNamespace(**{**vars(dispatch.active), "cross_entropy": stand_in}))

    return start


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


def pytest_report_header():
    return f"fastopt {fastopt.__version__} from {fastopt.__path__[0]}, levels {', '.join(dispatch.available())}"
