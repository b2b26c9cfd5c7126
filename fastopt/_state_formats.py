"""The formats of state files: named arrays and a text, the structure, in one file.

.npz: a zip archive of .npy members, not compressed, with the structure as the member structure.json; .safetensors: the
structure is the metadata entry fastopt_state.
"""

import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import IO, Any, TypeAlias, cast

import numpy as np

from fastopt._typing import StateDict

DTYPES = frozenset(map(np.dtype, (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")))
"""The types of arrays that a state may hold."""

Arrays: TypeAlias = dict[str, np.ndarray]
Decode: TypeAlias = Callable[[str | bytes, Callable[[str], np.ndarray]], StateDict]
"""Makes the state of the structure and a function that returns the array of a name and fails the second time."""

_STRUCTURE = "structure.json"
_METADATA = "fastopt_state"


def memory(array: np.ndarray) -> np.ndarray:
    """The bytes of a C-contiguous array, as an array that shares its memory."""
    return array.reshape(-1).view(np.uint8)


# .npz


def write_npz(file: IO[bytes], structure: str, arrays: Arrays) -> None:
    """Write a zip archive of stored members, all with the 64-bit sizes of zip64.

    Not with zipfile.ZipFile, whose closing after an interrupt may fail with a ValueError that hides the interrupt.
    """
    count, directory = 1, _write_member(file, _STRUCTURE, [structure.encode()])
    for name, array in arrays.items():
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
        directory += _write_member(file, name + ".npy", [header.getvalue(), memory(array).data])
        count += 1
    start = file.tell()
    size = len(directory)
    file.write(directory)
    file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start))
    file.write(struct.pack("<4sLQL", b"PK\6\7", 0, start + size, 1))
    file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))


def _write_member(file: IO[bytes], name: str, parts: Iterable[bytes | memoryview]) -> bytes:
    """Write one member of a zip archive and return its entry for the central directory."""
    offset, size, crc, encoded = file.tell(), 0, 0, name.encode()
    for part in parts:
        size, crc = size + len(part), zlib.crc32(part, crc)
    # Version 4.5; flag 11: the name is UTF-8; not compressed; 1 January 1980, so that equal states give equal files.
    common = struct.pack("<5H3L", 45, 1 << 11, 0, 0, 1 << 5 | 1, crc, 0xFFFFFFFF, 0xFFFFFFFF)
    file.write(b"PK\3\4" + common + struct.pack("<2H", len(encoded), 20) + encoded)
    file.write(struct.pack("<2H2Q", 1, 16, size, size))
    for part in parts:
        file.write(part)
    return (b"PK\1\2" + struct.pack("<H", 45) + common
            + struct.pack("<5H2L", len(encoded), 28, 0, 0, 0, 0o600 << 16, 0xFFFFFFFF) + encoded
            + struct.pack("<2H3Q", 1, 24, size, size, offset))


class _Bounded:
    """A file whose read() never allocates more memory than the bytes left in the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        self.tell = file.tell

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = {os.SEEK_SET: 0, os.SEEK_CUR: self.file.tell(), os.SEEK_END: self.size}[whence] + offset
        if not 0 <= position <= self.size:
            raise ValueError("an offset lies outside the file")
        return self.file.seek(position)

    def read(self, size: int | None = -1) -> bytes:
        left = max(self.size - self.file.tell(), 0)
        return self.file.read(left if size is None or size < 0 else min(size, left))

    @staticmethod
    def seekable() -> bool:
        return True


def read_npz(file: IO[bytes], path: str, decode: Decode) -> StateDict:
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
        return decode(archive.read(members.pop(_STRUCTURE)),
                      lambda name: _read_npy(archive, members.pop(name + ".npy")))


def _read_npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with cast(io.BufferedIOBase, archive.open(info)) as member:
        if np.lib.format.read_magic(member) != (1, 0):
            raise ValueError("an array has another version of the npy format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        expected = math.prod(shape) * dtype.itemsize
        if dtype not in DTYPES or fortran or min(shape, default=0) < 0 or expected != info.file_size - member.tell():
            raise ValueError(f"an array of {dtype} {shape} has {info.file_size} bytes")
        array = np.empty(shape, dtype)
        unread = memory(array).data
        while unread and (count := member.readinto(unread)):
            unread = unread[count:]
        if unread or member.read(1):
            raise ValueError("an array is shorter or longer than its header says")
    return array


# .safetensors


def safetensors_package(path: str) -> ModuleType:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(f'{path}: expected the package safetensors to be installed: pip install "fastopt[state]", or '
                          "use a .npz file") from None
    return safetensors


def write_safetensors(file: IO[bytes], structure: str, arrays: Arrays) -> None:
    # Not save_file, which since 0.8 writes a temporary file and renames it.
    file.write(safetensors_package(file.name).numpy.save(arrays, metadata={_METADATA: structure}))


def read_safetensors(file: IO[bytes], path: str, decode: Decode) -> StateDict:
    # The package memory-maps the file and checks every offset in the header against its size before it returns arrays.
    with safetensors_package(path).safe_open(path, framework="numpy") as content:
        metadata = content.metadata() or {}
        names = set(content.keys())
        return decode(metadata[_METADATA], lambda name: _take(content, names, name))


def _take(content: Any, names: set[str], name: str) -> np.ndarray:
    names.remove(name)
    array = content.get_tensor(name)
    if array.dtype not in DTYPES:
        raise ValueError(f"an array has dtype {array.dtype}")
    return array if array.flags.writeable else array.copy()
