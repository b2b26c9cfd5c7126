"""Settings of a training: what is refused, what they make, and that each does what it says."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

import fastopt

pytest.importorskip("sklearn")
pytest.importorskip("scipy")

from fastopt.demo import data
from fastopt.demo.augment import AUGMENTATIONS
from fastopt.demo.settings import ACTIVATIONS, INITS, INTERVALS, OPTIMIZERS, SCHEDULES, WHOLE, Settings, SettingsError
from fastopt.demo.trainer import Diverged, Trainer


@pytest.fixture(scope="module")
def digits():
    """A quarter of the digits to train with: what these tests look at does not need more."""
    whole = data.digits()
    return dataclasses.replace(whole, train=data.Examples(*(array[:320] for array in whole.train)))


def trained(digits, epochs=3, **settings):
    trainer = Trainer(Settings(**{"epochs": epochs, "hidden": (32,), **settings}), digits)
    for _ in range(epochs):
        trainer.run_epoch()
    return trainer


def matrices(trainer):
    return np.concatenate([param.ravel() for param in trainer.network.params.values() if param.ndim == 2])


# What is refused

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(("name", "values"), [
    *((name, ("", "Adam", None, 3)) for name in ("network", "activation", "init", "optimizer", "schedule")),
    ("hidden", ((0,), (-1, 3), (3.0,), (True,), [128], 128, ("a",))),
    ("batch_norm", (0, None, "yes")),
    ("dropout", (-0.1, 1.0, NAN, INF, None, "0", True)),
    ("lr", (0.0, -1.0, NAN, INF, 1e31, "1", True)),
    ("momentum", (-0.1, 1.0, NAN, INF)),
    ("beta2", (-0.1, 1.0, NAN, INF)),
    ("l1", (-1.0, NAN, INF, None)),
    ("l2", (-1.0, NAN, INF)),
    ("decoupled", (-1.0, NAN, INF)),
    ("warmup", (-0.1, 1.0, NAN, None)),
    ("final_lr", (0.0, -1.0, 1.5, NAN)),
    ("average", (-0.1, 1.0, NAN)),
    ("clip_norm", (0.0, -1.0, NAN, INF)),
    ("augment", ([("shift", 0.1)], (("shift",),), (("shif", 0.1),), (("shift", 0.0),), (("shift", -0.1),),
                 (("shift", NAN),), (("shift", "0.1"),), (("shift", 0.1), ("shift", 0.2)), "shift")),
    ("batch_size", (0, -1, 1.5, "all", True)),
    ("epochs", (0, -1, 1.5, None, True)),
    ("seed", (-1, 1.5, None)),
])
def test_out_of_range(name, values):
    for value in values:
        with pytest.raises(SettingsError, match=f"^{name}: expected .*, got ") as caught:
            Settings(**{name: value})
        assert caught.value.name == name
        assert f"{name}: {caught.value.message}" == str(caught.value)


def test_every_number_has_an_interval():
    assert {*WHOLE, *INTERVALS} | {"network", "hidden", "activation", "init", "batch_norm", "optimizer", "schedule",
                                   "augment"} == {field.name for field in dataclasses.fields(Settings)}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_amounts_of_augmentation(name):
    default, largest, _ = AUGMENTATIONS[name]
    assert Settings(augment=((name, default),)) != Settings(augment=((name, largest),)) or default == largest
    with pytest.raises(SettingsError, match=f"augment: expected {name} in "):
        Settings(augment=((name, 1.01 * largest),))


@pytest.mark.parametrize(("settings", "name", "message"), [
    ({"batch_size": 1}, "batch_size", "expected at least 2 with BatchNorm, .*: add --no-batch-norm"),
    ({"optimizer": "adamw", "l2": 0.0}, "l2", "expected none for adamw, whose weight decay is decoupled"),
    ({"optimizer": "rprop", "decoupled": 0.1}, "decoupled", "expected none for rprop"),
    ({"optimizer": "adagrad", "momentum": 0.9}, "momentum", "expected none, because adagrad has none, got 0.9"),
    ({"optimizer": "sgd", "beta2": 0.9}, "beta2", "expected none, because sgd has none, got 0.9"),
    ({"hidden": (), "dropout": 0.5}, "dropout", "expected 0 without hidden layers, got 0.5"),
])
def test_contradictions(settings, name, message):
    with pytest.raises(SettingsError, match=message) as caught:
        Settings(**settings)
    assert caught.value.name == name


@pytest.mark.parametrize("settings", [{"batch_size": 1, "batch_norm": False}, {"batch_size": 1, "hidden": ()},
                                      {"init": "zero", "batch_norm": False}, {"l2": 0.1, "decoupled": 0.1}])
def test_what_is_no_contradiction(settings):
    Settings(**settings)


def test_settings_that_do_not_fit_the_data(digits):
    with pytest.raises(SettingsError, match="batch_size: expected at most 320, the number of training images, got 321"):
        Trainer(Settings(batch_size=321), digits)
    with pytest.raises(SettingsError, match="network: expected pixels for scikit-learn's digits, whose pixels have no"):
        Trainer(Settings(network="tokens"), dataclasses.replace(digits, levels=None))


def test_a_last_step_too_large_diverges(digits):
    """Its loss is that of the validation alone; nothing becomes the best epoch."""
    trainer = Trainer(Settings(optimizer="sgd", lr=1e30, batch_size=None, epochs=1, batch_norm=False), digits)
    with pytest.raises(Diverged, match=r"the loss is (nan|inf) after epoch 1: try a smaller --lr than 1e\+30"):
        trainer.run_epoch()
    assert (trainer.best, trainer.history) == (None, [])


def test_a_learning_rate_too_large_diverges(digits):
    with pytest.raises(Diverged, match=r"the loss is (nan|inf) in epoch 1: try a smaller --lr than 1e\+20"):
        trained(digits, lr=1e20, optimizer="sgd")


def test_json():
    settings = Settings(hidden=(3, 4), augment=(("shift", 0.1),), lr=0.1, batch_size=None)
    assert Settings.from_json(json.loads(json.dumps(settings.as_json()))) == settings


# What they make

@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resolved_settings_make_the_same_optimizer(name):
    for decay in ({}, {"decoupled": 0.02} if not OPTIMIZERS[name].l2_only else {"l2": 0.03}):
        settings = Settings(optimizer=name, **decay)
        assert settings.resolved.lr == settings.peak_lr
        assert settings.resolved.resolved == settings.resolved
        assert repr(settings.resolved.make_optimizer(fastopt, 50)) == repr(settings.make_optimizer(fastopt, 50))


@pytest.mark.parametrize(("name", "momentum", "beta2"), [
    ("sgd", "momentum=0.5", None), ("momentum", "momentum=0.5", None), ("nesterov", "momentum=0.5", None),
    ("sgdm", "beta=0.5", None), ("asgd", None, None), ("adagrad", None, None), ("adadelta", None, "rho=0.7"),
    ("rmsprop", "momentum=0.5", "alpha=0.7"), ("adam", "betas=(0.5, 0.999)", "betas=(0.9, 0.7)"),
    ("adamw", "betas=(0.5, 0.999)", "betas=(0.9, 0.7)"), ("adamax", "betas=(0.5, 0.999)", "betas=(0.9, 0.7)"),
    ("nadam", "betas=(0.5, 0.999)", "betas=(0.9, 0.7)"), ("radam", "betas=(0.5, 0.999)", "betas=(0.9, 0.7)"),
    ("adan", "betas=(0.5, 0.92, 0.99)", "betas=(0.98, 0.7, 0.99)"), ("lion", "betas=(0.5, 0.99)", "betas=(0.9, 0.7)"),
    ("rprop", None, None), ("sophia", "betas=(0.5, 0.99)", "betas=(0.965, 0.7)"), ("lars", "momentum=0.5", None),
    ("lamb", "betas=(0.5, 0.999)", "betas=(0.9, 0.7)"),
])
def test_momentum_and_beta2(name, momentum, beta2):
    for setting, value, option in (("momentum", 0.5, momentum), ("beta2", 0.7, beta2)):
        if option is None:
            with pytest.raises(SettingsError, match=f"^{setting}: "):
                Settings(optimizer=name, **{setting: value})
        else:
            assert f"{option}," in repr(Settings(optimizer=name, **{setting: value}).make_optimizer(fastopt, 10))


def test_both_betas():
    assert "betas=(0.5, 0.7)" in repr(Settings(momentum=0.5, beta2=0.7).make_optimizer(fastopt, 10))


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules(schedule, steps):
    """Rises to lr in the first tenth, then falls to lr · final_lr, unless it is constant."""
    rates = [Settings(schedule=schedule, lr=0.1, warmup=0.1, final_lr=0.01).make_schedule(steps)(step)
             for step in range(1, steps + 1)]
    assert max(rates) == pytest.approx(0.1)
    peak = math.ceil(0.1 * steps)
    assert rates[0] == pytest.approx(0.1 / peak)
    assert all(a < b for a, b in itertools.pairwise(rates[:peak]))
    assert all(a >= b for a, b in itertools.pairwise(rates[peak:]))
    if steps == 1000:
        assert rates[-1] == pytest.approx(0.1 if schedule == "constant" else 0.001, rel=0.02)
        assert len(set(rates[peak:])) == {"constant": 1, "piecewise": 3}.get(schedule, 900)


# What they do

@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains(digits, name):
    batches = {"batch_size": None, "epochs": 30} if name == "rprop" else {"batch_size": 16, "epochs": 16}
    trainer = trained(digits, optimizer=name, **batches)
    assert trainer.history[-1].loss < 0.7 * trainer.history[0].loss
    assert trainer.best.validation_accuracy > 0.5


def test_l1_makes_small_weights_and_the_others_smaller_ones(digits):
    base = {"optimizer": "sgd", "epochs": 20, "batch_norm": False, "lr": 0.1}
    none, l1, l2, decoupled = (matrices(trained(digits, **base, **{"l2": 0.0, **one})) for one in (
        {}, {"l1": 0.01}, {"l2": 0.05}, {"decoupled": 0.05}))
    def near_zero(weights):
        return np.mean(np.abs(weights) < 0.005)

    assert near_zero(l1) > 0.3 > 0.1 > near_zero(none)
    assert np.linalg.norm(l2) < 0.7 * np.linalg.norm(none)
    assert np.linalg.norm(decoupled) < 0.7 * np.linalg.norm(none)


@pytest.mark.parametrize("decay", [{"l1": 100.0}, {"l2": 100.0}, {"decoupled": 100.0}])
def test_decay_concerns_matrices_only(digits, decay):
    """With zero gradients only what is regularised changes."""
    trainer = Trainer(Settings(optimizer="sgd", lr=1e-3, hidden=(8,), network="tokens", **decay), digits)
    params = trainer.network.params
    for param in params.values():
        param += 1.0
    before = {key: param.copy() for key, param in params.items()}
    trainer.optimizer.update(params, {key: np.zeros_like(grad) for key, grad in trainer.network.grads.items()})
    changed = {key for key in params if not np.array_equal(params[key], before[key])}
    assert changed == {key for key in params if params[key].ndim == 2} == {key for key in params if "weight" in key}


def test_dropout_drops_so_many_units(digits):
    trainer = Trainer(Settings(hidden=(400,), dropout=0.3, batch_norm=False), digits)
    dense, drop = trainer.network.layers[:2]
    h = np.abs(dense.forward(digits.train.x[:100])) + 1
    assert np.mean(drop.forward(h) == 0.0) == pytest.approx(0.3, abs=0.01)
    assert np.array_equal(drop.forward(h, False), h)


def test_clip_norm_limits_the_step(digits):
    for clip_norm in (0.01, 1e6):
        trainer = Trainer(Settings(optimizer="sgd", lr=1.0, schedule="constant", warmup=0.0, l2=0.0,
                                   clip_norm=clip_norm, batch_norm=False), digits)
        before = {key: param.copy() for key, param in trainer.network.params.items()}
        trainer._step(np.arange(32))
        step = math.sqrt(sum(np.sum((param - before[key])**2) for key, param in trainer.network.params.items()))
        assert (step == pytest.approx(0.01, rel=1e-3)) == (clip_norm == 0.01)


def test_averages_are_validated_and_the_training_goes_on_without_them(digits):
    plain, averaged = (trained(digits, average=average) for average in (None, 0.9))
    assert [epoch.loss for epoch in plain.history] == [epoch.loss for epoch in averaged.history]
    assert plain.history[-1].validation_loss != averaged.history[-1].validation_loss
    current = averaged.network.state_dict()
    with averaged.averaged():
        assert averaged.network.evaluate(digits.validation)[0] == averaged.history[-1].validation_loss
    assert all(np.array_equal(array, averaged.network.state_dict()[i][key])
               for i, state in current.items() for key, array in state.items())


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 320), (32, 10), (100, 3), (320, 1), (None, 1)])
def test_batches(digits, batch_size, steps):
    trainer = Trainer(Settings(batch_size=batch_size, batch_norm=False), digits)
    batches = trainer.batches()
    assert len(batches) == trainer.steps_per_epoch == steps
    assert min(map(len, batches)) >= (batch_size or 320)
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(320))
    assert not np.array_equal(np.concatenate(batches), np.concatenate(trainer.batches()))


def test_stochastic_descent_trains(digits):
    assert trained(digits, epochs=1, batch_size=1, batch_norm=False, lr=5e-3).best.validation_accuracy > 0.6


@pytest.mark.parametrize("name", INITS)
def test_initial_weights(digits, name):
    weight = Trainer(Settings(init=name, hidden=(500,)), digits).network.params["0.weight"]
    expected = {"he": math.sqrt(2 / 64), "xavier": math.sqrt(2 / (64 + 500)), "normal": 0.01, "zero": 0.0}[name]
    assert np.std(weight) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(digits, name, batch_norm):
    """A hidden layer's output is the function of its input."""
    network = Trainer(Settings(activation=name, hidden=(8,), batch_norm=batch_norm), digits).network
    x = digits.train.x[:5]
    *hidden, _ = network.layers
    h = x @ network.params["0.weight"]
    if batch_norm:
        h = h / np.sqrt(np.float32(1 + 1e-5))       # at first the running mean is 0 and the variance 1
    erf = np.vectorize(math.erf)
    expected = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh, "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
                "gelu": lambda z: z * (1 + erf(z / math.sqrt(2))) / 2}[name](h)
    for layer in hidden:
        x = layer.forward(x, False)
    np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-6)


