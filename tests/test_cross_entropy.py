"""Softmax cross-entropy: loss and gradient to 2 units in the last place, every option, the same bits however run."""

from array import array as plain_array
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest
from helpers import AWKWARD, THREADS, assert_same_bits, ulps, unaligned
from logits import FAMILIES, exact_row, exact_ulps, log_softmax64

import fastopt
from fastopt import reference
from fastopt._runtime import dispatch

FAMILY = pytest.mark.parametrize("family", FAMILIES)
REDUCTION = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


def make_labels(rng, x, confident=True):
    """A class for each row: in half of them the largest logit's, if `confident`; never one with −inf."""
    rows, n = x.shape
    labels = rng.integers(n, size=rows)
    chosen = rng.random(rows) < 0.5
    if confident:
        labels[chosen] = x[chosen].argmax(1)
    labels[x[np.arange(rows), labels] == -np.inf] = 0
    return np.where(x[np.arange(rows), labels] == -np.inf, x.argmax(1), labels)


@FAMILY
def test_against_mpmath(family, rng, level):
    for n, rows in ((1, 3), (2, 60), (3, 40), (10, 20), (32, 3), (33, 3), (300, 2)):
        x = FAMILIES[family](rng, rows, n)
        labels = make_labels(rng, x)
        loss, d = fastopt.softmax_cross_entropy(x, labels, reduction="none")
        for r in range(rows):
            log_softmax, softmax = exact_row(x[r])
            assert exact_ulps(loss[r], [-log_softmax[labels[r]]]) <= 2.0
            slope = softmax.copy()
            slope[labels[r]] = -mpmath.fsum(v for j, v in enumerate(softmax) if j != labels[r])
            assert exact_ulps(d[r], slope) <= 3.0, (n, x[r], labels[r])


