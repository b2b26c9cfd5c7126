"""State on disk: nested dicts of arrays and numbers in one file, replaced atomically, without pickle.

A file holds the arrays under readable names (`state.W1.m`) and, as JSON, the nested dicts that refer to them::

    {"version": 2, "root": node, "crc32": number}
    node:  null, true, 3, 0.5, "text"  |  {"float": "nan"}  |  {"array": [name, number]}  |  {"dict": [[key, node], …]}
    key:   3  |  "text"  |  ["text", 3, …], which is a tuple

The numbers are CRC-32 checksums: of the array's dtype, shape and bytes, and of the JSON itself without the entry crc32.
Files of version 1, with nodes {"array": name} and no checksums, are read as well.
"""

import json
import math
import os
import re
import reprlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np

from fastopt import _state_formats as formats
from fastopt._atomic_file import replace
from fastopt._runtime.arrays import is_masked
from fastopt._typing import StateDict

_MAX_DEPTH = 64
_CHECKSUM = "crc32"

_Path: TypeAlias = str | os.PathLike[str]
_Format = TypeVar("_Format")


def save_state(path: _Path, state: Mapping[Any, Any]) -> None:
    """Write a state to a file atomically: after a crash the file holds the old state or the whole new one.

    Parameters
    ----------
    path : str or path
        Ends in ``.npz`` or ``.safetensors`` (which needs the safetensors package: ``pip install "fastopt[state]"``).
    state : dict
        What ``state_dict()`` returns, or any nested dicts whose keys are str, int or tuples of these, and whose values
        are NumPy arrays (bool, integers, float16, float32, float64), numbers, bools, None or strings. `load_state`
        restores bits, shapes and types, except that NumPy scalars become Python's and arrays become C-contiguous.

    Raises
    ------
    TypeError, ValueError
        The state holds anything else, the path has another ending or is not a regular file. Nothing has been written.
    OSError
        From the file system; an existing file is unchanged. Only if the last step fails, which flushes the folder to
        disk, the file has been replaced.
    ImportError
        For a .safetensors file without the safetensors package.

    Notes
    -----
    The state is written to a hidden file ``.NAME.….fastopt.tmp`` in the same folder, flushed to disk and renamed. If
    the process is killed in between, that file remains until the next save to the same path, which removes it (on
    Windows it remains). The permissions of a replaced file are kept; while it is written, the new one can be read by
    its owner alone. Its owner and group are those of a file that the process creates. If the path is a symbolic link,
    its target is replaced; other hard links to a replaced file keep the old state.

    The file holds a CRC-32 checksum of each array and of everything else that `load_state` uses. A state whose arrays
    another thread changes during the call gives a file that is refused as damaged.
    """
    path = _text(path)
    write = _by_suffix(path, formats.write_npz, formats.write_safetensors)
    if not isinstance(state, Mapping):
        raise TypeError(f"state: expected a dict, got {type(state).__name__}")
    arrays: formats.Arrays = {}
    root = _encode(state, (), arrays, {"__metadata__"})
    content = {"version": 2, "root": root}
    structure = json.dumps({**content, _CHECKSUM: _json_checksum(content)})
    replace(path, lambda file: write(file, structure, arrays))


def load_state(path: _Path) -> StateDict:
    """Read a file that `save_state` wrote.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    dict
        The state; its arrays are writable and share no memory.

    Raises
    ------
    ValueError
        The file is truncated, damaged, or not written by `save_state`. Every flipped bit that would change the state
        is detected by the checksums. Sizes stated in the file are checked against the file's size before memory is
        allocated.
    OSError
        From the file system.
    ImportError
        For a .safetensors file without the safetensors package.
    MemoryError
        The state does not fit into memory.

    Notes
    -----
    Files of version 1, which have no checksums of their own, are read as well: in a .safetensors file of that version a
    flipped bit is not detected.
    """
    path = _text(path)
    read = _by_suffix(path, formats.read_npz, formats.read_safetensors)
    with open(path, "rb") as file:
        try:
            return read(file, path, _decode)
        except (OSError, ImportError, MemoryError):
            raise
        except Exception as error:  # the zip, npy, safetensors and JSON readers raise many types for damaged bytes
            raise ValueError(f"{path}: expected an undamaged file written by fastopt.save_state, got "
                             f"{type(error).__name__}: {str(error)[:200]}") from error


