"""A gradient that is None leaves its parameter out of the step."""

import numpy as np
import pytest
from helpers import assert_same_bits
from optimizer_cases import SETTINGS, SHAPES, make, model, no_decay_on_vectors

import fastopt
from fastopt import convert

F = np.float32
BOTH = pytest.mark.parametrize("module", [fastopt, fastopt.reference], ids=["fastopt", "reference"])


@pytest.mark.parametrize("options", [
    {}, {"clip_norm": 3.0, "average_decay": 0.9, "per_param": no_decay_on_vectors},
], ids=["plain", "options"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_same_as_leaving_the_parameter_out(setting, options, rng, always_parallel):
    """Ten steps in which half of the gradients are None, the others alone, and the reference."""
    ours = model(rng)
    theirs, subsets = ({key: param.copy() for key, param in ours.items()} for _ in range(2))
    opt, ref, plain = make(setting, **options), make(setting, fastopt.reference, **options), make(setting, **options)
    for _ in range(10):
        grads = {key: grad if rng.random() < 0.5 else None for key, grad in model(rng).items()}
        info = opt.update(ours, grads, grad_scale=0.5)
        assert info == ref.update(theirs, grads, grad_scale=0.5)
        given = {key: grad for key, grad in grads.items() if grad is not None}
        assert info == plain.update({key: subsets[key] for key in given}, given, grad_scale=0.5)
    assert opt.step_count == 10
    assert opt.steps == ref.steps
    assert {key: steps for key, steps in opt.steps.items() if steps} == plain.steps
    for key in ours:
        assert_same_bits(ours[key], theirs[key], key)
        assert_same_bits(ours[key], subsets[key], key)
        assert opt.state[key].keys() == ref.state[key].keys()
        for state in opt.state[key]:
            assert_same_bits(opt.state[key][state], ref.state[key][state], f"{key} {state}")


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_and_chunks(threads, always_parallel, chunk):
    results = []
    for size in (8192, 16):
        chunk(size)
        rng = np.random.default_rng(3)
        params, opt = model(rng), fastopt.LAMB(lr=0.01, clip_norm=1.0)
        with fastopt.num_threads(threads):
            for absent in ("big", "W1", "big", None):
                opt.update(params, {**model(rng), absent: None} if absent else model(rng))
        results.append(params)
    for key in SHAPES:
        assert_same_bits(results[0][key], results[1][key], key)


@BOTH
def test_nothing_but_the_step_count_changes(module):
    params = [np.ones(3, F), np.ones(4, F)]
    opt = module.Adam(average_decay=0.5)
    opt.update(params, [np.ones(3, F), np.ones(4, F)])
    before = [param.copy() for param in params]
    state = opt.state_dict()
    assert opt.update(params, [None, None]).step == 2
    assert opt.step_count == 2
    assert opt.steps == {0: 1, 1: 1}
    for param, old in zip(params, before, strict=True):
        assert_same_bits(param, old)
    for key, entry in state["state"].items():
        for name, old in entry.items():
            assert_same_bits(opt.state[key][name], old)
    opt.update(params, [None, np.ones(4, F)])
    assert opt.steps == {0: 1, 1: 2}
    assert_same_bits(params[0], before[0])


@BOTH
def test_a_parameter_without_any_gradient_has_no_state(module):
    params = {"w": np.ones(3, F), "frozen": np.ones(4, F)}
    opt = module.Adam(average_decay=0.5)
    for _ in range(2):
        opt.update(params, {"w": np.ones(3, F), "frozen": None})
    assert opt.steps == {"w": 2, "frozen": 0}
    assert opt.state["frozen"] == {}
    assert set(opt.averages) == {"w"}
    twin = module.Adam(average_decay=0.5)
    twin.load_state_dict(opt.state_dict())
    for one in (opt, twin):
        arrays = {key: param.copy() for key, param in params.items()}
        one.update(arrays, {"w": np.ones(3, F), "frozen": np.ones(4, F)})
        assert one.steps == {"w": 3, "frozen": 1}
        assert set(one.state["frozen"]) == {"m", "v", "average"}
        np.testing.assert_allclose(arrays["frozen"], 0.999, rtol=1e-6)     # the first step of its own


def test_nothing_is_bound_anew_while_the_same_gradients_are_none():
    """And no more often than there are new patterns."""
    params = {key: np.ones(3, F) for key in "abc"}
    opt, made = fastopt.Adam(), []

    def take(present):
        opt.update(params, {key: np.ones(3, F) if key in present else None for key in params})
        made.append(opt._progress.snapshot.bounds["a"])
        return len(set(map(id, made)))

    assert [take("ab") for _ in range(3)] == [1, 1, 1]
    assert [take("abc") for _ in range(2)] == [2, 2]
    assert take("b") == 3
    assert [take(present) for present in ("", "ab", "b", "ac", "bc", "abc", "c")][-1] <= 4
    assert opt.step_count == 13


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}], ids=["plain", "clip_norm"])
def test_the_schedule_is_asked_once(options):
    """Also where the model is bound anew, because of another pattern or an array that has changed in place."""
    asked, params = [], [np.ones(4, F), np.ones(3, F)]
    opt = fastopt.SGD(lr=lambda step: asked.append(step) or 1.0, **options)
    asked.clear()
    for absent in (set(), {0}, {1}, {0, 1}, {0}, set()):
        opt.update(params, [None if i in absent else np.ones_like(param) for i, param in enumerate(params)])
    params[0].resize(9, refcheck=False)
    opt.update(params, [np.ones_like(param) for param in params])
    assert asked == list(range(1, 8))


