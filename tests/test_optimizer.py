"""The optimizer classes: whole models, binding, per-parameter overrides, all or nothing."""

import copy
import gc
import itertools
import pickle
import sys
import tracemalloc

import numpy as np
import pytest
from helpers import assert_same_bits, run

import fastopt

CLASSES = {
    "SGD": {"lr": 0.1},
    "SGD with momentum": {"lr": 0.1, "momentum": 0.9},
    "SGD with Nesterov": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    "Momentum": {"lr": 0.1},
    "Momentum with Nesterov": {"lr": 0.1, "nesterov": True},
    "Adam": {"lr": 0.01},
    "Adam with AMSGrad": {"lr": 0.01, "amsgrad": True, "eps_hat": True},
    "SGDM": {"lr": 0.1},
    "ASGD": {"lr": 0.1, "t0": 4.0},
    "Adagrad": {"lr": 0.1, "initial_accumulator_value": 0.1, "lr_decay": 0.01},
    "Adadelta": {},
    "RMSprop": {"lr": 0.01},
    "RMSprop centred with momentum": {"lr": 0.01, "momentum": 0.5, "centered": True, "eps_inside_sqrt": True},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
    "Adamax": {"lr": 0.01},
    "NAdam": {"lr": 0.01},
    "RAdam": {"lr": 0.01},
    "Lion": {"lr": 0.01, "weight_decay": 0.1},
    "Rprop": {"lr": 0.01},
    "LARS": {"lr": 1.0},
    "LAMB": {"lr": 0.01},
}
NOT_DECOUPLED = {"AdamW", "Lion", "Rprop", "LAMB"}
COMMON = {
    "plain": {},
    "everything": {"weight_decay": 0.01, "l1": 1e-3, "decoupled_weight_decay": 0.1, "maximize": True,
                   "clip_value": 0.7, "clip_norm": 3.0, "skip_nonfinite": True, "average_decay": 0.9},
}
SHAPES = {"W1": (64, 130), "b1": (130,), "scalar": (), "empty": (0, 3), "W2": (130, 3), "big": (20011,), "b2": (3,)}


def make(name, module=fastopt, **options):
    if name in NOT_DECOUPLED:
        options = {key: value for key, value in options.items() if key != "decoupled_weight_decay"}
    return getattr(module, name.split()[0])(**{**CLASSES[name], **options})


def model(rng):
    return {key: rng.standard_normal(shape).astype(np.float32) for key, shape in SHAPES.items()}


def no_decay_on_vectors(key, param):
    return {} if param.ndim > 1 else {"weight_decay": 0.0}


@pytest.mark.parametrize("common", COMMON)
@pytest.mark.parametrize("name", CLASSES)
def test_same_bits_as_the_reference(name, common, level, rng, always_parallel):
    """Ten steps of a model with tensors from empty to several chunks, with overrides and gradient scale."""
    options = {**COMMON[common], "per_param": no_decay_on_vectors}
    ours, theirs = model(rng), None
    theirs = {key: param.copy() for key, param in ours.items()}
    opt, ref = make(name, **options), make(name, fastopt.reference, **options)
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


@pytest.mark.parametrize("name", CLASSES)
def test_whole_model_equals_one_by_one(name, level, rng):
    together, apart = model(rng), None
    apart = {key: param.copy() for key, param in together.items()}
    one, many = make(name), {key: make(name) for key in together}
    for _ in range(3):
        grads = model(rng)
        one.update(together, grads)
        for key, opt in many.items():
            opt.update(apart[key], grads[key])
    for key in together:
        assert_same_bits(together[key], apart[key], key)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 16])
def test_threads_and_chunks(threads, rng, always_parallel, chunk):
    results = []
    for size in (8192, 16, 1024):
        chunk(size)
        seeded = np.random.default_rng(3)
        params, opt = model(seeded), make("Adam")
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


