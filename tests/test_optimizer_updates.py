"""What a step of an optimizer class does to a model: the reference's bits, schedules, overrides, clipping."""

import itertools

import numpy as np
import pytest
from helpers import assert_same_bits
from optimizer_cases import SETTINGS, SHAPES, make, model, no_decay_on_vectors

import fastopt

COMMON = {
    "plain": {},
    "everything": {"weight_decay": 0.01, "l1": 1e-3, "decoupled_weight_decay": 0.1, "maximize": True,
                   "clip_value": 0.7, "clip_norm": 3.0, "skip_nonfinite": True, "average_decay": 0.9},
    "own_norm": {"weight_decay": 0.01, "clip_value": 0.7, "clip_norm_per_param": 3.0, "average_decay": 0.3,
                 "average_warmup": True},
}


@pytest.mark.parametrize("common", COMMON)
@pytest.mark.parametrize("setting", SETTINGS)
def test_same_bits_as_the_reference(setting, common, level, rng, always_parallel):
    """Ten steps of a model with tensors from empty to several chunks, with overrides and gradient scale."""
    options = {**COMMON[common], "per_param": no_decay_on_vectors}
    ours, theirs = model(rng), None
    theirs = {key: param.copy() for key, param in ours.items()}
    opt, ref = make(setting, **options), make(setting, fastopt.reference, **options)
    for step in range(1, 11):
        grads = model(rng)
        info = opt.update(ours, grads, grad_scale=0.5)
        assert info == ref.update(theirs, {key: grad.copy() for key, grad in grads.items()}, grad_scale=0.5)
        assert opt.step_count == ref.step_count == step
    for key in ours:
        assert_same_bits(ours[key], theirs[key], key)
        assert opt.state[key].keys() == ref.state[key].keys()
        for state in opt.state[key]:
            assert_same_bits(opt.state[key][state], ref.state[key][state], f"{key} {state}")


@pytest.mark.parametrize("setting", SETTINGS)
def test_whole_model_equals_one_by_one(setting, level, rng):
    together = model(rng)
    alone = {key: param.copy() for key, param in together.items()}
    one, many = make(setting), {key: make(setting) for key in together}
    for _ in range(3):
        grads = model(rng)
        one.update(together, grads)
        for key, opt in many.items():
            opt.update(alone[key], grads[key])
    for key in together:
        assert_same_bits(together[key], alone[key], key)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 16])
def test_threads_and_chunks(threads, rng, always_parallel, chunk):
    results = []
    for size in (8192, 16, 1024):
        chunk(size)
        seeded = np.random.default_rng(3)
        params, opt = model(seeded), fastopt.Adam(lr=0.01)
        with fastopt.num_threads(threads):
            for _ in range(3):
                opt.update(params, model(seeded))
        results.append(params)
    for key, other in itertools.product(SHAPES, results[1:]):
        assert_same_bits(results[0][key], other[key], key)


def test_dict_sequence_and_array_are_alike(rng):
    a, b, c = (np.ones(5, np.float32) for _ in range(3))
    g = rng.standard_normal(5).astype(np.float32)
    fastopt.Adam().update({"w": a}, {"w": g})
    fastopt.Adam().update([b], (g,))
    fastopt.Adam().update(c, g)
    assert_same_bits(a, b)
    assert_same_bits(a, c)


def test_grads_in_another_order_of_keys():
    params = {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}
    grads = {"b": np.full(2, 2.0, np.float32), "a": np.ones(2, np.float32)}
    fastopt.SGD(lr=1.0).update(params, grads)
    assert (params["a"] == -1.0).all()
    assert (params["b"] == -2.0).all()


def test_parameters_change_in_place_and_gradients_may_be_new_each_step():
    param = np.ones((3, 4), np.float32)
    layer = param[:]  # what a layer holds
    opt = fastopt.SGD(lr=0.5)
    for _ in range(4):
        opt.update([param], [np.ones((3, 4), np.float32)])
    assert (layer == -1.0).all()


def test_the_same_gradient_arrays_written_anew():
    param, grad = np.zeros(3, np.float32), np.zeros(3, np.float32)
    opt = fastopt.SGD(lr=1.0)
    for value in (1.0, 2.0, 3.0):
        grad[...] = value
        opt.update(param, grad)
    assert (param == -6.0).all()


