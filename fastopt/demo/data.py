"""scikit-learn's bundled digits: 1797 real images of 8 x 8 pixels, nothing to download."""

from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

CLASSES = 10
VALIDATION = 360    # images, a fifth


class Split(NamedTuple):
    """Images as float32 rows of 64 pixels and their labels, to train on and to validate on."""

    train_x: np.ndarray
    train_labels: np.ndarray
    validation_x: np.ndarray
    validation_labels: np.ndarray


def digits():
    """The digits, always split the same way whatever the seed of a training is."""
    pixels, labels = load_digits(return_X_y=True)
    x = (pixels / 16.0).astype(np.float32)      # pixels are whole numbers from 0 to 16
    order = np.random.default_rng(0).permutation(len(x))
    validation, train = order[:VALIDATION], order[VALIDATION:]
    return Split(x[train], labels[train], x[validation], labels[validation])
