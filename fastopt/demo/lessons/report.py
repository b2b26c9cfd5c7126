"""The report: lessons in parallel processes, and their pages in a folder."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import threadpoolctl

import fastopt
from fastopt.demo.lessons import LESSONS
from fastopt.demo.lessons.page import GENERATOR, Lesson, heading, index_page, lesson_page, make

INDEX = "index.html"


class FolderError(Exception):
    """The report cannot be written there."""


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be created or written, and one with files that are not a report.

    Raises
    ------
    FolderError
    """
    try:
        if os.path.lexists(folder) and not folder.is_dir():
            raise FolderError(f"expected a folder, got the file {str(folder)!r}")
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if os.listdir(folder) and not is_report(folder):
                raise FolderError(f"expected a new or empty folder or an earlier report, got {str(folder)!r}, "
                                  "which has other files")
        existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        with tempfile.TemporaryDirectory(prefix=".", dir=existing):     # nothing else tells whether it can be written
            pass
    except OSError as error:
        raise FolderError(f"expected a folder that can be written, got {str(folder)!r}: {error.strerror}") from None


def is_report(folder: Path) -> bool:
    """Whether the folder has the index page of an earlier report."""
    with contextlib.suppress(FileNotFoundError):
        return f'<meta name="generator" content="{GENERATOR}">' in (folder / INDEX).read_text("utf-8", "replace")
    return False


def run_lessons(names: Sequence[str], processes: int | None = None) -> Iterator[tuple[Lesson, float]]:
    """Run lessons and yield each with its seconds, in the order in which they end.

    Each runs on one thread, in one of so many processes: by default as many as kernels would use threads.
    """
    processes = min(len(names), fastopt.get_num_threads() if processes is None else processes)
    if processes == 1:
        with threadpoolctl.threadpool_limits(1), fastopt.num_threads(1):
            yield from map(timed, names)
        return
    executor = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), start_process)
    try:
        for future in as_completed([executor.submit(timed, name) for name in names]):
            yield future.result()
    finally:
        executor.shutdown(cancel_futures=True)


def start_process() -> None:
    """One thread a process. An interrupt ends it without a traceback: the process that waits for it reports that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threadpoolctl.threadpool_limits(1)
    fastopt.set_num_threads(1)


def timed(name: str) -> tuple[Lesson, float]:
    start = time.perf_counter()
    lesson = make(name)
    return lesson, time.perf_counter() - start


def write(folder: Path, lessons: Sequence[Lesson]) -> Path:
    """Write the pages of lessons and return the index page, which also lists those of an earlier report.

    Each file is replaced as a whole; a page is written after its pictures. The index page of a new report comes first,
    so that the folder is a report whenever it is not empty.
    """
    made = {lesson.name: lesson for lesson in lessons}
    folder.mkdir(parents=True, exist_ok=True)
    contents = [heading(name) for name in LESSONS if name in made or (folder / f"{name}.html").is_file()]
    replace(folder / INDEX, index_page(contents).encode())
    for entry in contents:
        if entry.name in made:
            lesson = made[entry.name]
            for file, picture in lesson.pictures.items():
                replace(folder / file, picture)
            replace(folder / f"{lesson.name}.html", lesson_page(lesson, contents).encode())
    return folder / INDEX


def replace(path: Path, data: bytes) -> None:
    """Write a file so that another process sees the old or the new one whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
