"""State on disk: nested dicts of arrays and numbers in one file, written whole or not at all, never unpickled.

A file holds the arrays under readable names (`state.W1.m`) and, as JSON, the structure they stand in::

    {"version": 1, "root": node}
    node:  null, true, 3, 0.5, "text"  |  {"float": "nan"}  |  {"array": name}  |  {"dict": [[key, node], …]}

.npz: a zip archive of .npy members with the JSON as the member structure.json; .safetensors: the JSON is the metadata
entry fastopt_state.
"""

import contextlib
import json
import math
import os
import re
import secrets
import stat
import zipfile
from collections.abc import Mapping

import numpy as np

_DTYPES = frozenset(map(np.dtype, (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")))
_MOST_LEVELS = 64
_STRUCTURE = "structure.json"
_METADATA = "fastopt_state"


def save_state(path, state):
    """Write a state to a file: the old file or the whole new one is there, whatever happens meanwhile.

    Parameters
    ----------
    path : str or path
        Ends in ``.npz`` or ``.safetensors`` (which needs the safetensors package: ``pip install "fastopt[state]"``).
    state : dict
        What ``state_dict()`` returns, or any nested dicts with str or int keys of NumPy arrays (bool, integers,
        float16, float32, float64), numbers, bools, None and strings. Bits, shapes and types come back; NumPy's scalars
        come back as Python's, and an array's memory layout as C order.

    Raises
    ------
    TypeError, ValueError
        For anything else in the state, another ending, or a path that is not a regular file. Nothing has been written.
    OSError
        From the file system; the file is as it was before.
    ImportError
        Without the safetensors package, for a .safetensors file.

    Notes
    -----
    Written to a hidden file ``.NAME.….tmp`` in the same folder, flushed to the disk and renamed. Should the process be
    killed meanwhile, that file stays and may be deleted. A file that is replaced keeps its permissions; of a symbolic
    link the target is replaced.
    """
    path = os.fsdecode(path)
    write = _by_suffix(path, _write_npz, _write_safetensors)
    if not isinstance(state, Mapping):
        raise TypeError(f"state: expected a dict, got {type(state).__name__}")
    arrays = {}
    root = _encode(state, (), arrays, {"__metadata__"})
    structure = json.dumps({"version": 1, "root": root}, allow_nan=False)
    _replace(path, lambda file: write(file, structure, arrays))


def load_state(path):
    """Read a file that `save_state` wrote.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    dict
        The state; its arrays are writable and belong to it alone.

    Raises
    ------
    ValueError
        For a file that is truncated, damaged, or another program's. Sizes that a file claims are compared with its own
        size before memory is asked for.
    OSError
        From the file system.
    ImportError
        Without the safetensors package, for a .safetensors file.
    """
    path = os.fsdecode(path)
    read = _by_suffix(path, _read_npz, _read_safetensors)
    with open(path, "rb") as file:
        try:
            return read(file, path)
        except (OSError, ImportError):
            raise
        except Exception as error:  # whatever the zip, npy, safetensors and JSON readers make of strange bytes
            raise ValueError(f"{path}: expected a whole file written by fastopt.save_state, got one that is not "
                             f"({type(error).__name__}: {str(error)[:200]})") from error


def _by_suffix(path, npz, safetensors):
    suffix = os.path.splitext(path)[1]
    if suffix == ".npz":
        return npz
    if suffix == ".safetensors":
        _safetensors(path)
        return safetensors
    raise ValueError(f"path: expected a name that ends in .npz or .safetensors, got {path!r}")


def _encode(value, place, arrays, taken):
    """The JSON node of `value`; the arrays met are put into `arrays` by name."""
    where = "state" + "".join(f"[{key!r}]" for key in place)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.generic) and value.dtype in _DTYPES:
        value = value.item()
        return _encode(value, place, arrays, taken)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, np.ndarray):
        if isinstance(value, np.ma.MaskedArray) or value.dtype not in _DTYPES:
            raise TypeError(f"{where}: expected an array of bool, integers or float16, float32, float64 in native byte "
                            f"order, got {type(value).__name__} of {value.dtype}")
        name = _name(place, taken)
        arrays[name] = np.asarray(value, order="C")
        return {"array": name}
    if isinstance(value, Mapping):
        if len(place) >= _MOST_LEVELS:
            raise ValueError(f"state: expected at most {_MOST_LEVELS} levels of dicts, got more at {where[:200]}…")
        for key in value:
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise TypeError(f"{where}: expected str or int keys, got {key!r}")
        return {"dict": [[key, _encode(entry, (*place, key), arrays, taken)] for key, entry in value.items()]}
    raise TypeError(f"{where}: expected a dict, array, number, bool, str or None, got {type(value).__name__}")


def _name(place, taken):
    """A readable name that no other array has: the keys on the way with what is awkward in a file name replaced."""
    first = name = re.sub(r"[^\w.+-]", "_", ".".join(map(str, place)))[:200] or "_"
    number = 1
    while name in taken:
        number += 1
        name = f"{first}~{number}"
    taken.add(name)
    return name


def _decode(text, take):
    """The state whose structure is `text`; `take(name)` gives each array, once."""

    def value(node):
        if not isinstance(node, dict):
            if isinstance(node, list):
                raise ValueError("a list in the structure")
            return node
        ((kind, content),) = node.items()
        if kind == "array":
            return take(content)
        if kind == "float":
            return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[content]
        if kind != "dict" or not all(isinstance(key, (str, int)) for key, _ in content):
            raise ValueError(f"{kind!r} in the structure")
        return {key: value(entry) for key, entry in content}

    content = json.loads(text)
    if not isinstance(content, dict) or content.get("version") != 1:
        raise ValueError("a structure of another version")
    state = value(content["root"])
    if not isinstance(state, dict):
        raise ValueError("a state that is no dict")
    return state


def _replace(path, write):
    """Have `write(file)` fill a new file beside `path`, and put it in its place once it is on the disk."""
    path = os.path.realpath(path)
    mode = None
    with contextlib.suppress(FileNotFoundError):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"path: expected a regular file or none, got {path!r}")
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
        except PermissionError:     # a folder that may be written but not listed; the new file is in its place
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_npz(file, structure, arrays):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(_STRUCTURE), structure)
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)