def test_the_groups_without_gradients_make_no_rule():
    """So that frozen parameters cost next to nothing: their schedule is not asked."""
    asked = []
    opt = fastopt.SGD(lr=1.0, per_param=lambda key, array: {"lr": lambda step: asked.append(key) or 1.0})
    params = [np.ones(3, F), np.ones(3, F)]
    opt.update(params, [np.ones(3, F), None])
    asked.clear()
    opt.update(params, [np.ones(3, F), None])
    assert asked == [0]


@BOTH
def test_update_one(module):
    """The parameter has taken part: a pass over the model is one step, whichever gradients are None."""
    params = {key: np.ones(3, F) for key in "abc"}
    opt = module.Adam()
    absent = ["a", "", "c", "abc", "b", ""]
    for step, missing in enumerate(absent, 1):
        for key, param in params.items():
            before = param.copy()
            info = opt.update_one(key, param, None if key in missing else np.ones(3, F))
            assert info == (step, 1e-3, None, False)
            assert (param == before).all() == (key in missing)
    assert opt.steps == {"a": 4, "b": 4, "c": 4}
    assert opt.step_count == 6


@BOTH
def test_clip_norm_ignores_what_is_absent(module):
    params = {key: np.zeros(1, F) for key in "abc"}
    opt = module.SGD(lr=1.0, clip_norm=1.0)
    info = opt.update(params, {"a": np.full(1, 3.0, F), "b": None, "c": np.full(1, 4.0, F)})
    assert info.grad_norm == 5.0
    assert opt.update(params, dict.fromkeys("abc")).grad_norm == 0.0
    assert params["b"][0] == 0.0


