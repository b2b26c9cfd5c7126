"""State to and from Keras, in the middle of a training; the table is that of `fastopt.convert`'s docstring."""

import numpy as np
import pytest
from conversions import assert_same_steps, draw, imported_keras, trained
from helpers import assert_same_bits

import fastopt
from fastopt.convert import from_keras, to_keras

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")    # Keras'

CASES = {
    "SGD": (fastopt.SGD, dict(lr=0.1), dict(learning_rate=0.1)),
    "SGD with momentum": (fastopt.SGD, dict(lr=0.1, momentum=0.9), dict(learning_rate=0.1, momentum=0.9)),
    "SGD with Nesterov": (fastopt.SGD, dict(lr=0.1, momentum=0.9, nesterov=True),
                          dict(learning_rate=0.1, momentum=0.9, nesterov=True)),
    "SGD of Momentum": (fastopt.Momentum, dict(lr=0.1, momentum=0.8, nesterov=True, decoupled_weight_decay=0.1),
                        dict(learning_rate=0.1, momentum=0.8, nesterov=True, weight_decay=0.1)),
    "SGD of SGDM": (fastopt.SGDM, dict(lr=0.5, beta=0.75), dict(learning_rate=0.125, momentum=0.75)),
    "Adagrad": (fastopt.Adagrad, dict(lr=0.1, initial_accumulator_value=0.1, eps=1e-7, eps_inside_sqrt=True),
                dict(learning_rate=0.1)),
    "Adadelta": (fastopt.Adadelta, dict(lr=1.0, rho=0.95, eps=1e-7), dict(learning_rate=1.0)),
    "RMSprop": (fastopt.RMSprop, dict(lr=0.01, alpha=0.9, eps=1e-7, eps_inside_sqrt=True), dict(learning_rate=0.01)),
    "RMSprop centred with momentum": (
        fastopt.RMSprop, dict(lr=0.01, alpha=0.9, eps=1e-7, eps_inside_sqrt=True, momentum=0.9, centered=True),
        dict(learning_rate=0.01, momentum=0.9, centered=True)),
    "Adam": (fastopt.Adam, dict(lr=0.01, eps=1e-7, eps_hat=True), dict(learning_rate=0.01)),
    "Adam with AMSGrad": (fastopt.Adam, dict(lr=0.01, eps=1e-7, eps_hat=True, amsgrad=True),
                          dict(learning_rate=0.01, amsgrad=True)),
    "AdamW": (fastopt.AdamW, dict(lr=0.01, eps=1e-7, eps_hat=True, weight_decay=0.004), dict(learning_rate=0.01)),
    "Adamax": (fastopt.Adamax, dict(lr=0.01, eps=0.0), dict(learning_rate=0.01, epsilon=0.0)),
    "Nadam": (fastopt.NAdam, dict(lr=0.01, eps=1e-7, momentum_decay=1.0), dict(learning_rate=0.01)),
    "Lion": (fastopt.Lion, dict(lr=0.01, weight_decay=0.1), dict(learning_rate=0.01, weight_decay=0.1)),
    "Lamb": (fastopt.LAMB, dict(lr=0.01, eps=1e-7, weight_decay=0.0), dict(learning_rate=0.01)),
}
"""Keras' class and arguments, and fastopt's class and arguments that take the same steps."""


class Theirs:
    """A Keras optimizer that is stepped with NumPy gradients."""

    def __init__(self, name, params):
        self.keras = imported_keras()
        self.opt = getattr(self.keras.optimizers, name.split()[0])(**CASES[name][2])
        self.variables = [self.keras.Variable(param, name=key) for key, param in params.items()]
        self.opt.build(self.variables)

    def step(self, grads):
        self.opt.apply([self.keras.ops.convert_to_tensor(grad) for grad in grads.values()])

    def params(self):
        return [np.array(variable.numpy()) for variable in self.variables]

    def store(self):
        store = {}
        self.opt.save_own_variables(store)
        return store


@pytest.mark.parametrize("name", CASES)
def test_from_keras_midway(name):
    kind, ours, _ = CASES[name]
    rng = np.random.default_rng(6)
    params = draw(rng)
    theirs = Theirs(name, params)
    for _ in range(10):
        theirs.step(draw(rng))
    params = dict(zip(params, theirs.params(), strict=True))
    opt = kind(**ours)
    from_keras(opt, theirs.store(), keys=params)
    assert opt.step_count == 10
    assert_same_steps(theirs, opt, params, rng, name)


