"""The networks that bench/measure_epoch.py trains: their gradients, and the same training with every set of kernels."""

from functools import partial

import networks
import numpy as np
import pytest
import trainers
from networks import FASTOPT, NUMPY

SMALL = {
    "mlp": networks.Task(partial(networks.mlp, width=6, inputs=5, classes=4),
                         partial(networks.vectors, inputs=5, classes=4)),
    "dropout": networks.Task(partial(networks.dropping, width=6, inputs=5, classes=4, p=0.0),
                             partial(networks.vectors, inputs=5, classes=4)),
    "conv": networks.Task(partial(networks.conv, channels=(1, 3, 5), classes=4),
                          partial(networks.images, side=10, classes=4)),
    "colours": networks.Task(partial(networks.conv, channels=(3, 4, 5)),
                             lambda rng, n: (rng.standard_normal((n, 9, 12, 3)).astype("f"), rng.integers(10, size=n))),
    "language": networks.Task(partial(networks.language, vocabulary=11, context=3, width=2, hidden=6),
                              partial(networks.tokens, vocabulary=11, context=3)),
}
EPOCH = {"examples": 96, "batch": 32}
small = pytest.mark.parametrize("task", SMALL.values(), ids=SMALL)


@small
def test_gradients(task, rng):
    """Against central differences in float64, at some elements of each parameter."""
    layers = task.layers(NUMPY, rng)
    for layer in layers:
        for arrays in (layer.params, layer.grads):
            arrays |= {key: array.astype(np.float64) for key, array in arrays.items()}
    network = networks.Network(NUMPY, layers)
    x, labels = task.data(rng, 16)
    if x.dtype == np.float32:
        x = x.astype(np.float64)
    network.loss_and_gradients(x, labels)
    gradients = {key: grad.copy() for key, grad in network.grads.items()}
    for key, param in network.params.items():
        flat, step = param.reshape(-1), 1e-5
        for i in rng.permutation(param.size)[:20]:
            before, losses = flat[i], []
            for flat[i] in (before - step, before + step):
                losses.append(network.loss_and_gradients(x, labels))
            flat[i] = before
            assert gradients[key].reshape(-1)[i] == pytest.approx((losses[1] - losses[0]) / (2 * step),
                                                                  rel=1e-4, abs=1e-7), (key, i)


@small
def test_fastopt_and_numpy_agree(task):
    found = [trainers.NumpyTrainer(task, kernels, **EPOCH) for kernels in (NUMPY, FASTOPT)]
    first = [trainer.step(trainer.batches[0]) for trainer in found]
    assert first[1] == pytest.approx(first[0], rel=1e-5)
    theirs, ours = (trainer.network.grads for trainer in found)
    for key, grad in theirs.items():
        np.testing.assert_allclose(ours[key], grad, rtol=1e-4, atol=1e-5 * np.abs(grad).max())
    losses = [trainer.epoch().loss for trainer in found]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@small
def test_torch_agrees(task):
    pytest.importorskip("torch")
    found = trainers.NumpyTrainer(task, FASTOPT, **EPOCH), trainers.TorchTrainer(task, **EPOCH)
    ours, theirs = (trainer.step(trainer.batches[0]) for trainer in found)
    assert ours == pytest.approx(theirs, rel=1e-5)
    parameters = found[1].model.parameters()
    for layer in found[0].network.layers:
        for key, grad in layer.grads.items():
            right = next(parameters).grad.numpy()
            if isinstance(layer, networks.Convolution):
                right = right.transpose(2, 3, 1, 0).reshape(grad.shape)
            elif key == "weight" and isinstance(layer, networks.Dense):
                right = right.T
            np.testing.assert_allclose(grad, right, rtol=1e-3, atol=1e-5 * np.abs(right).max())
    assert next(parameters, None) is None


@pytest.mark.parametrize(("forward", "backward"), [
    (kernels.activation_forward, kernels.activation_backward) for kernels in (FASTOPT, *networks.WITHOUT.values())])
def test_dropout(forward, backward, rng):
    """Elements are 0 or ReLU of x + bias over 1 - p; the gradient is that of the elements that are left."""
    x, dy = rng.standard_normal((2, 50, 40)).astype("f")
    bias, dbias, p = rng.standard_normal(40).astype("f"), np.empty(40, np.float32), 0.3
    relu = np.maximum(x + bias, 0)
    y, cache = forward(x.copy(), bias, p, rng)
    kept = y > 0
    np.testing.assert_allclose(y, np.where(kept, relu / (1 - p), 0), rtol=1e-6)
    assert 0.6 < kept.sum() / (relu > 0).sum() < 0.8
    dx = backward(dy.copy(), cache, dbias)
    np.testing.assert_allclose(dx, np.where(kept, dy / (1 - p), 0), rtol=1e-6)
    np.testing.assert_allclose(dbias, dx.sum(0), rtol=1e-4, atol=1e-5)


def test_layers_drop_other_elements(rng):
    first, second = (layer.rng for layer in networks.dropping(NUMPY, rng, 6)[:2])
    assert first.random() != second.random()


def test_loss_falls():
    """Each network learns something from its data."""
    for task in networks.tasks(["mlp", "dropout", "conv", "language"], [16]).values():
        trainer = trainers.NumpyTrainer(task, FASTOPT, 256, 64)
        losses = [trainer.epoch().loss for _ in range(5)]
        assert losses[-1] < 0.95 * losses[0]


def test_page_faults(monkeypatch):
    trainer = trainers.NumpyTrainer(SMALL["mlp"], NUMPY, **EPOCH)
    if trainers.resource:
        before = trainers.page_faults()
        touched = np.ones(1 << 24)          # 128 MB of new pages
        assert trainers.page_faults() - before >= touched.nbytes / (1 << 21)
        assert trainer.epoch().faults >= 0
    monkeypatch.setattr(trainers, "resource", None)
    assert trainer.epoch().faults is None


def test_parts_of_an_epoch():
    epoch = trainers.NumpyTrainer(SMALL["conv"], FASTOPT, **EPOCH).epoch()
    assert list(epoch.parts) == list(trainers.PARTS)
    assert all(seconds > 0 for seconds in epoch.parts.values())
    assert sum(epoch.parts.values()) < epoch.seconds


def test_torch_parts():
    pytest.importorskip("torch")
    epoch = trainers.TorchTrainer(SMALL["conv"], **EPOCH).epoch()
    assert all(epoch.parts[part] > 0 for part in trainers.PARTS)
