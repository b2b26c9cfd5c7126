"""What the benchmarks' tables look like, unless the command line says otherwise."""

import pytest
from record import RECORDED, counts, summary

DEFAULTS = {
    "benchmark_columns": ["min", "median"],
    "benchmark_sort": "median",
    "benchmark_max_time": 0.05,     # seconds a row
    "benchmark_min_rounds": 5,
    "benchmark_warmup": False,
}


def pytest_configure(config):
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError('the benchmarks need pytest-benchmark: pip install -e ".[bench]"')
    given = {argument.split("=")[0].lstrip("-").replace("-", "_") for argument in config.invocation_params.args}
    for option, value in DEFAULTS.items():
        if option not in given:
            setattr(config.option, option, value)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    if any(map(counts, RECORDED)):
        terminalreporter.section("fastopt beside the others")
        for line in summary():
            terminalreporter.write_line(line)
