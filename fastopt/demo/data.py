"""scikit-learn's bundled digits: 1797 real images of 8 x 8 pixels, nothing to download."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

CLASSES = 10
PIXELS = 64
LEVELS = 17         # a pixel is an integer in [0, 16]
VALIDATION = 360    # images, one fifth


class Split(NamedTuple):
    """Images, float32 rows of 64 pixels in [0, 1], and their labels, for training and for validation."""

    train_x: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    validation_x: NDArray[np.float32]
    validation_labels: NDArray[np.int64]


def digits() -> Split:
    """The digits, in a fixed split that does not depend on the seed of a training run."""
    pixels, labels = load_digits(return_X_y=True)
    x = (pixels / (LEVELS - 1)).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    validation, train = order[:VALIDATION], order[VALIDATION:]
    return Split(x[train], labels[train], x[validation], labels[validation])
