"""log-softmax and cross-entropy with its gradient against the reference, NumPy as one writes it, and PyTorch.

Each benchmark first checks its result against float64 and records the error beside the time. Run
`pytest bench/bench_softmax.py --benchmark-group-by=param:shape,func`, with `--benchmark-columns=min,median`.
"""

import numpy as np
import pytest

import fastopt

SHAPES = [(64, 10), (1024, 10), (128, 1000), (1024, 1000), (16384, 100), (512, 32000), (256, 50257)]
SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))


def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


def numpy_log_softmax(x):
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def numpy_cross_entropy(x, labels):
    rows = np.arange(len(x))
    log_softmax = numpy_log_softmax(x)
    gradient = np.exp(log_softmax)
    gradient[rows, labels] -= 1
    gradient /= len(x)
    return -log_softmax[rows, labels].mean(), gradient


def log_softmax_with(contender, x, out):
    if contender == "fastopt":
        return lambda: fastopt.log_softmax(x)
    if contender == "fastopt out=":
        return lambda: fastopt.log_softmax(x, out=out)
    if contender == "reference":
        return lambda: fastopt.reference.log_softmax(x)
    if contender == "numpy":
        return lambda: numpy_log_softmax(x)
    if contender == "copy":
        return lambda: np.copyto(out, x) or out
    t = torch()
    given, target = t.from_numpy(x), t.from_numpy(out)
    if contender == "torch out=":
        return lambda: t.log_softmax(given, -1, out=target).numpy()
    return lambda: t.log_softmax(given, -1).numpy()


def cross_entropy_with(contender, x, labels, out):
    if contender == "fastopt":
        return lambda: fastopt.softmax_cross_entropy(x, labels)
    if contender == "fastopt out=":
        return lambda: fastopt.softmax_cross_entropy(x, labels, out=out)
    if contender == "fastopt loss only":
        return lambda: (fastopt.softmax_cross_entropy_loss(x, labels), None)
    if contender == "reference":
        return lambda: fastopt.reference.softmax_cross_entropy(x, labels)
    if contender == "numpy":
        return lambda: numpy_cross_entropy(x, labels)
    t = torch()
    given, classes = t.from_numpy(x).requires_grad_(), t.from_numpy(labels)

    def run():
        given.grad = None
        loss = t.nn.functional.cross_entropy(given, classes)
        loss.backward()
        return loss.item(), given.grad.numpy()

    return run


def note(benchmark, run, shape, error):
    """Time `run`, beside what it was found to be right to."""
    benchmark.extra_info["largest error"] = float(error)
    benchmark(run)
    if benchmark.stats is not None:
        benchmark.extra_info["ns/element"] = benchmark.stats.stats.median / (shape[0] * shape[1]) * 1e9


@SHAPE
@pytest.mark.parametrize("contender", ["fastopt", "fastopt out=", "torch", "torch out=", "numpy", "reference", "copy"])
def test_log_softmax(benchmark, contender, shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, dtype=np.float32)
    run = log_softmax_with(contender, x, np.empty_like(x))
    exact = x[:16].astype(np.float64)
    exact -= np.log(np.exp(exact).sum(1, keepdims=True))
    error = 0.0 if contender == "copy" else np.abs(run()[:16] - exact).max()
    assert error < 1e-5
    note(benchmark, run, shape, error)


@SHAPE
@pytest.mark.parametrize(
    "contender", ["fastopt", "fastopt out=", "fastopt loss only", "torch", "numpy", "reference"])
def test_cross_entropy(benchmark, contender, shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, dtype=np.float32)
    labels = rng.integers(shape[1], size=shape[0])
    run = cross_entropy_with(contender, x, labels, np.empty_like(x))
    exact_loss, exact = numpy_cross_entropy(x.astype(np.float64), labels)
    loss, gradient = run()
    assert loss == pytest.approx(exact_loss, rel=1e-5)
    error = 0.0 if gradient is None else np.abs(gradient - exact).max() * shape[0]
    assert error < 1e-5
    note(benchmark, run, shape, error)
