"""Augmentation: each change does what its name says, keeps the rest, and is the same in every run."""

import numpy as np
import pytest

pytest.importorskip("scipy")

from scipy import ndimage

from fastopt.demo.augment import AUGMENTATIONS, CHUNK, augment

SHAPES = ((8, 8), (9, 12), (28, 28), (6, 8, 3))
EVERYTHING = tuple((name, change.default) for name, change in AUGMENTATIONS.items())


class Drawn:
    """A generator that draws these numbers for every image: shift, shift, rotate, zoom, flip, rescale, in [−1, 1]."""

    def __init__(self, **unit):
        self.unit = [unit.get(name, 0.0) for name in ("down", "right", "rotate", "zoom", "flip", "rescale")]

    def uniform(self, low, high, size):
        assert (low, high) == (-1.0, 1.0)
        return np.broadcast_to(self.unit, size)


def images(shape, count=5, margin=0, seed=0):
    """Random images in a margin of zeros."""
    x = np.random.default_rng(seed).random((count, *shape), dtype=np.float32)
    inside = np.zeros(x.shape, bool)
    inside[:, margin : shape[0] - margin, margin : shape[1] - margin] = True
    return np.where(inside, x, np.float32(0))


def changed(x, rng, **amounts):
    shape = x.shape[1:]
    return augment(x.reshape(len(x), -1), shape, tuple(amounts.items()), rng).reshape(x.shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, -2), (-2, 1), (2, 2)])
def test_shift(shape, down, right):
    x = images(shape, margin=2)
    amount = 0.5
    drawn = Drawn(down=down / (amount * shape[0]), right=right / (amount * shape[1]))
    np.testing.assert_allclose(changed(x, drawn, shift=amount), np.roll(x, (down, right), axis=(1, 2)), atol=1e-6)


def test_what_leaves_an_image_does_not_come_back():
    x = images((8, 8))
    y = changed(x, Drawn(right=1), shift=0.5)
    np.testing.assert_allclose(y[:, :, 4:], x[:, :, :4], atol=1e-6)
    assert not y[:, :, :4].any()


@pytest.mark.parametrize("shape", [(8, 8), (9, 9, 3)])
@pytest.mark.parametrize("quarters", [-2, -1, 1, 2])
def test_rotate(shape, quarters):
    """Counter-clockwise for positive angles."""
    x = images(shape)
    np.testing.assert_allclose(changed(x, Drawn(rotate=quarters / 2), rotate=180.0), np.rot90(x, quarters, (1, 2)),
                               atol=1e-6)


def test_rotate_by_any_angle_is_scipys():
    x = images((28, 28), margin=8)
    expected = ndimage.rotate(x, 25.0, axes=(1, 2), reshape=False, order=1)
    np.testing.assert_allclose(changed(x, Drawn(rotate=0.25), rotate=100.0), expected, atol=1e-5)


def test_zoom_doubles():
    """Every second point of the result is a pixel of the middle; the others are means of their neighbours."""
    x = images((9, 9))
    y = changed(x, Drawn(zoom=1.0), zoom=1.0)
    np.testing.assert_allclose(y[:, ::2, ::2], x[:, 2:7, 2:7], atol=1e-6)
    np.testing.assert_allclose(y[:, ::2, 1::2], (x[:, 2:7, 2:6] + x[:, 2:7, 3:7]) / 2, atol=1e-6)


def test_zoom_halves():
    x = images((9, 9))
    y = changed(x, Drawn(zoom=-1.0), zoom=0.5)
    np.testing.assert_allclose(y[:, 2:7, 2:7], x[:, ::2, ::2], atol=1e-6)
    assert not y[:, 0].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_flip(shape):
    x = images(shape)
    np.testing.assert_array_equal(changed(x, Drawn(flip=-1.0), flip=0.5), x[:, :, ::-1])
    np.testing.assert_array_equal(changed(x, Drawn(flip=0.999), flip=1.0), x[:, :, ::-1])


def test_flip_is_as_probable_as_said():
    x = images((8, 8), 4000)
    flipped = (changed(x, np.random.default_rng(0), flip=0.3) == x[:, :, ::-1]).all(axis=(1, 2))
    assert abs(flipped.mean() - 0.3) < 6 * (0.3 * 0.7 / 4000) ** 0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_rescale(shape):
    x = images(shape)
    np.testing.assert_allclose(changed(x, Drawn(rescale=1.0), rescale=0.4), np.minimum(x * 1.4, 1), rtol=1e-6)
    np.testing.assert_allclose(changed(x, Drawn(rescale=-0.5), rescale=0.4), x * 0.8, rtol=1e-6)


def test_changes_together():
    """Flipped, then rotated, then shifted."""
    x = images((9, 9), margin=3)
    y = changed(x, Drawn(flip=-1.0, rotate=0.5, down=0.5, right=-0.25), flip=0.5, rotate=180.0, shift=4 / 9)
    np.testing.assert_allclose(y, np.roll(np.rot90(x[:, :, ::-1], 1, (1, 2)), (2, -1), axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_no_amount_changes_no_bit(shape, name):
    """Neither where nothing is to be done nor where the interpolation runs with amounts too small to matter."""
    x = images(shape)
    np.testing.assert_array_equal(changed(x, np.random.default_rng(0), **{name: 0.0}), x)
    drawn = Drawn(down=1, right=1, rotate=1, zoom=1, flip=1, rescale=1)
    np.testing.assert_array_equal(changed(x, drawn, **{name: 1e-300}), x)


def test_amounts_do_not_change_what_is_drawn():
    states = []
    for changes in ((), (("shift", 0.0),), EVERYTHING):
        rng = np.random.default_rng(0)
        augment(images((8, 8)).reshape(5, -1), (8, 8), changes, rng)
        states.append(rng.bit_generator.state)
    assert states[0] == states[1] == states[2]


@pytest.mark.parametrize("shape", SHAPES)
def test_random_changes(shape):
    """Twice the same bits; float32 in [0, 1]; the source stays; every image is changed in its own way."""
    x = np.repeat(images(shape, 1), 7, axis=0).reshape(7, -1)
    source = x.copy()
    x.flags.writeable = False
    first, second = (augment(x, shape, EVERYTHING, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(x, source)
    assert first.dtype == np.float32
    assert first.shape == x.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert len(np.unique(first, axis=0)) == 7


def test_many_images_are_changed_as_each_alone():
    """More than are changed at a time."""
    count = 2 * CHUNK // 64 + 3
    x = images((8, 8), count).reshape(count, -1)
    together = augment(x, (8, 8), EVERYTHING, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    for i in range(count):
        alone = augment(x[i : i + 1], (8, 8), EVERYTHING, rng)[0]
        if i % 97 == 0 or i > count - 5:
            np.testing.assert_array_equal(together[i], alone)


def test_table():
    assert list(AUGMENTATIONS) == ["shift", "rotate", "zoom", "flip", "rescale"]
    for change in AUGMENTATIONS.values():
        assert 0 < change.default < change.largest or change.default == 0.5
        assert change.meaning
