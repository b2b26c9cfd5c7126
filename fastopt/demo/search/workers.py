"""The processes that train: each with one thread for the kernels and one for NumPy's BLAS.

They are started anew (spawn), never forked, because OpenMP's threads do not survive a fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import threadpoolctl

import fastopt
from fastopt.demo.data import Dataset
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Diverged, Epoch, Trainer

_data: Dataset
"""Set in each worker when it starts."""


@dataclass(frozen=True)
class Part:
    """A training as far as it has come."""

    history: list[Epoch]
    state: dict[str, Any] | None
    """The trainer's, to go on from; None if the training has diverged."""


def train(settings: Settings, state: dict[str, Any] | None, epochs: int) -> Part:
    """In a worker: go on with a training, from its start or from a state, until so many epochs are done."""
    trainer = Trainer(settings, _data)
    if state is not None:
        trainer.load_state_dict(state)
    try:
        while len(trainer.history) < epochs:
            trainer.run_epoch()
    except Diverged:
        return Part(trainer.history, None)
    return Part(trainer.history, trainer.state_dict())


def judge(settings: Settings) -> tuple[Epoch, float] | None:
    """In a worker: the best epoch of a training and its accuracy on the test images; None if it diverges."""
    trainer = Trainer(settings, _data)
    try:
        for _ in range(settings.epochs):
            trainer.run_epoch()
    except Diverged:
        return None
    assert trainer.best is not None
    trainer.load_best()
    return trainer.best, trainer.network.evaluate(_data.test)[1]


def _start(data: Dataset, alive: Connection) -> None:
    """In a worker, first of all."""
    global _data
    _data = data
    signal.signal(signal.SIGINT, signal.SIG_IGN)    # Ctrl-C reaches all processes; the parent ends the workers
    threadpoolctl.threadpool_limits(1)
    fastopt.set_num_threads(1)
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()


def _end_with_parent(alive: Connection) -> None:
    """End this process when the parent closes the other end of the pipe, as the system does if the parent is killed."""
    with contextlib.suppress(EOFError, OSError):
        alive.recv()
    os._exit(1)


class Workers:
    """A pool of processes that lives as long as the `with` block, and no longer than this process."""

    def __init__(self, jobs: int, data: Dataset) -> None:
        self.jobs = jobs
        with _interrupts_wait():     # a semaphore that is half made would never be removed
            context = multiprocessing.get_context("spawn")
            alive, self._alive = context.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(jobs, context, _start, (data, alive))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        with _interrupts_wait():     # here processes are started
            return self._pool.submit(function, *arguments)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self._alive.close()
        self._pool.shutdown(cancel_futures=True)
        self._alive.close()


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C waits meanwhile, whichever thread the system gives it to. In a process that is started, it waits until the
    process ignores it for good: the mask is inherited."""
    came = False

    def note(*_: object) -> None:
        nonlocal came
        came = True

    handler = signal.signal(signal.SIGINT, note)
    masks = hasattr(signal, "pthread_sigmask")      # not on Windows
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else set()
    try:
        yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)
