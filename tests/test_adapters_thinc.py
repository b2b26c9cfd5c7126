"""thinc's models trained by fastopt: thinc's own Adam's losses; and the contract without thinc."""

import numpy as np
import pytest
from helpers import assert_same_bits

import fastopt
from fastopt.adapters.thinc import Optimizer


def arrays(seed, shape=(5, 3)):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape).astype(np.float32)


def test_a_call_updates_in_place_and_zeroes_the_gradient():
    opt, twin = fastopt.Adam(), fastopt.Adam()
    optimizer, weights = Optimizer(opt), arrays(1)
    expected = weights.copy()
    for seed in range(3):
        gradient = arrays(seed)
        twin.update({"w": expected}, {"w": gradient})
        given = optimizer((7, "W"), weights, gradient)
        assert given[0] is weights
        assert given[1] is gradient
        assert not gradient.any()
        assert_same_bits(weights, expected, "W")
    assert opt.steps == {(7, "W"): 3}


def test_every_parameter_has_its_own_steps():
    opt, twins = fastopt.Adam(), [fastopt.Adam(), fastopt.Adam()]
    optimizer = Optimizer(opt)
    params, expected = [arrays(1), arrays(2, (4,))], [arrays(1), arrays(2, (4,))]
    for _ in range(3):
        for i, twin in enumerate(twins):
            gradient = arrays(i + 3, params[i].shape)
            twin.update(expected[i], gradient)
            optimizer((i, "W"), params[i], gradient)
    for param, one in zip(params, expected, strict=True):
        assert_same_bits(param, one, "param")
    assert opt.steps == {(0, "W"): 3, (1, "W"): 3}


@pytest.mark.parametrize("lr", [0.1, lambda step: 0.1])
def test_lr_scale(lr):
    opt, weights, expected = fastopt.SGD(lr=lr), arrays(1), arrays(1)
    Optimizer(opt)((1, "W"), weights, arrays(2), lr_scale=0.5)
    fastopt.sgd(expected, arrays(2), lr=0.05)
    assert_same_bits(weights, expected, "W")
    assert opt.lr is lr
    with pytest.raises(TypeError, match=r"^param\[\(1, 'W'\)\]: expected"):
        Optimizer(opt)((1, "W"), weights.astype(np.float64), arrays(2), lr_scale=0.5)
    assert opt.lr is lr


def test_a_gradient_that_cannot_be_set_to_zero():
    optimizer, weights, gradient = Optimizer(fastopt.SGD(lr=0.1)), arrays(1), arrays(2)
    gradient.flags.writeable = False
    with pytest.raises(ValueError, match="^gradient: expected a writable array"):
        optimizer((1, "W"), weights, gradient)
    assert_same_bits(weights, arrays(1), "W")
    assert optimizer.opt.steps == {}


def test_schedules_scores_and_averages():
    optimizer = Optimizer(fastopt.SGD(lr=0.1, average_decay=0.5))
    assert (optimizer.step, optimizer.last_score, optimizer.averages) == (0, None, {})
    optimizer.step_schedules()
    optimizer.last_score = 0.75
    assert (optimizer.step, optimizer.last_score) == (1, (1, 0.75))
    weights = arrays(1)
    optimizer((1, "W"), weights, arrays(2))
    assert_same_bits(optimizer.averages[1, "W"], arrays(1) * np.float32(0.5) + weights * np.float32(0.5), "average")
    empty = np.zeros((0, 3), np.float32)
    assert optimizer((2, "b"), empty, empty)[0] is empty
    assert list(optimizer.averages) == [(1, "W")]


def test_a_schedule_counts_passes_over_the_model():
    given = []
    opt = fastopt.SGD(lr=lambda step: given.append(step) or 0.1)
    given.clear()       # of the check at construction
    optimizer, params = Optimizer(opt), [arrays(1), arrays(2, (4,)), arrays(3)]
    for _ in range(3):
        for i, param in enumerate(params):
            optimizer((i, "W"), param, arrays(4, param.shape))
    assert sorted(set(given)) == [1, 2, 3]
    assert opt.step_count == 3
    assert set(opt.steps.values()) == {3}


