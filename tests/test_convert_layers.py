"""Layers' arrays to and from torch and Keras: inference agrees, and so does a step of training."""

import numpy as np
import pytest
from conversions import imported_keras
from helpers import assert_same_bits

import fastopt
from fastopt.convert import layer_from_keras, layer_from_torch, layer_to_keras, layer_to_torch

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")    # Keras'

N, C = 6, 5


def layers():
    """One layer of each class with arrays that are not their initial values, and one without a bias."""
    rng = np.random.default_rng(1)
    made = {"BatchNorm": fastopt.BatchNorm(C), "LayerNorm": fastopt.LayerNorm(C), "RMSNorm": fastopt.RMSNorm(C),
            "Dense": fastopt.Dense(C, 3, rng=rng), "Dense without bias": fastopt.Dense(C, 3, bias=False, rng=rng),
            "Embedding": fastopt.Embedding(9, C, rng=rng)}
    for layer in made.values():
        for array in (layer.params | layer.buffers).values():
            array[...] = rng.uniform(0.5, 1.5, array.shape)
    return made


TORCH = {
    "BatchNorm": ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"],
    "LayerNorm": ["weight", "bias"], "RMSNorm": ["weight"], "Dense": ["weight", "bias"],
    "Dense without bias": ["weight"], "Embedding": ["weight"],
}


def inputs(name, seed=2):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((N, C)).astype(np.float32) * 3
    return rng.integers(0, 9, N) if name == "Embedding" else x


def blank(name):
    return {"BatchNorm": lambda: fastopt.BatchNorm(C), "LayerNorm": lambda: fastopt.LayerNorm(C),
            "RMSNorm": lambda: fastopt.RMSNorm(C), "Dense": lambda: fastopt.Dense(C, 3, rng=np.random.default_rng(0)),
            "Dense without bias": lambda: fastopt.Dense(C, 3, bias=False, rng=np.random.default_rng(0)),
            "Embedding": lambda: fastopt.Embedding(9, C, rng=np.random.default_rng(0))}[name]()


@pytest.mark.parametrize("name", TORCH)
def test_names_order_and_round_trips(name):
    layer = layers()[name]
    given = layer_to_torch(layer)
    assert list(given) == TORCH[name]
    if name.startswith("Dense"):
        assert_same_bits(given["weight"], np.ascontiguousarray(layer.params["weight"].T), name)
    for again, load, state in ((blank(name), layer_from_torch, given), (blank(name), layer_from_keras,
                                                                      layer_to_keras(layer))):
        held = {**again.params, **again.buffers}
        load(again, state)
        for key, array in (layer.params | layer.buffers).items():
            assert_same_bits(held[key], array, f"{name} {key}")     # in place
    next(iter(given.values()))[...] = 9.0
    layer_to_keras(layer)[0][...] = 9.0
    assert not any((array == 9.0).any() for array in layer.params.values())


def torch_layer(torch, name):
    return {"BatchNorm": lambda: torch.nn.BatchNorm1d(C), "LayerNorm": lambda: torch.nn.LayerNorm(C),
            "RMSNorm": lambda: torch.nn.RMSNorm(C, eps=1e-5), "Dense": lambda: torch.nn.Linear(C, 3),
            "Dense without bias": lambda: torch.nn.Linear(C, 3, bias=False),
            "Embedding": lambda: torch.nn.Embedding(9, C)}[name]()


