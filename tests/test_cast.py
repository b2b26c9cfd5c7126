"""fastopt.cast: float arrays in containers as float32, once."""

import os
import pickle
import sys
from collections import Counter, OrderedDict, defaultdict, namedtuple
from types import MappingProxyType

import numpy as np
import pytest
from helpers import assert_same_bits, misaligned, read_only

import fastopt

F = np.float32
Pair = namedtuple("Pair", "weight bias")


def usable(array, dtype=F):
    flags = array.flags
    return array.dtype == dtype and array.dtype.isnative and flags.c_contiguous and flags.aligned


@pytest.mark.parametrize("make", [
    lambda a: a, lambda a: a.astype(np.float16), lambda a: a.astype(np.longdouble), lambda a: a.astype(">f8"),
    lambda a: a.astype(">f4"), lambda a: a.astype(F).T, lambda a: a.T, lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    lambda a: misaligned(a.astype(F)), lambda a: a[0, 0, ...], lambda a: a[:0], lambda a: read_only(a),
    lambda a: a.astype(F)[:, ::-1],
], ids=range(13))
@pytest.mark.parametrize("dtype", [F, np.float64])
def test_arrays(make, dtype, rng):
    array = make(rng.integers(-9, 9, (5, 3)) / 4.0)      # exact in float16
    before = array.copy()
    got = fastopt.cast(array, dtype)
    if usable(array, dtype):
        assert got is array
        return
    assert usable(got, dtype)
    assert got.shape == array.shape
    assert got.flags.writeable
    assert got.flags.owndata
    np.testing.assert_array_equal(got, array)
    np.testing.assert_array_equal(array, before)
    assert array.dtype == before.dtype
    assert fastopt.cast(got, dtype) is got


def test_what_is_float32_already_is_not_copied():
    for array in (np.ones((3, 4), F), np.ones(0, F), read_only(np.ones(2, F)), np.ones((), F)):
        assert fastopt.cast(array) is array
        assert fastopt.cast([array])[0] is array


@pytest.mark.parametrize("leaf", [
    np.arange(3), np.uint8([1, 2]), np.array([True]), np.array(["a"]), np.array([None, 1.0], object), 1j * np.ones(2),
    1, 0.1, True, None, "name", b"bytes", np.float64(0.1), np.int64(3), {1, 2}, np.zeros,
], ids=str)
def test_everything_else_is_returned_as_it_is(leaf):
    assert fastopt.cast(leaf) is leaf
    assert fastopt.cast({"a": [leaf]})["a"][0] is leaf


def test_nested_containers_keep_their_types():
    a, b = np.ones(3), np.arange(2.0)
    tree = {"layers": [(a, b), Pair(a, None)], "rest": {"x": ({"y": [a]},), 3: "name"}, "labels": np.arange(3)}
    got = fastopt.cast(tree)
    assert type(got) is dict
    assert list(got) == ["layers", "rest", "labels"]
    assert [type(item) for item in got["layers"]] == [tuple, Pair]
    assert type(got["rest"]["x"][0]["y"]) is list
    assert got["rest"][3] == "name"
    assert got["labels"] is tree["labels"]
    new = got["layers"][0][0]
    assert usable(new)
    assert new is got["layers"][1].weight is got["rest"]["x"][0]["y"][0]    # tied weights stay tied
    assert got["layers"][1].bias is None
    assert tree["layers"][0][0] is a
    assert a.dtype == np.float64


class Params(dict):
    """A dict with an attribute, as some programs have."""


class Layers(list):
    pass


def test_subclasses_of_dict_and_list():
    a = np.ones(3)
    for tree in (OrderedDict([("b", a), ("a", a)]), defaultdict(list, b=a, a=a), Params(b=a, a=a)):
        tree_type = type(tree)
        if tree_type is Params:
            tree.name = "mlp"
        got = fastopt.cast(tree)
        assert type(got) is tree_type
        assert list(got) == ["b", "a"]
        assert got is not tree
        assert usable(got["b"])
        assert tree["b"] is a
        if tree_type is defaultdict:
            assert got["c"] == []
        if tree_type is Params:
            assert got.name == "mlp"
    layers = Layers([a, a])
    got = fastopt.cast(layers)
    assert type(got) is Layers
    assert got[0] is got[1]
    assert layers[0] is a


def test_counters_are_not_added_up():
    got = fastopt.cast([Counter(a=2, b=1)])
    assert got == [Counter(a=2, b=1)]
    assert type(got[0]) is Counter


def test_tuples_that_cannot_be_made_of_their_items():
    class Pair(tuple):
        __slots__ = ()

        def __new__(cls, first, second):
            return super().__new__(cls, (first, second))

    tree = {"made": os.stat("."), "version": sys.version_info, "pair": Pair(np.ones(2), 3)}
    result = fastopt.cast(tree)
    assert result["made"] is tree["made"]
    assert result["version"] is sys.version_info
    assert type(result["pair"]) is Pair
    assert result["pair"][0].dtype == np.float32
    assert result["pair"][1] == 3


