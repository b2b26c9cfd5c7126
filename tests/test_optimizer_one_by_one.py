"""One optimizer for parameters in turn: what is kept bound between calls, `update_one`, and the steps' numbers."""

import copy
import pickle

import numpy as np
import pytest
from helpers import assert_same_bits
from optimizer_cases import SETTINGS, make, model, no_decay_on_vectors

import fastopt

F = np.float32
BOTH = pytest.mark.parametrize("module", [fastopt, fastopt.reference], ids=["fastopt", "reference"])


SHARED = np.ones(9, F)


def ones(*keys):
    return {key: np.ones(3, F) for key in keys}


def bindings(opt):
    """The objects that hold the bound arrays, by key."""
    return dict(opt._progress.snapshot.bounds)


@pytest.mark.parametrize("options", [
    {}, {"weight_decay": 0.01, "clip_value": 0.7, "clip_norm": 3.0, "skip_nonfinite": True, "average_decay": 0.9,
         "per_param": no_decay_on_vectors},
], ids=["plain", "everything"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_update_one_has_the_bits_of_the_reference(setting, options, rng, always_parallel):
    ours = model(rng)
    theirs = {key: param.copy() for key, param in ours.items()}
    opt, ref = make(setting, **options), make(setting, fastopt.reference, **options)
    for step in range(1, 4):
        for key, grad in model(rng).items():
            info = opt.update_one(key, ours[key], grad, grad_scale=0.5)
            assert info == ref.update_one(key, theirs[key], grad.copy(), grad_scale=0.5)
            assert info.step == opt.step_count == ref.step_count == step
    assert opt.steps == ref.steps == dict.fromkeys(ours, 3)
    for key in ours:
        assert_same_bits(ours[key], theirs[key], key)
        for state in opt.state[key]:
            assert_same_bits(opt.state[key][state], ref.state[key][state], f"{key} {state}")


@pytest.mark.parametrize("setting", SETTINGS)
def test_one_by_one_equals_the_whole_model(setting, rng):
    """Without clip_norm: the same parameters, state and step counts, whichever way the steps are taken."""
    together = model(rng)
    alone = {key: param.copy() for key, param in together.items()}
    turns = {key: param.copy() for key, param in together.items()}
    whole, single, alternating = make(setting), make(setting), make(setting)
    for _ in range(3):
        grads = model(rng)
        whole.update(together, grads)
        for key, grad in grads.items():
            single.update_one(key, alone[key], grad)
            alternating.update({key: turns[key]}, {key: grad})
    assert whole.step_count == single.step_count == 3
    assert alternating.step_count == 3 * len(together)
    assert whole.steps == single.steps == alternating.steps
    for key in together:
        assert_same_bits(together[key], alone[key], key)
        assert_same_bits(together[key], turns[key], key)


@BOTH
def test_the_step_of_a_pass(module):
    """Its number and the rate, which follows from it."""
    params, opt = ones(*"abcd"), module.SGD(lr=lambda step: 2.0**-step)

    def take(keys):
        return [opt.update_one(key, params[key], np.ones(3, F)).step for key in keys]

    assert take("ab") == [1, 1]
    assert take("bac") == [2, 2, 2]         # c is new and joins
    assert take("acb") == [3, 3, 3]
    assert take("aa") == [4, 5]             # two passes over a model of one parameter
    assert take("bc") == [5, 5]             # they had no part in step 5
    assert opt.update(params, ones(*"abcd")).step == 6      # all of them have
    assert take("dabc") == [7, 7, 7, 7]
    assert opt.update({"a": params["a"]}, ones("a")).step == 8
    assert take("bacd") == [8, 9, 9, 9]     # b joins step 8, a begins step 9
    assert opt.step_count == 9
    assert opt.steps == {"a": 9, "b": 7, "c": 6, "d": 3}
    for key, steps in {"a": range(1, 10), "b": (1, 2, 3, 5, 6, 7, 8), "d": (6, 7, 9)}.items():
        np.testing.assert_allclose(params[key], 1.0 - sum(2.0**-step for step in steps), rtol=1e-6)


@BOTH
def test_after_a_state_was_loaded_all_had_part_in_the_last_step(module):
    params, opt = ones("a", "b"), module.Momentum()
    for key in "aba":
        opt.update_one(key, params[key], np.ones(3, F))
    assert opt.step_count == 2
    twin = module.Momentum()
    twin.load_state_dict(opt.state_dict())
    assert opt.update_one("b", params["b"], np.ones(3, F)).step == 2
    assert twin.update_one("b", params["b"], np.ones(3, F)).step == 3
    assert twin.update_one("c", np.ones(3, F), np.ones(3, F)).step == 3
    assert twin.steps == {"a": 2, "b": 2, "c": 1}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda opt: pickle.loads(pickle.dumps(opt))],
                         ids=["deepcopy", "copy", "pickle"])
