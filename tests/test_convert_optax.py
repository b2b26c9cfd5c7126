"""State to and from Optax, in the middle of a training; the table is that of `fastopt.convert`'s docstring."""

from collections import OrderedDict, defaultdict, namedtuple

import numpy as np
import pytest
from conversions import SHAPES, assert_same_steps, draw, trained
from helpers import assert_same_bits

import fastopt
from fastopt.convert import from_optax, to_optax

CASES = {
    "sgd": (fastopt.SGD, dict(lr=0.1), dict(learning_rate=0.1)),
    "sgd with momentum": (fastopt.SGD, dict(lr=0.1, momentum=0.9), dict(learning_rate=0.1, momentum=0.9)),
    "sgd with Nesterov": (fastopt.SGD, dict(lr=0.1, momentum=0.9, nesterov=True),
                          dict(learning_rate=0.1, momentum=0.9, nesterov=True)),
    "sgd of Momentum": (fastopt.Momentum, dict(lr=0.1, momentum=0.8, nesterov=True),
                        dict(learning_rate=0.1, momentum=0.8, nesterov=True)),
    "sgd of SGDM": (fastopt.SGDM, dict(lr=0.5, beta=0.75), dict(learning_rate=0.125, momentum=0.75)),
    "adagrad": (fastopt.Adagrad, dict(lr=0.1, initial_accumulator_value=0.1, eps=1e-7, eps_inside_sqrt=True),
                dict(learning_rate=0.1)),
    "adadelta": (fastopt.Adadelta, dict(lr=1.0, rho=0.9, eps=1e-6), dict(learning_rate=1.0)),
    "rmsprop": (fastopt.RMSprop, dict(lr=0.01, alpha=0.9, eps=1e-8, eps_inside_sqrt=True), dict(learning_rate=0.01)),
    "rmsprop with momentum": (fastopt.RMSprop, dict(lr=0.01, alpha=0.9, momentum=0.9),
                              dict(learning_rate=0.01, momentum=0.9, eps_in_sqrt=False)),
    "rmsprop centred": (fastopt.RMSprop, dict(lr=0.01, alpha=0.9, centered=True, eps_inside_sqrt=True),
                        dict(learning_rate=0.01, centered=True)),
    "adam": (fastopt.Adam, dict(lr=0.01, betas=(0.8, 0.99), eps=1e-8), dict(learning_rate=0.01, b1=0.8, b2=0.99)),
    "adamw": (fastopt.AdamW, dict(lr=0.01, weight_decay=1e-4), dict(learning_rate=0.01)),
    "adamax": (fastopt.Adamax, dict(lr=0.01), dict(learning_rate=0.01)),
    "nadam": (fastopt.NAdam, dict(lr=0.01, momentum_decay=1e4), dict(learning_rate=0.01)),
    "radam": (fastopt.RAdam, dict(lr=0.01, betas=(0.9, 0.99), eps=0.0), dict(learning_rate=0.01, b2=0.99, eps=0.0)),
    "lion": (fastopt.Lion, dict(lr=0.01, weight_decay=1e-3), dict(learning_rate=0.01)),
    "lamb": (fastopt.LAMB, dict(lr=0.01, weight_decay=0.01), dict(learning_rate=0.01, weight_decay=0.01)),
    "lars": (fastopt.LARS, dict(lr=0.1, momentum=0.9, eps=0.0), dict(learning_rate=0.1)),
}
"""Optax's function and arguments, and fastopt's class and arguments that take the same steps."""


class Theirs:
    """An Optax optimizer that is stepped with NumPy gradients."""

    def __init__(self, name, params):
        self.optax, self.jax = pytest.importorskip("optax"), pytest.importorskip("jax")
        self.opt = getattr(self.optax, name.split()[0])(**CASES[name][2])
        self.tree = self.jax.tree.map(self.jax.numpy.array, params)
        self.state = self.opt.init(self.tree)

    def step(self, grads):
        updates, self.state = self.opt.update(grads, self.state, self.tree)
        self.tree = self.optax.apply_updates(self.tree, updates)

    def params(self):
        return [self.tree[key] for key in SHAPES]