@FAMILY
@pytest.mark.parametrize("n", [1, 2, 10, 32, 33, 100, 1000, 32000, 262144])
def test_at_every_width(family, n, rng, level):
    x = FAMILIES[family](rng, max(1, min(1000, 60000 // n)), n)
    labels = make_labels(rng, x)
    loss, d = fastopt.softmax_cross_entropy(x, labels, reduction="none")
    log_softmax = log_softmax64(x)
    index = labels[:, None]
    assert ulps(loss, -np.take_along_axis(log_softmax, index, 1)[:, 0]).max() <= 2.0
    slope = np.exp(log_softmax)
    np.put_along_axis(slope, index, 0.0, 1)
    others = slope.sum(1, keepdims=True)
    top = np.take_along_axis(x, index, 1) == x.max(1, keepdims=True)
    own = np.where(top, -others, np.expm1(np.take_along_axis(log_softmax, index, 1)))
    np.put_along_axis(slope, index, own, 1)
    assert ulps(d, slope).max() <= 3.0
    # The rows of the gradient sum to 0, up to the rounding of each element.
    total = np.abs(d.astype(np.float64).sum(1))
    assert (total <= 4 * 2.0**-24 * np.abs(d.astype(np.float64)).sum(1) + n * 2.0**-149).all()


def test_confident_row():
    """softmax − 1 in float32 is 0 here; the gradient is not."""
    x = np.float32([[0, 20, 0]])
    loss, d = fastopt.softmax_cross_entropy(x, np.array([1]), reduction="none")
    rest = 2 * np.exp(-20.0)
    assert ulps(loss, np.log1p([rest])).max() <= 2.0
    assert ulps(d[0], np.array([1, -2, 1]) * np.exp(-20.0) / (1 + rest)).max() <= 2.0


def test_a_logit_far_below_adds_nothing():
    """exp(−200) is 0 in double arithmetic too, as far as a loss of float32 logits is concerned."""
    loss, d = fastopt.softmax_cross_entropy(np.float32([[0, -200]]), np.array([0]), class_weight=np.float32([1e38, 1]),
                                            reduction="sum")
    assert loss == 0.0
    assert d[0, 0] == 0.0


@pytest.mark.parametrize("n", [2, 10, 32, 33, 100, 1000, 5000])
def test_tiny_class_weights(n, rng, level):
    """A row's factor would be subnormal in float32: it stays double, and the other rows' bits stay the same."""
    x = rng.standard_normal((20, n), dtype=np.float32)
    labels = np.arange(20) % 2
    weight = np.ones(n, np.float32)
    weight[1] = 3e-25
    d = fastopt.softmax_cross_entropy(x, labels, class_weight=weight, reduction="sum")[1]
    expected = np.exp(log_softmax64(x)) * weight[labels, None].astype(np.float64)
    beside = np.arange(n) != labels[:, None]
    assert ulps(d[beside], expected[beside]).max() <= 3.0
    for i in range(2):
        part = x[i::2].copy()
        alone = fastopt.softmax_cross_entropy(part, labels[i::2], class_weight=weight, reduction="sum")[1]
        assert_same_bits(d[i::2], alone)


def test_from_the_literature():
    loss, d = fastopt.softmax_cross_entropy(np.float32([[5, 2, -1, 3]]), np.array([0]))
    assert loss == pytest.approx(-np.log(0.842), abs=5e-4)
    np.testing.assert_allclose(d, [[0.842 - 1, 0.042, 0.002, 0.114]], atol=5e-4)


OPTIONS = [
    {}, {"label_smoothing": 0.1}, {"ignore_index": 3}, {"class_weight": True},
    {"class_weight": True, "ignore_index": 0},
    {"class_weight": True, "label_smoothing": 0.3, "ignore_index": 2},
]


def close(actual, expected, floor):
    """Within 4 units in the last place, of `floor` where that is larger: what terms near each other leave."""
    unit = np.spacing(np.maximum(np.abs(expected), floor).astype(np.float32))
    assert np.array_equal(np.isnan(actual), np.isnan(expected))
    assert not (np.abs(np.float64(actual) - expected) > 4 * unit).any()


@REDUCTION
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["labels", "one-hot", "soft"])
@pytest.mark.parametrize("shape", [(1, 4), (200, 10), (70, 32), (33, 33), (12, 1000), (4, 5, 7), (6,), (2, 3, 100)])
def test_options_against_the_reference(shape, kind, options, reduction, rng, level):
    x = 3 * rng.standard_normal(shape, dtype=np.float32)
    n = shape[-1]
    labels = np.asarray(rng.integers(n, size=shape[:-1]))
    if kind == "one-hot":
        labels = np.eye(n, dtype=np.float32)[labels]
    elif kind == "soft":
        labels = np.exp(reference.log_softmax(rng.standard_normal(shape, dtype=np.float32)))
    options = dict(options)
    if "class_weight" in options:
        options["class_weight"] = rng.uniform(0.1, 2, n).astype(np.float32)
    before = x.copy(), labels.copy()
    loss, d = fastopt.softmax_cross_entropy(x, labels, reduction=reduction, **options)
    assert_same_bits(x, before[0])
    assert np.array_equal(labels, before[1])
    wide = {name: value.astype(np.float64) if name == "class_weight" else value for name, value in options.items()}
    expected, slope = reference.softmax_cross_entropy(x, labels, reduction=reduction, **wide)
    assert type(loss) is (np.ndarray if reduction == "none" else float)
    close(loss, expected, 0.0)
    close(d, slope.astype(np.float64), np.abs(slope).max() * 2.0**-3)
    alone = fastopt.softmax_cross_entropy_loss(x, labels, reduction=reduction, **options)
    assert_same_bits(np.asarray(alone), np.asarray(loss))
    assert fastopt.softmax_cross_entropy(x, labels, reduction=reduction, out=x, **options)[1] is x
    assert_same_bits(x, d, "out=logits")


def test_one_hot_is_the_label(rng, level):
    """The same values for a class and for its one-hot row, confident rows included."""
    for n in (3, 10, 64, 1000):
        x = FAMILIES["dominant +20"](rng, 50, n)
        labels = make_labels(rng, x)
        one_hot = np.eye(n, dtype=np.float32)[labels]
        for reduction in ("mean", "none"):
            loss, d = fastopt.softmax_cross_entropy(x, labels, reduction=reduction)
            loss2, d2 = fastopt.softmax_cross_entropy(x, one_hot, reduction=reduction)
            assert ulps(loss2, np.float64(loss)).max() <= 2
            assert ulps(d2, d.astype(np.float64)).max() <= 2


def test_masked_logits_of_a_one_hot_row(level):
    x = np.float32([[1, -np.inf, 2]])
    loss, d = fastopt.softmax_cross_entropy(x, np.float32([[0, 0, 1]]))
    assert np.isfinite(loss)
    assert d[0, 1] == 0
    loss, d = fastopt.softmax_cross_entropy(x, np.array([1]))
    assert loss == np.inf
    assert d[0, 1] == -1


@pytest.mark.parametrize("n", [2, 10, 32, 33, 1000])
def test_special_rows(n, rng, level):
    x = rng.standard_normal((6, n), dtype=np.float32)
    x[1] = -np.inf
    x[2, n // 2] = np.inf
    x[3, 0] = np.nan
    x[4, 1:] = -np.inf
    for labels in (np.zeros(6, int), np.eye(n, dtype=np.float32)[np.zeros(6, int)]):
        loss, d = fastopt.softmax_cross_entropy(x, labels, reduction="none")
        assert np.isnan(loss[1:4]).all()
        assert np.isnan(d[1:4]).all()
        assert np.isfinite(loss[[0, 4, 5]]).all()
        assert np.isfinite(d[[0, 4, 5]]).all()
        assert loss[4] == 0
        assert (d[4] == 0).all()
    if n > 2:
        assert fastopt.softmax_cross_entropy(x[1:5], np.zeros(4, int), count_correct=True)[2] == 1


@pytest.mark.parametrize("n", [3, 10, 64])
@REDUCTION
def test_ignored_rows(n, reduction, rng, level):
    x = rng.standard_normal((150, n), dtype=np.float32)
    labels = rng.integers(n, size=150)
    labels[::3] = -100
    x[::3] = np.nan  # the content of an ignored row does not matter
    out = np.full_like(x, np.nan)
    loss, d = fastopt.softmax_cross_entropy(x, labels, reduction=reduction, out=out)
    assert (d[::3] == 0).all()
    used = np.flatnonzero(labels != -100)
    loss2, d2 = fastopt.softmax_cross_entropy(x[used], labels[used], reduction=reduction)
    assert_same_bits(d[used], d2)
    if reduction == "none":
        assert (loss[::3] == 0).all()
        assert_same_bits(loss[used], loss2)
    else:
        assert loss == pytest.approx(loss2, rel=1e-12)


def test_all_ignored(rng):
    x = rng.standard_normal((5, 10), dtype=np.float32)
    labels = np.full(5, 255, np.uint8)
    loss, d = fastopt.softmax_cross_entropy(x, labels, ignore_index=255)
    assert np.isnan(loss)
    assert (d == 0).all()
    assert fastopt.softmax_cross_entropy(x, labels, ignore_index=255, reduction="sum")[0] == 0.0


def test_no_rows():
    x = np.empty((0, 10), np.float32)
    loss, d = fastopt.softmax_cross_entropy(x, np.empty(0, int))
    assert np.isnan(loss)
    assert d.shape == (0, 10)
    assert fastopt.softmax_cross_entropy(x, np.empty(0, int), reduction="sum")[0] == 0.0


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", ">i4", "longlong"])
def test_labels_of_any_integer_type(dtype, rng):
    x = rng.standard_normal((50, 10), dtype=np.float32)
    labels = rng.integers(10, size=50)
    expected = fastopt.softmax_cross_entropy(x, labels)
    given = np.repeat(labels.astype(dtype), 2)[::2]
    given.flags.writeable = False
    loss, d = fastopt.softmax_cross_entropy(x, given)
    assert loss == expected[0]
    assert_same_bits(d, expected[1])


@pytest.mark.parametrize("n", [1, 2, 10, 32, 33, 1000])
def test_count_correct(n, rng, level):
    x = rng.integers(-2, 3, (300, n)).astype(np.float32)  # many ties
    labels = np.where(rng.random(300) < 0.5, x.argmax(1), rng.integers(n, size=300))
    labels[::10] = -100
    expected = int((x.argmax(1) == labels).sum())
    assert reference.softmax_cross_entropy(x, labels, count_correct=True)[2] == expected
    assert fastopt.softmax_cross_entropy_loss(x, labels, count_correct=True)[1] == expected
    assert fastopt.softmax_cross_entropy(x, labels, count_correct=True, out=x)[2] == expected


@pytest.mark.parametrize("n", [*AWKWARD, 10, 1025, 3073, 4000])
@pytest.mark.parametrize("kind", ["labels", "smoothed", "soft"])
def test_same_bits_at_every_level(n, kind, rng):
    x = 5 * rng.standard_normal((150 if n < 100 else 5, n), dtype=np.float32)
    labels = make_labels(rng, x)
    if kind == "soft":
        labels = rng.random(x.shape, dtype=np.float32)
    results = []
    before = dispatch.active
    try:
        for level in dispatch.available():
            dispatch.active = dispatch.load(level)
            results.append(fastopt.softmax_cross_entropy(x, labels, label_smoothing=0.1 * (kind == "smoothed")))
    finally:
        dispatch.active = before
    for loss, d in results[1:]:
        assert loss == results[0][0]
        assert_same_bits(d, results[0][1])


@pytest.mark.parametrize("shape", [(1, 1), (700, 10), (1000, 32), (333, 33), (70, 1000), (3, 40000)])
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_same_bits_for_any_threads_alignment_and_run(shape, kind, rng, level, always_parallel):
    x = rng.standard_normal(shape, dtype=np.float32)
    labels = rng.integers(shape[1], size=shape[0]) if kind == "labels" else rng.random(shape, dtype=np.float32)
    loss, d = fastopt.softmax_cross_entropy(x, labels)
    for threads in THREADS:
        with fastopt.num_threads(threads):
            loss2, d2 = fastopt.softmax_cross_entropy(x, labels)
        assert loss2 == loss
        assert_same_bits(d2, d, f"{threads} threads")
    for offset in range(16):
        loss2, d2 = fastopt.softmax_cross_entropy(unaligned(x, offset), labels, out=unaligned(x, 15 - offset))
        assert loss2 == loss
        assert_same_bits(d2, d, f"offset {offset}")


@pytest.mark.parametrize("kind", ["labels", "smoothed", "soft", "tiny weights"])
def test_few_rows_have_the_bits_of_many(kind, rng, level):
    """A few narrow rows are computed along the row, more of them with one row per lane."""
    for n in range(1, 34):
        x = 5 * rng.standard_normal((40, n), dtype=np.float32)
        x[::3] = np.round(x[::3])
        labels = rng.random(x.shape, dtype=np.float32) if kind == "soft" else rng.integers(n, size=40)
        if kind != "soft":
            labels[::9] = -100
        options = {"reduction": "none", "label_smoothing": 0.1 * (kind == "smoothed")}
        if kind == "tiny weights":
            options["class_weight"] = rng.random(n, dtype=np.float32) * np.float32(1e-41)
        losses, d = fastopt.softmax_cross_entropy(x, labels, **options)
        for rows in range(1, 21):
            some = slice(rows, 2 * rows)
            few, slopes = fastopt.softmax_cross_entropy(x[some], labels[some], **options)
            assert_same_bits(few, losses[some], f"{rows} rows of {n}")
            assert_same_bits(slopes, d[some], f"{rows} rows of {n}")
            moved = x[some].copy()
            fastopt.softmax_cross_entropy(moved, labels[some], out=moved, **options)
            assert_same_bits(moved, d[some], f"{rows} rows of {n}, in place")


def test_few_rows_add_terms_in_the_order_of_many(rng, level):
    """The loss of one row is a double. It shows the order if terms differ so much that their sum is not exact."""
    for n in range(1, 34):
        for x in 10 * rng.standard_normal((20, 40, n), dtype=np.float32):
            labels = np.full(40, -100)
            labels[7] = n - 1
            loss = fastopt.softmax_cross_entropy_loss(x, labels, reduction="sum")
            assert loss == fastopt.softmax_cross_entropy_loss(x[7:8], labels[7:8], reduction="sum")


X = np.zeros((4, 3), np.float32)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.array([0, 3, 5, 0]), ValueError, r"labels\[1\] = 3$"),
        (np.array([0, 1, -1, 7]), ValueError, r"labels\[2\] = -1$"),
        (np.array([0, 1, 2, 3]), ValueError, r"labels\[3\] = 3$"),
        (np.array([0, -1, 2, 0]), ValueError, r"labels\[1\] = -1$"),
        (np.array([0, 1, 2, 2**64 - 100], np.uint64), ValueError, r"labels\[3\] = 18446744073709551516$"),
        (np.array([0, 1, 2, 2**63], np.uint64), ValueError, r"labels\[3\] = 9223372036854775808$"),
        (np.array([0, 1, 2]), ValueError, r"got int64 \(3,\)$"),
        (np.zeros(4), TypeError, r"got float64 \(4,\)$"),
        (np.zeros(4, np.float32), TypeError, r"got float32 \(4,\)$"),
        (np.zeros((4, 2), np.float32), ValueError, r"of shape \(4, 3\), got float32 \(4, 2\)$"),
        (np.zeros(4, bool), TypeError, r"got bool \(4,\)$"),
        (np.ma.masked_array([0, 1, 2, 0], [0, 0, 0, 1]), TypeError, "got MaskedArray$"),
        (1, TypeError, "got int$"),
    ],
)
def test_wrong_labels(labels, error, message):
    out = np.full_like(X, 7)
    for call in (lambda: fastopt.softmax_cross_entropy(X, labels, out=out),
                 lambda: fastopt.softmax_cross_entropy_loss(X, labels)):
        with pytest.raises(error, match=message) as caught:
            call()
        assert str(caught.value).startswith("labels: expected ")
    assert (out == 7).all()


