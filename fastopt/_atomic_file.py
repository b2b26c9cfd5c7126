"""Replacing a file atomically: a temporary file in the same folder is written, flushed to disk and renamed.

A process that is killed in between leaves its temporary file. The writer holds a lock (flock) on it from its creation
to the rename, and the operating system releases the lock when the process ends: no process writes a temporary file that
can be locked, and the next save of the same file removes it.
"""

import contextlib
import functools
import os
import re
import secrets
import stat
from collections.abc import Callable
from typing import IO

try:
    import fcntl
except ImportError:     # Windows: stale temporary files remain
    fcntl = None        # type: ignore[assignment]

_SUFFIX = ".fastopt.tmp"


def replace(path: str, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with a new file in the folder of `path`, flush that file to disk and rename it to `path`."""
    path = os.path.realpath(path)
    mode = None
    with contextlib.suppress(FileNotFoundError):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"path: expected a regular file or a new name, got {path!r}")
        mode = stat.S_IMODE(status.st_mode)
    folder, name = os.path.split(path)
    prefix = f".{name[:40]}."
    _remove_stale(folder, prefix)
    while not _replaced(path, os.path.join(folder, f"{prefix}{secrets.token_hex(8)}{_SUFFIX}"), mode, write):
        pass
    if hasattr(os, "O_DIRECTORY"):
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except PermissionError:     # the folder is writable but not readable; the file has been replaced all the same
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replaced(path: str, temporary: str, mode: int | None, write: Callable[[IO[bytes]], object]) -> bool:
    """Write `temporary` and rename it to `path`; False if another save took it for a stale file and removed it."""
    # While it is written, a file that replaces another can be read by the owner alone. Without Python code between
    # os.open and the file object, an interrupt cannot lose the descriptor.
    opener = functools.partial(os.open, mode=0o666 if mode is None else 0o600)
    try:
        with open(temporary, "xb", opener=opener) as file:
            if not _lock(file, temporary):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                return False
            write(file)
            file.flush()
            if mode is not None:
                os.chmod(temporary, mode)
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()        # Windows does not rename open files
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return True


def _lock(file: IO[bytes], path: str) -> bool:
    """Lock the new file `path`; False if another save locked it first, in order to remove it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:     # a file system without locks, where no save can lock and remove the file either
        return True


def _remove_stale(folder: str, prefix: str) -> None:
    """Remove the temporary files that killed saves left: those with this prefix that no process has locked."""
    if fcntl is None:
        return
    own = re.compile(re.escape(prefix) + "[0-9a-f]{16}" + re.escape(_SUFFIX))
    with contextlib.suppress(PermissionError):      # the folder is writable but not readable
        for name in filter(own.fullmatch, os.listdir(folder)):
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError), open(path, "r+b") as file:     # locked, removed by now, or another's
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
