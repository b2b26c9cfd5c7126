"""log-softmax, softmax, and cross-entropy with its gradient beside the reference, NumPy, the peers, and a loop that
only moves the same arrays. Each result is checked against float64 before it is timed.

    pytest bench/bench_softmax.py
"""

import functools

import numpy as np
import peers
import pytest
from optimizers import SIZES
from record import record, require_memory

import fastopt
from fastopt._probe import bytes_per_element, same_streams

SHAPES = [(64, 10), (1024, 10), (128, 1000), (1024, 1000), (16384, 100), (512, 32000), (256, 50257)]
CURVE = [(1, n) if n <= 100 else (n // 100, 100) for n in SIZES.values() if n != 50_000_000]
"""For the cost of an element over the size: rows of 100."""
CHECKED = 64
"""Rows that are checked."""


def numpy_log_softmax(x):
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def numpy_softmax(x):
    exp = np.exp(x - x.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def numpy_cross_entropy(x, labels):
    rows = np.arange(len(x))
    log_softmax = numpy_log_softmax(x)
    gradient = np.exp(log_softmax)
    gradient[rows, labels] -= 1
    gradient /= len(x)
    return -log_softmax[rows, labels].mean(), gradient


def numpy_out_log_softmax(x, out, part):
    np.subtract(x, x.max(axis=1, keepdims=True), out=out)
    np.exp(out, out=part)
    out -= np.log(part.sum(axis=1, keepdims=True))
    return out


def numpy_out_softmax(x, out, part):
    np.subtract(x, x.max(axis=1, keepdims=True), out=out)
    np.exp(out, out=out)
    out /= out.sum(axis=1, keepdims=True)
    return out


def numpy_out_cross_entropy(x, labels, out):
    rows, largest = np.arange(len(x)), x.max(axis=1, keepdims=True)
    np.subtract(x, largest, out=out)
    at_labels = out[rows, labels]
    np.exp(out, out=out)
    total = out.sum(axis=1, keepdims=True)
    out *= 1 / (total * len(x))
    out[rows, labels] -= np.float32(1 / len(x))
    return (np.log(total[:, 0]) - at_labels).mean(), out


# For each kernel: contender → how it is called, given x, labels, out and a scratch array.
OURS = {
    "log_softmax": {
        "fastopt": lambda x, labels, out, part: fastopt.log_softmax(x, out=out),
        "fastopt new arrays": lambda x, labels, out, part: fastopt.log_softmax(x),
        "numpy": lambda x, labels, out, part: numpy_log_softmax(x),
        "numpy out=": lambda x, labels, out, part: numpy_out_log_softmax(x, out, part),
        "reference": lambda x, labels, out, part: fastopt.reference.log_softmax(x),
    },
    "softmax": {
        "fastopt": lambda x, labels, out, part: fastopt.softmax(x, out=out),
        "fastopt new arrays": lambda x, labels, out, part: fastopt.softmax(x),
        "numpy": lambda x, labels, out, part: numpy_softmax(x),
        "numpy out=": lambda x, labels, out, part: numpy_out_softmax(x, out, part),
        "reference": lambda x, labels, out, part: fastopt.reference.softmax(x),
    },
    "softmax_cross_entropy": {
        "fastopt": lambda x, labels, out, part: fastopt.softmax_cross_entropy(x, labels, out=out),
        "fastopt new arrays": lambda x, labels, out, part: fastopt.softmax_cross_entropy(x, labels),
        "numpy": lambda x, labels, out, part: numpy_cross_entropy(x, labels),
        "numpy out=": lambda x, labels, out, part: numpy_out_cross_entropy(x, labels, out),
        "reference": lambda x, labels, out, part: fastopt.reference.softmax_cross_entropy(x, labels),
    },
    "softmax_cross_entropy_loss": {
        "fastopt": lambda x, labels, out, part: fastopt.softmax_cross_entropy_loss(x, labels),
        "reference": lambda x, labels, out, part: fastopt.reference.softmax_cross_entropy(x, labels)[0],
    },
}
PASSES = {"log_softmax": ["rw"], "softmax": ["rw"], "softmax_cross_entropy": ["rw"],
          "softmax_cross_entropy_loss": ["r-"]}
KEEPS_OUT = {"fastopt", "torch out=", "numpy out=", "same streams"}
"""Contenders that write to memory of the caller's; "out=" is not part of a peer's name in the results."""


@functools.lru_cache(1)
def data(shape):
    """x, labels, and two arrays to write to."""
    n = shape[0] * shape[1]
    require_memory(12 * n)
    rng = np.random.default_rng(0)
    x = np.resize(rng.standard_normal(min(n, 2_000_000), dtype=np.float32), shape)
    return x, rng.integers(shape[1], size=shape[0]), np.empty_like(x), np.empty_like(x)


def make(kernel, contender, arrays):
    """The function to time."""
    x, labels, out, part = arrays
    if contender == "same streams":
        return same_streams([x, out], PASSES[kernel])
    if contender in OURS[kernel]:
        return functools.partial(OURS[kernel][contender], x, labels, out, part)
    return peers.SOFTMAX[kernel][contender](x, labels, out)


def check(kernel, result, x, labels):
    """The largest error of some rows; a loss's is relative, a gradient's a part of its row's weight."""
    some = x[:CHECKED].astype(np.float64)
    if "softmax_cross_entropy" not in kernel:
        exact = {"log_softmax": numpy_log_softmax, "softmax": numpy_softmax}[kernel](some)
        return np.abs(np.asarray(result)[:CHECKED] - exact).max()
    loss, gradient = (result, None) if kernel.endswith("loss") else result
    loss = np.asarray(loss, np.float64)
    exact = exact_losses(x, labels)
    # TensorFlow's operator gives one loss a row, and gradients of their sum.
    error = np.abs(loss / (exact if loss.ndim else exact.mean()) - 1).max()
    if gradient is not None:
        weight = 1 if loss.ndim else len(x)
        slope = numpy_cross_entropy(some, labels[:CHECKED])[1] * len(some)
        error = max(error, np.abs(np.asarray(gradient)[:CHECKED] * weight - slope).max())
    return error


def exact_losses(x, labels):
    """Of each row, in float64."""
    parts = range(0, len(x), 1024)
    return np.concatenate([-np.take_along_axis(numpy_log_softmax(x[i : i + 1024].astype(np.float64)),
                                               labels[i : i + 1024, None], 1)[:, 0] for i in parts])


def contenders(kernel, shape):
    names = ["fastopt", "same streams", *peers.SOFTMAX.get(kernel, {}), *OURS[kernel]]
    if shape in CURVE and shape not in SHAPES:
        return ["fastopt", "same streams", "torch out=", *(["numpy"] if shape[0] * shape[1] <= 10_000_000 else [])]
    if shape[0] * shape[1] > 5_000_000:
        names.remove("reference")
    return dict.fromkeys(names)


def rows():
    """(kernel, shape, contender)"""
    for kernel in OURS:
        for shape in [*SHAPES, *CURVE] if kernel == "log_softmax" else SHAPES:
            for contender in contenders(kernel, shape):
                yield pytest.param(kernel, shape, contender, id=f"{kernel}-{shape}-{contender}")


@pytest.mark.parametrize(("kernel", "shape", "contender"), list(rows()))
def test_softmax(benchmark, kernel, shape, contender):
    elements = shape[0] * shape[1]
    if benchmark.disabled and (elements > 20_000_000 or (elements > 2_000_000 and contender != "fastopt")):
        pytest.skip("more than 2 M elements: only timed")
    arrays = data(shape)
    run = make(kernel, contender, arrays)
    error = 0.0
    if contender != "same streams":
        for array in arrays[2:]:        # not what an earlier contender left there
            array.fill(np.nan)
        result = run()
        error = check(kernel, result.to_dense() if contender == "onednn" else result, *arrays[:2])
        assert error < 2e-5
    name = contender if contender == "numpy out=" else contender.removesuffix(" out=").removesuffix(" new arrays")
    record(benchmark, run, kernel=kernel, shape=shape, elements=elements, contender=name, error=error,
           moved=bytes_per_element(PASSES[kernel]),
           allocates=contender not in KEEPS_OUT and not kernel.endswith("loss"))