def test_later_steps_in_another_order_and_with_wrong_keys():
    """What is bound is recognised by its keys, whatever their order; what is missing is still an error."""
    params = {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}
    grads = {"a": np.ones(2, np.float32), "b": np.full(2, 2.0, np.float32)}
    opt = fastopt.SGD(lr=1.0)
    opt.update(params, grads)
    opt.update(dict(reversed(params.items())), dict(reversed(grads.items())))
    for wrong in ({"a": grads["a"]}, {"a": grads["a"], "c": grads["b"]}, {**grads, "c": grads["b"]}, [*grads.values()],
                  {"a": grads["a"], "b": None}):
        with pytest.raises((TypeError, ValueError), match=r"^grads"):
            opt.update(params, wrong)
    other = np.zeros(2, np.float32)
    opt.update({"a": params["a"], "b": other}, grads)
    opt.update([params["a"], params["b"]], [grads["a"], grads["b"]])
    opt.update((params["a"], params["b"]), (grads["a"], grads["b"]))
    assert (params["a"] == -5.0).all()
    assert (params["b"] == -8.0).all()
    assert (other == -2.0).all()
    assert opt.step_count == 5


def test_keys_that_compare_by_elements():
    """Some libraries' tensors are keys by identity, and their == gives an array, whose truth is an error."""
    class Key:
        __hash__ = object.__hash__

        def __eq__(self, other):
            return np.zeros(2, bool)

    keys, param = [Key(), Key()], np.zeros(2, np.float32)
    opt = fastopt.SGD(lr=1.0)
    for _ in range(2):
        opt.update({keys[0]: param, keys[1]: param.copy()}, dict.fromkeys(keys, np.ones(2, np.float32)))
    assert (param == -2.0).all()


def test_a_list_after_a_dict_with_the_positions_as_keys():
    """State is kept under keys that are equal, whatever they look like: 1, True and 1.0."""
    params, grads = [np.zeros(2, np.float32) for _ in range(2)], [np.full(2, g, np.float32) for g in (1.0, 2.0)]
    opt = fastopt.SGD(lr=1.0, momentum=1.0)
    for keys in ([0, 1], [False, True], [0.0, 1.0]):
        opt.update(dict(zip(keys, params, strict=True)), dict(zip(keys, grads, strict=True)))
        opt.update({keys[1]: params[1], keys[0]: params[0]}, dict(zip(keys, grads, strict=True)))
        opt.update(params, grads)
    assert opt.step_count == 9
    assert list(opt.state) == [0, 1]
    assert (params[0] == -45.0).all()
    assert (params[1] == -90.0).all()


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


def test_large_gradients_are_not_kept_alive():
    """Their memory is the user's: after the update nothing else holds it, so they may be resized."""
    param, grad = np.zeros(2**20, np.float32), np.ones(2**20, np.float32)
    fastopt.SGD(lr=1.0).update(param, grad)
    grad.resize(5, refcheck=False)


def test_bound_parameters_cannot_be_resized_under_our_feet():
    params = [np.zeros(8, np.float32)]
    params[0].resize(4)  # the list holds the only reference
    opt = fastopt.Adam()
    opt.update(params, [np.ones(4, np.float32)])
    with pytest.raises(ValueError, match="cannot resize"):
        params[0].resize(1000)


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


def test_new_arrays_are_bound_anew_with_the_same_state():
    opt, ref = fastopt.Adam(), fastopt.reference.Adam()
    first, second = np.ones(4, np.float32), np.full(4, 2.0, np.float32)
    for params in ([first], [second], [first]):
        copies = [param.copy() for param in params]
        opt.update(params, [np.ones(4, np.float32)])
        ref.update(copies, [np.ones(4, np.float32)])
        assert_same_bits(params[0], copies[0])
    assert opt.step_count == 3


def test_a_parameter_added_later_starts_with_fresh_state():
    opt = fastopt.Momentum(lr=1.0)
    params = {"a": np.zeros(2, np.float32)}
    opt.update(params, {"a": np.ones(2, np.float32)})
    params["b"] = np.zeros(3, np.float32)
    opt.update(params, {"a": np.ones(2, np.float32), "b": np.ones(3, np.float32)})
    np.testing.assert_allclose(opt.state["a"]["v"], -1.9)
    np.testing.assert_allclose(opt.state["b"]["v"], -1.0)


