"""Parameters and gradients in nested containers: the key of an array is its path."""

import collections
import copy
import pickle
import types

import numpy as np
import pytest
from helpers import assert_same_bits
from optimizer_cases import SETTINGS, make, no_decay_on_vectors
from states import SAFETENSORS, assert_same

import fastopt

F = np.float32
BOTH = pytest.mark.parametrize("module", [fastopt, fastopt.reference], ids=["fastopt", "reference"])
Layer = collections.namedtuple("Layer", "W b")
FLAT = {"emb": (3, 4), ("layers", 0, "W"): (4, 5), ("layers", 0, "b"): (5,), ("layers", 1, "W"): (5, 2),
        ("layers", 1, "b"): (2,), ("norm", "gamma"): (300, 100), "scale": ()}
"""The keys of `tree` and the shapes of its arrays."""


def flat(rng):
    return {key: rng.standard_normal(shape).astype(F) for key, shape in FLAT.items()}


def tree(arrays, layer=lambda W, b: {"W": W, "b": b}, listed=list):
    """The same arrays in containers."""
    return {"emb": arrays["emb"],
            "layers": listed(layer(arrays["layers", i, "W"], arrays["layers", i, "b"]) for i in range(2)),
            "norm": {"gamma": arrays["norm", "gamma"]}, "nothing": {}, "scale": arrays["scale"]}


@pytest.mark.parametrize("setting", SETTINGS)
def test_same_as_a_flat_dict_of_the_paths(setting, rng, always_parallel):
    options = {"weight_decay": 0.1, "per_param": no_decay_on_vectors, "average_decay": 0.9, "clip_norm": 3.0}
    ours = flat(rng)
    theirs, plain = ({key: param.copy() for key, param in ours.items()} for _ in range(2))
    opt, ref, other = make(setting, **options), make(setting, fastopt.reference, **options), make(setting, **options)
    for _ in range(4):
        grads = flat(rng)
        info = opt.update(tree(ours), tree(grads))
        assert info == ref.update(tree(theirs), tree(grads)) == other.update(plain, grads)
    assert list(opt.state) == list(ref.state) == list(other.state) == list(FLAT)
    assert opt.steps == ref.steps == other.steps
    for key in FLAT:
        assert_same_bits(ours[key], theirs[key], str(key))
        assert_same_bits(ours[key], plain[key], str(key))
        for state in opt.state[key]:
            assert_same_bits(opt.state[key][state], ref.state[key][state], f"{key} {state}")


@BOTH
def test_any_mixture_of_containers(module):
    """Lists, tuples, named tuples and other mappings; a list may be paired with a tuple, a generator with either."""
    def model(value):
        return [Layer(np.full(2, value, F), np.full(1, value, F)), [np.full(3, value, F)],
                {"x": (np.full(1, value, F),), 5: types.MappingProxyType({"y": np.full(1, value, F)})}, ()]

    params, opt = model(0.0), module.SGD(lr=1.0)
    opt.update(params, tuple(model(1.0)))
    opt.update((part for part in params), (part for part in model(1.0)))
    opt.update(params, [(np.ones(2, F), np.ones(1)), (np.ones(3, F),), model(1.0)[2], []])
    assert set(opt.steps) == {(0, 0), (0, 1), (1, 0), (2, "x", 0), (2, 5, "y")}
    assert set(opt.steps.values()) == {3}
    for array in (*params[0], *params[1], *params[2]["x"], params[2][5]["y"]):
        assert (array == -3.0).all()


