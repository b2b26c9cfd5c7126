"""Damaged and hostile state files: load_state reads them or raises ValueError, and does no harm."""

import importlib.util
import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import saves
from helpers import run
from states import SAFETENSORS, assert_same

import fastopt


@pytest.fixture(params=[".npz", SAFETENSORS])
def path(request, tmp_path):
    return tmp_path / f"state{request.param}"


def refused(path):
    with pytest.raises(ValueError, match="expected an undamaged file written by fastopt.save_state") as caught:
        fastopt.load_state(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


SMALL = {"step_count": 3, "state": {"w": {"m": np.arange(3, dtype=np.float32)}}}


def small(path):
    fastopt.save_state(path, SMALL)
    return path.read_bytes()


def test_truncation_at_every_byte(path):
    whole = small(path)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        refused(path)


def test_truncation_after_an_array_that_holds_a_whole_file(path):
    """The end record of the inner archive must not be taken for that of the outer one."""
    inner = small(path)
    fastopt.save_state(path, {"file": np.frombuffer(inner, np.uint8), "last": np.zeros(5, np.uint8)})
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(inner) + len(inner)])
    refused(path)


def test_every_damaged_byte(path):
    """Each byte set to other values: load_state raises ValueError or returns the same state."""
    whole = small(path)
    figures = saves.damage(path, SMALL, (
        whole[:position] + bytes([value]) + whole[position + 1 :]
        for position in range(len(whole)) for value in (0, 255, whole[position] ^ 1, whole[position] ^ 128)))
    assert figures["refused"] > len(whole)


@pytest.mark.parametrize("bits", [1, 3])
def test_flipped_bits(path, bits, rng):
    state = {"step_count": 2**40, "lr": 0.1, "state": {
        "w": {"m": rng.standard_normal((5, 7), dtype=np.float32), "v": np.ones(100)}, 0: {"m": np.arange(3)}}}
    fastopt.save_state(path, state)
    figures = saves.damage(path, state, saves.flipped(path.read_bytes(), 300, rng, bits))
    assert figures["refused"] > 200


def test_the_message_names_the_damaged_array(path):
    whole = small(path)
    data = SMALL["state"]["w"]["m"].tobytes()
    path.write_bytes(whole.replace(data, bytes([data[0] ^ 1]) + data[1:]))
    message = {".npz": r"Bad CRC-32 for file 'state\.w\.m\.npy'",
               ".safetensors": r"the array state\.w\.m is damaged: its CRC-32 differs"}[path.suffix]
    with pytest.raises(ValueError, match=message):
        fastopt.load_state(path)


@pytest.mark.parametrize(("old", "new"), [
    (b'"dtype":"F32"', b'"dtype":"I32"'), (b"[3,4]", b"[4,3]"), (b'"a":{', b'"c":{'),
    (rb'\"key\", 3', rb'\"key\", 7'), (rb'\"key\", 3', rb'\"kez\", 3'), (rb'\"array\": [\"a\"', rb'\"array\": [\"b\"'),
    (rb'\"version\": 2', rb'\"version\": 1'), (rb'\"version\": 2', rb'\"version\": 3'), (rb'\"crc32\"', rb'\"crc33\"'),
])
def test_checksums_cover_names_shapes_types_and_numbers(old, new, tmp_path):
    """The header of a .safetensors file is changed to another valid one."""
    pytest.importorskip("safetensors")
    path = tmp_path / "x.safetensors"
    fastopt.save_state(path, {"key": 3, "a": np.ones((3, 4), np.float32), "b": np.zeros((3, 4), np.float32)})
    whole = path.read_bytes()
    assert old in whole
    path.write_bytes(whole.replace(old, new))
    refused(path)


def test_files_of_version_1_have_no_checksums(tmp_path):
    """A .npz file: see test_the_foreign_files_are_refused_for_their_defects."""
    numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "x.safetensors"
    path.write_bytes(numpy.save({"a": np.ones(3)}, metadata={"fastopt_state": ONE}))
    assert_same(fastopt.load_state(path), {"a": np.ones(3)})


def test_random_bytes(path, rng):
    for size in (0, 1, 7, 8, 9, 21, 22, 23, 100, 1000):
        path.write_bytes(rng.bytes(size))
        refused(path)


class Explosive:
    def __reduce__(self):
        return os._exit, (3,)