@pytest.mark.parametrize("name", CLASSES)
def test_a_parameter_that_joins_or_pauses_has_its_own_step_count(name, rng):
    """As if each had an optimizer of its own: bias corrections and first steps are by its own steps."""
    keys = ["a", "b", "c"]
    together = {key: rng.standard_normal(30).astype(np.float32) for key in keys}
    apart = {key: param.copy() for key, param in together.items()}
    one, many = make(name), {key: make(name) for key in keys}
    for step, present in enumerate(("a", "a", "ab", "abc", "ac", "ac", "abc", "cb")):
        grads = {key: rng.standard_normal(30).astype(np.float32) for key in present}
        one.update({key: together[key] for key in present}, grads)
        for key in present:
            many[key].update(apart[key], grads[key])
        if step == 4:
            saved = one.state_dict()
            one = make(name)
            one.load_state_dict(saved)
    assert one.steps == {key: opt.step_count for key, opt in many.items()} == {"a": 7, "b": 4, "c": 5}
    for key in keys:
        assert_same_bits(together[key], apart[key], key)


def test_averages():
    param = np.ones(2, np.float32)
    opt = fastopt.SGD(lr=1.0, average_decay=0.5)
    assert opt.averages == {}
    opt.update({"w": param}, {"w": np.ones(2, np.float32)})
    assert (opt.averages["w"] == 0.5).all()  # 0.5 · 1 (before the first step) + 0.5 · 0


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


def test_a_schedule_that_returns_nonsense_changes_nothing():
    param, opt = np.zeros(1, np.float32), fastopt.SGD(lr=lambda step: 0.1 if step < 2 else float("nan"))
    opt.update(param, np.ones(1, np.float32))
    before = param.copy()
    with pytest.raises(ValueError, match="^lr: expected"):
        opt.update(param, np.ones(1, np.float32))
    assert_same_bits(param, before)
    assert opt.step_count == 1


def test_per_param_overrides():
    params = {"W": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32), "frozen": np.ones(2, np.float32)}
    own = {"W": {}, "b": {"weight_decay": 0.0}, "frozen": {"lr": 0.0}}
    opt = fastopt.SGD(lr=1.0, weight_decay=0.5, per_param=lambda key, array: own[key])
    opt.update(params, {key: np.zeros_like(param) for key, param in params.items()})
    assert (params["W"] == 0.5).all()
    assert (params["b"] == 1.0).all()
    assert (params["frozen"] == 1.0).all()


@pytest.mark.parametrize(("per_param", "error", "message"), [
    ("no", TypeError, "^per_param: expected a function"),
    (lambda key, array: None, TypeError, r"^per_param\('w', …\): expected a dict"),
    (lambda key, array: {"wait_decay": 0.0}, ValueError, r"among lr, .* got 'wait_decay'"),
    (lambda key, array: {"lr": -1.0}, ValueError, r"^lr: expected a number"),
])
def test_wrong_per_param(per_param, error, message):
    with pytest.raises(error, match=message):
        fastopt.Adam(per_param=per_param).update({"w": np.ones(2, np.float32)}, {"w": np.ones(2, np.float32)})


