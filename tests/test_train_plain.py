"""The demo's layers and optimizers in plain NumPy against fastopt's: to rounding, step by step and as a training."""

import numpy as np
import pytest

import fastopt
from fastopt.demo import data, plain
from fastopt.demo.settings import OPTIMIZERS as TABLE
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Trainer
from fastopt.schedules import cosine

SHAPES = {"0.weight": (5, 7), "0.bias": (7,), "2.gamma": (1,)}
OPTIMIZERS = {
    "SGD": ({}, {"lr": 0.3, "momentum": 0.9}),
    "Momentum": ({}, {"lr": 0.05}, {"lr": 0.05, "nesterov": True, "momentum": 0.8}),
    "SGDM": ({}, {"beta": 0.8}),
    "ASGD": ({}, {"t0": 2, "lambd": 0.1}),
    "Adagrad": ({}, {"eps": 1e-3}),
    "Adadelta": ({}, {"rho": 0.8}),
    "RMSprop": ({}, {"alpha": 0.9, "momentum": 0.8}),
    "Adam": ({}, {"betas": (0.8, 0.99), "eps": 1e-3}),
    "AdamW": ({}, {"weight_decay": 0.3}),
    "Adamax": ({}, {"betas": (0.8, 0.99)}),
    "NAdam": ({}, {"momentum_decay": 0.1}),
    "RAdam": ({}, {"betas": (0.9, 0.95)}),
    "Adan": ({}, {"weight_decay": 0.3}),
    "Lion": ({}, {"weight_decay": 0.3, "betas": (0.8, 0.9)}),
    "Rprop": ({"lr": 0.01}, {"etas": (0.4, 1.3), "step_sizes": (1e-3, 0.02)}),
    "Sophia": ({}, {"rho": 2.0}),
    "LARS": ({"lr": 0.5}, {"lr": 0.5, "trust_coefficient": 0.1}),
    "LAMB": ({}, {"weight_decay": 0.3}),
}
"""Arguments of each class."""
OWN_DECAY = ("AdamW", "Adan", "Lion", "Rprop", "Sophia", "LAMB")
"""Those that take no decoupled_weight_decay."""


def options(name):
    """Sets of the shared options."""
    decoupled = {} if name in OWN_DECAY else {"decoupled_weight_decay": 0.2}
    return [{}, {"clip_norm": 0.5}, {"weight_decay": 0.1, "l1": 0.01, **decoupled, "average_decay": 0.9},
            {"average_decay": 0.999, "average_warmup": True, "clip_norm": 100.0, "lr": cosine(0.02, 6), "l1": 0.1,
             "per_param": lambda key, p: {} if p.ndim == 2 else {"weight_decay": 0.0, "l1": 0.0}}]


