"""A final linear layer with cross-entropy in chunks: the layer's own loss and gradients, in memory set by the chunk."""

import tracemalloc

import numpy as np
import pytest
from helpers import assert_same_bits, parameters

import fastopt
from fastopt import reference

MIB = 1 << 20


def arrays(rng, rows=70, features=24, classes=150):
    return (rng.standard_normal((rows, features), dtype=np.float32),
            rng.standard_normal((classes, features), dtype=np.float32),
            rng.integers(classes, size=rows),
            rng.standard_normal(classes, dtype=np.float32))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("chunk", [None, 1, 7, 70, 1000])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("options", [{}, {"ignore_index": 3}, {"label_smoothing": 0.1, "class_weight": True}], ids=str)
def test_against_the_reference(reduction, chunk, biased, options, rng, level):
    x, weight, labels, bias = arrays(rng)
    labels[::7] = 3
    options = dict(options)
    if "class_weight" in options:
        options["class_weight"] = rng.uniform(0.5, 2, 150).astype(np.float32)
    bias = bias if biased else None
    labels[1::3] = (x @ weight.T + (0 if bias is None else bias)).argmax(1)[1::3]       # some correct in every chunk
    before = [x.copy(), weight.copy(), labels.copy()]
    loss, *gradients, correct = fastopt.linear_cross_entropy(
        x, weight, labels, bias, reduction=reduction, chunk=chunk, count_correct=True, **options)
    expected, *slopes, hits = reference.linear_cross_entropy(
        x, weight, labels, bias, reduction=reduction, count_correct=True, **options)
    np.testing.assert_allclose(loss, expected, rtol=2e-6, atol=2e-5 * (reduction == "none"))
    assert correct == hits
    assert len(gradients) == len(slopes) == 2 + biased
    for gradient, slope in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(gradient, slope, atol=5e-6 * max(np.abs(slope).max(), 1e-3))
    for array, copy in zip([x, weight, labels], before, strict=True):
        assert np.array_equal(array, copy)


def test_out_and_the_whole_layer(rng):
    """The same as the three products and softmax_cross_entropy, into given arrays."""
    x, weight, labels, bias = arrays(rng)
    out = tuple(np.full_like(array, np.nan) for array in (x, weight, bias))
    loss, *gradients = fastopt.linear_cross_entropy(x, weight, labels, bias, out=out)
    assert all(gradient is given for gradient, given in zip(gradients, out, strict=True))
    whole, d = fastopt.softmax_cross_entropy(x @ weight.T + bias, labels)
    assert loss == pytest.approx(whole, rel=1e-6)
    for gradient, expected in zip(gradients, (d @ weight, d.T @ x, d.sum(0)), strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_nothing_to_do(rng):
    x, weight, labels, _ = arrays(rng)
    loss, dx, dweight = fastopt.linear_cross_entropy(x[:0], weight, labels[:0])
    assert np.isnan(loss)
    assert dx.shape == (0, 24)
    assert (dweight == 0).all()
    loss, dx, dweight = fastopt.linear_cross_entropy(x, weight, np.full(70, -100))
    assert np.isnan(loss)
    assert (dx == 0).all()
    assert (dweight == 0).all()


def peak(rows, chunk, rng, features=64, classes=5000):
    """Bytes at the peak of a call beside arguments and results."""
    x, weight, labels, _ = arrays(rng, rows, features, classes)
    out = np.empty_like(x), np.empty_like(weight)
    tracemalloc.start()
    try:
        fastopt.linear_cross_entropy(x, weight, labels, chunk=chunk, out=out)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_peak_memory_is_the_chunks(rng):
    """chunk · classes + max(2²⁰, features) float32, as the docstring says, for any number of rows."""
    bound = 4 * 64 * 5000 + 4 * min(1 << 20, 64 * 5000)
    few, many = peak(128, 64, rng), peak(2048, 64, rng)
    assert 4 * 64 * 5000 <= few <= bound + 100_000
    assert abs(many - few) < 50_000
    assert peak(2048, 128, rng) == pytest.approx(few + 4 * 64 * 5000, abs=50_000)
    assert peak(4096, None, rng) <= 32 * MIB + 4 * MIB + 100_000


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.zeros((70, 24))}, TypeError, "^x: expected C-contiguous float32 array, got float64"),
        ({"x": np.zeros(24, np.float32)}, ValueError, r"^x: expected shape \(rows, features\), got \(24,\)"),
        ({"weight": np.zeros((24, 150), np.float32)}, ValueError, r"^weight: expected shape \(classes, 24\)"),
        ({"weight": np.zeros((0, 24), np.float32)}, ValueError, "^weight: .*at least one class"),
        ({"weight": np.zeros((150, 48), np.float32)[:, ::2]}, ValueError, "^weight: expected C-contiguous"),
        ({"labels": np.zeros(69, int)}, ValueError, r"^labels: expected integers of shape .*, got int64 \(69,\)"),
        ({"labels": np.full(70, 150)}, ValueError, r"labels\[0\] = 150$"),
        ({"labels": np.zeros((70, 150), np.float32)}, TypeError, "^labels: expected integers"),
        ({"bias": np.zeros(24, np.float32)}, ValueError, r"^bias: expected C-contiguous float32 of shape \(150,\)"),
        ({"chunk": 0}, ValueError, "^chunk: expected an int of at least 1, got 0"),
        ({"chunk": 1.5}, TypeError, "^chunk"),
        ({"reduction": "max"}, ValueError, "^reduction"),
        ({"label_smoothing": 1.0}, ValueError, "^label_smoothing"),
        ({"class_weight": -np.ones(150, np.float32)}, ValueError, r"class_weight\[0\] = -1.0"),
        ({"out": [1, 2, 3]}, TypeError, r"^out: expected a tuple \(dx, dweight, dbias\), got list"),
        ({"out": (np.zeros((70, 24), np.float32),) * 2}, TypeError, "^out: expected a tuple"),
    ],
    ids=str,
)
def test_wrong_arguments(change, error, message, rng):
    x, weight, labels, bias = arrays(rng)
    out = tuple(np.full_like(array, 7) for array in (x, weight, bias))
    arguments = {"x": x, "weight": weight, "labels": labels, "bias": bias, "out": out, **change}
    with pytest.raises(error, match=message):
        fastopt.linear_cross_entropy(**arguments)
    assert all((array == 7).all() for array in out)