@pytest.mark.parametrize(("options", "message"), [
    ({"lr": -1.0}, "^lr: expected"), ({"betas": (0.9, 1.0)}, r"^betas\[1\]: expected"),
    ({"eps": "small"}, "^eps: expected"),
    ({"weight_decay": -0.1}, "^weight_decay: expected"), ({"average_decay": 2.0}, "^average_decay: expected"),
    ({"clip_value": 0}, "^clip_value: expected"),
    ({"amsgrad": "no"}, "^amsgrad: expected True or False, got str 'no'"),
    ({"maximize": 1}, "^maximize: expected True or False"),
    ({"skip_nonfinite": None}, "^skip_nonfinite: expected True or False"),
])
def test_wrong_hyper_parameters_are_refused_at_once(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fastopt.Adam(**options)


F = np.float32
SHARED = np.ones(9, np.float32)


@pytest.mark.parametrize(("params", "grads", "message"), [
    ({"a": np.ones(2)}, {"a": np.ones(2, F)},
     r"^params\['a'\]: expected writable C-contiguous float32 array, got float64"),
    ({"a": np.ones(2, F)}, {"b": np.ones(2, F)},
     "^grads: expected the keys of params, got none for 'a' and 'b', which params has not"),
    ({"a": np.ones(2, F)}, [np.ones(2, F)], "^grads: expected a dict like params, got list"),
    ([np.ones(2, F)], {"a": np.ones(2, F)}, "^grads: expected a sequence like params, got dict"),
    ([np.ones(2, F)], [], "^grads: expected 1 arrays, one for each of params, got 0"),
    ({"a": np.ones(2, F)}, {"a": np.ones(3, F)},
     r"^grads\['a'\]: expected C-contiguous float32 of shape \(2,\), got float32 \(3,\)"),
    ({"a": np.ones(2, F)}, {"a": None}, r"^grads\['a'\]: expected .* got None"),
    ({"a": np.ones(2, F)}, {"a": np.ones(2, int)}, r"^grads\['a'\]: expected .* got int64"),
    ({"a": np.ones(2, F)}, {"a": np.ma.ones(2, F)}, r"^grads\['a'\]: expected .* got masked array"),
    ({"a": np.ones(2, F)}, {"a": np.ones(2, complex)}, r"^grads\['a'\]: expected .* got complex128"),
    ({"a": SHARED[:4], "b": SHARED[3:6]}, {"a": np.ones(4, F), "b": np.ones(3, F)},
     r"^params\['b'\]: expected memory of its own"),
    ({"a": SHARED[:4], "b": SHARED[4:8]}, {"a": SHARED[5:9], "b": np.ones(4, F)},
     r"^grads\['a'\]: expected memory of its own"),
])
def test_bad_models_change_nothing(params, grads, message):
    opt = fastopt.Adam()
    values = params.values() if isinstance(params, dict) else params
    before = [param.copy() for param in values]
    with pytest.raises((TypeError, ValueError), match=message):
        opt.update(params, grads)
    for param, old in zip(values, before, strict=True):
        assert_same_bits(param, old)
    assert opt.step_count == 0
    assert opt.state == {}


@pytest.mark.parametrize("defect", [np.ones(7, np.float32), None, np.ones(5, np.int32)], ids=["shape", "None", "int32"])
@pytest.mark.parametrize("k", [0, 50, 99])
def test_a_defect_in_one_of_a_hundred_changes_nothing(k, defect, rng):
    params = [rng.standard_normal(5).astype(np.float32) for _ in range(100)]
    opt = fastopt.Adam()
    opt.update(params, [np.ones(5, np.float32)] * 100)
    before = [param.copy() for param in params]
    state = {key: {name: array.copy() for name, array in entry.items()} for key, entry in opt.state.items()}
    grads = [np.ones(5, np.float32) for _ in range(100)]
    grads[k] = defect
    with pytest.raises((TypeError, ValueError), match=rf"^grads\[{k}\]: expected"):
        opt.update(params, grads)
    for param, old in zip(params, before, strict=True):
        assert_same_bits(param, old)
    for key, entry in state.items():
        for name, old in entry.items():
            assert_same_bits(opt.state[key][name], old)
    assert opt.step_count == 1
    opt.update(params, [np.ones(5, np.float32)] * 100)  # and goes on


def test_tied_gradients_are_allowed():
    grad = np.ones(3, np.float32)
    params = [np.zeros(3, np.float32), np.zeros(3, np.float32)]
    fastopt.SGD(lr=1.0).update(params, [grad, grad])
    assert (params[0] == -1.0).all()
    assert (params[1] == -1.0).all()


@pytest.mark.parametrize(("name", "option"), [("SGD", "momentum"), ("RMSprop", "momentum")])
def test_a_hyper_parameter_that_changes_behind_our_back_reaches_no_array_that_is_not_there(name, option):
    """A 0-d array is a number too, and can be written: the kernel would read a buffer that was never made."""
    value, param = np.array(0.0), np.ones(5, np.float32)
    opt = getattr(fastopt, name)(**{option: value})
    opt.update(param, np.ones(5, np.float32))
    before = param.copy()
    value[...] = 0.9
    with pytest.raises(TypeError, match=r"^state buf\[0\]: expected an array, got None"):
        opt.update(param, np.ones(5, np.float32))
    assert_same_bits(param, before)
    assert opt.step_count == 1


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


@pytest.mark.parametrize(("params", "grads", "message"), [
    (None, None, "^params: expected a dict, a sequence or an array, got NoneType"),
    (1.0, 1.0, "^params: expected a dict, a sequence or an array, got float"),
    ([np.ones(2, np.float32)], None, "^grads: expected a sequence like params, got NoneType"),
])
def test_no_collection_at_all(params, grads, message):
    with pytest.raises(TypeError, match=message):
        fastopt.SGD().update(params, grads)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"skip_nonfinite": True}], ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "1", None])