@pytest.mark.parametrize("layer", [lambda W, b: (W, b), lambda W, b: [W, b], Layer], ids=["tuple", "list", "named"])
def test_the_same_arrays_are_not_bound_again(layer, rng):
    """In new containers and with new gradients."""
    arrays, opt = flat(rng), fastopt.Adam()
    arrays = [arrays["layers", i, name] for i in range(2) for name in "Wb"]

    def containers(arrays):
        return [layer(*arrays[:2]), layer(*arrays[2:])]

    opt.update(containers(arrays), containers([np.ones_like(array) for array in arrays]))
    bound = opt._progress.snapshot.bounds[0, 0]
    found = fastopt._runtime.updates.lookup(opt._progress.snapshot, containers(arrays), containers(arrays),
                                                  False)
    assert found[0] is bound
    assert [id(grad) for grad in found[1]] == [id(array) for array in arrays]
    assert fastopt._runtime.updates.lookup(opt._progress.snapshot, containers(arrays[::-1]), containers(arrays),
                                           False) is None
    opt.update(containers(arrays), containers([np.ones_like(array) for array in arrays]))
    opt.update({0: dict(enumerate(containers(arrays)[0])), 1: containers(arrays)[1]},
               {1: containers([np.ones_like(array) for array in arrays])[1],
                0: dict(enumerate(containers([np.ones_like(array) for array in arrays])[0]))})
    assert opt._progress.snapshot.bounds[0, 0] is bound
    assert set(opt.steps.values()) == {3}


def test_a_tuple_that_iterates_in_its_own_way():
    class Reversed(tuple):
        def __iter__(self):
            return reversed([self[i] for i in range(len(self))])

    a, b = np.zeros(2, F), np.zeros(2, F)
    opt = fastopt.SGD(lr=1.0)
    for _ in range(3):
        opt.update([Reversed([a, b])], [(np.ones(2, F), np.full(2, 2.0, F))])
    assert (b == -3.0).all()
    assert (a == -6.0).all()


@BOTH
def test_none_for_an_array_and_for_a_whole_container(module, rng):
    ours = flat(rng)
    before = {key: param.copy() for key, param in ours.items()}
    opt = module.Adam()
    for _ in range(3):
        layers = [None, {"W": np.ones((5, 2), F), "b": None}]
        opt.update(tree(ours), {**tree(flat(rng)), "layers": layers, "norm": None})
    frozen = {("layers", 0, "W"), ("layers", 0, "b"), ("layers", 1, "b"), ("norm", "gamma")}
    assert opt.steps == {key: 0 if key in frozen else 3 for key in FLAT}
    for key, param in ours.items():
        assert (param == before[key]).all() == (key in frozen), key
    opt.update(tree(ours), tree(flat(rng)))
    assert opt.steps == {key: 1 if key in frozen else 4 for key in FLAT}


def test_update_one_of_a_path():
    params, opt = {"layer": {"W": np.zeros(3, F), "b": np.zeros(2, F)}}, fastopt.SGD(lr=1.0)
    opt.update(params, {"layer": {"W": np.ones(3, F), "b": np.ones(2, F)}})
    assert opt.update_one(("layer", "b"), params["layer"]["b"], np.ones(2, F)).step == 2
    opt.update({"layer": {"b": params["layer"]["b"]}}, {"layer": {"b": np.ones(2, F)}})
    opt.update({("layer", "b"): params["layer"]["b"]}, {("layer", "b"): np.ones(2, F)})
    path = next(key for key in opt.state if key[1] == "W")
    assert opt.update_one(path, params["layer"]["W"], np.ones(3, F)).step == 4
    assert opt.steps == {("layer", "W"): 2, ("layer", "b"): 4}
    assert (params["layer"]["b"] == -4.0).all()


def test_a_container_one_of_whose_arrays_is_updated_alone_is_bound_anew():
    params = {"layer": {"W": np.zeros(3, F), "b": np.zeros(2, F)}}
    grads = {"layer": {"W": np.ones(3, F), "b": np.ones(2, F)}}
    opt = fastopt.SGD(lr=1.0)
    for _ in range(2):
        opt.update(params, grads)
        opt.update_one(("layer", "b"), params["layer"]["b"], np.ones(2, F))
    opt.update(params, grads)
    assert opt.steps == {("layer", "W"): 3, ("layer", "b"): 5}
    assert opt.step_count == 5