def near(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("direction", ["to", "from"])
@pytest.mark.parametrize("name", TORCH)
def test_against_torch(name, direction):
    torch = pytest.importorskip("torch")
    layer, theirs = layers()[name], torch_layer(torch, name)
    if direction == "to":
        theirs.load_state_dict({key: torch.from_numpy(array) for key, array in layer_to_torch(layer).items()})
    else:
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.uniform_(0.5, 1.5)
        theirs(torch.from_numpy(inputs(name, 3)))       # moves the running statistics
        layer_from_torch(layer, theirs.state_dict())
    x = inputs(name)
    theirs.eval()
    near(layer.forward(x, training=False), theirs(torch.from_numpy(x)).detach().numpy())
    theirs.train()
    y, their_y = layer.forward(x), theirs(torch.from_numpy(x))
    near(y, their_y.detach().numpy())
    dy = np.random.default_rng(4).standard_normal(y.shape).astype(np.float32)
    their_y.backward(torch.from_numpy(dy))
    layer.backward(dy.copy())
    names = dict(zip(TORCH[name], layer.params, strict=False))
    for key, parameter in theirs.named_parameters():
        grad = parameter.grad.numpy()
        near(layer.grads[names[key]], grad.T if name.startswith("Dense") else grad)
    if name == "BatchNorm":
        near(layer.running_mean, theirs.running_mean.numpy())
        near(layer.running_var, theirs.running_var.numpy())


@pytest.mark.parametrize("direction", ["to", "from"])
@pytest.mark.parametrize("name", TORCH)
def test_against_keras(name, direction):
    keras = imported_keras()
    theirs = {"BatchNorm": lambda: keras.layers.BatchNormalization(),
              "LayerNorm": lambda: keras.layers.LayerNormalization(),
              "RMSNorm": lambda: keras.layers.RMSNormalization(),
              "Dense": lambda: keras.layers.Dense(3),
              "Dense without bias": lambda: keras.layers.Dense(3, use_bias=False),
              "Embedding": lambda: keras.layers.Embedding(9, C)}[name]()
    x = inputs(name)
    theirs(x)
    layer = layers()[name]
    if name == "BatchNorm":     # 0.99 is the weight of Keras' old value, and its variance is the biased one
        layer.eps, layer.momentum, layer.unbiased, layer.channel_axis = 1e-3, 1.0 - 0.99, False, -1
    elif name == "LayerNorm":
        layer.eps = 1e-3
    elif name == "RMSNorm":
        layer.eps = 1e-6
    if direction == "to":
        theirs.set_weights(layer_to_keras(layer))
    else:
        theirs.set_weights([array + 0.25 for array in theirs.get_weights()])
        layer_from_keras(layer, theirs.get_weights())
    near(layer.forward(x, training=False), np.asarray(theirs(x, training=False)))
    near(layer.forward(x, training=True), np.asarray(theirs(x, training=True)))
    for ours, array in zip(layer_to_keras(layer), theirs.get_weights(), strict=True):
        near(ours, array)


@pytest.mark.parametrize("call", [layer_to_torch, layer_to_keras, lambda layer: layer_from_torch(layer, {}),
                                  lambda layer: layer_from_keras(layer, [])])
@pytest.mark.parametrize("layer", [fastopt.Dropout(0.5, np.random.default_rng(0)), fastopt.Layer(), None])
def test_other_layers_are_refused(call, layer):
    with pytest.raises(TypeError, match="^layer: expected one of BatchNorm, LayerNorm, RMSNorm, Dense, Embedding, "):
        call(layer)


ONE = np.ones(C, np.float32)


@pytest.mark.parametrize(("load", "state", "error", "message"), [
    (layer_from_torch, {"weight": ONE}, ValueError, "^state_dict: expected arrays named weight, bias for LayerNorm, "
     "got 'weight'$"),
    (layer_from_torch, {}, ValueError, "got none$"),
    (layer_from_torch, [ONE], TypeError, "^state_dict: expected a dict of arrays, got list"),
    (layer_from_torch, {"weight": ONE, "bias": ONE.astype(float)}, TypeError,
     "^state_dict: expected a float32 array for bias, got float64"),
    (layer_from_torch, {"weight": ONE, "bias": ONE[1:]}, ValueError, "^beta: expected "),
    (layer_from_keras, [ONE], ValueError, "^weights: expected 2 arrays, gamma, beta, for LayerNorm, got 1"),
    (layer_from_keras, {"0": ONE}, TypeError, "^weights: expected a list of arrays, got dict"),
    (layer_from_keras, [ONE, np.ma.ones(C, np.float32)], TypeError, "^weights: expected arrays without a mask"),
])
def test_refused_arrays_change_nothing(load, state, error, message):
    layer = fastopt.LayerNorm(C)
    with pytest.raises(error, match=message):
        load(layer, state)
    assert_same_bits(layer.params["gamma"], ONE, "gamma")
    assert not layer.params["beta"].any()
