"""Lessons that run in several processes have the same text and pictures as lessons that run one after the other."""

import lesson_runs
import pytest

from fastopt.demo.lessons import LESSONS, page, report

UNMEASURED = [name for name in LESSONS if not hasattr(page.load(name), "MEASURED")]


@pytest.fixture(scope="module")
def made():
    """The lessons by name, made in two processes."""
    return {lesson.name: lesson for lesson, _ in report.run_lessons(UNMEASURED, processes=2)}


@pytest.mark.parametrize("name", UNMEASURED)
def test_same_bytes(made, name):
    again = page.render(name, page.load(name), lesson_runs.facts(name))
    assert again.pictures == made[name].pictures
    assert again == made[name]