def test_wrong_grad_scale(options, bad):
    """It is an error of its own, not a gradient that holds NaN and may be skipped."""
    param = np.ones(2, np.float32)
    with pytest.raises((TypeError, ValueError), match="^grad_scale: expected a number"):
        fastopt.SGD(**options).update(param, np.ones(2, np.float32), grad_scale=bad)
    assert (param == 1.0).all()


def test_a_shallow_copy_counts_for_itself():
    param, grad = np.ones(3, np.float32), np.ones(3, np.float32)
    opt = fastopt.Adam()
    opt.update(param, grad)
    twin = copy.copy(opt)
    opt.update(param, grad)
    assert (opt.step_count, twin.step_count) == (2, 1)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))],
                         ids=["deepcopy", "pickle"])
def test_optimizers_can_be_copied(duplicate, rng):
    ours, theirs = model(rng), None
    opt = make("Adam")
    opt.update(ours, model(rng))
    theirs, twin = {key: param.copy() for key, param in ours.items()}, duplicate(opt)
    grads = model(rng)
    opt.update(ours, grads)
    assert twin.step_count == 1
    twin.update(theirs, grads)
    assert twin.step_count == 2
    for key in ours:
        assert_same_bits(ours[key], theirs[key], key)


def test_arrays_are_released(rng):
    """Updates, refused ones too, rebinding and conversions leave no reference and no export behind."""
    def spend(count):
        params = [np.ones(n, np.float32) for n in (3, 100_000)]
        opt = fastopt.Adam(clip_norm=1.0, per_param=no_decay_on_vectors)
        for k in range(count):
            params = [param.copy() for param in params] if k % 2 else params
            grads = [np.ones(3, np.float64), np.ones(100_000, np.float32)]
            counts = [sys.getrefcount(grad) for grad in grads]
            opt.update(params, grads)
            assert [sys.getrefcount(grad) for grad in grads] == counts
            with pytest.raises(TypeError):
                opt.update(params, [grads[1][:3], "no"])
            grads[1].resize(1, refcheck=False)
        del opt
        for param in params:
            param.resize(2, refcheck=False)

    spend(3)
    tracemalloc.start()
    try:
        spend(3)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        spend(30)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()


def test_nothing_to_update():
    opt = fastopt.Adam()
    assert opt.update({}, {}).step == 1
    assert opt.update([], []).step == 2