class Watched(np.ndarray):
    """An array of which no operation may be in float64."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        bare = [array.view(np.ndarray) if isinstance(array, Watched) else array for array in inputs]
        into = {} if out is None else {"out": tuple(array.view(np.ndarray) for array in out)}
        result = getattr(ufunc, method)(*bare, **into, **options)
        assert {np.asarray(array).dtype for array in (*bare, result) if isinstance(array, np.ndarray)} <= {
            np.dtype(np.float32), np.dtype(bool)}
        return result.view(Watched) if out is None else out[0]


def arrays(rng, kind=np.ndarray):
    return {key: rng.standard_normal(shape, dtype=np.float32).view(kind) for key, shape in SHAPES.items()}


def steps(module, name, arguments, count=7, load_after=None, kind=np.ndarray):
    """The parameters, information and state after so many steps; `load_after` them, a new optimizer goes on."""
    rng = np.random.default_rng(0)
    params, opt, infos = arrays(rng, kind), getattr(module, name)(**arguments), []
    for step in range(count):
        if name == "Sophia" and step % 3 == 0:
            opt.update_hessian(params, {key: h * h for key, h in arrays(rng, kind).items()})
        infos.append(opt.update(params, arrays(rng, kind)))
        if step == load_after:
            state, opt = opt.state_dict(), getattr(module, name)(**arguments)
            opt.load_state_dict(state)
    return params, infos, opt


CASES = [pytest.param(name, {**own, **shared}, id=f"{name}-{i}-{j}") for name, cases in OPTIMIZERS.items()
         for i, own in enumerate(cases) for j, shared in enumerate(options(name))]


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, array in theirs.items():
        assert ours[key].dtype == np.float32
        np.testing.assert_allclose(ours[key], array, rtol=2e-5, atol=2e-6, err_msg=str(key))


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_optimizer(name, arguments):
    ours, our_infos, our_opt = steps(plain, name, arguments)
    theirs, infos, opt = steps(fastopt, name, arguments)
    assert_close(ours, theirs)
    assert_close(our_opt.averages, opt.averages)
    assert [(info.step, info.lr, info.skipped) for info in our_infos] == [
        (info.step, info.lr, info.skipped) for info in infos]
    assert [info.grad_norm or 0.0 for info in our_infos] == pytest.approx(
        [info.grad_norm or 0.0 for info in infos], rel=1e-6)
    assert our_opt.step_count == opt.step_count
    assert our_opt.steps == opt.steps
    for key, state in opt.state.items():
        assert_close(our_opt.state[key], dict(state))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_goes_on_from_its_state(name):
    arguments = {**OPTIMIZERS[name][0], "average_decay": 0.9}
    through, loaded = (steps(plain, name, arguments, load_after=after)[0] for after in (None, 3))
    for key, param in through.items():
        np.testing.assert_array_equal(loaded[key], param)


def test_every_optimizer_of_the_table_is_compared():
    assert {choice.name for choice in TABLE.values()} == OPTIMIZERS.keys()


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_optimizer_computes_in_float32(name, arguments):
    """A float64 array among the temporaries would double the time of what plain NumPy is said to take."""
    params, _, opt = steps(plain, name, arguments, kind=Watched)
    assert all(array.dtype == np.float32 for array in params.values())
    assert all(array.dtype == np.float32 for state in opt.state.values() for array in state.values())


# Layers

LAYERS = {
    "Dense": lambda module, rng: module.Dense(8, 6, rng=rng),
    "Dense no bias": lambda module, rng: module.Dense(8, 6, bias=False, rng=rng),
    **{f"Dense {activation}": lambda module, rng, activation=activation: module.Dense(8, 6, activation, rng=rng)
       for activation in ("relu", "leaky_relu", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu")},
    "BatchNorm": lambda module, rng: module.BatchNorm(8),
    "BatchNorm relu": lambda module, rng: module.BatchNorm(8, relu=True),
    "LayerNorm": lambda module, rng: module.LayerNorm(8),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name):
    """Several steps of training, each followed by inference, and the state."""
    ours, theirs = (LAYERS[name](module, np.random.default_rng(1)) for module in (plain, fastopt))
    assert_close(ours.state_dict(), theirs.state_dict())
    for key, array in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[key], array, err_msg="the weights of the start")
    rng = np.random.default_rng(2)
    for _ in range(3):
        x = rng.standard_normal((16, 8), dtype=np.float32)
        y = theirs.forward(x)
        dy = rng.standard_normal(y.shape, dtype=np.float32)
        assert_close({"y": ours.forward(x)}, {"y": y})
        assert_close({"dx": ours.backward(dy.copy()), **ours.grads}, {"dx": theirs.backward(dy.copy()), **theirs.grads})
        assert_close({"y": ours.forward(x, False)}, {"y": theirs.forward(x, False)})
        for layer in (ours, theirs):
            for key, param in layer.params.items():
                param -= 0.1 * layer.grads[key]
    assert_close(ours.state_dict(), theirs.state_dict())
    fresh = LAYERS[name](plain, np.random.default_rng(3))
    fresh.load_state_dict(ours.state_dict())
    np.testing.assert_array_equal(fresh.forward(x, False), ours.forward(x, False))


def test_embedding():
    ours, theirs = (module.Embedding(9, 4, std=0.02, rng=np.random.default_rng(1)) for module in (plain, fastopt))
    rng = np.random.default_rng(2)
    for _ in range(2):
        indices = rng.integers(8, size=(5, 6))      # row 8 has no gradient
        np.testing.assert_array_equal(ours.forward(indices), theirs.forward(indices))
        dy = rng.standard_normal((5, 6, 4), dtype=np.float32)
        assert ours.backward(dy) is theirs.backward(dy) is None
        assert_close(ours.grads, theirs.grads)


@pytest.mark.parametrize("make", [lambda p, rng: plain.Dropout(p, rng),
                                  lambda p, rng: plain.Dense(400, 400, "relu", dropout=p, rng=rng)],
                         ids=["Dropout", "Dense"])
def test_dropout(make):
    """The share dropped, the scale of the others, the same mask in backward, and nothing in inference."""
    x = np.abs(np.random.default_rng(0).standard_normal((400, 400), dtype=np.float32)) + 1
    layer = make(0.3, np.random.default_rng(1))
    for param in layer.params.values():
        param[...] = np.eye(400, dtype=np.float32) if param.ndim == 2 else 0
    y = layer.forward(x)
    kept = y != 0
    assert abs(kept.mean() - 0.7) < 6 * (0.3 * 0.7 / x.size) ** 0.5
    np.testing.assert_allclose(y[kept], x[kept] / 0.7, rtol=1e-6)
    np.testing.assert_array_equal(layer.backward(np.ones_like(x)) != 0, kept)
    np.testing.assert_array_equal(layer.forward(x, False), x)
    assert (layer.forward(x) != y).any()


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_activation(activation, with_bias):
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 9, 7), dtype=np.float32) * 100
    bias = rng.standard_normal(7, dtype=np.float32) if with_bias else None
    results = []
    for module in (plain, fastopt):
        y, cache = module.activation_forward(x, activation, bias)
        dx, dbias = module.activation_backward(dy, cache)
        results.append({"y": y, "dx": dx, "dbias": np.zeros(0, np.float32) if dbias is None else dbias})
    ours, theirs = results
    for key, array in theirs.items():
        assert ours[key].dtype == np.float32
        np.testing.assert_allclose(ours[key], array, rtol=1e-4, atol=1e-4)


def test_softmax_and_cross_entropy():
    """Also of logits so far apart that float32 has no such probability."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((32, 10), dtype=np.float32) * np.repeat([1, 100], 16)[:, None].astype(np.float32)
    labels = rng.integers(10, size=32)
    assert_close({"y": plain.softmax(logits)}, {"y": fastopt.softmax(logits)})
    loss, gradient = fastopt.softmax_cross_entropy(logits, labels)
    assert plain.softmax_cross_entropy_loss(logits, labels) == pytest.approx(loss, rel=1e-6)
    for out in (None, logits.copy()):
        our_loss, ours = plain.softmax_cross_entropy(logits if out is None else out, labels, out=out)
        assert our_loss == pytest.approx(loss, rel=1e-6)
        assert_close({"d": ours}, {"d": gradient})
        assert out is None or ours is out