def test_only_optimizers():
    with pytest.raises(TypeError, match=r"^opt: expected an optimizer of fastopt, such as fastopt.Adam\(\), got type$"):
        Optimizer(fastopt.Adam)


def model_and_data(thinc, width=32):
    from thinc.api import Relu, Softmax, chain, fix_random_seed
    fix_random_seed(0)
    rng = np.random.default_rng(1)
    X = rng.standard_normal((200, 10)).astype(np.float32)
    Y = np.eye(4, dtype=np.float32)[(X @ rng.standard_normal((10, 4))).argmax(1)]
    model = chain(Relu(width), Relu(width), Softmax())
    model.initialize(X=X, Y=Y)
    return model, X, Y


def train(thinc, optimizer, steps=100):
    model, X, Y = model_and_data(thinc)
    losses = []
    for _ in range(steps):
        Yh, backprop = model.begin_update(X)
        losses.append(-np.log((Yh * Y).sum(1)).mean())
        backprop((Yh - Y) / np.float32(len(X)))
        model.finish_update(optimizer)
        optimizer.step_schedules()
    return np.array(losses), model


@pytest.mark.parametrize("name", ["Adam", "Adam with L2", "Adam with clipping", "SGD"])
def test_losses_are_thinc_s(name):
    thinc = pytest.importorskip("thinc.api")
    theirs, ours = {
        "Adam": (thinc.Adam(0.01, grad_clip=0.0), fastopt.Adam(lr=0.01, eps_hat=True)),
        "Adam with L2": (thinc.Adam(0.01, grad_clip=0.0, L2=0.01, L2_is_weight_decay=False),
                         fastopt.Adam(lr=0.01, eps_hat=True, weight_decay=0.01)),
        "Adam with clipping": (thinc.Adam(0.01, grad_clip=0.05),
                               fastopt.Adam(lr=0.01, eps_hat=True, clip_norm_per_param=0.05)),
        "SGD": (thinc.SGD(0.1, grad_clip=0.0), fastopt.SGD(lr=0.1)),
    }[name]
    expected, _ = train(thinc, theirs)
    losses, model = train(thinc, Optimizer(ours))
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=2e-5)      # they start at 1.4
    assert losses[-1] < 0.5 * losses[0]
    assert ours.steps == {(node.id, param): 100 for node in model.walk() for param in node.param_names}


def test_the_same_gradients_give_thinc_s_weights():
    thinc = pytest.importorskip("thinc.api")
    theirs, ours = thinc.Adam(0.01, grad_clip=0.0), Optimizer(fastopt.Adam(lr=0.01, eps_hat=True))
    weights, own = arrays(1), arrays(1)
    for seed in range(100):
        weights, _ = theirs((1, "W"), weights, arrays(seed))
        own, _ = ours((1, "W"), own, arrays(seed))
    np.testing.assert_allclose(own, weights, rtol=0, atol=1e-5 * np.abs(weights).max())


def test_the_same_gradients_give_thinc_s_averages():
    """thinc's start at zero, which a hundred steps forget."""
    thinc = pytest.importorskip("thinc.api")
    theirs = thinc.SGD(0.01, grad_clip=0.0)
    ours = Optimizer(fastopt.SGD(lr=0.01, average_decay=0.9999, average_warmup=True))
    weights, own = arrays(1), arrays(1)
    for seed in range(100):
        weights, _ = theirs((1, "W"), weights, arrays(seed))
        own, _ = ours((1, "W"), own, arrays(seed))
    expected = theirs.averages[1, "W"]
    np.testing.assert_allclose(ours.averages[1, "W"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_use_params():
    thinc = pytest.importorskip("thinc.api")
    optimizer = Optimizer(fastopt.Adam(lr=0.01, average_decay=0.9))
    _, model = train(thinc, optimizer, 3)
    node = next(node for node in model.walk() if "W" in node.param_names)
    weights = node.get_param("W")
    with model.use_params(optimizer.averages):
        assert node.get_param("W") is optimizer.averages[node.id, "W"]
    assert node.get_param("W") is weights