def test_a_state_of_another_shape_is_refused():
    opt = fastopt.Adam()
    opt.update({"w": np.ones(3, np.float32)}, {"w": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match=r"^state m\['w'\]: expected writable C-contiguous float32 of shape \(4,\)"):
        opt.update({"w": np.ones(4, np.float32)}, {"w": np.ones(4, np.float32)})
    assert opt.state["w"]["m"].shape == (3,)


@pytest.mark.parametrize("name", CLASSES)
def test_minimum_of_a_parabola(name):
    """Every class finds the minimum of (w − 5)²."""
    lr = {"Adadelta": 20.0, "Adagrad": 1.0, "LARS": 5.0}.get(name, 0.03)
    opt = make(name, lr=lr, weight_decay=0.0)
    w = np.full(1, 1.0, np.float32)
    for step in range(4000):
        if step == 2000:
            opt.lr = lr / 30
        opt.update(w, 2.0 * (w - np.float32(5.0)))
    assert abs(w[0] - 5.0) < 0.05


@pytest.mark.parametrize("name", sorted(NOT_DECOUPLED))
def test_decoupled_weight_decay_where_it_has_no_meaning(name):
    with pytest.raises(TypeError, match="^decoupled_weight_decay: expected none for"):
        getattr(fastopt, name)(decoupled_weight_decay=0.1)


def test_initial_values():
    params = {"w": np.ones(3, np.float32)}
    grads = {"w": np.zeros(3, np.float32)}
    adagrad, rprop = fastopt.Adagrad(initial_accumulator_value=0.5), fastopt.Rprop(lr=0.25)
    adagrad.update(params, grads)
    rprop.update(params, grads)
    assert (adagrad.state["w"]["h"] == 0.5).all()
    assert (rprop.state["w"]["step_size"] == 0.25).all()


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


def test_loaded_arrays_are_copies_and_the_step_may_be_large():
    arrays = {name: np.ones(2, np.float32) for name in ("m", "v")}
    opt = fastopt.Adam()
    opt.load_state_dict({"step_count": 2**40, "steps": {"w": 2**40}, "state": {"w": arrays}})
    opt.update({"w": np.ones(2, np.float32)}, {"w": np.zeros(2, np.float32)})
    assert opt.step_count == 2**40 + 1
    assert all((array == 1.0).all() for array in arrays.values())


def test_the_same_arrays_under_other_keys_have_state_of_their_own():
    arrays = [np.zeros(1, np.float32), np.zeros(1, np.float32)]
    grads = [np.full(1, 1.0, np.float32), np.full(1, 2.0, np.float32)]
    opt = fastopt.Momentum(lr=1.0, momentum=1.0)
    opt.update(dict(zip("ab", arrays, strict=True)), dict(zip("ab", grads, strict=True)))
    opt.update(dict(zip("ba", arrays, strict=True)), dict(zip("ba", grads, strict=True)))
    assert opt.state["a"]["v"] == opt.state["b"]["v"] == -3.0


def test_a_second_call_while_one_is_running_is_refused():
    """Python code can run while gradients are bound: what NumPy calls on an overflow, for one."""
    params = [np.ones(3, np.float32) for _ in range(2)]
    grads = [np.ones(3, np.float32), np.full(3, 1e300)]
    opt, errors = fastopt.SGD(lr=1.0), []

    def again(kind, flag):
        with pytest.raises(RuntimeError, match="one call at a time") as caught:
            opt.update(params, grads)
        errors.append(caught.value)

    opt.update(params, [np.ones(3, np.float32)] * 2)
    with np.errstate(over="call", call=again):
        opt.update(params, grads)
    assert errors
    assert opt.step_count == 2
    assert (params[0] == -1.0).all()


def test_gradients_beside_and_across_parameters():
    """All of one block of memory: a gradient may touch its neighbours' ends, and not one element of them."""
    room = np.zeros(30, np.float32)
    params = [room[0:5], room[10:15], room[20:25]]
    opt = fastopt.SGD(lr=1.0)
    opt.update(params, [room[5:10], room[15:20], room[25:30]])
    for start in (*range(1, 5), *range(6, 15), *range(16, 25)):
        with pytest.raises(ValueError, match=r"^grads\[1\]: expected memory of its own, got an array that overlaps"):
            opt.update(params, [room[5:10], room[start : start + 5], room[25:30]])
    assert opt.step_count == 1


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


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), "1", None])
def test_wrong_clip_norm(bad):
    if bad is None:
        fastopt.SGD(clip_norm=None)
        return
    with pytest.raises((TypeError, ValueError), match="^clip_norm: expected a number"):
        fastopt.SGD(clip_norm=bad)


@pytest.mark.parametrize("name", CLASSES)
def test_training_goes_on_from_a_state_dict(name, rng):
    """Ten steps at once are the same as five, a state dict, and five more with a new optimizer."""
    grads = [model(rng) for _ in range(10)]
    straight = model(rng)
    broken = {key: param.copy() for key, param in straight.items()}
    opt = make(name, average_decay=0.9)
    for g in grads:
        opt.update(straight, g)
    first = make(name, average_decay=0.9)
    for g in grads[:5]:
        first.update(broken, g)
    saved = first.state_dict()
    first.update({key: param.copy() for key, param in broken.items()}, grads[5])  # must not reach the dict
    second = make(name, average_decay=0.9)
    second.load_state_dict(saved)
    assert second.step_count == 5
    for g in grads[5:]:
        second.update(broken, g)
    for key in straight:
        assert_same_bits(broken[key], straight[key], key)
        assert_same_bits(second.averages[key], opt.averages[key], key)