def test_wrong_labels_of_many_dimensions():
    labels = np.zeros((2, 3), int)
    labels[1, 2] = 9
    with pytest.raises(ValueError, match=r"labels\[1, 2\] = 9$"):
        fastopt.softmax_cross_entropy(np.zeros((2, 3, 4), np.float32), labels)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"class_weight": np.float32([1, -2, 1])}, ValueError, r"^class_weight: .*class_weight\[1\] = -2.0$"),
        ({"class_weight": np.float32([1, 1, np.nan])}, ValueError, r"^class_weight: .*class_weight\[2\] = nan$"),
        ({"class_weight": np.float32([np.inf, 1, 1])}, ValueError, r"^class_weight: .*class_weight\[0\] = inf$"),
        ({"class_weight": plain_array("f", [1, 1, -1])}, ValueError, r"^class_weight: .*class_weight\[2\] = -1.0$"),
        ({"class_weight": np.float32([1, 1])}, ValueError, r"^class_weight: .*shape \(3,\), got float32 \(2,\)$"),
        ({"class_weight": np.ones(3)}, TypeError, "^class_weight: .*got float64"),
        ({"label_smoothing": 1.0}, ValueError, r"^label_smoothing: expected a number in \[0, 1\), got 1.0"),
        ({"label_smoothing": -0.1}, ValueError, "^label_smoothing"),
        ({"label_smoothing": 10**400}, ValueError, "^label_smoothing: .*got an int of 1329 bits"),
        ({"label_smoothing": float("nan")}, ValueError, "^label_smoothing"),
        ({"ignore_index": 1.5}, TypeError, "^ignore_index"),
        ({"reduction": "max"}, ValueError, "^reduction: expected 'mean', 'sum' or 'none', got 'max'"),
        ({"reduction": None}, ValueError, "^reduction"),
    ],
)
def test_wrong_options(options, error, message):
    out = np.full_like(X, 7)
    with pytest.raises(error, match=message):
        fastopt.softmax_cross_entropy(X, np.zeros(4, int), out=out, **options)
    assert (out == 7).all()


