"""The long suites, run by `pytest -m slow`: their marker, seed and size, and the figures printed at the end.

FASTOPT_TEST_SEED is the seed, an int (default 20250131); FASTOPT_TEST_FACTOR multiplies the number of trials (default
1: each suite takes at most about two minutes on two cores).
"""

import os
from collections import Counter
from pathlib import Path

import pytest

import fastopt

SEED = int(os.environ.get("FASTOPT_TEST_SEED", "20250131"))
FACTOR = float(os.environ.get("FASTOPT_TEST_FACTOR", "1"))
FIGURES = {}
"""For each test the sums of its counts over its parameters."""


@pytest.hookimpl(tryfirst=True)     # before pytest selects by marker
def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def default_threads():
    yield
    fastopt.set_num_threads(None)


@pytest.fixture
def seed():
    return SEED


@pytest.fixture
def trials():
    """A function from the number of trials at factor 1 to the number to run."""
    return lambda count: max(1, round(count * FACTOR))


@pytest.fixture
def figures(request):
    """A function that adds the test's counts, given as keyword arguments, to those printed in the summary."""
    def add(**counts):
        sums = FIGURES.setdefault(request.node.nodeid.split("/")[-1].split("[")[0], Counter())
        sums.update(counts)
    return add


def pytest_terminal_summary(terminalreporter):
    if FIGURES:
        terminalreporter.section(f"figures of the long suites, FASTOPT_TEST_SEED={SEED} FASTOPT_TEST_FACTOR={FACTOR:g}")
        for name, counts in FIGURES.items():
            terminalreporter.write_line(f"{name}: " + ", ".join(f"{count} {what.replace('_', ' ')}"
                                                                for what, count in counts.items()))