# Trainings

@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn")
    return data.digits()


def train(settings, digits, kernels):
    trainer = Trainer(settings, digits, kernels)
    return [trainer.run_epoch() for _ in range(settings.epochs)], trainer


@pytest.mark.parametrize("name", TABLE)
def test_training_reaches_fastopts_accuracy(digits, name):
    """Equal seeds start from equal weights and see equal batches; rounding makes the two drift apart."""
    settings = Settings(optimizer=name, epochs=8, average=0.9, clip_norm=5.0)
    (ours, _), (theirs, _) = (train(settings, digits, module) for module in (plain, fastopt))
    assert ours[0].loss == pytest.approx(theirs[0].loss, rel=0.02)
    images = len(digits.validation.x)
    best = [max(epoch.validation_accuracy for epoch in epochs) for epochs in (ours, theirs)]
    assert abs(best[0] - best[1]) * images <= 4.5
    assert best[0] > 0.9


@pytest.mark.parametrize("changes", [
    {"network": "tokens"}, {"batch_norm": False, "activation": "tanh"}, {"activation": "gelu", "dropout": 0.2},
    {"augment": (("shift", 0.1),), "activation": "sigmoid"}, {"hidden": ()}], ids=str)
def test_training_of_other_networks(digits, changes):
    settings = Settings(**{"hidden": (32, 16), **changes}, epochs=4)
    (ours, _), (theirs, _) = (train(settings, digits, module) for module in (plain, fastopt))
    images = len(digits.validation.x)
    assert abs(ours[-1].validation_accuracy - theirs[-1].validation_accuracy) * images <= 8.5
    assert ours[-1].loss == pytest.approx(theirs[-1].loss, rel=0.15)


def test_training_goes_on_from_its_state(digits):
    settings = Settings(epochs=3, dropout=0.2, average=0.9)
    through = train(settings, digits, plain)[1]
    stopped = Trainer(settings, digits, plain)
    stopped.run_epoch()
    resumed = Trainer(settings, digits, plain)
    resumed.load_state_dict(stopped.state_dict())
    for _ in range(2):
        resumed.run_epoch()
    for key, param in through.network.params.items():
        np.testing.assert_array_equal(resumed.network.params[key], param)
