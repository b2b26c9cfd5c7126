"""What the benchmarks' tables look like, unless the command line says otherwise."""

import os

import pytest
from record import summary

DEFAULTS = {
    "benchmark_columns": ["min", "median"],
    "benchmark_sort": "median",
    "benchmark_max_time": "0.05",   # seconds a row
}


def pytest_configure(config):
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError('the benchmarks need pytest-benchmark: pip install -e ".[bench]"')
    given = {argument.split("=")[0].lstrip("-").replace("-", "_") for argument in config.invocation_params.args}
    for option, value in DEFAULTS.items():
        if option not in given:
            setattr(config.option, option, value)


def busy():
    """What to say of a machine that has other things to do, or None."""
    load, cpus = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count()
    if load < 0.5 * cpus:
        return None
    return (f"The machine was busy before the first benchmark: load {load:.1f} on {cpus} CPUs. Rows on several threads "
            "then wait for time slices: a call of 10 µs can take 10 ms.")


BUSY = busy()


def pytest_report_header():
    return BUSY


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    lines = summary()
    if lines:
        terminalreporter.section("fastopt beside the others")
        for line in [*lines, *filter(None, [BUSY])]:
            terminalreporter.write_line(line)