def npz_with(members, **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def structure(root):
    return json.dumps({"version": 1, "root": root})


ONE = structure({"dict": [["a", {"array": "a"}]]})
FLOATS = npy(np.ones(3))
FOREIGN = {
    "pickle": pickle.dumps(Explosive()),
    "pickle in npz": npz_with({"structure.json": ONE, "a.npy": pickle.dumps(Explosive())}),
    "object array": npz_with({"structure.json": ONE, "a.npy": npy(np.array([Explosive()], object))}),
    "npy": FLOATS,
    "someone's npz": npz_with({"a.npy": FLOATS}),
    "compressed": npz_with({"structure.json": ONE, "a.npy": FLOATS}, compression=zipfile.ZIP_DEFLATED),
    "comment": npz_with({"structure.json": ONE, "a.npy": FLOATS}) + b"x",
    "no array": npz_with({"structure.json": ONE}),
    "longer array": npz_with({"structure.json": ONE, "a.npy": FLOATS + b"x"}),
    "shorter array": npz_with({"structure.json": ONE, "a.npy": FLOATS[:-1]}),
    "strings": npz_with({"structure.json": ONE, "a.npy": npy(np.array(["x"]))}),
    "big endian": npz_with({"structure.json": ONE, "a.npy": npy(np.ones(3, ">f4"))}),
    "Fortran": npz_with({"structure.json": ONE, "a.npy": npy(np.asfortranarray(np.ones((2, 3))))}),
    "npy 2.0": npz_with({"structure.json": ONE, "a.npy": npy(np.ones(3), version=(2, 0))}),
    "the same array twice": npz_with({"a.npy": FLOATS, "structure.json": structure(
        {"dict": [["a", {"array": "a"}], ["b", {"array": "a"}]]})}),
    "JSON": npz_with({"structure.json": "{"}),
    "JSON, another": npz_with({"structure.json": "[1, 2]"}),
    "JSON, not UTF-8": npz_with({"structure.json": b"\xff\xfe\xfd"}),
    "JSON, deep": npz_with({"structure.json": "[" * 200_000}),
    "JSON, deep dicts": npz_with({"structure.json": structure(None).replace(
        "null", '{"dict": [["a", ' * 20_000 + "null" + "]]}" * 20_000)}),
    "JSON, long integer": npz_with({"structure.json": structure({"dict": [["a", 5]]}).replace("5", "5" * 100_000)}),
    "version": npz_with({"structure.json": json.dumps({"version": 2, "root": {"dict": []}})}),
    **{f"root {root}": npz_with({"structure.json": structure(root)}) for root in (
        None, 3, [], {}, {"dict": None}, {"dict": [3]}, {"dict": [["a"]]}, {"dict": [[None, 3]]}, {"dict": [[[], 3]]},
        {"dict": [[[[]], 3]]}, {"dict": [[[None], 3]]}, {"float": "nan"}, {"dict": [["a", {"float": "1"}]]},
        {"dict": [["a", [1]]]}, {"dict": [["a", {"array": []}]]}, {"dict": [], "array": "a"}, {"other": 3},
        {"dict": [["a", {}]]})},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files(name, tmp_path):
    for path in (tmp_path / "x.npz", tmp_path / "x.safetensors"):
        if path.suffix == ".npz" or importlib.util.find_spec("safetensors"):
            path.write_bytes(FOREIGN[name])
            refused(path)


def test_the_foreign_files_are_refused_for_their_defects(tmp_path):
    """A file built in the same way without a defect is read."""
    path = tmp_path / "x.npz"
    path.write_bytes(npz_with({"structure.json": ONE, "a.npy": FLOATS}))
    assert_same(fastopt.load_state(path), {"a": np.ones(3)})


def test_one_array_named_twice(path):
    """In two places of the state: the arrays of what load_state returns share no memory."""
    twice = structure({"dict": [["a", {"array": "a"}], ["b", {"array": "a"}]]})
    if path.suffix == ".npz":
        path.write_bytes(npz_with({"structure.json": twice, "a.npy": FLOATS}))
    else:
        from safetensors.numpy import save
        path.write_bytes(save({"a": np.ones(3)}, metadata={"fastopt_state": twice}))
    refused(path)


def test_overlapping_members(tmp_path):
    """The array a holds the record of the member b, so that the members have more bytes than the file."""
    inner = npz_with({"b.npy": npy(np.ones(1000))})
    record = inner[: inner.index(b"PK\1\2")]
    with zipfile.ZipFile(io.BytesIO(inner)) as archive:
        info = archive.getinfo("b.npy")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("structure.json", structure({"dict": [["a", {"array": "a"}], ["b", {"array": "b"}]]}))
        archive.writestr("a.npy", npy(np.frombuffer(record, np.uint8)))
        info.header_offset = file.getvalue().index(record)
        archive.filelist.append(info)
    path = tmp_path / "x.npz"
    path.write_bytes(file.getvalue())
    with pytest.raises(ValueError, match="bytes of members"):
        fastopt.load_state(path)


def test_the_archive_is_one_that_others_read(tmp_path):
    """zipfile checks every member's CRC-32, and its names and sizes twice; NumPy reads the arrays."""
    path = tmp_path / "x.npz"
    arrays = {"µ": np.arange(6.0).reshape(2, 3), "empty": np.zeros((0, 4), np.int8), "scalar": np.array(True)}
    fastopt.save_state(path, arrays)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["structure.json", "µ.npy", "empty.npy", "scalar.npy"]
    with np.load(path) as file:
        for name, array in arrays.items():
            assert_same(file[name], array)


def test_lack_of_memory_is_not_called_damage(path):
    fastopt.save_state(path, {"a": np.zeros(2**23)})
    with saves.limited_memory(2**25), pytest.raises(MemoryError):
        fastopt.load_state(path)


def safetensors_with(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def forged_safetensors():
    metadata = {"fastopt_state": ONE}
    for shape, offsets in [([2**40], [0, 2**42]), ([2**40], [0, 12]), ([2**62, 4], [0, 0]), ([2**32, 2**32], [0, 0]),
                           ([3], [0, 2**63]), ([3], [-12, 0]), ([3], [12, 0])]:
        yield safetensors_with({"__metadata__": metadata,
                                "a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}, bytes(12))
    yield safetensors_with({"__metadata__": metadata, "a": {"dtype": "BF16", "shape": [6], "data_offsets": [0, 12]}},
                           bytes(12))
    for length in (2**30, 2**40, 2**63, 2**64 - 1):
        yield safetensors_with({"__metadata__": metadata}, length=length)
    yield safetensors_with({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}, bytes(12))
    yield safetensors_with({"__metadata__": {}})


def forged_npz():
    header = npy(np.ones(0, np.float32))
    for shape in ("(1099511627776,)", "(4294967296, 4294967296)", "(-1,)", "(0, 4611686018427387904, 8)",
                  "(" + "9" * 300 + ",)"):
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        text += " " * (-(len(text) + 11) % 64) + "\n"
        yield npz_with({"structure.json": ONE, "a.npy": header[:8] + struct.pack("<H", len(text)) + text.encode()})
    sound = npz_with({"structure.json": ONE, "a.npy": FLOATS})
    directory = sound.index(b"PK\1\2")
    member = sound.index(b"PK\1\2", directory + 1)
    end = sound.index(b"PK\5\6")
    for place, size in [(member + 20, 4), (member + 24, 4), (directory + 24, 4), (member + 42, 4), (end + 12, 4),
                        (end + 16, 4), (end + 8, 2), (end + 20, 2), (member + 28, 2), (member + 30, 2)]:
        for value in (2**31, 2**32 - 2, 2**32 - 1):
            yield sound[:place] + struct.pack("<I", value)[-size:] + sound[place + size :]
    # The zip64 end of the directory with sizes of 2⁶⁰.
    for size, offset in [(2**60, 0), (0, 2**60), (2**60, 2**60), (2**63, 2**63)]:
        record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, size, offset)
        locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
        ending = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
        yield sound[:end] + record + locator + ending


def test_forged_sizes(path):
    """Files that claim gigabytes and more are refused in a process that may allocate only 256 MB more."""
    resource = pytest.importorskip("resource", reason="memory limits are POSIX's")
    assert resource
    forged = list(forged_npz() if path.suffix == ".npz" else forged_safetensors())
    folder = path.parent / "forged"
    folder.mkdir()
    for i, content in enumerate(forged):
        (folder / f"{i}{path.suffix}").write_bytes(content)
    small(path)
    printed = run(f"""
        import os, resource, sys
        import numpy as np
        import fastopt
        fastopt.load_state({os.fspath(path)!r})  # the package imported
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, now + 2**28))
        try:
            np.ones(2**27, np.float32)
        except MemoryError:
            print("limited")
        refused = 0
        for name in sorted(os.listdir({os.fspath(folder)!r})):
            path = os.path.join({os.fspath(folder)!r}, name)
            try:
                fastopt.load_state(path)
            except ValueError as error:     # and no MemoryError
                assert str(error).startswith(path), error
                refused += 1
            else:
                print("read", name.split(".")[0])
        print("refused", refused)
    """).split()
    # Some forged fields are not used by the reader; then the original content is returned.
    assert printed[0] == "limited"
    assert int(printed[-1]) >= 0.7 * len(forged)
    for index in set(printed) - {"limited", "read", "refused", printed[-1]}:
        (path.parent / "forged" / f"x{path.suffix}").write_bytes(forged[int(index)])
        assert_same(fastopt.load_state(path.parent / "forged" / f"x{path.suffix}"), {"a": np.ones(3)})
