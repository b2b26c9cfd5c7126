"""Embedding: the reference's bits for any indices, threads and level; what is refused; rows that are left alone."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import AWKWARD, SPECIAL, THREADS, assert_same_bits, random_bits, read_only, unaligned

import fastopt
from fastopt import reference
from fastopt._runtime import dispatch


def indices_of(kind, n, rows, rng):
    """n indices below `rows`: uniform, all of one row, one row in half of the positions, Zipf's law, sorted, runs."""
    if kind == "one":
        return np.full(n, rows // 2)
    if kind == "zipf":
        return np.minimum(rng.zipf(1.3, n), rows) - 1
    indices = rng.integers(rows, size=n)
    if kind == "half":
        indices[rng.random(n) < 0.5] = rows - 1
    if kind == "sorted":
        indices.sort()
    if kind == "runs":
        indices = np.repeat(indices, 1 + n // 3)[:n]
    return indices


KINDS = ("uniform", "one", "half", "zipf", "sorted", "runs")
SIZES = ((1, 1, 1), (7, 33, 5), (100, 16, 3), (300, 5, 2048), (700, 128, 2049), (1030, 300, 40), (70, 2100, 9),
         (5000, 1, 70_000), (3000, 2, 5_000_000))
"""(positions, columns, rows): around the digits of the sort, the columns of a block and the positions of a task."""


def both(dy, indices, rows, out=None, **options):
    """The gradient, the reference's, and their names in an error."""
    given, wanted = (None, None) if out is None else (out.copy(), out.copy())
    ours = fastopt.embedding_backward(dy, indices, rows, out=given, **options)
    assert out is None or ours is given
    return ours, reference.embedding_backward(dy, indices, rows, out=wanted, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "columns", "rows"), SIZES)
def test_backward_has_the_references_bits(kind, n, columns, rows, rng, level):
    indices, dy = indices_of(kind, n, rows, rng), rng.standard_normal((n, columns), dtype=np.float32)
    assert_same_bits(*both(dy, indices, rows), "new array")
    out = rng.standard_normal((rows, columns), dtype=np.float32) if rows < 100_000 else None
    if out is not None:
        assert_same_bits(*both(dy, indices, rows, out), "added to out")
    assert_same_bits(*both(dy, indices, rows, out, padding_idx=int(indices[0])), "padding")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "columns", "rows"), [(700, 128, 300), (4000, 64, 50), (9000, 7, 3000), (50, 5000, 4)])
def test_same_bits_for_any_threads_and_alignment(kind, n, columns, rows, rng, level, always_parallel):
    indices, dy = indices_of(kind, n, rows, rng), rng.standard_normal((n, columns), dtype=np.float32)
    out = rng.standard_normal((rows, columns), dtype=np.float32)
    expected, table = reference.embedding_backward(dy, indices, rows, out=out.copy()), out.copy()
    for threads in THREADS:
        with fastopt.num_threads(threads):
            for offset in (0, 1, 15):
                given = unaligned(out, 16 - offset)
                fastopt.embedding_backward(unaligned(dy, offset), indices, rows, out=given)
                assert_same_bits(given, expected, f"{threads} threads, offset {offset}")
                y = fastopt.embedding_forward(unaligned(table, offset), indices)
                assert_same_bits(y, table[indices], f"{threads} threads, offset {offset}")


@pytest.mark.parametrize("columns", AWKWARD)
def test_every_width(columns, rng, level):
    indices, dy = rng.integers(9, size=60), rng.standard_normal((60, columns), dtype=np.float32)
    weight = rng.standard_normal((9, columns), dtype=np.float32)
    assert_same_bits(*both(dy, indices, 9, weight))
    assert_same_bits(fastopt.embedding_forward(weight, indices), weight[indices])


