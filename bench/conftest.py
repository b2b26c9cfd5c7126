"""How the benchmarks' tables look, unless the command line says otherwise."""

import os

import pytest
from rows import summary

from fastopt.bench.table import Table, number, percent

SUMMARY = Table(("", "ns/element", "GB/s", "of the roof", "NumPy's time", "the fastest peer's"), "lrrrrl",
                (54, 10, 7, 12, 13, 18))

DEFAULTS = {
    "benchmark_columns": ["min", "median"],
    "benchmark_sort": "median",
    "benchmark_max_time": "0.05",   # seconds for each row
}


def pytest_configure(config):
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError('the benchmarks need pytest-benchmark: pip install -e ".[bench]"')
    given = {argument.split("=")[0].lstrip("-").replace("-", "_") for argument in config.invocation_params.args}
    for option, value in DEFAULTS.items():
        if option not in given:
            setattr(config.option, option, value)


def busy():
    """A warning where other programs use the machine, or None."""
    load, cpus = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count()
    if load < 0.5 * cpus:
        return None
    return (f"The machine was busy before the first benchmark: load {load:.1f} on {cpus} CPUs. Rows on several threads "
            "then wait for a core: a call of 10 µs can take 10 ms.")


BUSY = busy()


def pytest_report_header():
    return BUSY


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    found = summary()
    if found:
        terminalreporter.section("fastopt beside the others; times over fastopt's")
        terminalreporter.write_line(SUMMARY.lines(
            (workload, f"{ours:.3f}", f"{rate:.1f}", percent(share), number(numpy),
             "" if peer is None else f"{number(ratio)} ({peer})")
            for workload, ours, rate, share, numpy, peer, ratio in found))
        if BUSY:
            terminalreporter.write_line(BUSY)
