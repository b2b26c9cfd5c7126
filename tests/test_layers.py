"""The layer classes: they are their functions, keep their arrays for life, and change nothing in a refused call."""

import copy
import pickle

import numpy as np
import pytest
from helpers import assert_same_bits, every_instant, read_only
from layer_cases import LAYERS, f32

import fastopt
from fastopt import reference
from fastopt._activation import KINDS

BOTH = pytest.mark.parametrize("module", [fastopt, reference], ids=["fastopt", "reference"])
LAYER = pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)


def arrays_of(layer):
    return [array for group in (layer.params, layer.grads, layer.buffers) for array in group.values()]


def seen(layer):
    """All that a refused call must leave as it is."""
    rng = getattr(layer, "rng", None)
    return [array.tobytes() for array in arrays_of(layer)], rng and repr(rng.bit_generator.state)


def step(case, layer, rng):
    """Results of a forward and a backward pass, and the gradients."""
    y, dx = layer.forward(case.x(rng)), layer.backward(case.dy(rng))
    return [y, *([] if dx is None else [dx]), *map(np.copy, layer.grads.values())]


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        assert_same_bits(a, b)


def assert_same_or_close(case):
    """How the results of two modules are compared."""
    def assert_close(first, second):
        for a, b in zip(first, second, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    return assert_same if case.exact else assert_close


# Each layer is its functions.

def test_every_layer_has_a_row():
    public = {name for name in fastopt.__all__ if isinstance(getattr(fastopt, name), type)
              and issubclass(getattr(fastopt, name), fastopt.Layer)}
    assert public == {case.name for case in LAYERS} | {"Layer"}


@BOTH
def test_batch_norm(module, rng):
    bn = module.BatchNorm(5, momentum=0.3, relu=True)
    assert_same(bn.params.values(), [np.ones(5, np.float32), np.zeros(5, np.float32)])
    assert bn.params == {"gamma": bn.gamma, "beta": bn.beta}
    assert bn.grads == {"gamma": bn.dgamma, "beta": bn.dbeta}
    assert bn.buffers == {"running_mean": bn.running_mean, "running_var": bn.running_var}
    bn.gamma[...], bn.beta[...] = f32(rng, 2, 5)
    mean, var = np.zeros(5, np.float32), np.ones(5, np.float32)
    for _ in range(3):
        x, dy = f32(rng, 2, 12, 5)
        y, cache = fastopt.batch_norm_forward(x, bn.gamma, bn.beta, mean, var, momentum=0.3, relu=True)
        assert_same_bits(bn.forward(x), y)
        assert_same((bn.backward(dy), bn.dgamma, bn.dbeta), fastopt.batch_norm_backward(dy, cache))
    assert_same((bn.running_mean, bn.running_var), (mean, var))
    expected = fastopt.batch_norm_inference(x, bn.gamma, bn.beta, mean, var, relu=True)
    assert_same_bits(bn.forward(x, training=False), expected)


def test_an_array_of_batch_norm_that_is_replaced():
    """By its attribute: the dicts hold the new one."""
    bn, gamma = fastopt.BatchNorm(2), np.full(2, 3, np.float32)
    x = np.array([[-1, 0], [1, 2]], np.float32)
    y = bn.forward(x)
    bn.gamma = gamma
    assert bn.params["gamma"] is bn.gamma is gamma
    assert_same_bits(bn.forward(x), 3 * y)


@BOTH
@pytest.mark.parametrize("shape", [4, (4,), (3, 4)])
def test_layer_norm(module, shape, rng):
    layer, lengths = module.LayerNorm(shape, eps=0.01), np.ones(shape).shape
    assert layer.shape == lengths
    assert_same(layer.params.values(), [np.ones(lengths, np.float32), np.zeros(lengths, np.float32)])
    gamma, beta = f32(rng, *lengths), f32(rng, *lengths)
    layer.params["gamma"][...], layer.params["beta"][...] = gamma, beta
    for training in (True, False):
        x, dy = f32(rng, 2, 5, *lengths), f32(rng, 2, 5, *lengths)
        y, cache = fastopt.layer_norm_forward(x, gamma, beta, eps=0.01)
        assert_same_bits(layer.forward(x, training), y)
        assert_same((layer.backward(dy), *layer.grads.values()), fastopt.layer_norm_backward(dy, cache))


@BOTH
@pytest.mark.parametrize("shape", [4, (4,), (3, 4)])
def test_rms_norm(module, shape, rng):
    layer, lengths = module.RMSNorm(shape, eps=0.01), np.ones(shape).shape
    assert layer.shape == lengths
    assert_same(layer.params.values(), [np.ones(lengths, np.float32)])
    gamma = f32(rng, *lengths)
    layer.params["gamma"][...] = gamma
    for training in (True, False):
        x, dy = f32(rng, 2, 5, *lengths), f32(rng, 2, 5, *lengths)
        y, cache = fastopt.rms_norm_forward(x, gamma, eps=0.01)
        assert_same_bits(layer.forward(x, training), y)
        assert_same((layer.backward(dy), *layer.grads.values()), fastopt.rms_norm_backward(dy, cache))


@BOTH
def test_dropout(module, rng):
    layer, twin = module.Dropout(0.25, np.random.default_rng(3)), np.random.default_rng(3)
    assert layer.params == layer.grads == layer.buffers == {}
    for _ in range(2):
        x, dy = f32(rng, 2, 4, 30)
        y, cache = fastopt.dropout_forward(x, 0.25, twin)
        assert_same_bits(layer.forward(x), y)
        assert_same_bits(layer.backward(dy), fastopt.dropout_backward(dy, cache))
    assert_same_bits(layer.forward(x, training=False), x)
    assert layer.rng.bit_generator.state == twin.bit_generator.state
    assert_same_bits(layer.backward(dy), dy)


@BOTH
def test_embedding(module, rng):
    layer = module.Embedding(6, 3, padding_idx=2, std=0.5, rng=np.random.default_rng(3))
    weight = fastopt.init.normal((6, 3), np.random.default_rng(3), std=0.5)
    weight[2] = 0.0
    assert_same_bits(layer.params["weight"], weight)
    for _ in range(2):      # the second gradient holds nothing of the first
        indices, dy = rng.integers(6, size=(2, 4)), f32(rng, 2, 4, 3)
        kept = indices.copy()
        assert_same_bits(layer.forward(indices), fastopt.embedding_forward(weight, indices))
        indices[...] = 0    # backward has a copy
        assert layer.backward(dy) is None
        assert_same_bits(layer.grads["weight"], fastopt.embedding_backward(dy, kept, 6, padding_idx=2))


@pytest.mark.parametrize("activation", KINDS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("shape", [(6,), (9, 6), (2, 3, 6), (0, 6)])
def test_dense(activation, bias, dropout, shape, rng):
    """The product, then activation_forward; and back."""
    layer = fastopt.Dense(6, 5, activation, bias=bias, dropout=dropout, negative_slope=0.2,
                          rng=np.random.default_rng(3))
    assert list(layer.params) == ["weight", "bias"][: 1 + bias]
    twin = np.random.default_rng(3)
    relu_like = activation not in ("identity", "sigmoid", "tanh")
    weight = (fastopt.init.he_normal if relu_like else fastopt.init.xavier_normal)((6, 5), twin)
    assert_same_bits(layer.params["weight"], weight)
    offset = None
    if bias:
        assert not layer.params["bias"].any()
        layer.params["bias"][...] = offset = f32(rng, 5)
    for training in (True, False, True):
        x, dy = f32(rng, *shape), f32(rng, *shape[:-1], 5)
        product = (x.reshape(-1, 6) @ weight).reshape(dy.shape)
        y, cache = fastopt.activation_forward(product, activation, offset, dropout=dropout * training, rng=twin,
                                              negative_slope=0.2)
        dz, dbias = fastopt.activation_backward(dy, cache)
        assert_same_bits(layer.forward(x, training), y)
        kept = dy.copy()
        dx = layer.backward(dy)
        assert_same_bits(dy, kept)
        assert_same_bits(dx, (dz.reshape(-1, 5) @ weight.T).reshape(shape))
        assert_same_bits(layer.grads["weight"], x.reshape(-1, 6).T @ dz.reshape(-1, 5))
        if bias:
            assert_same_bits(layer.grads["bias"], dbias)
    assert layer.rng.bit_generator.state == twin.bit_generator.state


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0)])
def test_dense_without_features(sizes, rng):
    layer = fastopt.Dense(*sizes, rng=rng)
    x, dy = f32(rng, 4, sizes[0]), f32(rng, 4, sizes[1])
    assert not layer.forward(x).any()
    dx = layer.backward(dy)
    assert dx.shape == x.shape
    assert not dx.any()


