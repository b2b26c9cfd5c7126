"""The command line of `fastopt lessons`."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import BrokenExecutor
from importlib import import_module
from pathlib import Path

from fastopt.demo.arguments import Parser, Refused, needs
from fastopt.demo.lessons import LESSONS

MODULES = ("jinja2", "markdown_it", "mdit_py_plugins", "pygments", "latex2mathml", "matplotlib", "sklearn", "scipy",
           "threadpoolctl")
"""What lessons import, some of it in other processes."""


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command to those of `fastopt`."""
    lessons = commands.add_parser(
        "lessons", help="write lessons in training networks as web pages, drawn from runs made there and then",
        description="Write a report of static HTML pages, one a lesson, which a browser opens without a network: text, "
                    "pictures, and the code that made them. Every number comes from a run made while it is written.")
    lessons.add_argument("folder", nargs="?", type=Path, default=Path("fastopt-lessons"), metavar="DIR",
                         help="a new or empty folder, or an earlier report (default: fastopt-lessons)")
    lessons.add_argument("--only", nargs="+", choices=LESSONS, default=LESSONS, metavar="NAME",
                         help=f"only these lessons: {', '.join(LESSONS)}")
    lessons.add_argument("--open", action="store_true", help="open the report in a browser")
    lessons.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the report; return the exit status."""
    with needs("lessons"):
        for module in MODULES:
            import_module(module)
        from fastopt.demo.lessons import report
    start = time.perf_counter()
    lessons = []
    try:
        report.check_folder(arguments.folder)
        for lesson, seconds in report.run_lessons([name for name in LESSONS if name in arguments.only]):
            print(f"{seconds:6.1f} s  {lesson.title}", flush=True)
            lessons.append(lesson)
        index = report.write(arguments.folder, lessons)
    except report.FolderError as error:
        raise Refused(f"argument DIR: {error}") from None
    except OSError as error:
        return failed(f"{error.filename or arguments.folder}: {error.strerror}", 1)
    except BrokenExecutor:
        return failed("a process that ran lessons was killed; nothing is written before all lessons have run", 1)
    except KeyboardInterrupt:
        return failed("stopped; nothing is written before all lessons have run", 130)
    count = "1 lesson" if len(lessons) == 1 else f"{len(lessons)} lessons"
    print(f"{count} in {time.perf_counter() - start:.0f} s: {index}")
    if arguments.open:
        import webbrowser
        webbrowser.open(index.absolute().as_uri())
    return 0


def failed(message: str, status: int) -> int:
    """Say why there is no report; return the exit status."""
    print(f"fastopt lessons: {message}", file=sys.stderr)
    return status