def _text(path: _Path) -> str:
    try:
        return os.fsdecode(path)
    except TypeError:
        raise TypeError(f"path: expected a str, bytes or os.PathLike, got {type(path).__name__}") from None


def _by_suffix(path: str, npz: _Format, safetensors: _Format) -> _Format:
    suffix = os.path.splitext(path)[1]
    if suffix == ".npz":
        return npz
    if suffix == ".safetensors":
        formats.safetensors_package(path)
        return safetensors
    raise ValueError(f"path: expected a name that ends in .npz or .safetensors, got {reprlib.repr(path)}")


def _encode(value: object, keys: tuple[Any, ...], arrays: formats.Arrays, taken: set[str]) -> object:
    """The JSON node of the `value` under `keys`; adds its arrays to `arrays` and their names to `taken`."""
    where = "state" + "".join(f"[{key!r}]" for key in keys)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.generic) and value.dtype in formats.DTYPES:
        return _encode(value.item(), keys, arrays, taken)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, np.ndarray):
        if is_masked(value) or value.dtype not in formats.DTYPES:
            raise TypeError(f"{where}: expected an array of bool, integers or float16, float32, float64 in native byte "
                            f"order, got {type(value).__name__} of {value.dtype}")
        name = _name(keys, taken)
        arrays[name] = array = np.asarray(value, order="C")
        return {"array": [name, _array_checksum(array)]}
    if isinstance(value, Mapping):
        if len(keys) >= _MAX_DEPTH:
            raise ValueError(f"state: expected at most {_MAX_DEPTH} levels of dicts, got more at {where[:200]}…")
        for key in value:
            if not _is_key(key, tuple):
                raise TypeError(f"{where}: expected str or int keys, or tuples of these, got {key!r}")
        return {"dict": [[key, _encode(entry, (*keys, key), arrays, taken)] for key, entry in value.items()]}
    raise TypeError(f"{where}: expected a dict, array, number, bool, str or None, got {type(value).__name__}")


def _is_key(key: object, path: type) -> bool:
    """Whether it can be a key of a dict: a str, an int, or a `path` (tuple or list) of these."""
    parts: Any = key if isinstance(key, path) else [key]
    return len(parts) > 0 and all(isinstance(part, (str, int)) and not isinstance(part, bool) for part in parts)


def _name(keys: tuple[Any, ...], taken: set[str]) -> str:
    """A unique readable name: the keys joined by dots, with characters unsuitable for file names replaced."""
    parts = [part for key in keys for part in (key if isinstance(key, tuple) else [key])]
    first = name = re.sub(r"[^\w.+-]", "_", ".".join(map(str, parts)))[:200] or "_"
    number = 1
    while name in taken:
        number += 1
        name = f"{first}~{number}"
    taken.add(name)
    return name


def _decode(text: str | bytes, take: Callable[[str], np.ndarray]) -> StateDict:
    """The state whose JSON structure is `text`; `take(name)` returns an array, and fails the second time."""
    content = json.loads(text)
    version = content.get("version") if isinstance(content, dict) else None
    if version not in (1, 2):
        raise ValueError("the structure has another version")
    if version == 2 and content.pop(_CHECKSUM) != _json_checksum(content):
        raise ValueError("the structure is damaged: its CRC-32 differs")

    def checked(name: str, checksum: int) -> np.ndarray:
        array = take(name)
        if _array_checksum(array) != checksum:
            raise ValueError(f"the array {name} is damaged: its CRC-32 differs")
        return array

    def value(node: Any) -> Any:
        if not isinstance(node, dict):
            if isinstance(node, list):
                raise ValueError("the structure holds a list")
            return node
        ((kind, content),) = node.items()
        if kind == "array":
            return take(content) if version == 1 else checked(*content)
        if kind == "float":
            return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[content]
        if kind != "dict" or not all(_is_key(key, list) for key, _ in content):
            raise ValueError(f"the structure holds {kind!r}")
        return {tuple(key) if isinstance(key, list) else key: value(entry) for key, entry in content}

    state = value(content["root"])
    if not isinstance(state, dict):
        raise ValueError("the state is not a dict")
    return state


def _json_checksum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, allow_nan=False).encode())


def _array_checksum(array: np.ndarray) -> int:
    """The CRC-32 of a text such as "float32 (3, 4)" followed by the array's bytes."""
    return zlib.crc32(formats.memory(array).data, zlib.crc32(f"{array.dtype} {array.shape}".encode()))