@pytest.mark.parametrize("name", CASES)
def test_to_keras_midway(name):
    kind, ours, _ = CASES[name]
    opt = kind(**ours)
    params, rng = trained(opt, 10)
    theirs = Theirs(name, params)
    store = to_keras(opt)
    assert list(store) == list(theirs.store())
    theirs.opt.load_own_variables(store)
    assert_same_steps(theirs, opt, params, rng, name)
    assert int(theirs.opt.iterations) == 20


@pytest.mark.parametrize("name", CASES)
def test_the_same_first_steps(name):
    """The table's arguments, from the first step on."""
    kind, ours, _ = CASES[name]
    opt, rng = kind(**ours), np.random.default_rng(7)
    params = draw(rng)
    assert_same_steps(Theirs(name, params), opt, params, rng, name)


@pytest.mark.parametrize("name", CASES)
def test_a_round_trip_without_keras(name):
    kind, ours, _ = CASES[name]
    opt = kind(**ours)
    trained(opt, 3)
    store = to_keras(opt, keys=["b", "scalar", "w"])
    again = kind(**ours)
    from_keras(again, store, keys=["b", "scalar", "w"])
    assert again.step_count == 3
    for key, entry in opt.state.items():
        for state in entry:
            if kind in (fastopt.SGD, fastopt.SGDM) or state == "buf":     # multiplied by lr and divided by it
                np.testing.assert_allclose(again.state[key][state], entry[state], rtol=2e-7)
            else:
                assert_same_bits(again.state[key][state], entry[state], f"{key} {state}")
    if opt.state["w"]:
        positions = kind(**ours)
        from_keras(positions, store)
        assert [entry[min(entry)].shape for entry in positions.state.values()] == [(7,), (), (5, 7)]


def test_layout_as_recorded_from_keras():
    """Keras 3.15: iteration, learning_rate, then block by block, the second of which is AMSGrad's."""
    opt = fastopt.Adam(lr=0.25, eps_hat=True, amsgrad=True)
    trained(opt, 3)
    store = to_keras(opt)
    assert list(store) == [str(i) for i in range(11)]
    assert (store["0"], store["0"].dtype, store["1"], store["1"].dtype) == (3, np.int64, 0.25, np.float32)
    order = [(key, name) for key in "w b scalar".split() for name in "mv"]
    order += [(key, "vmax") for key in "w b scalar".split()]
    for i, (key, name) in enumerate(order, 2):
        assert_same_bits(store[str(i)], opt.state[key][name], f"{key} {name}")
    store["2"][...] = 7.0
    assert (opt.state["w"]["m"] != 7.0).all()


def test_velocities_carry_the_learning_rate():
    sgd, sgdm = fastopt.SGD(lr=0.25, momentum=0.9), fastopt.SGDM(lr=0.5, beta=0.75)
    for opt, state, rate in ((sgd, "buf", 0.25), (sgdm, "m", 0.125)):
        trained(opt, 2)
        store = to_keras(opt)
        assert store["1"] == rate
        assert_same_bits(store["2"], opt.state["w"][state] * np.float32(-opt.lr), state)


def test_a_schedule_has_no_learning_rate():
    opt = fastopt.Adam(lr=lambda step: 0.1, eps_hat=True)
    trained(opt, 2)
    store = to_keras(opt)
    assert len(store) == 7
    again = fastopt.Adam(eps_hat=True)
    from_keras(again, store)
    assert_same_bits(again.state[0]["m"], opt.state["w"]["m"], "m")
    one = {"0": 5, "1": np.array(0.5, np.float32)}
    lion = fastopt.Lion()
    from_keras(lion, one, keys=["p"])       # one scalar parameter and a schedule
    assert lion.state["p"]["m"] == 0.5