@pytest.mark.parametrize("convert", [
    lambda g: g.astype(np.float64), lambda g: g.astype(np.longdouble), lambda g: np.asfortranarray(g),
    lambda g: np.repeat(g, 2, axis=1)[:, ::2], lambda g: g.astype(">f4"), lambda g: g.T.copy().T,
], ids=["float64", "longdouble", "fortran", "strided", "big endian", "transposed"])
def test_gradients_of_another_layout_or_float_type_are_converted_by_index(convert):
    grad = np.arange(12, dtype=np.float32).reshape(3, 4)
    param = np.zeros((3, 4), np.float32)
    given = convert(grad)
    before = given.copy()
    opt = fastopt.SGD(lr=1.0)
    for step in (1, 2):
        opt.update({"w": param}, {"w": given})
        np.testing.assert_array_equal(param, -step * grad)
    assert (given == before).all()


def test_a_scale_of_minus_zero_after_zero():
    """The two are equal, but the signs of their products are not."""
    ours, theirs = np.zeros(3, np.float32), np.zeros(3, np.float32)
    opt, ref = fastopt.Rprop(), fastopt.reference.Rprop()
    for scale in (1.0, 1.0, 0.0, -0.0, 0.0):
        for one, param in ((opt, ours), (ref, theirs)):
            one.update(param, np.ones(3, np.float32), grad_scale=scale)
        assert_same_bits(opt.state[0]["prev"], ref.state[0]["prev"], f"grad_scale {scale}")


def test_lr_as_a_function_of_the_step():
    param = np.zeros(1, np.float32)
    opt = fastopt.SGD(lr=lambda step: 10.0**-step)
    infos = [opt.update(param, np.ones(1, np.float32)) for _ in range(3)]
    assert [(info.step, info.lr) for info in infos] == [(1, 0.1), (2, 0.01), (3, 0.001)]
    np.testing.assert_allclose(param, -0.111, rtol=1e-6)


def test_lr_can_be_assigned():
    param, opt = np.zeros(1, np.float32), fastopt.SGD(lr=1.0)
    opt.lr = 0.25
    opt.update(param, np.ones(1, np.float32))
    assert param[0] == -0.25
    with pytest.raises(ValueError, match="^lr: expected a number"):
        opt.lr = -1.0
    assert opt.lr == 0.25


def test_an_assigned_lr_reaches_parameters_with_overrides():
    params = {"w": np.zeros(1, np.float32), "own": np.zeros(1, np.float32)}
    grads = {key: np.ones(1, np.float32) for key in params}
    own = {"w": {"weight_decay": 0.5}, "own": {"lr": 8.0}}
    opt = fastopt.SGD(lr=1.0, per_param=lambda key, array: own[key])
    opt.lr = 0.25
    opt.update(params, grads)
    opt.lr = lambda step: 1.0
    opt.update(params, grads)
    assert params["w"][0] == -0.25 - (1.0 - 0.125)
    assert params["own"][0] == -16.0


def test_per_param_overrides():
    params = {"W": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32), "frozen": np.ones(2, np.float32)}
    own = {"W": {}, "b": {"weight_decay": 0.0}, "frozen": {"lr": 0.0}}
    opt = fastopt.SGD(lr=1.0, weight_decay=0.5, per_param=lambda key, array: own[key])
    opt.update(params, {key: np.zeros_like(param) for key, param in params.items()})
    assert (params["W"] == 0.5).all()
    assert (params["b"] == 1.0).all()
    assert (params["frozen"] == 1.0).all()


class CountedNumber(float):
    compared = 0
    __hash__ = float.__hash__

    def __eq__(self, other):
        CountedNumber.compared += 1
        return float(self) == float(other)


def test_many_hyper_parameters_are_not_compared_each_with_each():
    params = [np.ones(2, np.float32) for _ in range(500)]
    rates = [CountedNumber(i + 1) for i in range(500)]
    CountedNumber.compared = 0
    opt = fastopt.SGD(lr=1.0, per_param=lambda key, array: {"lr": rates[key]})
    opt.update(params, [np.ones(2, np.float32) for _ in params])
    assert CountedNumber.compared < 1000
    assert [float(param[0]) for param in params] == [-float(i) for i in range(500)]


