"""How many threads the kernels use: the part of the policy that users see. `parallel.pyx` has the rest."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

from fastopt._runtime import parallel
from fastopt._runtime.hyper import Ranges

_request = Ranges(num_threads="int [1, 1024]")


def set_num_threads(num_threads: int | None) -> None:
    """Set how many threads the kernels may use in this process.

    Parameters
    ----------
    num_threads : int or None
        At least 1. None restores the default: ``FASTOPT_NUM_THREADS``, else ``OMP_NUM_THREADS``, else as many
        as OpenMP offers within the process's CPU affinity and its cgroup's CPU quota.

    Raises
    ------
    TypeError, ValueError
        For anything but None or an int in [1, 1024].

    Notes
    -----
    Results do not depend on it: every kernel gives the same bits for any number of threads. Small work runs on the
    calling thread alone, and so does everything in a forked child. A lower limit set through ``threadpoolctl`` is
    obeyed whatever was set here, in the Python thread that set it (OpenMP's settings are a thread's own).
    """
    if num_threads is None:
        parallel.set_process_request(_environment())
    else:
        _request(num_threads)
        parallel.set_process_request(num_threads)


def get_num_threads() -> int:
    """Return how many threads a large enough call would use now, on this Python thread."""
    return parallel.threads()


@contextmanager
def num_threads(num_threads: int) -> Iterator[None]:
    """Use this many threads in the calls that this Python thread makes inside the ``with`` block.

    Parameters
    ----------
    num_threads : int
        At least 1. Other Python threads keep theirs; blocks nest.

    Raises
    ------
    TypeError, ValueError
        For anything but an int in [1, 1024].
    """
    _request(num_threads)
    before = parallel.state()["thread_request"]
    try:        # an interrupt may come as soon as the number is set
        parallel.swap_thread_request(num_threads)
        yield
    finally:
        parallel.swap_thread_request(before)


def _environment() -> int:
    """FASTOPT_NUM_THREADS as a number, 0 when it is not set."""
    text = os.environ.get("FASTOPT_NUM_THREADS", "").strip()
    if not text:
        return 0
    try:
        number = int(text)
        _request(number)
    except ValueError:
        raise ValueError(f"FASTOPT_NUM_THREADS: expected an int in [1, 1024], got {text!r}") from None
    return number


def cgroup_quota(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> int:
    """CPUs that this process's cgroup, or one above it, may use, rounded up; 0 when there is no limit."""
    limits: list[float | None] = []
    try:
        lines = _read(membership).splitlines()
    except OSError:
        return 0
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            base, read = root, _quota_v2
        elif "cpu" in controllers.split(","):  # version 1
            base, read = os.path.join(root, "cpu"), _quota_v1
        else:
            continue
        # Inside a container the path may not exist under its own mount, whose root is then the group itself.
        group = os.path.join(base, path.strip("/")).rstrip("/")
        while group != base:
            limits.append(read(group))
            group = os.path.dirname(group)
        limits.append(read(base))
    known = [limit for limit in limits if limit is not None]
    return max(1, math.ceil(min(known))) if known else 0


def _read(*path: str) -> str:
    with open(os.path.join(*path), errors="surrogateescape") as file:
        return file.read()


def _quota_v2(group: str) -> float | None:
    try:
        quota, period = _read(group, "cpu.max").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(group: str) -> float | None:
    try:
        quota = int(_read(group, "cpu.cfs_quota_us"))
        period = int(_read(group, "cpu.cfs_period_us"))
        return quota / period if quota > 0 and period > 0 else None
    except (OSError, ValueError):
        return None


parallel.configure(_environment(), cgroup_quota(), bool(os.environ.get("OMP_NUM_THREADS", "").strip()))