def test_dense_reads_a_gradient_that_is_read_only(rng):
    """Without an activation function the bias's sums are all there is to compute."""
    layer, twin = (fastopt.Dense(3, 4, rng=np.random.default_rng(1)) for _ in range(2))
    x, dy = f32(rng, 5, 3), f32(rng, 5, 4)
    layer.forward(x)
    twin.forward(x)
    assert_same_bits(layer.backward(read_only(dy)), twin.backward(dy))
    assert_same_bits(layer.grads["bias"], twin.grads["bias"])


@LAYER
def test_bits_of_the_reference(case, rng):
    """In training and in inference, and what is left of them in the layer."""
    assert_same = assert_same_or_close(case)
    ours, theirs = case.make(fastopt), case.make(reference)
    for _ in range(3):
        seed = rng.integers(2**32)
        assert_same(*(step(case, layer, np.random.default_rng(seed)) for layer in (ours, theirs)))
    x = case.x(rng)
    assert_same([ours.forward(x, training=False)], [theirs.forward(x, training=False)])
    assert_same(arrays_of(ours), arrays_of(theirs))


@LAYER
def test_out(case, rng):
    layer, twin = case.make(fastopt), case.make(fastopt)
    x, dy, y, dx = case.x(rng), case.dy(rng), case.dy(rng), f32(rng, *np.shape(case.x(rng)))
    expected_y, expected_dx = twin.forward(x), twin.backward(dy)
    assert layer.forward(x, out=y) is y
    assert_same_bits(y, expected_y)
    if expected_dx is None:
        with pytest.raises(TypeError, match="^out: expected None, .*, got ndarray"):
            layer.backward(dy, out=dx)
        return
    assert layer.backward(dy, out=dx) is dx
    assert_same_bits(dx, expected_dx)
    layer, twin = case.make(fastopt), case.make(fastopt)
    expected_y, expected_dx = twin.forward(x), twin.backward(dy)
    assert_same_bits(layer.forward(x), expected_y)
    if dx.shape == dy.shape:
        assert layer.backward(dy, out=dy) is dy
        assert_same_bits(dy, expected_dx)