def test_models_in_turn_whose_outermost_key_is_the_same():
    """Both stay bound, the one that is not found at once too."""
    W, b = np.zeros(3, F), np.zeros(2, F)
    models = [({"layer": {"W": W}}, {"layer": {"W": np.ones(3, F)}}),
              ({"layer": {"b": b}}, {"layer": {"b": np.ones(2, F)}})]
    opt = fastopt.SGD(lr=1.0)
    for params, grads in models:
        opt.update(params, grads)
    before = dict(opt._progress.snapshot.bounds)
    for params, grads in models * 2:
        opt.update(params, grads)
    assert opt._progress.snapshot.bounds == before
    assert opt.steps == {("layer", "W"): 3, ("layer", "b"): 3}
    assert (W == -3.0).all()


def test_per_param_gets_the_path():
    seen = []
    fastopt.SGD(per_param=lambda key, array: seen.append((key, array.shape)) or {}).update(
        [(np.ones((2, 3), F), np.ones(3, F))], [(np.ones((2, 3), F), np.ones(3, F))])
    assert seen == [((0, 0), (2, 3)), ((0, 1), (3,))]


@pytest.mark.parametrize("suffix", [".npz", SAFETENSORS])
def test_state_files(suffix, tmp_path, rng):
    """Saved midway, training goes on with the same bits; keys that look alike keep apart."""
    ours, opt = flat(rng), fastopt.Adam(average_decay=0.9)
    grads = [flat(rng) for _ in range(4)]
    for grad in grads[:2]:
        opt.update(tree(ours), tree(grad))
    path = tmp_path / f"state{suffix}"
    fastopt.save_state(path, {"opt": opt.state_dict(), "params": ours, ("a", "b"): 1, "a.b": 2, ("a.b",): 3})
    loaded = fastopt.load_state(path)
    assert [loaded[key] for key in (("a", "b"), "a.b", ("a.b",))] == [1, 2, 3]
    assert {type(key) for key in loaded["opt"]["state"]} == {str, tuple}
    twin = fastopt.Adam(average_decay=0.9)
    twin.load_state_dict(loaded["opt"])
    for grad in grads[2:]:
        opt.update(tree(ours), tree(grad))
        twin.update(tree(loaded["params"]), tree(grad))
    for key in FLAT:
        assert_same_bits(loaded["params"][key], ours[key], str(key))
        assert_same_bits(twin.averages[key], opt.averages[key], str(key))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))],
                         ids=["deepcopy", "pickle"])
def test_copies_have_plain_tuples_as_keys(duplicate, rng):
    opt = fastopt.Adam()
    opt.update(tree(flat(rng)), tree(flat(rng)))
    copied = duplicate(opt.state_dict())
    assert {type(key) for key in copied["state"]} == {str, tuple}
    assert_same(duplicate(opt).state_dict(), copied)