def test_other_mappings_become_dicts(tmp_path):
    np.savez(tmp_path / "weights.npz", W=np.ones((2, 3)), t=np.arange(2))
    with np.load(tmp_path / "weights.npz") as file:
        got = fastopt.cast(file)
    assert type(got) is dict
    assert usable(got["W"])
    assert got["t"].dtype == np.arange(2).dtype
    assert usable(fastopt.cast(MappingProxyType({"a": np.ones(2)}))["a"])


def test_a_container_that_occurs_twice_does_so_in_the_result():
    shared = {"w": np.ones(2)}
    got = fastopt.cast([shared, (shared,)])
    assert got[0] is got[1][0]
    got = fastopt.cast([np.ones(2), np.ones(2)])
    assert got[0] is not got[1]
    assert fastopt.cast([(), [], ()]) == [(), [], ()]


def test_arrays_that_exist_for_a_moment_only():
    """An array's id is another's as soon as it is gone."""
    class Fresh(list):
        def __iter__(self):
            return (np.full(3, float(value)) for value in super().__iter__())

    got = fastopt.cast([Fresh([i]) for i in range(50)])
    assert [int(list.__getitem__(item, 0)[0]) for item in got] == list(range(50))


def test_a_container_that_contains_itself():
    tree = {"a": [np.ones(2)]}
    tree["a"].append(tree)
    with pytest.raises(ValueError, match=r"^tree\['a'\]\[1\]: expected a tree, got a container that contains itself$"):
        fastopt.cast(tree)


def test_special_values():
    """inf and NaN are kept; what is below float32's normal range is rounded, subnormals included."""
    got = fastopt.cast(np.array([np.inf, -np.inf, np.nan, 1e-40, -1e-45, 1e-60, 0.1, -0.0]))
    assert_same_bits(got, np.array([np.inf, -np.inf, np.nan, 1e-40, -1e-45, 0.0, 0.1, -0.0], F))
    assert np.signbit(got[-1])
    assert got[3] > 0
    with np.errstate(all="raise"):
        fastopt.cast(np.array([1e-60, 1.0]))


@pytest.mark.parametrize(("tree", "error", "message"), [
    ({"w": [0.0, np.array([[1, 2], [-1e39, np.inf]])]}, ValueError,
     r"^tree\['w'\]\[1\]: expected numbers in the range of float32, got tree\['w'\]\[1\]\[1, 0\] = -1e\+39$"),
    (np.array([np.inf, 3.5e38]), ValueError, r"^tree: expected .* got tree\[1\] = 3.5e\+38$"),
    ((np.ma.masked_array([1.0], [True]),), TypeError, r"^tree\[0\]: expected an array without a mask, got a masked"),
    (np.ma.masked_array(np.ones(2, F)), TypeError, "^tree: expected an array without a mask"),
    ([np.ma.masked_array([1, 2])], TypeError, r"^tree\[0\]: expected an array without a mask"),
])
def test_refused(tree, error, message):
    with np.errstate(all="raise"), pytest.raises(error, match=message):
        fastopt.cast(tree)


@pytest.mark.parametrize("dtype", [np.float16, np.int64, None, "f", ">f4", ">f8", "numbers", 4, np.longdouble])
def test_dtypes(dtype):
    if dtype == "f":
        assert usable(fastopt.cast(np.ones(2), dtype))
        return
    with pytest.raises(TypeError, match="^dtype: expected float32 or float64, got "):
        fastopt.cast(np.ones(2), dtype)


def test_float64_keeps_the_largest_numbers():
    assert fastopt.cast(np.array([1e300]), np.float64)[0] == 1e300
    huge = np.array([np.longdouble("1e400")])
    if np.isfinite(huge[0]):        # not where longdouble is double
        with pytest.raises(ValueError, match=r"in the range of float64, got tree\[0\] = 1e\+400$"):
            fastopt.cast(huge, np.float64)


class Layer:
    def __init__(self, weight, x=None):
        self.weight, self.x, self.size = weight, x, 3


def test_attributes_of_objects():
    """The two ways that the docstring names."""
    layer = Layer(np.ones(3))
    assert fastopt.cast([layer])[0] is layer
    vars(layer).update(fastopt.cast(vars(layer)))
    assert usable(layer.weight)
    tied = np.ones((2, 2))
    layers = [Layer(tied), Layer(tied)]
    for layer, new in zip(layers, fastopt.cast([vars(layer) for layer in layers]), strict=True):
        vars(layer).update(new)
    assert usable(layers[0].weight)
    assert layers[0].weight is layers[1].weight


def test_what_it_returns_trains_and_pickles(rng):
    params = fastopt.cast({"w": rng.standard_normal((4, 3)), "layers": [rng.standard_normal(3)]})
    flat = [params["w"], params["layers"][0]]
    fastopt.SGD(lr=1.0).update(flat, [array.copy() for array in flat])
    assert all((array == 0).all() for array in flat)
    assert pickle.loads(pickle.dumps(params))["w"].dtype == F