# Arrays, states, copies.

@BOTH
@LAYER
def test_arrays_are_kept_for_life(module, case, rng):
    layer = case.make(module)
    kept = arrays_of(layer)
    assert layer.params.keys() == layer.grads.keys()
    assert all(not grad.any() for grad in layer.grads.values())
    opt = module.Adam(lr=0.1)
    before = [array.copy() for array in kept]
    for _ in range(2):
        step(case, layer, rng)
        opt.update(layer.params, layer.grads)
    layer.load_state_dict(layer.state_dict())
    layer.forward(case.x(rng), training=False)
    assert all(a is b for a, b in zip(kept, arrays_of(layer), strict=True))
    assert all((a != b).any() for a, b in zip(kept, before, strict=True))


@BOTH
@LAYER
def test_backward_needs_a_forward_pass(module, case, rng):
    layer = case.make(module)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^backward: expected a forward pass before it, got none"):
            layer.backward(case.dy(rng))
        step(case, layer, rng)


@BOTH
@LAYER
def test_state(module, case, rng):
    layer, other = case.make(module, 1), case.make(module, 2)
    step(case, layer, rng)
    state = layer.state_dict()
    assert list(state) == [*layer.params, *layer.buffers]
    other.load_state_dict(state)
    for name, array in (other.params | other.buffers).items():
        assert_same_bits(array, state[name])
        assert not np.shares_memory(array, state[name])
        assert not np.shares_memory(state[name], (layer.params | layer.buffers)[name])
    if not hasattr(layer, "rng"):
        x = case.x(rng)
        assert_same_bits(other.forward(x), layer.forward(x))


WITH_STATE = pytest.mark.parametrize(
    "case", [case for case in LAYERS if case.make(fastopt).state_dict()], ids=lambda case: case.name)


