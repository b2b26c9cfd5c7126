"""State of the optimizer classes: who has which, copies, state dicts, arrays held and released, interrupts."""

import copy
import gc
import pickle
import sys
import tracemalloc
import weakref

import numpy as np
import pytest
from helpers import assert_same_bits, run
from optimizer_cases import SETTINGS, make, model, no_decay_on_vectors

import fastopt


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


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_parameter_that_joins_or_pauses_has_its_own_step_count(setting, rng):
    """As if each had an optimizer of its own: bias corrections and first steps are by its own steps."""
    keys = ["a", "b", "c"]
    together = {key: rng.standard_normal(30).astype(np.float32) for key in keys}
    alone = {key: param.copy() for key, param in together.items()}
    one, many = make(setting), {key: make(setting) for key in keys}
    for step, present in enumerate(("a", "a", "ab", "abc", "ac", "ac", "abc", "cb")):
        grads = {key: rng.standard_normal(30).astype(np.float32) for key in present}
        one.update({key: together[key] for key in present}, grads)
        for key in present:
            many[key].update(alone[key], grads[key])
        if step == 4:
            saved = one.state_dict()
            one = make(setting)
            one.load_state_dict(saved)
    assert one.steps == {key: opt.step_count for key, opt in many.items()} == {"a": 7, "b": 4, "c": 5}
    for key in keys:
        assert_same_bits(together[key], alone[key], key)


def test_averages():
    param = np.ones(2, np.float32)
    opt = fastopt.SGD(lr=1.0, average_decay=0.5)
    assert opt.averages == {}
    opt.update({"w": param}, {"w": np.ones(2, np.float32)})
    assert (opt.averages["w"] == 0.5).all()  # 0.5 · 1 (before the first step) + 0.5 · 0


def test_a_shallow_copy_counts_for_itself():
    param, grad = np.ones(3, np.float32), np.ones(3, np.float32)
    opt = fastopt.Adam()
    opt.update(param, grad)
    twin = copy.copy(opt)
    kept = twin.state[0]["m"].copy()
    opt.update(param, grad)
    opt.lr = 0.5
    assert (opt.step_count, twin.step_count) == (2, 1)
    assert twin.lr == 0.001
    assert_same_bits(twin.state[0]["m"], kept)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))],
                         ids=["deepcopy", "pickle"])
def test_optimizers_can_be_copied(duplicate, rng):
    ours, theirs = model(rng), None
    opt = fastopt.Adam(lr=0.01)
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


def test_an_optimizer_is_freed_at_once():
    """Without a collection: it holds the model's buffers."""
    opt, param = fastopt.Adam(), np.ones(3, np.float32)
    opt.update(param, np.ones(3, np.float32))
    freed = weakref.ref(opt)
    gc.disable()
    try:
        del opt
        assert freed() is None
    finally:
        gc.enable()


def test_initial_values():
    params = {"w": np.ones(3, np.float32)}
    grads = {"w": np.zeros(3, np.float32)}
    adagrad, rprop = fastopt.Adagrad(initial_accumulator_value=0.5), fastopt.Rprop(lr=0.25)
    adagrad.update(params, grads)
    rprop.update(params, grads)
    assert (adagrad.state["w"]["h"] == 0.5).all()
    assert (rprop.state["w"]["step_size"] == 0.25).all()


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


@pytest.mark.parametrize("setting", SETTINGS)
def test_training_goes_on_from_a_state_dict(setting, rng):
    """Ten steps at once are the same as five, a state dict, and five more with a new optimizer."""
    grads = [model(rng) for _ in range(10)]
    straight = model(rng)
    broken = {key: param.copy() for key, param in straight.items()}
    opt = make(setting, average_decay=0.9)
    for g in grads:
        opt.update(straight, g)
    first = make(setting, average_decay=0.9)
    for g in grads[:5]:
        first.update(broken, g)
    saved = first.state_dict()
    first.update({key: param.copy() for key, param in broken.items()}, grads[5])  # must not reach the dict
    second = make(setting, average_decay=0.9)
    second.load_state_dict(saved)
    assert second.step_count == 5
    for g in grads[5:]:
        second.update(broken, g)
    for key in straight:
        assert_same_bits(broken[key], straight[key], key)
        assert_same_bits(second.averages[key], opt.averages[key], key)


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
    assert stops == 400 and opt.step_count > 40      # a slow machine is interrupted before most steps
    """)


def test_large_gradients_are_not_kept_alive():
    """Their memory is the user's: after the update nothing else holds it, so they may be resized."""
    param, grad = np.zeros(2**20, np.float32), np.ones(2**20, np.float32)
    fastopt.SGD(lr=1.0).update(param, grad)
    grad.resize(5, refcheck=False)


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


def test_a_list_of_the_arrays_that_a_dict_bound_in_another_order():
    """The same arrays in the same order, but their positions are not the dict's keys."""
    a, b, none = np.zeros(2, np.float32), np.zeros(2, np.float32), np.zeros(2, np.float32)
    opt = fastopt.SGD(lr=1.0, momentum=1.0)
    opt.update({1: a, 0: b}, {1: np.ones(2, np.float32), 0: np.full(2, 10, np.float32)})
    opt.update([a, b], [none, none])        # a has the buffer of 0 now, b that of 1
    assert (a == -11.0).all()
    assert (b == -11.0).all()


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


def test_the_reference_can_be_pickled():
    opt = pickle.loads(pickle.dumps(fastopt.reference.Adam(lr=0.1)))
    param = np.ones(3, np.float32)
    opt.update(param, np.ones(3, np.float32))
    assert (param < 1.0).all()


@pytest.mark.parametrize("module", [fastopt, fastopt.reference], ids=["fastopt", "reference"])
def test_a_state_with_other_arrays_than_the_options_ask_for(module):
    """Averages start where there are none, and rest where nobody wants them; other arrays must be there."""
    grad = np.ones(3, np.float32)
    plain, averaging = module.Adam(), module.Adam(average_decay=0.5)
    for opt in (plain, averaging):
        opt.update(np.zeros(3, np.float32), grad)
    for source, target in ((plain, module.Adam(average_decay=0.5)), (averaging, module.Adam())):
        target.load_state_dict(source.state_dict())
        target.update(np.zeros(3, np.float32), grad)
        assert target.step_count == 2
    target = module.Adam(average_decay=0.5)
    target.load_state_dict(plain.state_dict())
    param = np.zeros(3, np.float32)
    target.update(param, grad)
    np.testing.assert_array_equal(target.averages[0], np.float32(0.5) * param)
    with pytest.raises(ValueError, match=r"^state\[0\]: expected arrays named \['m', 'v', 'vmax'\]"):
        module.Adam(amsgrad=True).load_state_dict(plain.state_dict())
