"""The facts of lessons, each run once for all tests, on one thread as in the report."""

import functools

import pytest

import fastopt

for package in ("sklearn", "matplotlib", "jinja2", "markdown_it", "mdit_py_plugins", "pygments", "latex2mathml"):
    pytest.importorskip(package)
threadpoolctl = pytest.importorskip("threadpoolctl")

from fastopt.demo.lessons import page  # noqa: E402


@functools.cache
def facts(name):
    with threadpoolctl.threadpool_limits(1), fastopt.num_threads(1):
        return page.load(name).run()