@WITH_STATE
def test_states_refused(case):
    layer = case.make(fastopt)
    state, before = {name: array + 1 for name, array in layer.state_dict().items()}, seen(layer)
    *_, last = state
    for bad, error, message in (
            ({}, ValueError, r"^state: expected the keys \[.*\], got \[\]"),
            ({**state, "more": state[last]}, ValueError, r"^state: expected the keys \["),
            (5, TypeError, "^state: expected a dict, got int"),
            ({**state, last: np.ones(77, np.float32)}, ValueError, rf"^{last}: expected .* of shape \(.*, got"),
            ({**state, last: state[last].astype(float)}, TypeError, rf"^{last}: expected .*, got float64"),
            ({**state, last: np.ma.masked_array(state[last], state[last] > 0)}, TypeError,
             rf"^{last}: expected .*, got masked array .*filled\(\)")):
        with pytest.raises(error, match=message):
            layer.load_state_dict(bad)
        assert seen(layer) == before
    group = layer.buffers or layer.params
    group[last] = np.zeros((0, 7), np.float32)
    with pytest.raises(ValueError, match=rf"^{last}: expected .* of shape \(0, 7\), got"):
        layer.load_state_dict(state)
    group[last] = np.zeros((0, 7), np.float64)
    with pytest.raises(TypeError, match=rf"^self\.\w+\['{last}'\]: expected writable .*, got float64"):
        layer.load_state_dict(state)


def test_a_layer_takes_a_state_of_its_own_arrays():
    bn = fastopt.BatchNorm(3)
    bn.gamma[...], bn.beta[...] = 5, 6
    bn.load_state_dict({**bn.state_dict(), "gamma": bn.beta, "beta": bn.gamma})
    assert (bn.gamma == 6).all()
    assert (bn.beta == 5).all()


@WITH_STATE
def test_an_interrupt_of_load_state_dict(case):
    state = {name: array + 1 for name, array in case.make(fastopt).state_dict().items()}
    every_instant(lambda: case.make(fastopt), lambda layer: layer.load_state_dict(state), arrays_of)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
                         ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("training", [True, False])
@LAYER
def test_copies(case, copied, training, rng):
    """Between steps and between forward and backward; the copy and the layer go on with the same bits."""
    layer = case.make(fastopt)
    step(case, layer, rng)
    layer.forward(case.x(rng), training)
    other = copied(layer)
    assert type(other) is type(layer)
    assert seen(other) == seen(layer)
    assert not any(np.shares_memory(a, b) for a in arrays_of(layer) for b in arrays_of(other))
    with pytest.raises(ValueError, match=r"^backward: expected a forward pass before it"):
        other.backward(case.dy(rng))
    layer.backward(case.dy(rng))
    seed = rng.integers(2**32)
    assert_same(*(step(case, made, np.random.default_rng(seed)) for made in (layer, other)))
    assert seen(other) == seen(layer)


def test_layers_copied_together_share_their_generator():
    rng = np.random.default_rng(3)
    first, second = copy.deepcopy([fastopt.Dropout(0.5, rng), fastopt.Dropout(0.5, rng)])
    assert first.rng is second.rng
    assert first.rng is not rng


def test_one_update_of_several_layers(rng):
    """Their dicts joined under keys of the user's own: the bits of an update of each."""
    layers, twins = ([case.make(fastopt) for case in LAYERS] for _ in range(2))
    seed = rng.integers(2**32)
    for case, layer, twin in zip(LAYERS, layers, twins, strict=True):
        step(case, layer, np.random.default_rng(seed))
        step(case, twin, np.random.default_rng(seed))
        fastopt.AdamW().update(twin.params, twin.grads)
    joined = [{(i, name): array for i, layer in enumerate(layers) for name, array in getattr(layer, group).items()}
              for group in ("params", "grads")]
    fastopt.AdamW().update(*joined)
    for layer, twin in zip(layers, twins, strict=True):
        assert_same(arrays_of(layer), arrays_of(twin))


# A layer of the user's own.

class Scale(fastopt.Layer):
    """y = x · scale, and how many passes there were."""

    def __init__(self, features):
        super().__init__({"scale": np.ones(features, np.float32)}, {"passes": np.zeros(1, np.float32)})

    def forward(self, x, training=True, *, out=None):
        self.buffers["passes"] += 1
        self._cache = x
        return np.multiply(x, self.params["scale"], out=out)

    def backward(self, dy, *, out=None):
        np.sum(self._cache * dy, axis=0, out=self.grads["scale"])
        self._cache = None
        return np.multiply(dy, self.params["scale"], out=out)


