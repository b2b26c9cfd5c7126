"""State on disk: exact round trips, refused states, files and folders."""

import os
import sys

import numpy as np
import pytest
from helpers import random_bits
from states import SAFETENSORS, assert_same

import fastopt


@pytest.fixture(params=[".npz", SAFETENSORS])
def path(request, tmp_path):
    return tmp_path / f"state{request.param}"


def varied_state(rng):
    """Every type that a state may hold, with keys and values that are awkward for file formats."""
    return {
        "step_count": 2**62, "negative": -3, "huge": 10**40, "rate": 0.1, "subnormal": 5e-324, "minus zero": -0.0,
        "inf": float("inf"), "minus inf": float("-inf"), "nan": float("nan"), "on": True, "off": False, "none": None,
        "text": "µ ≤ \"quoted\"\n\0\ud800", "": "empty key", "empty": {}, 0: {1: {-2: None}}, "0": "zero as text",
        "state": {
            "W1": {"m": random_bits(rng, (3, 4)), "v": rng.standard_normal((4, 3))},
            0: {"m": np.array(2.5, np.float32), "v": np.zeros((0, 3), np.float32)},
            "0": {"m": np.arange(5), "v": np.zeros((3, 0, 2))},
            "a.b": {"c": np.ones(1, np.float32)}, "a": {"b.c": np.zeros(1, np.float32)},
            "../etc/x\0 *": np.arange(3, dtype=np.uint8), "x" * 1000: np.arange(2, dtype=np.int16),
            "__metadata__": np.array([True, False]), "": np.float16([1.5, np.nan, -0.0]),
        },
        "__metadata__": np.arange(4, dtype=np.uint64), "structure": np.arange(2, dtype=np.int32),
        "structure.json": np.arange(3, dtype=np.int8),
    }


def test_round_trip(path, rng):
    state = varied_state(rng)
    assert fastopt.save_state(path, state) is None
    assert_same(fastopt.load_state(path), state)
    assert os.listdir(path.parent) == [path.name]


def test_the_same_state_gives_the_same_bytes(path, rng):
    state = varied_state(rng)
    fastopt.save_state(path, state)
    first = path.read_bytes()
    fastopt.save_state(path, state)
    assert path.read_bytes() == first


def test_arrays_of_other_layouts_and_numpy_numbers(path, rng):
    array = rng.standard_normal((4, 6))
    fastopt.save_state(os.fspath(path), {
        "fortran": np.asfortranarray(array), "view": array[::2, ::-3], "read-only": np.broadcast_to(array[0], (3, 6)),
        "unaligned": np.frombuffer(bytes(9), np.uint8)[1:].view(np.float64), "number": np.float32(0.1),
        "int": np.int8(3), "bool": np.True_,
    })
    assert_same(fastopt.load_state(path), {
        "fortran": array, "view": array[::2, ::-3].copy(), "read-only": np.repeat(array[:1], 3, 0),
        "unaligned": np.zeros(1), "number": float(np.float32(0.1)), "int": 3, "bool": True,
    })


def test_arrays_have_readable_names_in_the_file(path):
    one = np.ones(1, np.float32)
    fastopt.save_state(path, {"step_count": 3, "state": {"W1": {"m": one, "v": one}, 0: {"buf": one}}})
    if path.suffix == ".npz":
        with np.load(path) as file:
            names = set(file.files) - {"structure.json"}
            assert file["state.W1.m"] == 1.0
    else:
        from safetensors.numpy import load_file
        names = set(load_file(path))
    assert names == {"state.W1.m", "state.W1.v", "state.0.buf"}


@pytest.mark.parametrize("options", [{"amsgrad": True}, {"average_decay": 0.9}])
def test_training_continues(path, options, rng):
    """An optimizer and a BatchNorm layer saved midway continue with the same bits."""
    params = {"w": rng.standard_normal((5, 3), dtype=np.float32), 7: rng.standard_normal(3, dtype=np.float32)}
    grads = [{key: rng.standard_normal(p.shape, dtype=np.float32) for key, p in params.items()} for _ in range(6)]
    opt, bn = fastopt.Adam(lr=0.1, **options), fastopt.BatchNorm(3)
    bn.forward(rng.standard_normal((8, 3), dtype=np.float32))
    for grad in grads[:3]:
        opt.update(params, grad)
    fastopt.save_state(path, {"optimizer": opt.state_dict(), "bn": bn.state_dict(), "params": params})
    loaded = fastopt.load_state(path)
    again, bn_again = fastopt.Adam(lr=0.1, **options), fastopt.BatchNorm(3)
    again.load_state_dict(loaded["optimizer"])
    bn_again.load_state_dict(loaded["bn"])
    for grad in grads[3:]:
        opt.update(params, grad)
        again.update(loaded["params"], grad)
    assert_same(loaded["params"], params)
    assert_same(again.state_dict(), opt.state_dict())
    assert_same(bn_again.state_dict(), bn.state_dict())


