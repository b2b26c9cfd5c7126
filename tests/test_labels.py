"""The forms in which cross-entropy takes labels: each gives the bits of int64 classes or of float32 distributions."""

import numpy as np
import pytest
from helpers import assert_same_bits, misaligned

import fastopt
from fastopt import reference

F = np.float32
BOTH = pytest.mark.parametrize("module", [fastopt, reference], ids=["fastopt", "reference"])


def same(got, right):
    for a, b in zip(got, right, strict=True):
        if isinstance(b, int):
            assert a == b
        else:
            assert_same_bits(np.asarray(a), np.asarray(b))


CLASSES = {
    "list": lambda t: t.tolist(),
    "tuple": lambda t: tuple(t.tolist()),
    "list of NumPy scalars or arrays": lambda t: list(t),
    "column": lambda t: t[..., np.newaxis],
    "strided column": lambda t: np.repeat(t[..., np.newaxis], 2, axis=-1)[..., ::2],
    "uint8 column": lambda t: t.astype(np.uint8)[..., np.newaxis],
    "list column": lambda t: t[..., np.newaxis].tolist(),
    "uint64 list": lambda t: list(t.astype(np.uint64)),
}


@BOTH
@pytest.mark.parametrize("form", CLASSES)
@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5), (2, 1, 3, 5), (1, 5), (1, 1, 5)])
def test_classes(form, module, shape, rng):
    logits, labels = rng.standard_normal(shape, dtype=F), rng.integers(5, size=shape[:-1])
    given = CLASSES[form](labels)
    for reduction in ("mean", "none"):
        right = module.softmax_cross_entropy(logits, labels, reduction=reduction, count_correct=True)
        same(module.softmax_cross_entropy(logits, given, reduction=reduction, count_correct=True), right)
        same([module.softmax_cross_entropy_loss(logits, given, reduction=reduction)], right[:1])


@BOTH
def test_one_row(module):
    logits = np.float32([0.5, 1, -2])
    right = module.softmax_cross_entropy(logits, np.array(1))
    same(module.softmax_cross_entropy(logits, [1]), right)
    same(module.softmax_cross_entropy(logits, np.array([1], np.uint8)), right)
    same(module.softmax_cross_entropy(logits, [False, True, False]), module.softmax_cross_entropy(
        logits, np.float32([0, 1, 0])))


@BOTH
def test_no_rows(module):
    logits = np.empty((0, 4), F)
    for labels in ([], (), np.empty((0, 1), int), np.empty((0, 4)), np.empty((0, 4), bool)):
        loss, d = module.softmax_cross_entropy(logits, labels, reduction="sum")
        assert loss == 0
        assert d.shape == (0, 4)


def one_hot(t):
    return np.eye(5)[t]


DISTRIBUTIONS = {
    "float64": one_hot,
    "float16": lambda t: one_hot(t).astype(np.float16),
    "longdouble": lambda t: one_hot(t).astype(np.longdouble),
    "big endian": lambda t: one_hot(t).astype(">f4"),
    "bool": lambda t: one_hot(t).astype(bool),
    "int64": lambda t: one_hot(t).astype(int),
    "uint8": lambda t: one_hot(t).astype(np.uint8),
    "list of floats": lambda t: one_hot(t).tolist(),
    "list of ints": lambda t: one_hot(t).astype(int).tolist(),
    "list of bools": lambda t: one_hot(t).astype(bool).tolist(),
    "list of arrays": lambda t: list(one_hot(t)),
    "transposed": lambda t: np.asfortranarray(one_hot(t).astype(F)),
    "transposed float64": lambda t: np.asfortranarray(one_hot(t)),
    "misaligned": lambda t: misaligned(one_hot(t).astype(F)),
}


@BOTH
@pytest.mark.parametrize("form", DISTRIBUTIONS)
@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5)])
def test_one_hot(form, module, shape, rng):
    logits, labels = rng.standard_normal(shape, dtype=F), rng.integers(5, size=shape[:-1])
    given = DISTRIBUTIONS[form](labels)
    for options in ({}, {"reduction": "none", "label_smoothing": 0.1}):
        right = module.softmax_cross_entropy(logits, one_hot(labels).astype(F), **options)
        same(module.softmax_cross_entropy(logits, given, **options), right)
        same([module.softmax_cross_entropy_loss(logits, given, **options)], right[:1])


