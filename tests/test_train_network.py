"""The networks of fastopt's demo: gradients, the kernels and the reference, threads, the best epoch."""

import re
from pathlib import Path

import numpy as np
import pytest

import fastopt
import fastopt.demo
from fastopt import reference

pytest.importorskip("sklearn")
pytest.importorskip("threadpoolctl")

from fastopt.demo import data
from fastopt.demo.network import Network
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Trainer

NETWORKS = {
    "relu": {},
    "gelu, dropout": {"activation": "gelu", "dropout": 0.3},
    "no BatchNorm": {"activation": "tanh", "batch_norm": False},
    "sigmoid": {"activation": "sigmoid", "hidden": (20, 20, 20)},
    "softmax regression": {"hidden": ()},
    "tokens": {"network": "tokens", "dropout": 0.2},
    "tokens, no BatchNorm": {"network": "tokens", "batch_norm": False, "hidden": (30,)},
}
NETWORK = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(autouse=True, scope="module")
def one_thread_of_blas():
    """Small products are slower on two threads, the more so on a machine with other work."""
    import threadpoolctl

    with threadpoolctl.threadpool_limits(1, "blas"):
        yield


@pytest.fixture(scope="module")
def digits():
    return data.digits()


def made(name, digits, kernels=fastopt, **settings):
    return Trainer(Settings(**{"hidden": (40, 30), **NETWORKS[name], **settings}), digits, kernels)


def arrays(trainer):
    """All weights and running statistics, one after the other."""
    states = trainer.network.state_dict().values()
    return np.concatenate([array.ravel() for state in states for array in state.values()])


def test_the_digits_are_split_in_three(digits):
    """Each of scikit-learn's images is in one of the parts, once, every time."""
    from sklearn.datasets import load_digits

    parts = (digits.train, digits.validation, digits.test)
    assert [part.x.shape for part in parts] == [(1197, 64), (240, 64), (360, 64)]
    pixels, labels = load_digits(return_X_y=True)
    ours = np.concatenate([np.column_stack([part.x * 16, part.labels]) for part in parts])
    theirs = np.column_stack([pixels, labels])
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
    for again, part in zip((data.digits().train, data.digits().test), (digits.train, digits.test), strict=True):
        np.testing.assert_array_equal(again.x, part.x)
        np.testing.assert_array_equal(again.labels, part.labels)


def test_the_networks_have_every_layer(digits):
    """But RMSNorm, a LayerNorm without the mean."""
    kinds = {type(layer).__name__ for name in NETWORKS for layer in made(name, digits).network.layers}
    every = {kind.__name__ for kind in fastopt.Layer.__subclasses__()
             if kind.__module__ in ("fastopt._layers", "fastopt._dense")}
    assert every - kinds == {"RMSNorm"}


@NETWORK
def test_gradients_against_finite_differences(name, digits):
    """Every gradient of the reference network, of some elements each, against central differences of the loss."""
    rng = np.random.default_rng(3)
    trainer = made(name, digits, reference)
    net, dropped = trainer.network, trainer.rngs["dropped"]
    x, labels = rng.integers(0, 17, (16, 64)).astype(np.float32) / 16, rng.integers(0, 10, 16)
    for param in net.params.values():
        if np.abs(param).max() < 0.1:
            param *= 25                                 # an embedding that starts small
        if param.ndim == 1:
            param += rng.standard_normal(param.shape, dtype=np.float32) / 4      # moves ReLU's inputs away from 0
    drawn = dropped.bit_generator.state

    def loss():
        dropped.bit_generator.state = drawn             # the same elements are dropped
        return net.loss_and_gradients(x, labels)[0]

    loss()
    grads = {key: grad.copy() for key, grad in net.grads.items()}
    for key, param in net.params.items():
        flat, step = param.reshape(-1), np.float32(2**-10)
        some = rng.choice(param.size, min(param.size, 12), replace=False)
        expected = np.empty(len(some))
        for place, i in enumerate(some):
            old = flat[i]
            flat[i] = old + step
            above = loss()
            flat[i] = old - step
            below = loss()
            flat[i] = old
            expected[place] = (above - below) / (2 * step)
        np.testing.assert_allclose(grads[key].ravel()[some], expected, atol=2e-3, rtol=0.02, err_msg=key)
        if (name, key) == ("tokens", "3.beta"):
            assert np.abs(expected).max() < 1e-3        # a shift of its input, which the BatchNorm behind it removes
        else:
            assert np.abs(expected).max() > 0.005, key


@NETWORK
def test_gradients_of_kernels_and_reference_agree(name, digits):
    nets = [made(name, digits, kernels).network for kernels in (fastopt, reference)]
    losses = [net.loss_and_gradients(digits.train.x[:33], digits.train.labels[:33]) for net in nets]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-6)
    assert losses[0][1] == losses[1][1]
    for key, a in nets[0].grads.items():
        b = nets[1].grads[key]
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6 * np.abs(b).max() + 1e-8, err_msg=key)


