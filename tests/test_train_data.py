"""Images of the user's own: files as numpy.savez writes them, and everything that can be wrong with one."""

import os
import re
import zipfile

import numpy as np
import pytest

from fastopt.demo import data
from fastopt.demo.data import DataError, load
from fastopt.demo.settings import Settings, SettingsError
from fastopt.demo.trainer import Trainer


def arrays(shape=(28, 28), train=60, test=20, classes=5, dtype=np.uint8, seed=0):
    """Images of a noisy pattern for each class."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 200, (classes, *shape))
    made = {}
    for part, count in (("train", train), ("test", test)):
        labels = np.arange(count) % classes
        made[f"x_{part}"] = (patterns[labels] + rng.integers(0, 56, (count, *shape))).astype(dtype)
        made[f"y_{part}"] = labels
    return made


@pytest.fixture
def file(tmp_path):
    def write(compressed=False, **changes):
        path = tmp_path / "images.npz"
        given = {name: array for name, array in (arrays() | changes).items() if array is not None}
        (np.savez_compressed if compressed else np.savez)(path, **given)
        return path
    return write


# What can be read

@pytest.mark.parametrize("compressed", [False, True])
def test_bytes(file, compressed):
    path = file(compressed)
    found, given = load(path), arrays()
    assert (found.shape, found.classes, found.levels, found.name) == ((28, 28), 5, 256, "images.npz")
    np.testing.assert_array_equal(found.test.x, (given["x_test"].reshape(20, -1) / 255).astype(np.float32))
    np.testing.assert_array_equal(found.test.labels, given["y_test"])
    assert found.train.x.dtype == np.float32
    assert found.train.labels.dtype == np.int64


@pytest.mark.parametrize("as_text", [False, True])
def test_path_as_text(file, as_text):
    path = file()
    assert load(str(path) if as_text else path).classes == 5


def test_a_sixth_of_the_training_images_is_for_validation(file):
    """The same in every run; together they are all images, each with its label."""
    given = arrays()
    found = load(file())
    assert len(found.validation.x) == 10
    assert len(found.train.x) == 50
    np.testing.assert_array_equal(load(file()).validation.x, found.validation.x)
    together = np.concatenate([found.train.x, found.validation.x])
    labels = np.concatenate([found.train.labels, found.validation.labels])
    scaled = (given["x_train"].reshape(60, -1) / 255).astype(np.float32)
    order = [np.flatnonzero((scaled == row).all(1)).item() for row in together]
    assert sorted(order) == list(range(60))
    assert order != list(range(60))
    np.testing.assert_array_equal(labels, given["y_train"][order])


def test_at_most_so_many_images_are_for_validation(file, monkeypatch):
    monkeypatch.setattr(data, "MOST", 7)
    assert len(load(file()).validation.x) == 7


def test_validation_images_of_the_file(file):
    given = arrays()
    more = arrays(seed=1)
    found = load(file(x_validation=more["x_test"], y_validation=more["y_test"]))
    np.testing.assert_array_equal(found.validation.x, (more["x_test"].reshape(20, -1) / 255).astype(np.float32))
    np.testing.assert_array_equal(found.train.x, (given["x_train"].reshape(60, -1) / 255).astype(np.float32))


def test_images_are_converted_in_parts_as_together(file, monkeypatch):
    whole = load(file())
    monkeypatch.setattr(data, "CHUNK", 7)
    np.testing.assert_array_equal(load(file()).train.x, whole.train.x)


def test_only_the_arrays_that_are_needed_are_read(file):
    """Another array may be as damaged as it likes."""
    path = file(other=np.array([object()], object))
    assert load(path).classes == 5


@pytest.mark.parametrize("shape", [(4, 6, 3), (4, 6, 1)])
def test_channels(file, shape):
    found = load(file(**arrays(shape)))
    assert found.shape == shape
    assert found.pixels == np.prod(shape)


@pytest.mark.parametrize(("dtype", "lowest", "largest", "levels"), [
    (np.int64, 0, 16, 17), (np.int32, 3, 16, 17), (np.uint16, 0, 65535, None), (np.int8, -128, 127, 256),
    (np.int64, -(2**62), 2**62, None), (bool, 0, 1, 2), (np.uint64, 0, 2**64 - 1, None)])
def test_other_integers_are_scaled_by_the_largest_one(file, dtype, lowest, largest, levels):
    pair = np.resize(np.array([lowest, largest], dtype), 60 * 4).reshape(60, 2, 2)
    found = load(file(x_train=pair, x_test=pair[:20]))
    assert found.levels == levels
    least = 0 if lowest >= 0 else lowest
    np.testing.assert_allclose(np.unique(found.test.x), [(lowest - least) / (largest - least), 1], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_real_numbers_are_scaled_by_those_of_the_training_images(file, dtype):
    x = np.linspace(-2, 6, 60 * 4).reshape(60, 2, 2).astype(dtype)
    found = load(file(x_train=x, x_test=np.array([[-2, 0], [6, 9]], dtype)[np.newaxis].repeat(20, 0)))
    assert found.levels is None
    assert found.test.x[0].tolist() == [0, 0.25, 1, 1]
    both = np.concatenate([found.train.x, found.validation.x])
    assert (both.min(), both.max()) == (0, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64])
def test_labels_of_any_integer_type_also_as_a_column(file, dtype):
    given = arrays()
    found = load(file(y_train=given["y_train"].astype(dtype)[:, np.newaxis], y_test=given["y_test"].astype(dtype)))
    assert found.classes == 5
    assert found.train.labels.shape == (50,)


def test_a_class_may_be_missing_in_between(file):
    given = arrays()
    found = load(file(y_train=given["y_train"] * 2 + 1, y_test=given["y_test"] * 2 + 1))
    assert found.classes == 10


# What is refused, in one line

NOT_ONE_LABEL = r"y_train: expected the shape \(60,\), one label for each image, got "
BAD = {
    "no images": ({"x_train": None}, "expected an array x_train, got 'y_train', 'x_test', 'y_test'"),
    "no labels": ({"y_test": None}, "expected an array y_test, got "),
    "half of the validation": ({"x_validation": arrays()["x_test"]}, "expected an array y_validation, got "),
    "flat images": ({"x_train": np.zeros((60, 784), np.uint8)}, r"x_train: expected the shape \(N, height, width\) or "
                    r"\(N, height, width, channels\) without 0, got \(60, 784\)"),
    "five axes": ({"x_train": np.zeros((60, 2, 2, 2, 2), np.uint8)}, r"x_train: expected the shape .*got \(60, 2, 2"),
    "empty training images": ({"x_train": np.zeros((0, 28, 28), np.uint8)}, r"x_train: .*got \(0, 28, 28\)"),
    "no height": ({"x_train": np.zeros((60, 0, 28), np.uint8)}, r"x_train: .*got \(60, 0, 28\)"),
    "empty test images": ({"x_test": np.zeros((0, 28, 28), np.uint8)},
                          r"x_test: expected uint8 of shape \(N, 28, 28\) as x_train has, got uint8 of shape \(0, "),
    "other test images": ({"x_test": np.zeros((20, 27, 28), np.uint8)}, r"x_test: expected uint8 .*got .*\(20, 27, 28"),
    "other type": ({"x_test": np.zeros((20, 28, 28))}, r"x_test: expected uint8 of shape .* got float64"),
    "text": ({"x_train": np.full((60, 28, 28), "a")}, "x_train: expected integers or real numbers, got <U1"),
    "complex": ({"x_train": np.zeros((60, 28, 28), complex)}, "x_train: expected integers or real numbers, got compl"),
    "objects": ({"x_train": np.full((60, 28, 28), None)},
                "x_train: expected an array of numbers .*: got an array of Python objects"),
    "label objects": ({"y_train": np.full(60, None)}, "y_train: expected an array .*: got an array of Python objects"),
    "NaN": ({"x_train": np.full((60, 28, 28), np.nan), "x_test": np.zeros((20, 28, 28))},
            "x_train: expected finite pixels that differ, got numbers from nan to nan"),
    "inf": ({"x_train": np.full((60, 2, 2), [[0, 1], [2, np.inf]]), "x_test": np.zeros((20, 2, 2))},
            "x_train: expected finite pixels that differ, got numbers from 0.0 to inf"),
    "inf in a test image": ({"x_train": np.full((60, 2, 1), [[0.0], [1.0]]), "x_test": np.full((20, 2, 1), np.inf)},
                            "x_test: expected finite numbers, got inf or NaN"),
    "all equal": ({"x_train": np.ones((60, 28, 28)), "x_test": np.ones((20, 28, 28))}, "x_train: .*from 1.0 to 1.0"),
    "all 0": ({"x_train": np.zeros((60, 2, 2), int), "x_test": np.zeros((20, 2, 2), int)}, "x_train: .*from 0 to 0"),
    "negative label": ({"y_train": np.arange(60) % 5 - 1}, "y_train: expected labels from 0, got -1"),
    "negative test label": ({"y_test": np.arange(20) % 5 - 1}, "y_test: expected labels from 0, got -1"),
    "fractional labels": ({"y_train": np.arange(60) / 2}, "y_train: expected integers, got float64"),
    "too few labels": ({"y_train": np.arange(59) % 5}, NOT_ONE_LABEL + r"\(59,\)"),
    "too many labels": ({"y_train": np.arange(61) % 5}, NOT_ONE_LABEL + r"\(61,\)"),
    "rows of 0 and 1": ({"y_train": np.eye(5, dtype=int)[np.arange(60) % 5]}, NOT_ONE_LABEL + r"\(60, 5\)"),
    "a number": ({"y_train": np.array(3)}, NOT_ONE_LABEL + r"\(\)"),
    "huge label": ({"y_train": np.full(60, 10**12)}, "y_train: expected labels from 0, below the 60 images, got 10000"),
    "larger label": ({"y_train": np.full(60, 2**64 - 1, np.uint64)}, "y_train: expected labels from 0, got 184467440"),
    "a class of test images alone": ({"y_test": np.arange(20) % 6}, "y_test: expected classes that y_train has, got 5"),
    "a class in between": ({"y_train": np.arange(60) % 3 * 2, "y_test": np.arange(20) % 4},
                           "y_test: expected classes that y_train has, got 1"),
    "one class": ({"y_train": np.full(60, 3), "y_test": np.full(20, 3)},
                  "y_train: expected at least two classes, got only 3"),
    "one image": ({"x_train": arrays()["x_train"][:1], "y_train": np.zeros(1, int), "y_test": np.zeros(20, int)},
                  "x_train: expected at least 2 images, one of them for validation, got 1"),
}


def refused(path, message):
    with pytest.raises(DataError) as raised:
        load(path)
    text = str(raised.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    assert re.search(message, text), text


@pytest.mark.parametrize("name", BAD)
def test_wrong_arrays(file, name):
    changes, message = BAD[name]
    refused(file(**changes), message)


def test_no_such_file(tmp_path):
    refused(tmp_path / "none.npz", "none.npz: No such file or directory")


def test_directory(tmp_path):
    refused(tmp_path, "expected an .npz file, got a folder, pipe or device")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
def test_a_device_is_not_read():
    refused("/dev/zero", "expected an .npz file, got a folder, pipe or device")


def test_an_npy_file_before_an_npz_file(file, tmp_path):
    np.save(tmp_path / "array.npy", np.zeros((3, 3)))
    path = file()
    path.write_bytes((tmp_path / "array.npy").read_bytes() + path.read_bytes())
    refused(path, "expected an .npz file, got another kind of file, or only a part of one")


def test_one_training_image(file):
    """Another one is for validation."""
    given = arrays(train=2, classes=2)
    found = load(file(x_train=given["x_train"], y_train=given["y_train"], y_test=np.arange(20) % 2))
    assert len(found.train.x) == 1
    with pytest.raises(SettingsError, match="^batch_norm: expected it with a single training image"):
        Trainer(Settings(batch_size=None), found)
    Trainer(Settings(batch_size=None, batch_norm=False, hidden=(4,)), found).run_epoch()


def test_no_permission(file):
    path = file()
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read every file")
    refused(path, "Permission denied")


@pytest.mark.parametrize("content", [b"", b"x_train,y_train\n", bytes(1000), b"PK\x03\x04"])
def test_other_files(tmp_path, content):
    path = tmp_path / "file.npz"
    path.write_bytes(content)
    refused(path, "expected an .npz file, got another kind of file, or only a part of one")


def test_one_array_or_a_pickle(tmp_path):
    path = tmp_path / "array.npy"
    np.save(path, np.zeros(3))
    refused(path, "expected an .npz file")
    np.save(path, np.array([{}]))
    refused(path, "expected an .npz file")


def test_a_zip_without_arrays(tmp_path):
    path = tmp_path / "file.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", b"no array")
        for name in ("y_train", "x_test", "y_test"):
            archive.writestr(name + ".npy", b"")
    refused(path, "x_train: expected ")
    with zipfile.ZipFile(path, "w"):
        pass
    refused(path, "expected an array x_train, got none")


@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_and_damaged_files(file, compressed):
    """At any place: a DataError or, where no byte of an array is concerned, the same images."""
    path = file(compressed)
    whole, right = path.read_bytes(), load(path)
    for length in range(0, len(whole) - 1, len(whole) // 40):
        path.write_bytes(whole[:length])
        refused(path, "expected an .npz file, got another kind of file, or only a part of one")
    messages = []
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=3):
            damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(load(path).train.x, right.train.x)
        except DataError as error:
            messages.append(str(error))
    assert len(messages) > 200
    assert not any("\n" in message for message in messages)


def test_a_header_that_promises_too_much(tmp_path):
    path = tmp_path / "file.npz"
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 28, 28), }" % 10**13
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(name + ".npy", b"\x93NUMPY\x01\x00v\x00" + header)
    refused(path, "x_train: expected an array")


# Trainings

@pytest.mark.parametrize("changes", [{}, {"network": "tokens", "hidden": (16,)}, {"augment": (("shift", 0.1),)}],
                         ids=str)
def test_images_of_28_by_28_are_learnt(file, changes):
    pytest.importorskip("scipy")
    found = load(file(**arrays(train=600, test=100)))
    trainer = Trainer(Settings(epochs=2, batch_size=16, **changes), found)
    epochs = [trainer.run_epoch() for _ in range(2)]
    assert epochs[-1].validation_accuracy > 0.9
    assert trainer.network.evaluate(found.test)[1] > 0.9


def test_tokens_need_integers(file):
    x = np.random.default_rng(0).random((60, 4, 4))
    found = load(file(x_train=x, x_test=x[:20]))
    with pytest.raises(SettingsError, match="expected pixels"):
        Trainer(Settings(network="tokens"), found)
    Trainer(Settings(), found).run_epoch()


def test_digits():
    """The split does not change: checkpoints and published figures depend on it."""
    pytest.importorskip("sklearn")
    digits = data.digits()
    assert [len(part.x) for part in (digits.train, digits.validation, digits.test)] == [1197, 240, 360]
    assert (digits.shape, digits.classes, digits.levels) == ((8, 8), 10, 17)
    together = np.concatenate([part.x for part in (digits.validation, digits.train, digits.test)])
    from sklearn.datasets import load_digits
    order = np.random.default_rng(0).permutation(1797)
    np.testing.assert_array_equal(together, (load_digits().data[order] / 16).astype(np.float32))