@pytest.mark.parametrize(("first", "second", "rules"), [
    ({"betas": [0.5, 0.75]}, {"betas": [0.5, 0.75]}, 1),       # lists have no hash
    ({"betas": [0.5, 0.75]}, {"betas": (0.5, 0.75)}, 2),
    ({"betas": np.array([0.5, 0.75])}, {"betas": np.array([0.5, 0.75])}, 1),
    ({"betas": np.array([0.5, 0.75])}, {"betas": np.array([0.5, 0.5])}, 2),
    ({"betas": np.array([0.5, 0.75])}, {"betas": [0.5, 0.5]}, 2),
    ({"weight_decay": 0.1}, {"weight_decay": np.float32(0.1)}, 2),     # == says that they are equal
    ({"weight_decay": 0.0}, {"weight_decay": -0.0}, 1),
    ({"weight_decay": 1}, {"weight_decay": np.float32(1.0)}, 1),
    ({"weight_decay": 1.0, "lr": 0.5}, {"lr": 0.5, "weight_decay": 1.0}, 1),
    ({"weight_decay": 1.0}, {"l1": 1.0}, 2),
], ids=repr)
def test_parameters_with_equal_hyper_parameters_share_a_rule(first, second, rules):
    opt = fastopt.Adam(per_param=lambda key, array: [first, second][key])
    opt.update([np.ones(2, np.float32), np.ones(2, np.float32)], [np.ones(2, np.float32), np.ones(2, np.float32)])
    assert len(opt._progress.snapshot.bounds[0].groups) == rules


def test_a_schedule_of_one_parameters_own():
    """It gets the optimizer's step, of a parameter that joined later too."""
    seen = []

    def rate(step):
        seen.append(step)
        return 10.0**step

    opt = fastopt.SGD(lr=0.0, per_param=lambda key, array: {"lr": rate} if key == "b" else {})
    params = {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}
    one = np.ones(2, np.float32)
    opt.update({"a": params["a"]}, {"a": one})
    for _ in range(2):
        opt.update(params, {"a": one, "b": one})
    assert (params["a"] == 0.0).all()
    assert (params["b"] == -1100.0).all()
    assert set(seen) == {2, 3}


def test_tied_gradients_are_allowed():
    grad = np.ones(3, np.float32)
    params = [np.zeros(3, np.float32), np.zeros(3, np.float32)]
    fastopt.SGD(lr=1.0).update(params, [grad, grad])
    assert (params[0] == -1.0).all()
    assert (params[1] == -1.0).all()


@pytest.mark.parametrize("grad", [np.float32(2.0), np.float64(2.0), np.float16(2.0), np.array(2.0)], ids=repr)
def test_a_numpy_scalar_is_the_gradient_of_a_0d_parameter(grad):
    """What NumPy makes of arithmetic with 0-d arrays."""
    param = np.array(1.0, np.float32)
    fastopt.SGD(lr=0.25).update(param, grad)
    assert param == 0.5


def test_gradients_of_an_array_subclass_are_converted_too():
    class Gradient(np.ndarray):
        pass

    param = np.zeros((2, 2), np.float32)
    fastopt.SGD(lr=1.0).update(param, np.eye(2).view(Gradient))
    assert_same_bits(param, -np.eye(2, dtype=np.float32) + np.float32(0.0))


def test_the_schedule_is_asked_once_a_step():
    """One rate for all groups, and the one that info tells."""
    asked = []

    def lr(step):
        asked.append(step)
        return 1.0 / len(asked)

    params = [np.zeros(1, np.float32) for _ in range(3)]
    opt = fastopt.SGD(lr=lr, per_param=lambda key, array: {"weight_decay": float(key)})
    asked.clear()
    for step in (1, 2):
        info = opt.update(params, [np.ones(1, np.float32)] * 3)
        assert info.lr == 1.0 / step
    assert asked == [1, 2]
    assert params[0][0] == -1.5


def test_nothing_to_update():
    opt = fastopt.Adam()
    assert opt.update({}, {}).step == 1
    assert opt.update([], []).step == 2


@pytest.mark.parametrize("setting", SETTINGS)
def test_minimum_of_a_parabola(setting):
    """Every class finds the minimum of (w − 5)²."""
    lr = {"Adadelta": 20.0, "Adagrad": 1.0, "LARS": 5.0}.get(SETTINGS[setting][0], 0.03)
    opt = make(setting, lr=lr, weight_decay=0.0)
    w = np.full(1, 1.0, np.float32)
    for step in range(4000):
        if step == 2000:
            opt.lr = lr / 30
        opt.update(w, 2.0 * (w - np.float32(5.0)))
    assert abs(w[0] - 5.0) < 0.05