def test_copies_of_an_optimizer_with_several_models_bound(duplicate, rng):
    ours = model(rng)
    opt = fastopt.Adam()
    for _ in range(2):
        for key, grad in model(rng).items():
            opt.update_one(key, ours[key], grad)
    theirs, twin = copy.deepcopy(ours), duplicate(opt)
    assert twin.steps == opt.steps == dict.fromkeys(ours, 2)
    assert not bindings(twin)
    for key, grad in model(rng).items():
        opt.update_one(key, ours[key], grad)
        twin.update_one(key, theirs[key], grad)
        assert_same_bits(ours[key], theirs[key], key)
    assert twin.steps == opt.steps


def test_models_in_turn_stay_bound():
    """Of one optimizer, with disjoint keys: in any order, with gradients that are new each time."""
    params = ones(*"abcde")
    groups = ["ab", "c", "de"]
    opt = fastopt.Adam()
    for keys in groups:
        opt.update({key: params[key] for key in keys}, ones(*keys))
    before = bindings(opt)
    assert len(set(map(id, before.values()))) == 3
    for keys in [*groups, *reversed(groups)]:
        opt.update({key: params[key] for key in reversed(keys)}, ones(*keys))
    assert bindings(opt) == before
    assert opt.steps == dict.fromkeys("abcde", 3)
    assert opt.step_count == 9


def test_a_model_that_shares_a_key_takes_the_place_of_others():
    """Their steps and states remain."""
    params, opt = ones(*"abc"), fastopt.Adam()
    for key in "abc":
        opt.update_one(key, params[key], np.ones(3, F))
    alone = bindings(opt)
    opt.update({key: params[key] for key in "ab"}, ones("a", "b"))
    together = bindings(opt)
    assert together["a"] is together["b"] is not alone["a"]
    assert together["c"] is alone["c"]
    assert opt.steps == {"a": 2, "b": 2, "c": 1}
    opt.update_one("b", params["b"], np.ones(3, F))
    assert set(bindings(opt)) == {"b", "c"}
    assert opt.steps == {"a": 2, "b": 3, "c": 1}
    assert opt.update({key: params[key] for key in "abc"}, ones(*"abc")).step == 4
    assert opt.steps == {"a": 3, "b": 4, "c": 2}
    twin = fastopt.Adam()
    expected = np.ones(3, F)
    for _ in range(4):
        twin.update(expected, np.ones(3, F))
    assert_same_bits(params["b"], expected)


def test_a_list_and_a_single_array_share_the_key_0():
    params, opt = [np.zeros(2, F), np.zeros(2, F)], fastopt.SGD(lr=1.0, momentum=1.0)
    grad = np.ones(2, F)
    for _ in range(2):
        opt.update(params, [grad, grad])
        opt.update(params[0], grad)
        opt.update_one(1, params[1], grad)
    assert opt.steps == {0: 4, 1: 4}
    assert_same_bits(params[0], np.full(2, -10.0, F))
    assert_same_bits(params[1], params[0])