def test_nothing_is_written_beside_the_rows(rng, level, always_parallel):
    """Guards before and after every array, and rows that no index names."""
    for n, columns, rows in ((300, 17, 40), (5000, 3, 12), (20, 4100, 6)):
        room = np.full((rows + 2, columns), 7, np.float32)
        named = rng.choice(rows, rows // 2, replace=False)
        indices = rng.choice(named, n)
        fastopt.embedding_backward(rng.standard_normal((n, columns), dtype=np.float32), indices, rows, out=room[1:-1])
        left_alone = np.setdiff1d(np.arange(-1, rows + 1), named)
        assert (room[1 + left_alone] == 7).all()
        guarded = np.full((n + 2, columns), 7, np.float32)
        fastopt.embedding_forward(room, indices, out=guarded[1:-1])
        assert (guarded[[0, -1]] == 7).all()


def test_order_of_the_sum():
    """2⁶⁰ + 1 − 2⁶⁰ is 0 or 1, as the order is: that of the positions, from out's value on."""
    dy = np.float32([[2.0**60], [1], [-(2.0**60)], [-(2.0**60)], [2.0**60], [1]])
    indices = np.array([3, 3, 3, 0, 0, 0])
    assert fastopt.embedding_backward(dy, indices, 4).ravel().tolist() == [1, 0, 0, 0]
    out = np.float32([[1], [5], [5], [-(2.0**60)]])
    fastopt.embedding_backward(dy, indices, 4, out=out)
    assert out.ravel().tolist() == [1, 5, 5, -(2.0**60)]


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 0, 4), (1, 2, 1, 3, 2)])
@pytest.mark.parametrize("dtype", ["b", "B", "h", "H", "i", "I", "l", "L", "q", "Q", ">i4", ">u8"])
def test_any_integers(shape, dtype, rng, level):
    weight = rng.standard_normal((7, 4), dtype=np.float32)
    indices = rng.integers(7, size=shape, dtype=np.int64).astype(dtype)
    dy = rng.standard_normal((*shape, 4), dtype=np.float32)
    out = np.empty_like(dy)
    for given in (indices, np.copy(indices, order="F"), read_only(indices), indices[..., None].repeat(2, -1)[..., 0]):
        y = fastopt.embedding_forward(weight, given, out=out)
        assert y is out
        assert_same_bits(y, weight[indices.astype(int)])
        assert_same_bits(y, reference.embedding_forward(weight, given))
        assert_same_bits(*both(dy, given, 7, weight))
        assert_same_bits(*both(dy, given, 7, padding_idx=np.int16(3)))


def test_special_values(rng, level):
    """Zeros of both signs, subnormals, infinities, NaN, sums beyond float32: as in the reference."""
    values = np.concatenate([np.repeat(SPECIAL, 40), random_bits(rng, 2000)])
    for columns in (1, 5, 40):
        dy = rng.choice(values, (400, columns))
        out = rng.choice(values, (90, columns))
        indices = rng.integers(80, size=400)
        assert_same_bits(*both(dy, indices, 90))
        assert_same_bits(*both(dy, indices, 90, out))
        y = fastopt.embedding_forward(out, indices)
        assert y.tobytes() == out[indices].tobytes()
    zeros = np.float32([[-0.0], [-0.0]])
    for indices in (np.array([0, 0]), np.array([0, 1])):
        assert_same_bits(fastopt.embedding_backward(zeros, indices, 2), np.float32([[0.0], [0.0]]))
        assert_same_bits(fastopt.embedding_backward(zeros, indices, 2, out=zeros.copy()), zeros)


def test_indices_that_occur_once(rng, level):
    """Their rows are added in float32, which rounds as a sum in double that is rounded again."""
    for columns in (1, 5, 40, 300):
        dy, out, indices = random_bits(rng, (2000, columns)), random_bits(rng, (2500, columns)), rng.permutation(2500)
        indices = indices[:2000]
        flips = rng.integers(2**32, size=dy.shape, dtype=np.uint32) & np.uint32(0x81FFFFFF)
        out[indices[::2]] = (dy.view(np.uint32) ^ flips).view(np.float32)[::2]     # terms of about the same size
        assert_same_bits(*both(dy, indices, 2500, out))
        assert_same_bits(*both(dy, indices, 2500))


def test_rows_that_no_index_names_keep_their_bits(rng, level):
    """A signalling NaN among them, and those of padding."""
    out = random_bits(rng, (50, 3))
    out[10:20] = np.array(0x7F800001, np.uint32).view(np.float32)
    out[20:30] = -0.0
    for module in (fastopt, reference):
        given, indices, dy = out.copy(), rng.integers(30, 50, 40), rng.standard_normal((40, 3), dtype=np.float32)
        indices[::3] = 15
        module.embedding_backward(dy, indices, 50, padding_idx=15, out=given)
        assert given[:30].tobytes() == out[:30].tobytes()