@pytest.mark.parametrize(("state_dict", "message"), [
    (None, "^state_dict: expected a dict of step_count, steps and state, got NoneType"),
    ({"state": {}}, "^state_dict: expected"),
    ({"step_count": 1, "steps": {}, "state": {"w": {}}}, "^steps: expected the keys of state"),
    ({"step_count": 1, "steps": {"w": 2}, "state": {"w": {}}}, r"^steps\['w'\]: expected at most step_count 1, got 2"),
    ({"step_count": 1, "steps": None, "state": {}}, "^steps: expected a dict, got NoneType"),
    ({"step_count": -1, "steps": {}, "state": {}}, "^step_count: expected an int"),
    ({"step_count": 1, "steps": {}, "state": None}, "^state: expected a dict, got NoneType"),
    ({"step_count": 1, "steps": {"w": 1}, "state": {"w": {1: np.ones(2, np.float32), "v": np.ones(2, np.float32)}}},
     r"^state\['w'\]: expected arrays named \['m', 'v'\], got \['1', 'v'\]"),
    ({"step_count": 1, "steps": {"w": 1}, "state": {"w": {"m": np.ones(2, np.float32)}}},
     r"^state\['w'\]: expected arrays named \['m', 'v'\]"),
    ({"step_count": 1, "steps": {"w": 1}, "state": {"w": {"m": np.ones(2, np.float32), "v": np.ones(2)}}},
     r"^state\['w'\]\['v'\]: expected a float32 array, got float64"),
    ({"step_count": 1, "steps": {"w": 1}, "state": {"w": {"m": np.ones(2, np.float32), "v": np.ones(3, np.float32)}}},
     "of one shape"),
    ({"step_count": 1, "steps": {"w": 1}, "state": {"w": {"m": [1.0], "v": [1.0]}}},
     "expected a float32 array, got list"),
])
def test_wrong_state_dicts_change_nothing(state_dict, message):
    opt = fastopt.Adam()
    opt.update({"w": np.ones(2, np.float32)}, {"w": np.ones(2, np.float32)})
    with pytest.raises((TypeError, ValueError), match=message):
        opt.load_state_dict(state_dict)
    assert opt.step_count == 1
    assert opt.state["w"]["m"].shape == (2,)


def test_a_loaded_state_of_another_shape_is_refused_at_the_update():
    opt = fastopt.Momentum()
    opt.load_state_dict({"step_count": 3, "steps": {"w": 3}, "state": {"w": {"v": np.ones(3, np.float32)}}})
    param = np.ones(2, np.float32)
    with pytest.raises(ValueError, match=r"^state v\['w'\]: expected"):
        opt.update({"w": param}, {"w": np.ones(2, np.float32)})
    assert (param == 1.0).all()


def test_interrupts_never_leave_a_model_half_stepped():
    """A signal every few hundred microseconds: all parameters, the state and the count agree after each."""
    run("""
    import random, signal, sys
    import numpy as np, fastopt

    class Stop(BaseException):
        pass

    def stop(signum, frame):
        raise Stop

    if not hasattr(signal, "setitimer"):
        sys.exit()
    signal.signal(signal.SIGALRM, stop)
    params = [np.zeros(n, np.float32) for n in (3, 20_000, 7, 100_000, 1)]
    grads = [np.ones_like(p) for p in params]
    opt = fastopt.SGD(lr=1.0, momentum=1.0, dampening=1.0)
    stops = 0
    for _ in range(400):
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 1e-3))
            while True:
                opt.update(params, grads)
        except Stop:
            stops += 1
        for i, p in enumerate(params):
            assert (p == -opt.step_count).all(), (stops, i, p[0], opt.step_count)
            if opt.step_count:
                assert (opt.state[i]["buf"] == 1.0).all()
    assert stops == 400 and opt.step_count > 400
    """)
