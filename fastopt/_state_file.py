"""State on disk: nested dicts of arrays and numbers in one file, replaced atomically, without pickle.

A file holds the arrays under readable names (`state.W1.m`) and, as JSON, the nested dicts that refer to them::

    {"version": 1, "root": node}
    node:  null, true, 3, 0.5, "text"  |  {"float": "nan"}  |  {"array": name}  |  {"dict": [[key, node], …]}

.npz: a zip archive of .npy members with the JSON as the member structure.json; .safetensors: the JSON is the metadata
entry fastopt_state.
"""

import contextlib
import io
import json
import math
import os
import re
import secrets
import stat
import zipfile
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import IO, Any, TypeAlias, TypeVar, cast

import numpy as np

from fastopt._typing import StateDict

_DTYPES = frozenset(map(np.dtype, (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")))
_MAX_DEPTH = 64
_STRUCTURE = "structure.json"
_METADATA = "fastopt_state"

_Path: TypeAlias = str | os.PathLike[str]
_Arrays: TypeAlias = dict[str, np.ndarray]
_Format = TypeVar("_Format")


def save_state(path: _Path, state: Mapping[Any, Any]) -> None:
    """Write a state to a file atomically: after a crash the file holds the old state or the whole new one.

    Parameters
    ----------
    path : str or path
        Ends in ``.npz`` or ``.safetensors`` (which needs the safetensors package: ``pip install "fastopt[state]"``).
    state : dict
        What ``state_dict()`` returns, or any nested dicts with str or int keys whose values are NumPy arrays (bool,
        integers, float16, float32, float64), numbers, bools, None or strings. `load_state` restores bits, shapes and
        types, except that NumPy scalars become Python's and arrays become C-contiguous.

    Raises
    ------
    TypeError, ValueError
        The state holds anything else, the path has another ending or is not a regular file. Nothing has been written.
    OSError
        From the file system; an existing file is unchanged.
    ImportError
        For a .safetensors file without the safetensors package.

    Notes
    -----
    The state is written to a hidden file ``.NAME.….tmp`` in the same folder, flushed to disk and renamed. If the
    process is killed in between, that file remains and can be deleted. The permissions of a replaced file are kept;
    if the path is a symbolic link, its target is replaced.
    """
    path = os.fsdecode(path)
    write = _by_suffix(path, _write_npz, _write_safetensors)
    if not isinstance(state, Mapping):
        raise TypeError(f"state: expected a dict, got {type(state).__name__}")
    arrays: _Arrays = {}
    root = _encode(state, (), arrays, {"__metadata__"})
    structure = json.dumps({"version": 1, "root": root}, allow_nan=False)
    _replace(path, lambda file: write(file, structure, arrays))


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
        The file is truncated, damaged, or not written by `save_state`. Sizes stated in the file are checked against the
        file's size before memory is allocated.
    OSError
        From the file system.
    ImportError
        For a .safetensors file without the safetensors package.
    """
    path = os.fsdecode(path)
    read = _by_suffix(path, _read_npz, _read_safetensors)
    with open(path, "rb") as file:
        try:
            return read(file, path)
        except (OSError, ImportError):
            raise
        except Exception as error:  # the zip, npy, safetensors and JSON readers raise many types for damaged bytes
            raise ValueError(f"{path}: expected an undamaged file written by fastopt.save_state, got "
                             f"{type(error).__name__}: {str(error)[:200]}") from error


def _by_suffix(path: str, npz: _Format, safetensors: _Format) -> _Format:
    suffix = os.path.splitext(path)[1]
    if suffix == ".npz":
        return npz
    if suffix == ".safetensors":
        _safetensors(path)
        return safetensors
    raise ValueError(f"path: expected a name that ends in .npz or .safetensors, got {path!r}")


def _encode(value: object, keys: tuple[str | int, ...], arrays: _Arrays, taken: set[str]) -> object:
    """The JSON node of the `value` under `keys`; adds its arrays to `arrays` and their names to `taken`."""
    where = "state" + "".join(f"[{key!r}]" for key in keys)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.generic) and value.dtype in _DTYPES:
        return _encode(value.item(), keys, arrays, taken)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, np.ndarray):
        if isinstance(value, np.ma.MaskedArray) or value.dtype not in _DTYPES:
            raise TypeError(f"{where}: expected an array of bool, integers or float16, float32, float64 in native byte "
                            f"order, got {type(value).__name__} of {value.dtype}")
        name = _name(keys, taken)
        arrays[name] = np.asarray(value, order="C")
        return {"array": name}
    if isinstance(value, Mapping):
        if len(keys) >= _MAX_DEPTH:
            raise ValueError(f"state: expected at most {_MAX_DEPTH} levels of dicts, got more at {where[:200]}…")
        for key in value:
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise TypeError(f"{where}: expected str or int keys, got {key!r}")
        return {"dict": [[key, _encode(entry, (*keys, key), arrays, taken)] for key, entry in value.items()]}
    raise TypeError(f"{where}: expected a dict, array, number, bool, str or None, got {type(value).__name__}")


def _name(keys: tuple[str | int, ...], taken: set[str]) -> str:
    """A unique readable name: the keys joined by dots, with characters unsuitable for file names replaced."""
    first = name = re.sub(r"[^\w.+-]", "_", ".".join(map(str, keys)))[:200] or "_"
    number = 1
    while name in taken:
        number += 1
        name = f"{first}~{number}"
    taken.add(name)
    return name


def _decode(text: str | bytes, take: Callable[[str], np.ndarray]) -> StateDict:
    """The state whose JSON structure is `text`; `take(name)` returns an array, and fails the second time."""

    def value(node: Any) -> Any:
        if not isinstance(node, dict):
            if isinstance(node, list):
                raise ValueError("the structure holds a list")
            return node
        ((kind, content),) = node.items()
        if kind == "array":
            return take(content)
        if kind == "float":
            return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[content]
        if kind != "dict" or not all(isinstance(key, (str, int)) for key, _ in content):
            raise ValueError(f"the structure holds {kind!r}")
        return {key: value(entry) for key, entry in content}

    content = json.loads(text)
    if not isinstance(content, dict) or content.get("version") != 1:
        raise ValueError("the structure has another version")
    state = value(content["root"])
    if not isinstance(state, dict):
        raise ValueError("the state is not a dict")
    return state


def _replace(path: str, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with a new file in the folder of `path`, flush that file to disk and rename it to `path`."""
    path = os.path.realpath(path)
    mode = None
    with contextlib.suppress(FileNotFoundError):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"path: expected a regular file or a new name, got {path!r}")
        mode = stat.S_IMODE(status.st_mode)
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name[:40]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            if mode is not None:
                os.chmod(temporary, mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if hasattr(os, "O_DIRECTORY"):
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except PermissionError:     # the folder is writable but not readable; the file has been replaced all the same
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_npz(file: IO[bytes], structure: str, arrays: _Arrays) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(_STRUCTURE), structure)
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)


class _Bounded:
    """A file whose read() never allocates more memory than the bytes left in the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        self.tell = file.tell

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if {os.SEEK_SET: 0, os.SEEK_CUR: self.file.tell(), os.SEEK_END: self.size}[whence] + offset < 0:
            raise ValueError("an offset lies before the start of the file")
        return self.file.seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        left = max(self.size - self.file.tell(), 0)
        return self.file.read(left if size is None or size < 0 else min(size, left))

    @staticmethod
    def seekable() -> bool:
        return True


def _read_npz(file: IO[bytes], path: str) -> StateDict:
    bounded = _Bounded(file)
    bounded.seek(max(bounded.size - 22, 0))
    ending = bounded.read()
    if not ending.startswith(b"PK\5\6") or not ending.endswith(b"\0\0"):
        raise ValueError("the file does not end with the end record of a zip archive")
    with zipfile.ZipFile(bounded) as archive:
        members = {member.filename: member for member in archive.infolist()}
        sizes = [member.file_size for member in members.values()]
        if sum(sizes) > bounded.size or sizes != [member.compress_size for member in members.values()]:
            raise ValueError(f"{sum(sizes)} bytes of members, or compressed ones, in a file of {bounded.size} bytes")
        if min((member.header_offset for member in members.values()), default=0) != 0:
            # An array may hold the bytes of another file; truncated after it, the file ends with that one's archive.
            raise ValueError("the archive does not start at the start of the file")
        return _decode(archive.read(members.pop(_STRUCTURE)),
                       lambda name: _read_npy(archive, members.pop(name + ".npy")))


def _read_npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with cast(io.BufferedIOBase, archive.open(info)) as member:
        if np.lib.format.read_magic(member) != (1, 0):
            raise ValueError("an array has another version of the npy format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        expected = math.prod(shape) * dtype.itemsize
        if dtype not in _DTYPES or fortran or min(shape, default=0) < 0 or expected != info.file_size - member.tell():
            raise ValueError(f"an array of {dtype} {shape} has {info.file_size} bytes")
        array = np.empty(shape, dtype)
        unread = array.reshape(-1).view(np.uint8).data
        while unread and (count := member.readinto(unread)):
            unread = unread[count:]
        if unread or member.read(1):
            raise ValueError("an array is shorter or longer than its header says")
    return array


def _safetensors(path: str) -> ModuleType:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(f'{path}: expected the package safetensors to be installed: pip install "fastopt[state]", or '
                          "use a .npz file") from None
    return safetensors


def _write_safetensors(file: IO[bytes], structure: str, arrays: _Arrays) -> None:
    # Not save_file, which since 0.8 writes a temporary file and renames it.
    file.write(_safetensors(file.name).numpy.save(arrays, metadata={_METADATA: structure}))


def _read_safetensors(file: IO[bytes], path: str) -> StateDict:
    # The package memory-maps the file and checks every offset in the header against its size before it returns arrays.
    with _safetensors(path).safe_open(path, framework="numpy") as content:
        metadata = content.metadata() or {}
        names = set(content.keys())
        return _decode(metadata[_METADATA], lambda name: _take(content, names, name))


def _take(content: Any, names: set[str], name: str) -> np.ndarray:
    names.remove(name)
    array = content.get_tensor(name)
    if array.dtype not in _DTYPES:
        raise ValueError(f"an array has dtype {array.dtype}")
    return array if array.flags.writeable else array.copy()
