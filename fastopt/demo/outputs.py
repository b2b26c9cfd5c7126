"""Files and folders that a command is going to write, checked before it works for them."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from fastopt.demo.arguments import Refused


def check_file(option: str, name: str, suffixes: Collection[str]) -> None:
    """Raise Refused unless the file can be written. Its content, if there is one, stays as it is."""
    path = Path(name)
    if path.suffix.lower() not in suffixes:
        raise Refused(f"argument {option}: expected a name that ends in one of {', '.join(sorted(suffixes))}, got "
                      f"{path.name!r}")
    try:
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise Refused(f"argument {option}: expected a file in an existing folder, got {name!r}")
        existed = path.exists()
        path.open("ab").close()
    except OSError as error:
        raise Refused(f"argument {option}: expected a writable file, got {name!r}: {error.strerror}") from None
    if not existed:
        path.unlink()


def check_folder(option: str, name: str) -> None:
    """Raise Refused unless files can be written to the folder, or it can be created. It is not created."""
    path = Path(name).absolute()
    try:
        folder = path if path.exists() else path.parent
        if not folder.is_dir():
            raise Refused(f"argument {option}: expected a folder, or a new name in an existing one, got {name!r}")
    except OSError as error:
        raise Refused(f"argument {option}: expected a folder, got {name!r}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Refused(f"argument {option}: expected a folder that can be written, got {name!r}")