@NETWORK
def test_parameters_are_updated_in_place(name, digits):
    trainer = made(name, digits, epochs=1)
    net = trainer.network
    params, grads, before = dict(net.params), dict(net.grads), net.state_dict()
    trainer.run_epoch()
    for key in params:
        assert net.params[key] is params[key]
        assert net.grads[key] is grads[key]
    for i, state in net.state_dict().items():
        for key, array in state.items():
            assert not np.array_equal(array, before[i][key]), (i, key)      # running statistics included


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["relu", "tokens"])
def test_accuracy(digits, name, seed):
    """8 epochs reach 95.5 % of the validation images from any seed."""
    trainer = Trainer(Settings(network=NETWORKS[name].get("network", "pixels"), epochs=8, seed=seed), digits)
    for _ in range(8):
        trainer.run_epoch()
    assert trainer.best.validation_accuracy >= 0.955
    assert trainer.history[-1].loss < trainer.history[0].loss / 5


@pytest.mark.parametrize("optimizer", ["adam", "momentum", "lion"])
def test_kernels_and_reference_reach_the_same_accuracy(digits, optimizer):
    """BatchNorm and softmax alone round differently: within 3 of 240 images, and almost equal losses."""
    ours, theirs = (made("relu", digits, kernels, epochs=5, optimizer=optimizer) for kernels in (fastopt, reference))
    for trainer in (ours, theirs):
        for _ in range(5):
            trainer.run_epoch()
    assert abs(ours.best.validation_accuracy - theirs.best.validation_accuracy) <= 3 / 240 + 1e-9
    assert ours.history[0].loss == pytest.approx(theirs.history[0].loss, rel=1e-4)
    assert ours.history[-1].loss == pytest.approx(theirs.history[-1].loss, rel=0.1)


def test_the_best_epoch_is_kept(digits, monkeypatch):
    """`load_best` gives the network the weights and statistics of the best epoch, the first one of equals."""
    results = iter([(0.5, 0.8), (0.5, 0.9), (0.4, 0.9), (0.4, 0.9), (0.1, 0.85)])
    monkeypatch.setattr(Network, "evaluate", lambda network, examples: next(results))
    trainer = made("relu", digits, epochs=5)
    states = []
    for _ in range(5):
        trainer.run_epoch()
        states.append(arrays(trainer))
    assert trainer.best.epoch == 3
    assert trainer.best is trainer.history[2]
    trainer.load_best()
    np.testing.assert_array_equal(arrays(trainer), states[2])
    assert not np.array_equal(states[2], states[4])


def test_epochs_without_validation(digits):
    trainer = made("relu", digits)
    assert trainer.run_epoch(validate=False).validation_loss is None
    assert trainer.best is None
    validated = trainer.run_epoch()
    assert (validated.validation_loss, validated.validation_accuracy) == trainer.network.evaluate(digits.validation)


def test_each_step_is_told_the_loss_and_the_means_so_far(digits):
    trainer, losses, running = made("relu", digits), [], []
    epoch = trainer.run_epoch(each_step=lambda loss: (losses.append(loss), running.append(trainer.running)))
    assert len(losses) == trainer.steps_per_epoch == 37
    assert running[0][0] == pytest.approx(losses[0])
    assert running[-1] == (epoch.loss, epoch.accuracy)


@NETWORK
def test_any_number_of_threads_gives_the_same_bits(digits, name, always_parallel):
    results = []
    for threads in (1, 2, 3):
        trainer = made(name, digits, epochs=1)
        with fastopt.num_threads(threads):
            trainer.run_epoch()
        results.append(arrays(trainer))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].view(np.uint32), other.view(np.uint32))


def test_the_estimate_of_the_hessian(digits):
    """The mean over many draws is the Gauss-Newton matrix's diagonal: for softmax regression Σ x² p (1 − p) / n."""
    trainer = Trainer(Settings(hidden=(), optimizer="sophia"), digits)
    network, x, rng, draws = trainer.network, digits.train.x[:40], np.random.default_rng(0), 2000
    network.params["0.weight"][...] *= 2
    p = reference.softmax(network.logits(x)).astype(np.float64)
    expected = (x.astype(np.float64)**2).T @ (p * (1 - p)) / len(x)
    estimates = np.array([network.hessian(x, rng)["0.weight"] for _ in range(draws)], dtype=np.float64)
    error = estimates.std(axis=0) / np.sqrt(draws)
    deviations = np.abs(estimates.mean(axis=0) - expected)[expected > 1e-4] / error[expected > 1e-4]
    assert deviations.size > 300
    assert deviations.max() < 5         # standard errors, of hundreds of elements
    assert np.mean(deviations < 1) == pytest.approx(0.68, abs=0.1)
    assert np.all(estimates >= 0)


def test_public_api_only():
    """The demo uses no private name of fastopt, so that users can copy it."""
    files = [*Path(fastopt.demo.__file__).parent.rglob("*.py")]
    assert len(files) >= 12
    for file in files:
        text = file.read_text("utf-8")
        assert not re.search(r"fastopt(\.\w+)*\._(?!_version__)|from fastopt\S* import _|dispatch|_runtime", text), file