def cyclic():
    state = {}
    state["again"] = state
    return state


@pytest.mark.parametrize(("state", "error", "message"), [
    ([1], TypeError, "^state: expected a dict, got list$"),
    ({"a": {"b": [1]}}, TypeError, r"^state\['a'\]\['b'\]: expected a dict, array, .* got list$"),
    ({"a": 1j}, TypeError, r"^state\['a'\]: .* got complex"),
    ({"a": b"x"}, TypeError, r"^state\['a'\]: .* got bytes"),
    ({"a": np.array([{}])}, TypeError, r"^state\['a'\]: expected an array of .* got ndarray of object"),
    ({"a": np.array(["x"])}, TypeError, r"^state\['a'\]: expected an array of .* got ndarray of <U1"),
    ({"a": np.ones(2, ">f4")}, TypeError, r"^state\['a'\]: .* native byte order, got ndarray of >f4"),
    ({"a": np.ones(2, np.longdouble)}, TypeError, r"^state\['a'\]"),
    ({"a": np.longdouble(2)}, TypeError, r"^state\['a'\]"),
    ({"a": np.ma.ones(2)}, TypeError, r"^state\['a'\]: .* got MaskedArray"),
    ({"a": {(1, None): 3}}, TypeError,
     r"^state\['a'\]: expected str or int keys, or tuples of these, got \(1, None\)"),
    ({(1, (2, 3)): 3}, TypeError, r"^state: expected str or int keys, .* got \(1, \(2, 3\)\)"),
    ({True: 3}, TypeError, r"^state: expected str or int keys, .* got True"),
    ({(): 3}, TypeError, r"^state: expected str or int keys, .* got \(\)"),
    ({("w", True): 3}, TypeError, r"^state: expected str or int keys, .* got \('w', True\)"),
    (cyclic(), ValueError, "^state: expected at most 64 levels of dicts"),
])
def test_refused_states_write_nothing(path, state, error, message):
    fastopt.save_state(path, {"old": 1})
    with pytest.raises(error, match=message):
        fastopt.save_state(path, state)
    assert fastopt.load_state(path) == {"old": 1}
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("name", ["state", "state.npy", "state.npz.gz", "state.pt", ".npz", "state.NPZ"])
def test_another_suffix(name, tmp_path):
    message = rf"^path: expected a name that ends in \.npz or \.safetensors, got '.*{name}'"
    with pytest.raises(ValueError, match=message):
        fastopt.save_state(tmp_path / name, {})
    with pytest.raises(ValueError, match=message):
        fastopt.load_state(tmp_path / name)


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    message = r'x\.safetensors: expected the package safetensors to be installed: pip install "fastopt\[state\]"'
    with pytest.raises(ImportError, match=message):
        fastopt.save_state(tmp_path / "x.safetensors", {})
    with pytest.raises(ImportError, match=message):
        fastopt.load_state(tmp_path / "x.safetensors")
    assert os.listdir(tmp_path) == []


# Files and folders.


def test_no_such_file(path):
    with pytest.raises(FileNotFoundError):
        fastopt.load_state(path)
    with pytest.raises(FileNotFoundError):
        fastopt.save_state(path.parent / "missing" / path.name, {})


@pytest.mark.skipif(os.name != "posix", reason="permissions and links are POSIX's")
@pytest.mark.parametrize("exists", [True, False])
def test_symbolic_links(path, exists):
    folder = path.parent / "folder"
    folder.mkdir()
    target = folder / f"target{path.suffix}"
    path.symlink_to(target.relative_to(path.parent))
    if exists:
        fastopt.save_state(target, {"old": 1})
    fastopt.save_state(path, {"new": 2})
    assert path.is_symlink()
    assert fastopt.load_state(target) == fastopt.load_state(path) == {"new": 2}
    assert os.listdir(folder) == [target.name]


def test_a_folder_is_not_replaced(path):
    path.mkdir()
    with pytest.raises(ValueError, match="^path: expected a regular file or a new name, got"):
        fastopt.save_state(path, {})
    assert os.listdir(path.parent) == [path.name]


def test_long_names_and_relative_paths(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    name = "x" * (255 - len(path.suffix)) + path.suffix
    fastopt.save_state(name, {"a": 1})
    assert fastopt.load_state(name) == {"a": 1}