def test_a_hot_index_is_summed_in_double(rng, level):
    """10⁵ occurrences of one row: within half a unit of the exact sum, where float32 addition loses three digits."""
    dy = rng.random((100_000, 3), dtype=np.float32)
    found = fastopt.embedding_backward(dy, np.full(100_000, 1), 2)
    exact = (dy.astype(np.float64) * 2.0**24).astype(np.int64).sum(0) * 2.0**-24      # random() has 24 bits
    assert_same_bits(found[1], exact.astype(np.float32))
    assert (found[0] == 0).all()


def test_backward_is_the_transpose_of_forward(rng):
    """⟨forward(w), dy⟩ = ⟨w, backward(dy)⟩, exactly for small integers."""
    weight = rng.integers(-9, 9, (40, 12)).astype(np.float32)
    indices = rng.integers(40, size=(6, 25))
    dy = rng.integers(-9, 9, (6, 25, 12)).astype(np.float32)
    left = (fastopt.embedding_forward(weight, indices).astype(int) * dy.astype(int)).sum()
    assert left == (weight.astype(int) * fastopt.embedding_backward(dy, indices, 40).astype(int)).sum()


def test_nothing_to_do():
    none = np.zeros(0, int)
    assert fastopt.embedding_forward(np.ones((0, 3), np.float32), none).shape == (0, 3)
    assert fastopt.embedding_forward(np.ones((4, 0), np.float32), np.array([3, 1])).shape == (2, 0)
    assert fastopt.embedding_backward(np.ones((0, 3), np.float32), none, 0).shape == (0, 3)
    assert fastopt.embedding_backward(np.ones((2, 0), np.float32), np.array([3, 1]), 4).shape == (4, 0)
    assert (fastopt.embedding_backward(np.ones((0, 3), np.float32), none, 4) == 0).all()
    padding = fastopt.embedding_backward(np.ones((2, 3), np.float32), np.array([1, 1]), 4, padding_idx=1)
    assert (padding == 0).all()


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        (np.array([[0, 1, 2], [0, 1, 12]]), ValueError, r"integers in \[0, 10\), got indices\[1, 2\] = 12$"),
        (np.array([[0, 1, 2], [0, 1, 10]]), ValueError, r"got indices\[1, 2\] = 10$"),
        (np.array([[0, 1, 2], [0, -1, 9]]), ValueError, r"got indices\[1, 1\] = -1$"),
        (np.array([[0, 10, 2], [-1, 1, 12]]), ValueError, r"integers in \[0, 10\), got indices\[0, 1\] = 10$"),
        (np.array([[0, 9, 2], [-1, 1, 12]], np.int8), ValueError, r"got indices\[1, 0\] = -1$"),
        (np.array([[0, 1, 2], [0, 1, 2**64 - 1]], np.uint64), ValueError, r"indices\[1, 2\] = 18446744073709551615$"),
        (np.array([[0, 1, 2], [0, 1, 2**63]], np.uint64), ValueError, r"indices\[1, 2\] = 9223372036854775808$"),
        (np.zeros((2, 3)), TypeError, r"an array of integers, got float64 \(2, 3\)$"),
        (np.zeros((2, 3), bool), TypeError, r"got bool \(2, 3\)$"),
        (np.zeros((2, 3), "m8[s]"), TypeError, r"got timedelta64\[s\] \(2, 3\)$"),
        (np.zeros((2, 3), object), TypeError, r"got object \(2, 3\)$"),
        ([[0, 1, 2], [0, 1, 2]], TypeError, "got list$"),
        (np.ma.masked_array(np.zeros((2, 3), int), np.zeros((2, 3), bool)), TypeError, "got MaskedArray$"),
        (1, TypeError, "got int$"),
        (None, TypeError, "got NoneType$"),
    ],
    ids=str,
)
def test_wrong_indices(indices, error, message):
    out, table = np.full((2, 3, 4), 7, np.float32), np.full((10, 4), 7, np.float32)
    for call in (lambda: fastopt.embedding_forward(table, indices, out=out),
                 lambda: fastopt.embedding_backward(out, indices, 10, out=table)):
        with pytest.raises(error, match=message) as caught:
            call()
        assert str(caught.value).startswith("indices: expected ")
    assert (out == 7).all()
    assert (table == 7).all()