@pytest.mark.parametrize("name", CASES)
def test_from_optax_midway(name):
    kind, ours, _ = CASES[name]
    rng = np.random.default_rng(6)
    theirs = Theirs(name, draw(rng))
    for _ in range(10):
        theirs.step(draw(rng))
    params = {key: np.array(array) for key, array in zip(SHAPES, theirs.params(), strict=True)}
    opt = kind(**ours)
    from_optax(opt, theirs.state)
    assert_same_steps(theirs, opt, params, rng, name)


@pytest.mark.parametrize("name", CASES)
def test_to_optax_midway(name):
    kind, ours, _ = CASES[name]
    opt = kind(**ours)
    params, rng = trained(opt, 10)
    theirs = Theirs(name, params)
    theirs.state = theirs.jax.tree.map(theirs.jax.numpy.asarray, to_optax(opt, theirs.state))
    assert_same_steps(theirs, opt, params, rng, name)


@pytest.mark.parametrize("name", CASES)
def test_the_same_first_steps(name):
    """The table's arguments, from the first step on."""
    kind, ours, _ = CASES[name]
    opt, rng = kind(**ours), np.random.default_rng(7)
    params = draw(rng)
    assert_same_steps(Theirs(name, params), opt, params, rng, name)


ScaleByAdamState = namedtuple("ScaleByAdamState", "count mu nu")
TraceState = namedtuple("TraceState", "trace")
ScaleByScheduleState = namedtuple("ScaleByScheduleState", "count")
EmptyState = namedtuple("EmptyState", "")
MaskedNode = namedtuple("MaskedNode", "")


def zeros():
    return {"scalar": np.zeros((), np.float32), "w": np.zeros((5, 7), np.float32), "b": np.zeros(7, np.float32)}


def adam_state():
    return ScaleByAdamState(np.array(0, np.int32), zeros(), zeros()), EmptyState()


def test_structure_without_optax():
    opt = fastopt.Adam()
    trained(opt, 3)
    template = adam_state()
    moments, empty = to_optax(opt, template)
    assert type(moments) is ScaleByAdamState
    assert empty == EmptyState()
    assert (moments.count, moments.count.dtype, moments.count.shape) == (3, np.int32, ())
    assert list(moments.mu) == ["scalar", "w", "b"]
    for key in zeros():
        assert_same_bits(moments.mu[key], opt.state[key]["m"], key)
        assert_same_bits(moments.nu[key], opt.state[key]["v"], key)
        assert moments.mu[key] is not opt.state[key]["m"]
        assert not template[0].mu[key].any()
    again = fastopt.Adam()
    from_optax(again, (moments, empty))
    assert again.steps == opt.steps
    for key in zeros():
        assert_same_bits(again.state[key]["v"], opt.state[key]["v"], key)


def test_paths_and_keys():
    one = np.ones(3, np.float32)
    tree = {"dense": {"kernel": one, "bias": one * 2}, "last": [one * 3, (one * 4,)]}
    opt = fastopt.Adam()
    from_optax(opt, ScaleByAdamState(np.array(2), tree, tree))
    assert {key: float(entry["m"][0]) for key, entry in opt.state.items()} == {
        ("dense", "bias"): 2.0, ("dense", "kernel"): 1.0, ("last", 0): 3.0, ("last", 1, 0): 4.0}
    opt = fastopt.Adam()
    from_optax(opt, ScaleByAdamState(np.array(2), tree, tree), keys=range(4))
    assert [float(entry["m"][0]) for entry in opt.state.values()] == [2.0, 1.0, 3.0, 4.0]
    filled = to_optax(opt, ScaleByAdamState(np.array(0), tree, tree), keys=range(4))
    assert filled.nu["last"][1][0][0] == 4.0
    assert list(filled.mu["dense"]) == ["kernel", "bias"]
    opt = fastopt.Adam()
    from_optax(opt, ScaleByAdamState(np.array(2), one, one))
    assert list(opt.state) == [0]