@BOTH
def test_soft_labels_are_rounded_to_float32(module, rng):
    logits, soft = rng.standard_normal((50, 7), dtype=F), rng.dirichlet(np.ones(7), 50)
    same(module.softmax_cross_entropy(logits, soft), module.softmax_cross_entropy(logits, soft.astype(F)))
    with np.errstate(all="raise"):
        module.softmax_cross_entropy(logits, np.where(soft < 0.1, 1e-60, soft))


@pytest.mark.parametrize("form", ["float64", "longdouble", ">f8", "transposed", "strided", "list"])
def test_soft_labels_beyond_float32_are_refused(form):
    """As by `cast`: no number becomes inf, in whatever form it comes. inf itself is a number of float32."""
    soft, logits, out = np.full((3, 4), 0.25), np.ones((3, 4), F), np.zeros((3, 4), F)
    soft[0, 1] = np.inf
    make = {"transposed": np.asfortranarray, "strided": lambda y: np.repeat(y, 2, axis=1)[:, ::2],
            "list": np.ndarray.tolist}.get(form, lambda y: y.astype(form))
    fastopt.softmax_cross_entropy(logits, make(soft))
    soft[1, 2] = -1e39
    given = make(soft)
    message = r"^labels: expected numbers in the range of float32, got labels\[1, 2\] = -(1e\+39|9\.99\d+e\+38)$"
    with pytest.raises(ValueError, match=message), np.errstate(all="raise"):
        fastopt.softmax_cross_entropy(logits, given, out=out)
    with pytest.raises(ValueError, match=message):
        fastopt.softmax_cross_entropy_loss(logits, given)
    if form != "list":
        with pytest.raises(ValueError, match=r"^tree: expected numbers in the range of float32, got tree\[1, 2\] = "):
            fastopt.cast(given)
    assert not out.any()


def test_the_reference_keeps_float64_beside_float64_logits(rng):
    logits, soft = rng.standard_normal((5, 7)), rng.dirichlet(np.ones(7), 5)
    loss = reference.softmax_cross_entropy_loss(logits, soft)
    assert loss != reference.softmax_cross_entropy_loss(logits, soft.astype(F))


def test_one_class(rng):
    """Integers of shape (N, 1) may be a column of classes or one-hot; floats are distributions, as for more classes."""
    logits = rng.standard_normal((4, 1), dtype=F)
    for given in (np.zeros((4, 1), int), np.ones((4, 1), np.uint8), [[0]] * 4):
        with pytest.raises(ValueError, match=r"^labels: expected integers of shape \(4,\) or float distributions of "
                                             r"shape \(4, 1\) .* may be either\), got u?int"):
            fastopt.softmax_cross_entropy(logits, given)
    with pytest.raises(ValueError, match=r"integers of shape \(4,\), or distributions of shape \(4, 1\), got"):
        fastopt.softmax_cross_entropy(logits, np.zeros((4, 2), int))
    for given in (np.ones((4, 1)), np.ones((4, 1), bool), [[1.0]] * 4):
        same(fastopt.softmax_cross_entropy(logits, given),
             fastopt.softmax_cross_entropy(logits, np.ones((4, 1), F)))
    same(fastopt.softmax_cross_entropy(logits, [0] * 4), fastopt.softmax_cross_entropy(logits, np.zeros(4, int)))
    x, weight = rng.standard_normal((4, 3), dtype=F), rng.standard_normal((1, 3), dtype=F)
    same(fastopt.linear_cross_entropy(x, weight, np.zeros((4, 1), int)),        # which takes no distributions
         fastopt.linear_cross_entropy(x, weight, np.zeros(4, int)))


X = np.zeros((4, 3), F)
RECURSIVE = [0, 1, 2]
RECURSIVE.append(RECURSIVE)