@pytest.mark.parametrize(("change", "message"), [
    (lambda grads: grads["layers"].pop(),
     "^grads['layers']: expected 2 arrays, one for each of params['layers'], got 1"),
    (lambda grads: grads["layers"][1].pop("b"),
     "^grads['layers'][1]: expected the keys of params['layers'][1], got none for 'b'"),
    (lambda grads: grads["norm"].update(beta=1.0),
     "^grads['norm']: expected the keys of params['norm'], got 'beta', which params['norm'] does not have"),
    (lambda grads: grads.update(layers={}), "^grads['layers']: expected a sequence like params['layers'], got dict"),
    (lambda grads: grads.update(layers=np.ones((2, 3))),
     "^grads['layers']: expected a sequence like params['layers'], got ndarray"),
    (lambda grads: grads.update(norm=np.ones(3)), "^grads['norm']: expected a dict like params['norm'], got ndarray"),
    (lambda grads: grads.update(emb={"W": np.ones(3)}), r"^grads\['emb'\]: expected C-contiguous .* got dict"),
    (lambda grads: grads["layers"][0].update(b=np.ones(3, F)),
     r"^grads\['layers'\]\[0\]\['b'\]: expected C-contiguous float32 of shape \(5,\), got float32 \(3,\)"),
    (lambda grads: grads["layers"][0].update(b=[1.0] * 5), r"^grads\['layers'\]\[0\]\['b'\]: expected .* got list"),
])
@pytest.mark.parametrize("bound", [False, True])
def test_gradients_of_another_structure(change, message, bound, rng):
    params = flat(rng)
    opt = fastopt.Adam()
    if bound:
        opt.update(tree(params), tree(flat(rng)))
    before, steps = {key: param.copy() for key, param in params.items()}, opt.steps
    grads = tree(flat(rng))
    change(grads)
    message = message if "\\" in message else message.replace("[", r"\[").replace("]", r"\]")
    with pytest.raises((TypeError, ValueError), match=message):
        opt.update(tree(params), grads)
    for key, param in params.items():
        assert_same_bits(param, before[key], str(key))
    assert opt.step_count == bound
    assert opt.steps == steps


SAME = np.ones(3, F)


def cyclic():
    container = [np.ones(3, F)]
    container.append({"again": container})
    return container


def deep(levels):
    container = np.ones(3, F)
    for _ in range(levels):
        container = [container]
    return container


@pytest.mark.parametrize(("params", "message"), [
    ({"layer": {"W": np.ones(3)}}, r"^params\['layer'\]\['W'\]: expected writable C-contiguous float32 array, got f"),
    ([(SAME, SAME)], r"^params\[0\]\[1\]: expected memory of its own, got an array that overlaps params\[0\]\[0\]"),
    ([SAME, {"again": SAME}], r"^params\[1\]\['again'\]: expected memory of its own, .* overlaps params\[0\]"),
    ([[1.0, 2.0]], r"^params\[0\]\[0\]: expected writable .* got float"),
    ([[np.ones(3, F)], ["W"]], r"^params\[1\]\[0\]: expected writable .* got str"),
    ([[np.ones(3, F)], [None]], r"^params\[1\]\[0\]: expected writable .* got None"),
    ([[np.ones(3, F)], {SAME.size}], r"^params\[1\]: expected writable .* got set"),
    ([[np.ones(3, F)], iter([np.ones(3, F)])], r"^params\[1\]: expected writable .* got list_iterator"),
    ([[np.array([SAME, None], object)]], r"^params\[0\]\[0\]: expected writable .* got object"),
    ({("a", "b"): np.ones(3, F), "a": {"b": np.ones(3, F)}}, r"^params: expected one array for each key, got two for"),
    (cyclic(), r"^params: expected at most 64 levels of containers, got more \(does one hold itself\?\)"),
    (deep(65), "^params: expected at most 64 levels of containers"),
    (deep(100_000), "^params: expected at most 64 levels of containers"),
])
def test_parameters_that_are_refused(params, message):
    opt = fastopt.Adam()
    with pytest.raises((TypeError, ValueError), match=message):
        opt.update(params, params)
    assert opt.step_count == 0
    assert opt.state == {}


def test_64_levels():
    params, opt = deep(64), fastopt.SGD(lr=1.0)
    for _ in range(3):
        opt.update(params, deep(64))
    assert opt.steps == {(0,) * 64: 3}


def test_a_container_that_holds_itself_only_later():
    params, opt = [[np.zeros(3, F)]], fastopt.SGD(lr=1.0)
    opt.update(params, [[np.ones(3, F)]])
    params[0][0] = params
    with pytest.raises(ValueError, match="^params: expected at most 64 levels"):
        opt.update(params, params)
    assert opt.step_count == 1


def test_nothing_in_containers():
    opt = fastopt.SGD()
    for step, params in enumerate(([], {}, [[], {}], {"a": {"b": []}}), 1):
        assert opt.update(params, params).step == step