def test_dicts_that_jax_does_not_sort():
    """jax.tree.leaves takes an OrderedDict in its own order, every other dict in that of its sorted keys."""
    arrays = {"b": np.full(3, 1, np.float32), "a": np.full(3, 2, np.float32)}
    for tree, order in ((OrderedDict(arrays), [1.0, 2.0]), (defaultdict(list, arrays), [2.0, 1.0])):
        opt, state = fastopt.Adam(), ScaleByAdamState(np.array(2), tree, tree)
        from_optax(opt, state, keys=["first", "second"])
        assert [opt.state[key]["m"][0] for key in ("first", "second")] == order
        filled = to_optax(opt, state, keys=["first", "second"])
        assert type(filled.mu) is type(tree)
        assert list(filled.mu) == ["b", "a"]
        for name, array in arrays.items():
            assert_same_bits(filled.nu[name], array, name)


def test_nested_parameters_have_the_keys_of_nested_trees():
    one = np.ones(3, np.float32)
    params = {"dense": {"kernel": one.copy(), "bias": one.copy()}, "last": [one.copy()]}
    opt, again = fastopt.Adam(), fastopt.Adam()
    opt.update(params, {"dense": {"kernel": one, "bias": one * 2}, "last": [one * 3]})
    state = to_optax(opt, ScaleByAdamState(np.array(0), params, params))
    np.testing.assert_allclose([state.mu["dense"]["kernel"][0], state.mu["dense"]["bias"][0], state.mu["last"][0][0]],
                               [0.1, 0.2, 0.3], rtol=1e-6)
    from_optax(again, state)
    again.update(params, {"dense": {"kernel": one, "bias": one}, "last": [one]})
    assert again.steps == opt.steps | dict.fromkeys(opt.steps, 2)


def test_parts_of_a_masked_tree_are_joined():
    one, none = np.ones(3, np.float32), MaskedNode()
    parts = {"slow": (ScaleByAdamState(np.array(4), {"a": one, "b": none}, {"a": one, "b": none}),),
             "fast": (ScaleByAdamState(np.array(4), {"a": none, "b": one}, {"a": none, "b": one}),)}
    opt = fastopt.Adam()
    from_optax(opt, parts)
    assert opt.steps == {"a": 4, "b": 4}
    again = to_optax(opt, parts)
    assert again["slow"][0].mu["b"] == none
    assert (again["fast"][0].mu["b"] == one).all()


def test_a_schedule_s_count():
    state = (TraceState({"w": np.ones(3, np.float32)}), ScaleByScheduleState(np.array(7, np.int32)))
    opt = fastopt.SGD(lr=lambda step: 0.1, momentum=0.9)
    from_optax(opt, state)
    assert opt.step_count == 7
    with pytest.raises(ValueError, match="^step_count: expected None for an opt_state that has a count, got 3"):
        from_optax(fastopt.SGD(momentum=0.9), state, step_count=3)
    opt.update({"w": np.ones(3, np.float32)}, {"w": np.ones(3, np.float32)})
    assert to_optax(opt, state)[1].count == 8
    fresh = fastopt.SGD(momentum=0.9)
    from_optax(fresh, state[0])
    assert fresh.step_count == 1


@pytest.mark.parametrize(("opt", "error", "message"), [
    (fastopt.Rprop(), TypeError, "got Rprop, which Optax applies one step late"),
    (fastopt.Adan(), TypeError, "got Adan, which Optax weights"),
    (fastopt.ASGD(), TypeError, "got ASGD, which Optax does not have"),
    (None, TypeError, "^optimizer: expected one of SGD, .* got NoneType$"),
    (fastopt.Adam(eps_hat=True), ValueError, "^eps_hat: expected False, because Optax does not have it, got True"),
    (fastopt.Adam(amsgrad=True), ValueError, "^amsgrad: expected False"),
    (fastopt.Adagrad(), ValueError, "^eps_inside_sqrt: expected True, which is Optax's form, got False"),
    (fastopt.NAdam(), ValueError, "^momentum_decay: expected one so large"),
    (fastopt.RAdam(), ValueError, r"^eps: expected 0\.0, which is Optax's form, got 1e-08"),
    (fastopt.LARS(lr=0.1, weight_decay=0.1), ValueError, r"^weight_decay: expected 0\.0"),
    (fastopt.SGD(momentum=0.9, dampening=0.1), ValueError, r"^dampening: expected 0\.0"),
])
def test_refused_without_a_counterpart_in_optax(opt, error, message):
    with pytest.raises(error, match=message):
        to_optax(opt, ())
    with pytest.raises(error, match=message):
        from_optax(opt, ())