class _Bounded:
    """A file whose read() never asks for more memory than the file has bytes left."""

    def __init__(self, file):
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        self.tell = file.tell

    def seek(self, offset, whence=os.SEEK_SET):
        if {os.SEEK_SET: 0, os.SEEK_CUR: self.file.tell(), os.SEEK_END: self.size}[whence] + offset < 0:
            raise ValueError("an offset before the beginning of the file")
        return self.file.seek(offset, whence)

    def read(self, size=-1):
        left = max(self.size - self.file.tell(), 0)
        return self.file.read(left if size is None or size < 0 else min(size, left))

    @staticmethod
    def seekable():
        return True


def _read_npz(file, path):
    file = _Bounded(file)
    file.seek(max(file.size - 22, 0))
    ending = file.read()
    if not ending.startswith(b"PK\5\6") or not ending.endswith(b"\0\0"):
        raise ValueError("no end of a zip archive at the end of the file")
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        sizes = [member.file_size for member in members.values()]
        if sum(sizes) > file.size or sizes != [member.compress_size for member in members.values()]:
            raise ValueError(f"members of {sum(sizes)} bytes, or compressed ones, in a file of {file.size} bytes")
        if min((member.header_offset for member in members.values()), default=0) != 0:
            raise ValueError("an archive behind other bytes")  # such as one that was held in an array, cut behind it
        return _decode(archive.read(members.pop(_STRUCTURE)),
                       lambda name: _read_npy(archive, members.pop(name + ".npy")))


def _read_npy(archive, info):
    with archive.open(info) as member:
        if np.lib.format.read_magic(member) != (1, 0):
            raise ValueError("an array of another version of the npy format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        expected = math.prod(shape) * dtype.itemsize
        if dtype not in _DTYPES or fortran or min(shape, default=0) < 0 or expected != info.file_size - member.tell():
            raise ValueError(f"an array of {dtype} {shape} in {info.file_size} bytes")
        array = np.empty(shape, dtype)
        room = memoryview(array.reshape(-1).view(np.uint8))
        while room and (count := member.readinto(room)):
            room = room[count:]
        if room or member.read(1):
            raise ValueError("an array shorter or longer than its header says")
    return array


def _safetensors(path):
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(f'{path}: .safetensors files need a package: pip install "fastopt[state]"; '
                          ".npz files need none") from None
    return safetensors


def _write_safetensors(file, structure, arrays):
    # Not save_file: since 0.8 it writes to a file of its own and renames that.
    file.write(_safetensors(file.name).numpy.save(arrays, metadata={_METADATA: structure}))


def _read_safetensors(file, path):
    # The package maps the file and compares every offset of the header with its size before it gives out an array.
    with _safetensors(path).safe_open(path, framework="numpy") as content:
        metadata = content.metadata() or {}
        names = set(content.keys())
        return _decode(metadata[_METADATA], lambda name: _take(content, names, name))


def _take(content, names, name):
    names.remove(name)
    array = content.get_tensor(name)
    if array.dtype not in _DTYPES:
        raise ValueError(f"an array of {array.dtype}")
    return array if array.flags.writeable else array.copy()
