"""Images changed at random, so that a network never sees the same one twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Augmentation(NamedTuple):
    """How much an image is changed: the amount by default, the largest one, and what it means."""

    default: float
    largest: float
    meaning: str


AUGMENTATIONS = {
    "shift": Augmentation(0.1, 0.5, "along each axis by up to this part of its length"),
    "rotate": Augmentation(10.0, 180.0, "by up to so many degrees, either way"),
    "zoom": Augmentation(0.1, 0.5, "by a factor between 1 − this and 1 + this"),
    "flip": Augmentation(0.5, 1.0, "left and right exchanged, with this probability"),
    "rescale": Augmentation(0.2, 1.0, "brightness times a factor between 1 − this and 1 + this, at most white"),
}
"""By the name that `--augment` takes, in the order in which they are drawn."""
CHUNK = 65_536
"""Pixels whose coordinates are in memory at a time."""


def augment(x: Array, shape: tuple[int, ...], changes: Sequence[tuple[str, float]], rng: np.random.Generator) -> Array:
    """Return changed copies of images.

    An image is flipped, then zoomed and rotated about its centre, then shifted, all with one linear interpolation,
    which takes everything outside of an image as 0; then its brightness changes.

    Parameters
    ----------
    x : float32 array of shape (N, pixels)
        Images as rows, of values in [0, 1].
    shape : tuple of int
        Of one image: (height, width) or (height, width, channels).
    changes : sequence of (name, amount)
        Of AUGMENTATIONS; those that are not named have the amount 0.
    rng : numpy.random.Generator
        Draws the same numbers whatever the amounts are.

    Returns
    -------
    float32 array of the shape of x
        Values are in [0, 1]. It is x itself if all amounts are 0.
    """
    amounts = dict(changes)
    unit = rng.uniform(-1.0, 1.0, (len(x), 6))      # each in [−1, 1): shift, shift, rotate, zoom, flip, rescale
    height, width = shape[:2]
    flip = np.where(unit[:, 4] < 2.0 * amounts.get("flip", 0.0) - 1.0, -1.0, 1.0)
    zoom = 1.0 + amounts.get("zoom", 0.0) * unit[:, 3]
    angle = np.deg2rad(amounts.get("rotate", 0.0)) * unit[:, 2]
    shift = amounts.get("shift", 0.0) * unit[:, :2] * (height, width)
    if any(amounts.get(name) for name in ("shift", "rotate", "zoom", "flip")):
        images = np.empty((len(x), height, width, x.shape[1] // (height * width)), np.float32)
        step = max(1, CHUNK // (height * width))
        for i in range(0, len(x), step):
            part = slice(i, i + step)
            transform(x[part], images[part], flip[part], zoom[part], angle[part], shift[part])
        x = images.reshape(x.shape)
    if amounts.get("rescale"):
        x = np.minimum(x * (1.0 + amounts["rescale"] * unit[:, 5:]).astype(np.float32), np.float32(1.0))
    return x


def transform(x: Array, out: Array, flip: NDArray[np.float64], zoom: NDArray[np.float64], angle: NDArray[np.float64],
              shift: NDArray[np.float64]) -> None:
    """Write images, (N, height, width, channels), that are flipped, zoomed, rotated and shifted.

    They are one tall image for SciPy, in which each has a margin of zeros: of 32 digits an image takes 4 µs, a quarter
    of what a call for each image takes, and one of 28 x 28 pixels 28 µs in place of 34.
    """
    from scipy import ndimage
    count, height, width, channels = out.shape
    tall = np.zeros((count, height + 2, width + 2, channels), np.float32)
    tall[:, 1:-1, 1:-1] = x.reshape(out.shape)
    tall = tall.reshape(-1, width + 2, channels)
    middle = (height - 1) / 2, (width - 1) / 2
    rows = (np.arange(height) - middle[0] - shift[:, :1])[:, :, np.newaxis]         # of the result, from the centre
    columns = (np.arange(width) - middle[1] - shift[:, 1:])[:, np.newaxis, :]
    cosine, sine = ((f(angle) / zoom)[:, np.newaxis, np.newaxis] for f in (np.cos, np.sin))
    source = np.empty((2, count, height, width))
    np.add(cosine * rows, sine * columns, out=source[0])
    np.subtract(cosine * columns, sine * rows, out=source[1])
    source[1] *= flip[:, np.newaxis, np.newaxis]
    for coordinates, centre, length in zip(source, middle, (height, width), strict=True):
        coordinates += centre + 1
        np.clip(coordinates, 0, length + 1, out=coordinates)        # the margin is as good as what is beyond it
    source[0] += (height + 2) * np.arange(count)[:, np.newaxis, np.newaxis]
    for channel in range(channels):
        out[..., channel] = ndimage.map_coordinates(tall[..., channel], source, np.float32, order=1, prefilter=False)