class Residual(fastopt.BatchNorm):
    """y = x + BatchNorm(x)"""

    def forward(self, x, training=True, *, out=None):
        return x + super().forward(x, training, out=out)

    def backward(self, dy, *, out=None):
        return dy + super().backward(dy, out=out)


@pytest.mark.parametrize("kind", [Scale, Residual])
def test_a_layer_of_the_users_own(kind, rng):
    layer, opt, x = kind(3), fastopt.SGD(lr=0.1), f32(rng, 8, 3)
    losses = []
    for _ in range(20):
        y = layer.forward(x)
        losses.append(float(np.mean((y - 2) ** 2)))
        layer.backward((y - 2) / y.size)
        opt.update(layer.params, layer.grads)
    assert losses[-1] < losses[0]
    other = kind(3)
    other.load_state_dict(layer.state_dict())
    for same in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_same_bits(same.forward(x, False), copy.copy(layer).forward(x, False))


@pytest.mark.parametrize(("arguments", "error", "message"), [
    (([],), TypeError, "^params: expected a dict or None, got list"),
    (({}, 5), TypeError, "^buffers: expected a dict or None, got int"),
    (({"w": [1.0]},), TypeError, "^params: expected float32 arrays by name, got list for 'w'"),
    (({1: np.ones(3, np.float32)},), TypeError, "^params: expected float32 arrays by name, got ndarray for 1"),
    (({"w": np.ones(3)},), TypeError, r"^params\['w'\]: expected writable C-contiguous float32 array, got float64 \("),
    (({"w": np.ones(3, np.float32)}, {"w": np.ones(3, np.float32)}), ValueError,
     "^buffers: expected names that params does not have, got 'w'"),
])
def test_arrays_that_a_layer_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        fastopt.Layer(*arguments)


# Bad input.

@pytest.mark.parametrize(("case", "argument", "value"),
                         [(case, *pair) for case in LAYERS for pair in case.refused],
                         ids=lambda value: getattr(value, "name", None))
def test_constructors_refuse(case, argument, value):
    """Nothing is drawn then."""
    rng = np.random.default_rng(5)
    given = {**case.options, **({"rng": rng} if case.takes_rng else {}), argument: value}
    with pytest.raises((TypeError, ValueError), match=rf"^{argument}: expected .*, got"):
        getattr(fastopt, case.name)(**given)
    assert rng.bit_generator.state == np.random.default_rng(5).bit_generator.state


@LAYER
def test_calls_refused(case, rng):
    """Nothing is written or drawn, and a good call afterwards gives what it gives a twin that never saw the bad one."""
    layer, twin = case.make(fastopt), case.make(fastopt)
    x, dy = case.x(rng), case.dy(rng)
    before = seen(layer)
    for bad in case.bad_x:
        with pytest.raises((TypeError, ValueError), match=rf"^({case.argument}|{case.other_name}): expected .*, got"):
            layer.forward(bad(x))
        assert seen(layer) == before
    for bad in (1, None, "yes"):
        with pytest.raises(TypeError, match=r"^training: expected .*, got"):
            layer.forward(x, bad)
    for out in (dy.astype(float), dy[:-1].copy(), 5):
        with pytest.raises((TypeError, ValueError), match=r"^out: expected .*, got"):
            layer.forward(x, out=out)
    assert seen(layer) == before
    assert_same_bits(layer.forward(x), twin.forward(x))
    before = seen(layer)
    for bad in case.bad_dy:
        with pytest.raises((TypeError, ValueError), match=r"^dy: expected .*, got"):
            layer.backward(bad(dy))
    for out in (x.astype(float), f32(rng, 77), 5):
        with pytest.raises((TypeError, ValueError), match=r"^out: expected .*, got"):
            layer.backward(dy, out=out)
    for name, grad in list(layer.grads.items()):
        layer.grads[name] = np.zeros(77, np.float32)
        with pytest.raises(ValueError, match=rf"{name}.*: expected writable .*, got float32 \(77,\)"):
            layer.backward(dy)
        layer.grads[name] = grad
    assert seen(layer) == before
    dx, expected = layer.backward(dy), twin.backward(dy)
    if expected is not None:
        assert_same_bits(dx, expected)
    assert seen(layer) == seen(twin)