def test_clip_norm():
    """Gradients 3 and 4: norm 5 over both tensors, scaled down to 1."""
    params = {"a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)}
    grads = {"a": np.full(1, 3.0, np.float32), "b": np.full(1, 4.0, np.float32)}
    opt = fastopt.SGD(lr=1.0, clip_norm=1.0)
    assert opt.update(params, grads).grad_norm == 5.0
    np.testing.assert_allclose([params["a"][0], params["b"][0]], [-0.6, -0.8], rtol=1e-6)
    assert (grads["a"] == 3.0).all()


@pytest.mark.parametrize(("norm", "factor"), [
    (0.5, 1.0), (1.0 - 2.0**-24, 1.0 / (1.0 - 2.0**-24 + 1e-6)), (1e-4, 1.0), (4e-6, 1.0),
])
def test_clip_norm_is_torchs_to_the_last_digit(norm, factor):
    """max_norm / (norm + 1e-6) where that is below 1: seen only where 1e-6 is not small beside the norm."""
    param = np.zeros(1, np.float32)
    fastopt.SGD(lr=1.0, clip_norm=1.0).update(param, np.full(1, norm, np.float32))
    assert param[0] == -np.float32(np.float32(factor) * np.float32(norm))
    fastopt.SGD(lr=1.0, clip_norm=2e-6).update(param := np.zeros(1, np.float32), np.full(1, 2e-6, np.float32))
    np.testing.assert_allclose(param, -2e-6 * 2 / 3, rtol=1e-6)


def test_clip_norm_leaves_small_gradients_alone():
    param, grad = np.zeros(2, np.float32), np.array([0.1, 0.2], np.float32)
    info = fastopt.SGD(lr=1.0, clip_norm=1.0).update(param, grad)
    assert_same_bits(param, -grad)
    np.testing.assert_allclose(info.grad_norm, np.sqrt(0.05), rtol=1e-7)


def test_clip_norm_sees_the_scaled_gradients():
    param = np.zeros(1, np.float32)
    info = fastopt.SGD(lr=1.0, clip_norm=1.0).update(param, np.full(1, 256.0, np.float32), grad_scale=-1 / 128)
    assert info.grad_norm == 2.0
    np.testing.assert_allclose(param, 1.0, rtol=1e-6)


def test_clip_norm_per_param():
    """Gradients of norm 5 and 0.5: the first is scaled down to 1; both are in the norm."""
    params = {"a": np.zeros(2, np.float32), "b": np.zeros(1, np.float32)}
    grads = {"a": np.array([3.0, 4.0], np.float32), "b": np.full(1, 0.5, np.float32)}
    opt = fastopt.SGD(lr=1.0, clip_norm_per_param=1.0)
    assert opt.update(params, grads).grad_norm == np.sqrt(25.25)
    np.testing.assert_allclose(params["a"], [-0.6, -0.8], rtol=1e-6)
    assert params["b"][0] == -0.5
    assert (grads["a"] == [3.0, 4.0]).all()


@pytest.mark.parametrize(("norm", "factor"), [(0.5, 1.0), (1.0 - 2.0**-24, 1.0 / (1.0 - 2.0**-24 + 1e-6)), (4e-6, 1.0)])
def test_clip_norm_per_param_has_the_form_of_clip_norm(norm, factor):
    param, small = np.zeros(1, np.float32), np.zeros(1, np.float32)
    grads = [np.full(1, 0.125, np.float32), np.full(1, norm, np.float32)]
    fastopt.SGD(lr=1.0, clip_norm_per_param=1.0).update([small, param], grads)
    assert param[0] == -np.float32(np.float32(factor) * np.float32(norm))
    assert small[0] == -0.125


def test_clip_norm_per_param_sees_the_scaled_gradients():
    params = [np.zeros(1, np.float32), np.zeros(1, np.float32)]
    info = fastopt.SGD(lr=1.0, clip_norm_per_param=1.0).update(
        params, [np.full(1, 256.0, np.float32), np.full(1, 64.0, np.float32)], grad_scale=-1 / 128)
    assert info.grad_norm == np.sqrt(4.25)
    np.testing.assert_allclose(params, [[1.0], [0.5]], rtol=1e-6)


def test_own_norms_have_the_same_bits_for_any_threads(level, rng, always_parallel):
    """Of tensors of several segments, and of empty ones between them."""
    grads = list(model(rng).values())
    results = []
    for threads in (1, 2, 3, 7, 16):
        params = [np.zeros_like(g) for g in grads]
        with fastopt.num_threads(threads):
            fastopt.SGD(lr=1.0, clip_norm_per_param=1.0).update(params, grads)
        results.append(params)
    for param, grad, *others in zip(results[0], grads, *results[1:], strict=True):
        norm = np.sqrt(np.sum(np.square(grad, dtype=np.float64)))
        np.testing.assert_allclose(param, -grad / max(norm, 1.0), rtol=3e-6)
        for other in others:
            assert_same_bits(param, other)


def test_own_norms_and_averages_that_warm_up_where_gradients_are_none(rng):
    """And with update_one: the reference's bits, whichever parameters a step leaves out."""
    options = {"clip_norm_per_param": 0.5, "average_decay": 0.6, "average_warmup": True}
    ours = model(rng)
    theirs = {key: param.copy() for key, param in ours.items()}
    opt, ref = fastopt.Adam(0.01, **options), fastopt.reference.Adam(0.01, **options)
    for step in range(12):
        grads = {key: grad if rng.random() < 0.7 and step != 4 else None for key, grad in model(rng).items()}
        assert opt.update(ours, grads) == ref.update(theirs, grads)
        for key, grad in grads.items():
            assert opt.update_one(key, ours[key], grad) == ref.update_one(key, theirs[key], grad)
    for key in ours:
        assert_same_bits(ours[key], theirs[key], key)
        for name, array in ref.state[key].items():
            assert_same_bits(opt.state[key][name], array, f"{key} {name}")


def test_an_average_that_warms_up():
    """By hand, at each parameter's own step: 2/11, 3/12, 4/13, … up to average_decay."""
    params = {"a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)}
    one = np.ones(1, np.float32)
    opt = fastopt.SGD(lr=1.0, maximize=True, average_decay=0.5, average_warmup=True)
    expected = {"a": 0.0, "b": 0.0}
    for step in range(1, 21):
        keys = ("a",) if step <= 5 else ("a", "b")
        opt.update({key: params[key] for key in keys}, dict.fromkeys(keys, one))
        for key, t in zip(keys, (step, step - 5), strict=False):
            decay = (2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5)[min(t, 8) - 1]
            expected[key] = decay * expected[key] + (1 - decay) * t
            np.testing.assert_allclose(opt.averages[key], expected[key], rtol=1e-6)


@pytest.mark.parametrize("grad", [np.full((40, 3), 1e39), np.full((3, 40), 1e39).T], ids=["C", "transposed"])
def test_a_gradient_beyond_float32_becomes_inf(grad):
    for skip, after in ((False, -np.inf), (True, 1.0)):
        param = np.ones((40, 3), np.float32)
        with pytest.warns(RuntimeWarning, match="overflow encountered in cast"):
            info = fastopt.SGD(lr=1.0, skip_nonfinite=skip).update(param, grad)
        assert info.skipped == skip
        assert (param == after).all()


def test_grad_norm_does_not_overflow_and_is_exact_to_double():
    grads = [np.full(1000, 1e30, np.float32), np.full(7, 1e-30, np.float32)]
    info = fastopt.SGD(clip_norm=1.0).update([np.zeros_like(g) for g in grads], grads)
    np.testing.assert_allclose(info.grad_norm, np.float64(np.float32(1e30)) * np.sqrt(1000), rtol=1e-14)


def test_grad_norm_is_not_measured_unless_asked_for():
    assert fastopt.SGD().update(np.zeros(1, np.float32), np.ones(1, np.float32)).grad_norm is None


def test_grad_norm_has_the_same_bits_for_any_threads(level, rng, always_parallel):
    grads = list(model(rng).values())
    norms = set()
    for threads in (1, 2, 3, 7, 16):
        with fastopt.num_threads(threads):
            norms.add(fastopt.SGD(clip_norm=1.0).update([np.zeros_like(g) for g in grads], grads).grad_norm)
    assert len(norms) == 1


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_skip_nonfinite(bad, rng):
    params = model(rng)
    opt = fastopt.Adam(skip_nonfinite=True)
    grads = model(rng)
    grads["big"][12345] = bad
    before = {key: param.copy() for key, param in params.items()}
    info = opt.update(params, grads)
    assert info.skipped
    assert info.step == opt.step_count == 0
    assert opt.state == {}
    for key, param in params.items():
        assert_same_bits(param, before[key])
    grads["big"][12345] = 0.0
    info = opt.update(params, grads)
    assert not info.skipped
    assert info.step == opt.step_count == 1


def test_nonfinite_gradients_propagate_unless_skipped():
    param = np.zeros(3, np.float32)
    fastopt.SGD(lr=1.0, clip_norm=1.0).update(param, np.array([np.nan, 1.0, 0.5], np.float32))
    assert np.isnan(param[0])
    assert (param[1:] == [-1.0, -0.5]).all()
