"""Images to learn: scikit-learn's digits, or a file of the user's own."""

from __future__ import annotations

import contextlib
import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

VALIDATION, TEST = 240, 360     # of the 1797 digits
SHARE, MOST = 6, 10_000
"""Of a file without validation images every SHARE-th training image is taken for it, at most so many."""
MOST_LEVELS = 256
"""Integers of a larger range are real numbers to the networks."""
CHUNK = 4096
"""Images that are converted at a time."""


class DataError(Exception):
    """A file that is not as `load` expects; the message is one line."""


class Examples(NamedTuple):
    """Images as float32 rows of pixels in [0, 1], and their labels, integers from 0."""

    x: NDArray[np.float32]
    labels: NDArray[np.int64]

    def take(self, which: NDArray[np.int64]) -> Examples:
        return Examples(self.x[which], self.labels[which])


@dataclass(frozen=True)
class Dataset:
    """Examples to train with, to choose by (the best epoch, hyper-parameters), and to judge with, once, at the end."""

    train: Examples
    validation: Examples
    test: Examples
    shape: tuple[int, ...]
    """Of one image: (height, width) or (height, width, channels)."""
    classes: int
    levels: int | None
    """Grey levels that a pixel can have; None if pixels are real numbers."""
    name: str

    @property
    def pixels(self) -> int:
        return self.train.x.shape[1]


def digits() -> Dataset:
    """scikit-learn's digits: 1797 real images of 8 x 8 pixels of 17 grey levels, nothing to download.

    In a fixed split that does not depend on the seed of a training run.
    """
    from sklearn.datasets import load_digits
    pixels, labels = load_digits(return_X_y=True)
    examples = Examples((pixels / 16).astype(np.float32), labels.astype(np.int64))
    order = np.random.default_rng(0).permutation(len(labels))
    return Dataset(train=examples.take(order[VALIDATION:-TEST]), validation=examples.take(order[:VALIDATION]),
                   test=examples.take(order[-TEST:]), shape=(8, 8), classes=10, levels=17, name="scikit-learn's digits")


def load(path: str | os.PathLike[str]) -> Dataset:
    """Read images of the user's own from an .npz file, as numpy.savez writes it and Keras' mnist.npz is.

    Pixels are scaled to [0, 1]: uint8 from 0 to 255; other integers from 0, or the least one if that is negative, to
    the largest one; real numbers from the least to the largest one. The limits are those of x_train; what is beyond
    them in other images becomes 0 or 1.

    Parameters
    ----------
    path : path-like
        A file with the arrays x_train, y_train, x_test, y_test, and maybe x_validation and y_validation. Without these,
        a sixth of the training images, at most 10 000, is taken for validation: the same ones in every run.
        Images have the shape (N, height, width) or (N, height, width, channels) and are integers or finite real
        numbers; labels have the shape (N,) or (N, 1) and are integers from 0.

    Raises
    ------
    DataError
        The file cannot be read or an array is not as described. Arrays of Python objects are refused unread.
    """
    path = os.fspath(path)
    with contextlib.ExitStack() as stack:
        with reading(path):
            if not stat.S_ISREG(os.stat(path).st_mode):     # a device's zeros have no end
                raise DataError(f"{path}: expected an .npz file, got a folder, pipe or device")
            file = stack.enter_context(open(path, "rb"))
            arrays = None
            if zipfile.is_zipfile(file):
                file.seek(0)
                arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):    # an .npy file if a zip file only follows it
                raise DataError(f"{path}: expected an .npz file, got another kind of file, or only a part of one")
        return _dataset(path, arrays)


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Around NumPy's reading: what goes wrong becomes a DataError of one line, which begins with what was read."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{what}: {error.strerror or error}") from None
    except MemoryError:
        raise DataError(f"{what}: expected an array that fits in memory, got a larger one") from None
    except Exception as error:      # of a damaged file: zlib's, zipfile's, or whatever the parser of headers meets
        reason = " ".join(str(error).split()) or type(error).__name__
        if "allow_pickle" in reason:
            reason = "got an array of Python objects"
        raise DataError(f"{what}: expected an array of numbers that NumPy wrote: {reason}") from None


def _read(path: str, arrays: Any, name: str) -> NDArray[Any]:
    with reading(f"{path}: {name}"):
        array = arrays[name]
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: {name}: expected an array that NumPy wrote, got something else")
    return array