def test_hidden_layers(digits):
    shapes = {key: param.shape for key, param in Trainer(Settings(hidden=(7, 5, 3)), digits).network.params.items()
              if param.ndim == 2}
    assert list(shapes.values()) == [(64, 7), (7, 5), (5, 3), (3, 10)]
    regression = Trainer(Settings(hidden=()), digits).network
    assert [param.shape for param in regression.params.values()] == [(64, 10), (10,)]


def test_the_seed_determines_all(digits):
    settings = {"dropout": 0.2, "augment": (("shift", 0.1),)}
    first, again, other = (trained(digits, epochs=1, seed=seed, **settings).history[0].loss for seed in (0, 0, 1))
    assert first == again != other


def test_a_setting_leaves_the_other_random_numbers_alone(digits):
    """Dropout and augmentation change neither the initial weights nor the batches."""
    plain, changed = (Trainer(Settings(**settings), digits) for settings in (
        {}, {"dropout": 0.2, "augment": (("shift", 0.1),), "optimizer": "sophia"}))
    for trainer in (plain, changed):
        trainer.weights = trainer.network.params["0.weight"].copy()
        trainer.run_epoch()
    np.testing.assert_array_equal(plain.weights, changed.weights)
    np.testing.assert_array_equal(np.concatenate(plain.batches()), np.concatenate(changed.batches()))


def test_augmented_images_are_seen_and_timed(digits):
    plain, changed = (trained(digits, epochs=1, augment=augment) for augment in ((), (("rotate", 20.0),)))
    assert plain.history[0].loss != changed.history[0].loss
    assert plain.history[0].augmenting == 0.0
    assert 0.0 < changed.history[0].augmenting < changed.history[0].seconds