def test_new_arrays_at_each_step(rng):
    """They are bound in place of those before them, with the state of their key; references to those are given up."""
    kept = {key: rng.standard_normal(shape).astype(F) for key, shape in {"W": (4, 3), "b": (3,), "s": ()}.items()}
    whole, single = ({key: param.copy() for key, param in kept.items()} for _ in range(2))
    opt, one, ref, first = fastopt.Adam(), fastopt.Adam(), fastopt.reference.Adam(), {}
    for step in range(4):
        grads = {key: rng.standard_normal(param.shape).astype(F) for key, param in kept.items()}
        ref.update(kept, grads)
        whole = {key: param.copy() for key, param in whole.items()}
        if step == 2:
            whole["b"] = whole["b"].astype(F)       # only one of them in addition
        opt.update(whole, grads)
        first = first or bindings(opt)
        for key, grad in grads.items():
            before, single[key] = single[key], single[key].copy()
            one.update_one(key, single[key], grad)
            before.resize(100, refcheck=False)
    assert bindings(opt) == first
    assert opt.steps == one.steps == ref.steps
    for key in kept:
        assert_same_bits(whole[key], kept[key], key)
        assert_same_bits(single[key], kept[key], key)


@pytest.mark.parametrize("call", ["update", "update_one"])
@pytest.mark.parametrize(("other", "message"), [
    (np.ones(3), r"^params?\['b'\]: expected writable C-contiguous float32 array, got float64 \(3,\)"),
    (np.ones(4, F), r"^state m\['b'\]: expected writable C-contiguous float32 of shape \(4,\), got float32 \(3,\)"),
    (np.ones(6, F)[::2], r"^params?\['b'\]: expected .* not C-contiguous"),
    (None, r"^params?\['b'\]: expected .* got None"),
])
def test_other_arrays_that_are_refused(call, other, message):
    """What was bound still is, and nothing is counted."""
    params, opt = ones("a", "b"), fastopt.Adam()

    def take(params):
        if call == "update":
            opt.update(params, ones("a", "b"))
        else:
            for key in params:
                opt.update_one(key, params[key], np.ones(3, F))

    take(params)
    kept, before = params["b"].copy(), bindings(opt)
    with pytest.raises((TypeError, ValueError), match=message):
        take({"b": other} if call == "update_one" else {**params, "b": other})
    assert bindings(opt) == before
    assert opt.steps == {"a": 1, "b": 1}
    assert opt.step_count == 1
    assert_same_bits(params["b"], kept)
    take(params)
    assert opt.steps == {"a": 2, "b": 2}


def test_new_arrays_that_overlap():
    room, params = np.ones(8, F), ones("a", "b")
    opt = fastopt.SGD()
    opt.update(params, ones("a", "b"))
    with pytest.raises(ValueError, match=r"^params\['b'\]: expected memory of its own, got .* overlaps params\['a'\]"):
        opt.update({"a": room[:3], "b": room[2:5]}, ones("a", "b"))
    with pytest.raises(ValueError, match=r"^params\['a'\]: expected memory of its own|^params\['b'\]: expected memory"):
        opt.update({"a": params["b"], "b": params["b"]}, ones("a", "b"))
    opt.update({"a": params["b"], "b": params["a"]}, ones("a", "b"))    # exchanged
    opt.update({"a": room[:3], "b": room[3:6]}, ones("a", "b"))
    assert (room[:6] < 1.0).all()
    assert (room[6:] == 1.0).all()
    assert opt.step_count == 3


def test_a_new_array_that_was_the_gradient_of_another():
    params, grads, opt = ones("a", "b"), ones("a", "b"), fastopt.SGD()
    opt.update(params, grads)
    with pytest.raises(ValueError, match=r"^grads\['b'\]: expected memory of its own, got .* overlaps params\['a'\]"):
        opt.update({"a": grads["b"], "b": params["b"]}, grads)
    assert (grads["b"] == 1.0).all()
    assert opt.step_count == 1


