"""C-contiguous copies of arrays of other strides: blocked, on threads, bit for bit."""

import itertools
import sys

import numpy as np
import pytest
from helpers import THREADS, assert_same_bits, random_bits

import fastopt
from fastopt._runtime import strided

F = np.float32
SIDES = (1, 2, 3, 4, 5, 15, 16, 17, 64, 65, 257)    # around the sides of tiles and blocks


def copied(array):
    """The copy, which must be C-contiguous and the array's in every bit."""
    references = sys.getrefcount(array)
    copy = strided.contiguous(array)
    assert sys.getrefcount(copy) == 2           # nor is its buffer still exported
    assert sys.getrefcount(array) == references
    assert copy.flags.c_contiguous
    assert copy.flags.owndata
    assert_same_bits(copy, array, f"{array.shape}, strides {array.strides}")


@pytest.mark.parametrize("rows", SIDES)
def test_transposed_matrices(rows, rng, always_parallel):
    for columns in SIDES:
        copied(random_bits(rng, (columns, rows)).T)


@pytest.mark.parametrize("shape", [(1024, 1024), (1000, 1030), (3, 70_000), (70_000, 3), (512, 2048)])
@pytest.mark.parametrize("threads", THREADS)
def test_large_transposed_matrices(shape, threads, rng, always_parallel):
    with fastopt.num_threads(threads):
        copied(random_bits(rng, shape[::-1]).T)


@pytest.mark.parametrize("shape", [(5, 6, 7), (2, 3, 20, 33), (3, 3, 17, 40), (1, 70, 1, 19), (2, 1, 2, 3, 2, 5)])
def test_every_permutation_of_axes(shape, rng, always_parallel):
    array = random_bits(rng, shape)
    for order in itertools.permutations(range(len(shape))):
        copied(array.transpose(order))


@pytest.mark.parametrize("view", [
    lambda a: a[:, 3:40], lambda a: a[1::2, ::3], lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a[::-2, ::-1],
    lambda a: a.T[::-1], lambda a: a.T[:, ::-1], lambda a: a.T[5:50:2, 1:], lambda a: a.T[2:], lambda a: a.ravel()[::2],
    lambda a: a.ravel()[::-1], lambda a: np.broadcast_to(a[0], (40, 90)), lambda a: np.broadcast_to(a[:, :1], (70, 90)),
    lambda a: a[::2].T, lambda a: a[:0].T, lambda a: a[3, 4:5].reshape(()), lambda a: a,
], ids=range(17))
def test_slices_reversed_and_broadcast(view, rng, always_parallel):
    copied(view(random_bits(rng, (70, 90))))


def test_rows_of_a_matrix_that_is_wider_than_a_block(rng, always_parallel):
    copied(random_bits(rng, (130, 2100))[:, 1:])
    copied(random_bits(rng, (130, 4200))[:, ::2])


def test_other_types_and_misaligned_arrays_are_not_copied():
    """NumPy converts them."""
    matrix = np.ones((4, 4))
    packed = np.zeros(5, [("x", F), ("a", np.uint8)])["x"]
    misaligned = np.zeros(65, np.uint8)[1:].view(F).reshape(4, 4)
    for array in (matrix.T, matrix.astype(">f4").T, matrix.astype(np.int32).T, packed, misaligned.T):
        assert strided.contiguous(array) is None


@pytest.mark.parametrize("gradient", [
    lambda g: g.T.copy().T, lambda g: np.repeat(g, 2, axis=1)[:, ::2], lambda g: g[::-1].copy()[::-1],
    lambda g: np.zeros(4 * g.size + 1, np.uint8)[1:].view(F).reshape(g.shape), lambda g: g.astype(">f4"),
    lambda g: g.T.astype(np.float64).T,
], ids=["transposed", "strided", "reversed", "misaligned", "big endian", "float64 transposed"])
@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (37, 53), (300, 300)])   # the last is not held between steps
def test_a_gradient_that_is_written_anew_is_copied_at_every_step(gradient, shape, rng):
    grad = gradient(np.zeros(shape, F))
    param, opt, total = np.zeros(shape, F), fastopt.SGD(lr=1.0), np.zeros(shape, F)
    for _ in range(3):
        grad[...] = rng.integers(-9, 9, shape)
        total -= grad
        opt.update({"w": param}, {"w": grad})
        np.testing.assert_array_equal(param, total)


def test_a_contiguous_gradient_of_a_subclass_is_not_copied():
    """Such as a memory map's: it may be large, and one that overlaps the parameter is refused."""
    param = np.ones((4, 4), F)
    with pytest.raises(ValueError, match=r"^grads\[0\]: expected memory of its own, .* overlaps params\[0\]$"):
        fastopt.SGD(lr=1.0).update([param], [param.view(np.recarray)])
    np.testing.assert_array_equal(param, 1)