@pytest.mark.parametrize(("labels", "error", "message"), [
    ([0, 1, 2, 3], ValueError, r"labels\[3\] = 3$"),
    (np.array([[0], [1], [-1], [2]]), ValueError, r"labels\[2, 0\] = -1$"),
    (list(np.uint64([0, 1, 2, 2**64 - 1])), ValueError, r"labels\[3\] = 18446744073709551615$"),
    ([0, 1, 2], ValueError, r"shape \(4,\) or \(4, 1\), or distributions of shape \(4, 3\), got int64 \(3,\)$"),
    ([0.0, 1.0, 2.0, 0.0], TypeError, r"got float64 \(4,\)$"),
    (np.zeros((4, 1)), TypeError, r"got float64 \(4, 1\)$"),
    ([True, False, True, True], TypeError, r"got bool \(4,\)$"),
    (np.zeros((4, 2)), ValueError, r"got float64 \(4, 2\)$"),
    (np.zeros((3, 4), bool), ValueError, r"got bool \(3, 4\)$"),
    (np.zeros((1, 4), int), ValueError, r"got int64 \(1, 4\)$"),
    (np.zeros((4, 1, 1), int), ValueError, r"got int64 \(4, 1, 1\)$"),
    ([[0, 1], [2]], TypeError, "got list$"),
    ([], ValueError, r"got int64 \(0,\)$"),
    (["0", "1", "2", "0"], TypeError, r"got <U1 \(4,\)$"),
    ([None] * 4, TypeError, r"got object \(4,\)$"),
    ([10**30] * 4, TypeError, r"got object \(4,\)$"),
    (np.zeros((4, 3), complex), TypeError, r"got complex128 \(4, 3\)$"),
    (np.zeros((4, 3), object), TypeError, r"got object \(4, 3\)$"),
    ([0, 1, np.ma.masked, 0], TypeError, "got list$"),
    ([np.ma.masked_array([0, 1, 0], [0, 1, 0])] * 4, TypeError, "got list$"),
    (([[0], [0], [np.ma.masked], [0]],), TypeError, "got tuple$"),
    (np.ma.masked_array(np.zeros((4, 3)), np.zeros((4, 3), bool)), TypeError, "got MaskedArray$"),
    (np.ma.masked_array(np.zeros((4, 1), int), np.zeros((4, 1), bool)), TypeError, "got MaskedArray$"),
    (range(4), TypeError, "got range$"),
    ("0120", TypeError, "got str$"),
    (RECURSIVE, TypeError, "got list$"),
], ids=range(26))
def test_refused(labels, error, message):
    out = np.full_like(X, 7)
    for call in (lambda: fastopt.softmax_cross_entropy(X, labels, out=out),
                 lambda: fastopt.softmax_cross_entropy_loss(X, labels)):
        with pytest.raises(error, match=rf"^labels: expected .*{message}"):
            call()
    assert (out == 7).all()


def test_distributions_count_nothing_correct():
    with pytest.raises(ValueError, match="^count_correct: expected False with labels that are distributions"):
        fastopt.softmax_cross_entropy(X, np.eye(3)[[0, 1, 2, 0]], count_correct=True)


@pytest.mark.parametrize("view", [
    lambda room: room.view(np.float64)[:12].reshape(4, 3), lambda room: room.view(bool)[:12].reshape(4, 3),
    lambda room: room.view(np.int32)[:4].reshape(4, 1), lambda room: room[:12].reshape(3, 4).T,
    lambda room: room[4:16].reshape(4, 3),
], ids=["float64", "bool", "int32 column", "transposed", "float32"])
def test_out_over_labels_that_are_converted(view):
    room = np.zeros(24, F)
    with pytest.raises(ValueError, match="^out: expected memory of its own, got an array that overlaps labels$"):
        fastopt.softmax_cross_entropy(X, view(room), out=room[:12].reshape(4, 3))
    assert (room == 0).all()


@BOTH
@pytest.mark.parametrize("form", CLASSES)
def test_linear_cross_entropy(form, module, rng):
    x, weight = rng.standard_normal((6, 4), dtype=F), rng.standard_normal((5, 4), dtype=F)
    labels = rng.integers(5, size=6)
    right = module.linear_cross_entropy(x, weight, labels)
    same(module.linear_cross_entropy(x, weight, CLASSES[form](labels)), right)
    out = np.empty_like(x), np.empty_like(weight)
    same(module.linear_cross_entropy(x, weight, CLASSES[form](labels), out=out), right)


@pytest.mark.parametrize(("labels", "error", "message"), [
    (np.eye(5)[[0, 1, 2]], TypeError, r"got float64 \(3, 5\); .* of one-hot rows are labels.argmax\(axis=-1\)$"),
    (np.eye(5, dtype=int)[:3], ValueError, r"got int64 \(3, 5\); the classes of one-hot rows are"),
    ([0.0, 1.0, 2.0], TypeError, r"integers of shape \(3,\) or \(3, 1\), got float64 \(3,\)$"),
    ([0, 1, 5], ValueError, r"labels\[2\] = 5$"),
    ([0, 1], ValueError, r"got int64 \(2,\)$"),
    ([[0, 1], [2]], TypeError, "got list$"),
])
def test_linear_cross_entropy_refuses(labels, error, message):
    out = np.full((3, 2), 7, F), np.full((5, 2), 7, F)
    with pytest.raises(error, match=rf"^labels: expected .*{message}"):
        fastopt.linear_cross_entropy(np.ones((3, 2), F), np.ones((5, 2), F), labels, out=out)
    assert all((array == 7).all() for array in out)