def test_what_is_still_refused(rng):
    good = np.ones(3, F)
    for params, grads, message in [
        (good, None, "^grads: expected an array like params, got NoneType"),
        ([good], None, "^grads: expected a sequence like params, got NoneType"),
        ({"a": good}, None, "^grads: expected a dict like params, got NoneType"),
        ([None], [None], r"^params\[0\]: expected writable C-contiguous float32 array, got None"),
        ([np.ones(3)], [None], r"^params\[0\]: expected writable C-contiguous float32 array, got float64"),
        ([good, good], [None, good], r"^params\[1\]: expected memory of its own"),
        ([good, np.ones(2, F)], [None, "no"], r"^grads\[1\]: expected .* got str"),
    ]:
        opt = fastopt.Adam()
        with pytest.raises((TypeError, ValueError), match=message):
            opt.update(params, grads)
        assert opt.step_count == 0
        assert opt.steps == {}
    m, v = np.zeros(3, F), np.zeros(3, F)
    with pytest.raises(TypeError, match="^grad: expected .* got None"):
        fastopt.adam(good, None, m, v, step=1)
    assert (good == 1.0).all()


@pytest.mark.parametrize("options", [{"grad_scale": "x"}, {"grad_scale": float("nan")}])
def test_numbers_are_checked_without_any_gradient(options):
    opt = fastopt.SGD(lr=lambda step: 0.1 if step < 2 else -1.0)
    with pytest.raises((TypeError, ValueError), match="^grad_scale: expected"):
        opt.update([np.ones(3, F)], [None], **options)
    opt.update([np.ones(3, F)], [None])
    with pytest.raises(ValueError, match="^lr: expected"):
        opt.update([np.ones(3, F)], [None])
    assert opt.step_count == 1


def test_a_bad_gradient_after_none_changes_nothing():
    params = {key: np.ones(3, F) for key in "abc"}
    opt = fastopt.Adam()
    opt.update(params, {key: np.ones(3, F) for key in params})
    before = {key: param.copy() for key, param in params.items()}
    with pytest.raises(TypeError, match=r"^grads\['c'\]"):
        opt.update(params, {"a": np.ones(3, F), "b": None, "c": "no"})
    for key, param in params.items():
        assert_same_bits(param, before[key])
    assert opt.steps == {"a": 1, "b": 1, "c": 1}
    assert opt.step_count == 1


def test_hessians_may_be_none():
    params = [np.ones(3, F), np.ones(3, F)]
    theirs = [param.copy() for param in params]
    opt, ref = fastopt.Sophia(), fastopt.reference.Sophia()
    for one, arrays in ((opt, params), (ref, theirs)):
        one.update(arrays, [np.ones(3, F), None])
        one.update_hessian(arrays, [None, np.ones(3, F)])
        one.update(arrays, [np.ones(3, F), np.ones(3, F)])
        assert one.steps == {0: 2, 1: 1}
    for ours, other, key in zip(params, theirs, (0, 1), strict=True):
        assert_same_bits(ours, other)
        assert_same_bits(opt.state[key]["h"], ref.state[key]["h"])


@BOTH
def test_a_hessian_that_is_none_comes_first(module):
    opt = module.Sophia()
    opt.update_hessian([np.ones(3, F), np.ones(2, F)], [None, np.ones(2, F)])
    assert opt.steps == {0: 0, 1: 0}
    assert {key: set(entry) for key, entry in opt.state.items()} == {0: set(), 1: {"m", "h"}}


def test_torch_has_no_entry_for_a_parameter_that_never_had_a_gradient():
    opt = fastopt.Adam()
    params = {"frozen": np.ones(3, F), "w": np.ones(3, F)}
    opt.update(params, {"frozen": None, "w": np.ones(3, F)})
    opt.update(params, {"frozen": None, "w": None})
    saved = convert.to_torch(opt)
    assert set(saved["state"]) == {1}
    assert saved["state"][1]["step"] == 1.0
    assert saved["param_groups"][0]["params"] == [0, 1]


def test_old_gradients_are_released():
    params, grads = [np.ones(3, F), np.ones(3, F)], [np.ones(3, F), np.ones(3, F)]
    opt = fastopt.SGD()
    opt.update(params, grads)
    opt.update(params, [grads[0], None])
    grads[1].resize(100, refcheck=False)
    opt.update(params, [grads[0], None])
    assert opt.steps == {0: 3, 1: 1}