@pytest.mark.parametrize(("opt", "error", "message"), [
    (fastopt.RAdam(), TypeError, "^optimizer: expected one of SGD, .* got RAdam, which Keras does not have"),
    (None, TypeError, "got NoneType$"),
    (fastopt.Adam(), ValueError, "^eps_hat: expected True, which is Keras's form, got False"),
    (fastopt.Adagrad(), ValueError, "^eps_inside_sqrt: expected True"),
    (fastopt.RMSprop(), ValueError, "^eps_inside_sqrt: expected True"),
    (fastopt.Adamax(), ValueError, r"^eps: expected 0\.0, which is Keras's form, got 1e-08"),
    (fastopt.NAdam(), ValueError, r"^momentum_decay: expected 1\.0"),
    (fastopt.SGD(momentum=0.9, dampening=0.5), ValueError, r"^dampening: expected 0\.0"),
    (fastopt.SGD(weight_decay=0.1), ValueError, r"^weight_decay: expected 0\.0, because Keras does not"),
    (fastopt.LAMB(), ValueError, r"^weight_decay: expected 0\.0"),
    (fastopt.SGD(maximize=True), ValueError, "^maximize: expected False"),
])
def test_refused_without_a_counterpart_in_keras(opt, error, message):
    with pytest.raises(error, match=message):
        to_keras(opt)
    with pytest.raises(error, match=message):
        from_keras(opt, {})


@pytest.mark.parametrize("kind", [fastopt.SGD, fastopt.RMSprop])
def test_buffers_that_carry_a_learning_rate_need_a_constant_one(kind):
    form = {} if kind is fastopt.SGD else {"eps_inside_sqrt": True}
    for own in ({"lr": lambda step: 0.1}, {"lr": 0.0}, {"per_param": lambda key, param: {}}):
        opt = kind(momentum=0.9, **form, **own)
        trained(opt, 1)
        with pytest.raises(ValueError, match="^lr: expected one constant > 0 for all parameters, by which Keras's"):
            to_keras(opt)


@pytest.mark.parametrize(("change", "error", "message"), [
    (lambda s: None, ValueError, "^store: expected a dict with the keys '0', '1', … .* got None"),
    (lambda s: {}, ValueError, "^store: expected a dict with the keys"),
    (lambda s: {key: s[key] for key in "0234"}, ValueError, "^store: expected a dict with the keys"),
    (lambda s: {key: s[key] for key in "01234"}, ValueError, "^store: expected the step count, the learning rate"),
    (lambda s: {**s, "0": 1.5}, ValueError, "^store: expected a whole number as '0', the step count, got 1.5"),
    (lambda s: {**s, "2": s["2"].astype(float)}, TypeError, "^store: expected a float32 array for '2', got float64"),
    (lambda s: {**s, "2": np.ma.array(s["2"])}, TypeError, "^store: expected arrays without a mask"),
    (lambda s: {**s, "2": np.ones(3, np.float32)}, ValueError, "^store: expected arrays of one shape for each"),
])
def test_refused_stores_change_nothing(change, error, message):
    opt, fresh = fastopt.Adam(eps_hat=True), fastopt.Adam(eps_hat=True)
    trained(opt, 2)
    with pytest.raises(error, match=message):
        from_keras(fresh, change(to_keras(opt)), keys=["w", "b", "scalar"])
    assert (fresh.state, fresh.step_count) == ({}, 0)


def test_keys_and_steps_that_do_not_fit():
    opt = fastopt.Adam(eps_hat=True)
    with pytest.raises(ValueError, match="^optimizer: expected one that has taken a step, got step_count 0"):
        to_keras(opt)
    trained(opt, 1)
    with pytest.raises(ValueError, match="^keys: expected keys of the optimizer's state, got 'x'"):
        to_keras(opt, ["x"])
    with pytest.raises(TypeError, match="^keys: expected the parameters' keys in the order of Keras'"):
        to_keras(opt, "wb")
    with pytest.raises(ValueError, match="^keys: expected to include 'w', which the optimizer has state for"):
        from_keras(opt, to_keras(opt), keys=range(3))
    opt.update({"w": np.ones((5, 7), np.float32)}, {"w": np.ones((5, 7), np.float32)})
    with pytest.raises(ValueError, match="^optimizer: expected the same number of steps for every parameter"):
        to_keras(opt)
    plain = fastopt.SGD()
    plain.update({"w": np.ones(3, np.float32)}, {"w": np.ones(3, np.float32)})
    plain.update({"b": np.ones(3, np.float32)}, {"b": np.ones(3, np.float32)})
    assert to_keras(plain)["0"] == 2        # its formula has no step


def test_per_param_that_changes_the_arrays():
    opt = fastopt.Adam(eps_hat=True, per_param=lambda key, param: {"amsgrad": key == "w"})
    trained(opt, 1)
    with pytest.raises(ValueError, match="^optimizer: expected the same state arrays for every parameter, got 'b'"):
        to_keras(opt)