def test_class_weight_is_any_object_with_a_buffer(rng):
    x, labels = rng.standard_normal((5, 3), dtype=np.float32), np.arange(5) % 3
    loss, d = fastopt.softmax_cross_entropy(x, labels, class_weight=np.float32([1, 2, 0.5]))
    for weight in (plain_array("f", [1, 2, 0.5]), memoryview(np.float32([1, 2, 0.5]))):
        loss2, d2 = fastopt.softmax_cross_entropy(x, labels, class_weight=weight)
        assert loss2 == loss
        assert_same_bits(d2, d)


def test_no_classes():
    with pytest.raises(ValueError, match="^logits: expected at least one class"):
        fastopt.softmax_cross_entropy(np.empty((3, 0), np.float32), np.zeros(3, int))


def test_out_over_the_labels_memory():
    room = np.zeros(24, np.int64)
    with pytest.raises(ValueError, match="^out: expected memory of its own"):
        fastopt.softmax_cross_entropy(X, room[:4], out=room.view(np.float32)[:12].reshape(4, 3))


def test_out_over_the_class_weights():
    room = np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match="^out: expected memory of its own, got an array that overlaps class_weight"):
        fastopt.softmax_cross_entropy(X, np.zeros(4, int), class_weight=room[1], out=room)
    assert (room == 1).all()