def _dataset(path: str, arrays: Any) -> Dataset:
    parts = ["train", "test"]
    if {"x_validation", "y_validation"} & {*arrays}:
        parts.insert(1, "validation")
    for name in (f"{kind}_{part}" for part in parts for kind in "xy"):
        if name not in arrays:
            raise DataError(f"{path}: expected an array {name}, got {', '.join(map(repr, arrays)) or 'none'}")
    found: dict[str, Examples] = {}
    for part in parts:
        x_name, y_name = f"{path}: x_{part}", f"{path}: y_{part}"
        x = _read(path, arrays, f"x_{part}")
        if part == "train":
            shape, dtype = _checked_images(x, x_name), x.dtype
            lowest, span = _range(x, x_name)
        elif x.shape[1:] != shape or x.dtype != dtype or len(x) == 0:
            raise DataError(f"{x_name}: expected {dtype} of shape (N, {', '.join(map(str, shape))}) as x_train has, "
                            f"got {x.dtype} of shape {x.shape}")
        labels = _checked_labels(_read(path, arrays, f"y_{part}"), len(x), y_name)
        if part == "train":
            known = np.unique(labels)
            if known[-1] >= len(labels):
                raise DataError(f"{y_name}: expected labels from 0, below the {len(labels)} images, got {known[-1]}")
        elif (strange := np.setdiff1d(labels, known)).size:
            raise DataError(f"{y_name}: expected classes that y_train has, got {strange[0]}")
        found[part] = Examples(_scaled(x, lowest, span, x_name), labels)
    if "validation" not in found:
        found["train"], found["validation"] = _divided(found["train"], f"{path}: x_train")
    if len(known) == 1:
        raise DataError(f"{path}: y_train: expected at least two classes, got only {known[0]}")
    levels = span + 1 if dtype.kind in "bui" and span < MOST_LEVELS else None
    return Dataset(**found, shape=shape, classes=int(known[-1]) + 1, levels=levels, name=os.path.basename(path))


def _checked_images(x: NDArray[Any], name: str) -> tuple[int, ...]:
    """The shape of one image."""
    if x.dtype.kind not in "buif":
        raise DataError(f"{name}: expected integers or real numbers, got {x.dtype}")
    if x.ndim not in (3, 4) or x.size == 0:
        raise DataError(f"{name}: expected the shape (N, height, width) or (N, height, width, channels) without 0, got "
                        f"{x.shape}")
    return x.shape[1:]


def _range(x: NDArray[Any], name: str) -> tuple[Any, Any]:
    """The number that becomes 0, and what is to be added to it for 1."""
    if x.dtype == np.uint8:
        return 0, 255
    number = float if x.dtype.kind == "f" else int
    least, largest = number(x.min()), number(x.max())
    if x.dtype.kind != "f":
        least = min(least, 0)
    if not 0 < largest - least < float("inf"):
        raise DataError(f"{name}: expected finite pixels that differ, got numbers from {least} to {largest}")
    return least, largest - least


def _scaled(x: NDArray[Any], lowest: float, span: float, name: str) -> NDArray[np.float32]:
    """Rows of pixels in [0, 1]."""
    rows = x.reshape(len(x), -1)
    scaled = np.empty(rows.shape, np.float32)
    for i in range(0, len(rows), CHUNK):
        part = (rows[i : i + CHUNK].astype(np.float64) - lowest) / span
        if not np.isfinite(part).all():
            raise DataError(f"{name}: expected finite numbers, got inf or NaN")
        scaled[i : i + CHUNK] = np.clip(part, 0.0, 1.0)
    return scaled


def _checked_labels(y: NDArray[Any], count: int, name: str) -> NDArray[np.int64]:
    if y.dtype.kind not in "ui":
        raise DataError(f"{name}: expected integers, got {y.dtype}")
    if y.shape not in ((count,), (count, 1)):
        raise DataError(f"{name}: expected the shape ({count},), one label for each image, got {y.shape}")
    if y.min() < 0 or y.max() >= 2**63 - 1:
        raise DataError(f"{name}: expected labels from 0, got {y.min() if y.min() < 0 else y.max()}")
    return y.reshape(count).astype(np.int64)


def _divided(examples: Examples, name: str) -> tuple[Examples, Examples]:
    """Training and validation images."""
    count = len(examples.labels)
    if count < 2:
        raise DataError(f"{name}: expected at least 2 images, one of them for validation, got {count}")
    order = np.random.default_rng(0).permutation(count)
    validation = min(max(1, count // SHARE), MOST)
    return examples.take(order[validation:]), examples.take(order[:validation])