def test_buffers_that_carry_a_learning_rate_need_a_constant_one():
    state = TraceState(zeros())
    for opt in (fastopt.Momentum(lr=lambda step: 0.1), fastopt.Momentum(lr=0.0),
                fastopt.Momentum(per_param=lambda key, param: {})):
        with pytest.raises(ValueError, match="^lr: expected one constant > 0 .* Optax's buffer and v of Momentum"):
            from_optax(opt, state)
        trained(opt, 1)
        with pytest.raises(ValueError, match="^lr: expected one constant > 0 .* Optax's buffer and v of Momentum"):
            to_optax(opt, state)


@pytest.mark.parametrize(("change", "error", "message"), [
    (lambda s: EmptyState(), ValueError, "^opt_state: expected m, v of Adam in ScaleByAdamState, got none of them"),
    (lambda s: s[0]._replace(mu={"w": [1.0]}), TypeError, "^opt_state: expected dicts, lists and tuples of arrays, got "
     "float"),
    (lambda s: s[0]._replace(mu={}), ValueError, r"^opt_state: expected m, v of Adam .* got \['v'\]"),
    (lambda s: s[0]._replace(mu={"w": np.ones(3)}), TypeError, "^opt_state: expected a float32 array for mu of 'w', "
     "got float64"),
    (lambda s: s[0]._replace(count=1.5), ValueError, "^opt_state: expected a whole number as the count, got 1.5"),
    (lambda s: (s, s), ValueError, "^opt_state: expected one m for each key, got two for"),
    (lambda s: s[0]._replace(mu={**zeros(), "w": np.ones(3, np.float32)}), ValueError, "expected arrays of one shape"),
])
def test_refused_states_change_nothing(change, error, message):
    fresh = fastopt.Adam()
    with pytest.raises(error, match=message):
        from_optax(fresh, change(adam_state()))
    assert (fresh.state, fresh.step_count) == ({}, 0)


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: (), "^opt_state: expected the state of Adam for all parameters, got no place for m of 'w'"),
    (lambda s: s[0]._replace(mu={**zeros(), "x": np.ones(3)}), "^opt_state: expected arrays for keys .* got 'x' of mu"),
    (lambda s: s[0]._replace(mu={**zeros(), "w": np.ones(3)}), r"^opt_state: expected shape \(5, 7\) for 'w' of mu, "
     r"got \(3,\)"),
    (lambda s: (s, s), "^opt_state: expected one m for each key, got two for"),
])
def test_templates_that_do_not_fit(change, message):
    opt = fastopt.Adam()
    trained(opt, 1)
    with pytest.raises(ValueError, match=message):
        to_optax(opt, change(adam_state()))


def test_state_that_the_hyper_parameters_do_not_need():
    with pytest.raises(ValueError, match="^opt_state: expected no arrays for SGD .* got TraceState"):
        from_optax(fastopt.SGD(), TraceState(zeros()))


def test_steps_that_differ_and_keys_that_do_not_fit():
    opt = fastopt.Adam()
    with pytest.raises(ValueError, match="^optimizer: expected one that has taken a step"):
        to_optax(opt, adam_state())
    with pytest.raises(ValueError, match="^keys: expected 3 keys, one for each array of the tree, got 2"):
        from_optax(opt, adam_state(), keys=["w", "b"])
    with pytest.raises(ValueError, match="^keys: expected 3 keys, one for each array of the tree, got 4"):
        from_optax(opt, adam_state(), keys=range(4))
    trained(opt, 1)
    with pytest.raises(ValueError, match="^keys: expected to include 'w', which the optimizer has state for"):
        from_optax(opt, adam_state(), keys=range(3))
    opt.update({"w": np.ones((5, 7), np.float32)}, {"w": np.ones((5, 7), np.float32)})
    with pytest.raises(ValueError, match="^optimizer: expected the same number of steps for every parameter, because "
                       "Optax counts them once, got 1, 2"):
        to_optax(opt, adam_state())