def test_a_new_array_and_a_gradient_that_is_refused():
    params, other, opt = ones("a", "b"), np.ones(3, F), fastopt.Adam()
    opt.update(params, ones("a", "b"))
    kept = params["a"].copy()
    with pytest.raises(TypeError, match=r"^grads\['b'\]"):
        opt.update({"a": other, "b": params["b"]}, {"a": np.ones(3, F), "b": "no"})
    assert (other == 1.0).all()
    opt.update(params, ones("a", "b"))
    assert opt.steps == {"a": 2, "b": 2}
    assert (params["a"] < kept).all()
    assert (other == 1.0).all()


class Careless:
    """Equal to its likes; comparison number `Careless.when` empties `Careless.given` and reuses the memory."""

    when, count, given, reused = 0, 0, None, None

    def __hash__(self):
        return 7

    def __eq__(self, other):
        Careless.count += 1
        if Careless.count == Careless.when:
            Careless.given.clear()
            Careless.reused = [np.zeros(3, F) for _ in range(3)]
        return isinstance(other, Careless)


@pytest.mark.parametrize("when", range(1, 12))
@pytest.mark.parametrize("nested", [False, True])
def test_a_key_whose_comparison_empties_the_dict(when, nested):
    def contain(array):
        return {Careless(): {Careless(): array}} if nested else {Careless(): array}

    opt = fastopt.SGD(lr=1.0)
    opt.update(contain(np.ones(3, F)), contain(np.ones(3, F)))
    for _ in range(20):
        params, grads = contain(np.ones(3, F)), contain(np.ones(3, F))
        Careless.when, Careless.count, Careless.given, Careless.reused = when, 0, params, []
        try:
            opt.update(params, grads)
        except (KeyError, RuntimeError, ValueError):
            assert not params
        finally:
            Careless.when = 0
        assert not any(array.any() for array in Careless.reused)


def test_per_param_sees_every_new_array():
    seen = []
    opt = fastopt.SGD(lr=0.0, per_param=lambda key, array: seen.append(array) or {})
    arrays = [np.ones(3, F) for _ in range(3)]
    for array in arrays:
        for _ in range(2):
            opt.update_one("w", array, np.ones(3, F))
    assert [id(array) for array in seen] == [id(array) for array in arrays]


@BOTH
def test_clip_norm_and_skip_nonfinite_look_at_one_gradient(module):
    params, opt = ones("a", "b"), module.SGD(lr=1.0, clip_norm=1.0, skip_nonfinite=True)
    assert opt.update_one("a", params["a"], np.array([3.0, 0.0, 4.0], F)).grad_norm == 5.0
    np.testing.assert_allclose(params["a"], [0.4, 1.0, 0.2], rtol=1e-5)
    info = opt.update_one("b", params["b"], np.array([np.nan, 0.0, 0.0], F))
    assert info.skipped
    assert info.step == opt.step_count == 1
    assert "b" not in opt.steps
    info = opt.update_one("a", params["a"], np.full(3, np.inf, F))
    assert info.skipped
    assert opt.step_count == 1
    assert opt.update_one("b", params["b"], np.zeros(3, F)) == (1, 1.0, 0.0, False)