def test_one_index_out_of_range():
    with pytest.raises(ValueError, match=r"^indices: expected integers in \[0, 0\), got indices\[\(\)\] = 0$"):
        fastopt.embedding_forward(np.ones((0, 3), np.float32), np.array(0))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dy": np.ones((3, 2, 4), np.float32)}, ValueError, r"^dy: expected shape \(2, 3, D\), .* got \(3, 2, 4\)$"),
        ({"dy": np.ones((2, 3), np.float32)}, ValueError, r"^dy: expected shape \(2, 3, D\), .* got \(2, 3\)$"),
        ({"dy": np.ones((), np.float32)}, ValueError, r"^dy: expected shape \(2, 3, D\), .* got \(\)$"),
        ({"num_embeddings": 2**61}, ValueError, r"^num_embeddings: expected an int in \[0, 2\*\*59\)"),
        ({"num_embeddings": 5.0}, TypeError, "^num_embeddings: expected an int, got float 5.0"),
        ({"num_embeddings": -1}, ValueError, "^num_embeddings: "),
        ({"num_embeddings": 4}, ValueError, r"^indices: expected integers in \[0, 4\), got indices\[1, 2\] = 4$"),
        ({"padding_idx": -1}, ValueError, r"^padding_idx: expected an int in \[0, 10\), got -1"),
        ({"padding_idx": 10}, ValueError, r"^padding_idx: expected an int in \[0, 10\), got 10"),
        ({"out": np.ones((9, 4), np.float32)}, ValueError, r"^out: expected writable .* of shape \(10, 4\)"),
    ],
    ids=str,
)
def test_wrong_arguments(change, error, message):
    arguments = {"dy": np.ones((2, 3, 4), np.float32), "indices": np.array([[0, 1, 2], [1, 1, 4]]),
                 "num_embeddings": 10, "out": np.full((10, 4), 7, np.float32), **change}
    before = arguments["out"].copy()
    with pytest.raises(error, match=message):
        fastopt.embedding_backward(**arguments)
    assert_same_bits(arguments["out"], before)


def test_weight_has_two_axes():
    for shape in ((), (3,), (3, 4, 5)):
        with pytest.raises(ValueError, match=r"^weight: expected shape \(num_embeddings, D\), got "):
            fastopt.embedding_forward(np.ones(shape, np.float32), np.array([0]))


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_out_over_the_memory_of_indices(dtype):
    room = np.zeros(12, dtype)
    out = room.view(np.float32)[:12].reshape(3, 4)
    with pytest.raises(ValueError, match="^out: expected memory of its own, got an array that overlaps indices"):
        fastopt.embedding_forward(np.ones((5, 4), np.float32), room[:3], out=out)
    with pytest.raises(ValueError, match="^out: expected memory of its own, got an array that overlaps indices"):
        fastopt.embedding_backward(np.ones((3, 4), np.float32), room[:3], 3, out=out)
    assert not room.any()


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_indices_are_copied_before_they_are_checked(dtype, rng, monkeypatch):
    """What another thread writes into them afterwards must not become an address."""
    kernel, indices = dispatch.active.embedding, np.array([0, 1, 2, 0], dtype)
    dy, weight = rng.standard_normal((4, 3), dtype=np.float32), rng.standard_normal((5, 3), dtype=np.float32)
    for call in (lambda: fastopt.embedding_forward(weight, indices),
                 lambda: fastopt.embedding_backward(dy, indices, 5)):
        expected = call()

        def first_outside(*arguments):
            wrong = kernel.first_outside(*arguments)
            indices[...] = 10**6
            return wrong

        changed = SimpleNamespace(first_outside=first_outside, forward=kernel.forward, backward=kernel.backward)
        with monkeypatch.context() as patched:
            patched.setattr(dispatch, "active", SimpleNamespace(embedding=changed))
            assert_same_bits(call(), expected)
        assert (indices == 10**6).all()
        indices[...] = [0, 1, 2, 0]