@pytest.mark.parametrize("ignore_index", [2**63 - 1, 2**63, 9_250_000_000_000_000_000, -2**63 - 1])
def test_ignore_index_is_an_int64_that_no_larger_label_is_taken_for(ignore_index):
    logits, labels = np.zeros((2, 3), np.float32), np.array([0, 2**64 - 1], np.uint64)
    with pytest.raises(ValueError, match="^ignore_index: "):
        fastopt.softmax_cross_entropy(logits, labels, ignore_index=ignore_index)


@pytest.mark.parametrize("function", ["softmax_cross_entropy", "linear_cross_entropy"])
def test_labels_are_copied_before_they_are_checked(function, rng, monkeypatch):
    """What another thread writes into them afterwards must not become an index."""
    kernel, labels = dispatch.active.cross_entropy, np.array([0, 1, 2, 0])
    given = [rng.standard_normal((4, 3), dtype=np.float32)]
    if function == "linear_cross_entropy":
        given.append(rng.standard_normal((3, 3), dtype=np.float32))
    expected = getattr(fastopt, function)(*given, labels)

    def first_wrong_label(*arguments):
        wrong = kernel.first_wrong_label(*arguments)
        labels[...] = 10**6
        return wrong

    changed = SimpleNamespace(first_wrong_label=first_wrong_label, normaliser=kernel.normaliser,
                              cross_entropy=kernel.cross_entropy)
    monkeypatch.setattr(dispatch, "active", SimpleNamespace(cross_entropy=changed))
    for ours, theirs in zip(getattr(fastopt, function)(*given, labels), expected, strict=True):
        assert_same_bits(ours, theirs)
    assert (labels == 10**6).all()