def test_outputs_of_the_wrong_kind(rng):
    x, weight, labels, _ = arrays(rng)
    before = x.copy()
    with pytest.raises(ValueError, match=r"^out\['dx'\]: expected memory of its own, got an array that overlaps x"):
        fastopt.linear_cross_entropy(x, weight, labels, out=(x, np.empty_like(weight)))
    with pytest.raises(TypeError, match=r"^out\['dweight'\]: expected writable C-contiguous float32 array, got"):
        fastopt.linear_cross_entropy(x, weight, labels, out=(np.empty_like(x), np.empty((150, 24))))
    assert_same_bits(x, before)


def test_outputs_over_the_smaller_inputs(rng):
    """Labels and class weights lie in a gradient's memory."""
    x, weight, labels, _ = arrays(rng)
    room = np.zeros(weight.shape, np.float32)
    out = (np.empty_like(x), room)
    inside = room.reshape(-1).view(np.int64)[: len(labels)]
    with pytest.raises(ValueError, match="^out: expected memory of its own, got an array that overlaps labels"):
        fastopt.linear_cross_entropy(x, weight, inside, out=out)
    with pytest.raises(ValueError, match=r"^out\['dweight'\]: expected memory of its own, .* overlaps class_weight"):
        fastopt.linear_cross_entropy(x, weight, labels, class_weight=room.reshape(-1)[:150], out=out)
    assert (room == 0).all()


def test_the_reference_has_the_same_signature():
    ours, theirs = fastopt.linear_cross_entropy, reference.linear_cross_entropy
    assert parameters(ours) == parameters(theirs)


def test_chunk_as_small_numpy_integer_does_not_wrap_around(rng):
    x, weight, labels, _ = arrays(rng, rows=300)
    wanted = fastopt.linear_cross_entropy(x, weight, labels, chunk=200)
    for chunk in (np.uint8(200), np.int16(200)):
        for got, array in zip(fastopt.linear_cross_entropy(x, weight, labels, chunk=chunk), wanted, strict=True):
            np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("which", range(4))
def test_buffers_that_are_no_arrays_are_refused_before_anything_is_written(rng, which):
    x, weight, labels, _ = arrays(rng)
    out = np.full_like(x, 7), np.full_like(weight, 7)
    given = [x, weight, *out]
    given[which] = memoryview(given[which])
    with pytest.raises(TypeError, match="expected a NumPy array, got memoryview"):
        fastopt.linear_cross_entropy(given[0], given[1], labels, out=tuple(given[2:]))
    assert np.all(out[0] == 7)
    assert np.all(out[1] == 7)