@pytest.mark.parametrize(("arguments", "message"), [
    ((["w"], np.ones(3, F), np.ones(3, F)), "^key: expected a hashable key, got list"),
    (("w", np.ones(3), np.ones(3, F)), r"^param\['w'\]: expected writable C-contiguous float32 array, got float64"),
    (("w", [np.ones(3, F)], [np.ones(3, F)]), r"^param\['w'\]: expected .* got list"),
    (("w", np.ones(3, F), np.ones(4, F)), r"^grad\['w'\]: expected C-contiguous float32 of shape \(3,\), got float32"),
    (("w", np.ones(3, F), [1.0, 1.0, 1.0]), r"^grad\['w'\]: expected .* got list"),
    (("w", SHARED[:3], SHARED[1:4]), r"^grad\['w'\]: expected memory of its own, .* overlaps param\['w'\]"),
])
def test_what_update_one_refuses(arguments, message):
    opt = fastopt.Adam()
    with pytest.raises((TypeError, ValueError), match=message):
        opt.update_one(*arguments)
    assert opt.step_count == 0
    assert opt.steps == opt.state == {}
    with pytest.raises(ValueError, match="^grad_scale: expected"):
        opt.update_one("w", np.ones(3, F), np.ones(3, F), grad_scale=float("nan"))
    assert opt.step_count == 0


def test_each_call_has_its_own_names_for_the_same_arrays():
    opt, param = fastopt.Sophia(), np.ones(3, F)
    for _ in range(2):
        for call, name in ((lambda bad: opt.update_one("w", param, bad), "grad"),
                           (lambda bad: opt.update({"w": param}, {"w": bad}), "grads"),
                           (lambda bad: opt.update_hessian({"w": param}, {"w": bad}), "hessians")):
            call(np.ones(3, F))
            with pytest.raises(ValueError, match=rf"^{name}\['w'\]: expected"):
                call(np.ones(4, F))


def test_an_array_changed_in_place_is_refused_by_update_one():
    params, opt = ones("a", "b"), fastopt.Adam()
    for key in "abab":
        opt.update_one(key, params[key], np.ones(3, F))
    params["b"].resize(100, refcheck=False)
    with pytest.raises(ValueError, match=r"^state m\['b'\]: expected .* of shape \(100,\), got float32 \(3,\)"):
        opt.update_one("b", params["b"], np.ones(100, F))
    assert opt.update_one("a", params["a"], np.ones(3, F)).step == 3
    assert opt.steps == {"a": 3, "b": 2}


def test_load_state_dict_releases_the_arrays():
    param = np.ones(3, F)
    opt = fastopt.SGD()
    opt.update_one("a", param, np.ones(3, F))
    opt.update_one("b", np.ones(3, F), np.ones(3, F))
    with pytest.raises(ValueError, match="cannot resize"):
        param.resize(5)
    opt.load_state_dict(opt.state_dict())
    param.resize(5, refcheck=False)
    assert not bindings(opt)


def test_sophias_hessian_counts_no_step_between_models():
    params, opt = ones("a", "b"), fastopt.Sophia()
    ref, theirs = fastopt.reference.Sophia(), ones("a", "b")
    for _ in range(2):
        for one, arrays in ((opt, params), (ref, theirs)):
            one.update_hessian(arrays, ones("a", "b"))
            assert [one.update_one(key, arrays[key], np.ones(3, F)).step for key in "ab"] == [one.step_count] * 2
            one.update_hessian({"a": arrays["a"]}, ones("a"))
    assert opt.steps == ref.steps == {"a": 2, "b": 2}
    for key in "ab":
        assert_same_bits(params[key], theirs[key])
        assert_same_bits(opt.state[key]["h"], ref.state[key]["h"])


def test_to_torch_of_a_model_updated_one_by_one():
    params = {"W": np.ones((2, 3), F), "b": np.ones(3, F)}
    opt = fastopt.Adam(per_param=no_decay_on_vectors, weight_decay=0.1)
    whole = fastopt.Adam(per_param=no_decay_on_vectors, weight_decay=0.1)
    for key, param in params.items():
        opt.update_one(key, param, np.ones_like(param))
    whole.update(copy.deepcopy(params), {key: np.ones_like(param) for key, param in params.items()})
    groups = [fastopt.convert.to_torch(one)["param_groups"] for one in (opt, whole)]
    assert groups[0] == groups[1]
    assert [group["params"] for group in groups[0]] == [[0], [1]]
