"""Every public function against every defect: an error that names the argument, and nothing written."""

import numpy as np
import pytest
from arguments import FUNCTIONS
from helpers import assert_same_bits, misaligned, read_only, unaligned

import fastopt


def strided(array):
    return np.repeat(array, 2, axis=-1)[..., ::2]


DEFECTS = {
    "float64": (lambda a: a.astype(np.float64), TypeError),
    "float16": (lambda a: a.astype(np.float16), TypeError),
    "int32": (lambda a: a.astype(np.int32), TypeError),
    "complex64": (lambda a: a.astype(np.complex64), TypeError),
    "other byte order": (lambda a: a.astype(">f4"), TypeError),
    "object": (lambda a: a.astype(object), TypeError),
    "datetime64": (lambda a: np.zeros(a.shape, "datetime64[s]"), TypeError),
    "list": (lambda a: a.tolist(), TypeError),
    "string": (lambda a: "array", TypeError),
    "masked array": (lambda a: np.ma.masked_array(a, np.zeros(a.shape, bool)), TypeError),
    "strided": (strided, ValueError),
    "reversed": (lambda a: a[..., ::-1], ValueError),
    "misaligned": (misaligned, ValueError),
    "one element more": (lambda a: np.append(a.ravel(), a.dtype.type(1)), ValueError),
    "one dimension more": (lambda a: a[np.newaxis].copy(), ValueError),
    "one dimension less": (lambda a: np.array(a[..., 0]), (TypeError, ValueError)),
    "one column more": (lambda a: np.concatenate([a, a[..., :1]], axis=-1), ValueError),
    "one column less": (lambda a: a[..., :-1].copy(), ValueError),
    "empty": (lambda a: np.empty(0, a.dtype), ValueError),
}
SHAPES = {"one element more", "one dimension more", "one dimension less", "one column more", "one column less", "empty"}

FUNCTION = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)


def refused(function, arguments, error, argument):
    """Call and expect an error about `argument`; every array must be as before."""
    arrays = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}
    before = {name: array.copy() for name, array in arrays.items()}
    with pytest.raises(error, match=rf"^{argument}") as caught:
        getattr(fastopt, function.name)(**arguments)
    assert ": expected " in str(caught.value)
    assert ", got " in str(caught.value)
    for name, array in arrays.items():
        if array.dtype == np.float32:
            assert_same_bits(np.asarray(array), np.asarray(before[name]), name)
        else:
            assert array.tobytes() == before[name].tobytes(), name


@FUNCTION
def test_valid_arguments_are_accepted(function, rng):
    getattr(fastopt, function.name)(**function.arrays(rng), **function.options)


@FUNCTION
@pytest.mark.parametrize("defect", DEFECTS)
def test_wrong_array(function, defect, rng):
    make, error = DEFECTS[defect]
    names = list(function.arrays(rng))
    for name in names:
        if name == names[0] and defect in SHAPES:
            continue  # the first array says what shape the others must have
        arrays = function.arrays(rng)
        arrays[name] = make(arrays[name])
        refused(function, {**arrays, **function.options}, error, name)


@FUNCTION
def test_read_only(function, rng):
    for name in function.written:
        arrays = function.arrays(rng)
        arrays[name] = read_only(arrays[name])
        refused(function, {**arrays, **function.options}, ValueError, name)


@FUNCTION
def test_read_only_input_is_accepted(function, rng):
    arrays = function.arrays(rng)
    arrays = {name: array if name in function.written else read_only(array) for name, array in arrays.items()}
    getattr(fastopt, function.name)(**arrays, **function.options)


@FUNCTION
def test_overlap(function, rng):
    names = list(function.arrays(rng))
    for written in function.written:
        for other in names:
            if other == written:
                continue
            same = (written, other) in function.overlap or (other, written) in function.overlap
            shape = function.arrays(rng)[other].shape
            if function.arrays(rng)[written].shape != shape:
                continue
            size = int(np.prod(shape))
            room = np.ones(2 * size, np.float32)
            for shift in (0, 1, size - 1)[same:]:   # identical (which may be allowed), all but one element, one element
                arrays = function.arrays(rng)
                arrays[written] = room[:size].reshape(shape)
                arrays[other] = room[shift : shift + size].reshape(shape)
                refused(function, {**arrays, **function.options}, ValueError, f"({written}|{other})")


@FUNCTION
def test_neighbours_do_not_overlap(function, rng):
    arrays = function.arrays(rng)
    room = np.empty(sum(array.size for array in arrays.values()), np.float32)
    start = 0
    for name, array in arrays.items():
        arrays[name] = room[start : start + array.size].reshape(array.shape)
        arrays[name][...] = array
        start += array.size
    getattr(fastopt, function.name)(**arrays, **function.options)


@FUNCTION
def test_unaligned_to_vectors_is_accepted(function, rng):
    arrays = {name: unaligned(array, 1) for name, array in function.arrays(rng).items()}
    getattr(fastopt, function.name)(**arrays, **function.options)


@FUNCTION
def test_wrong_number(function, rng):
    for argument, value in function.refused:
        arguments = {**function.arrays(rng), **function.options, argument: value}
        refused(function, arguments, (TypeError, ValueError), argument)


@pytest.mark.parametrize("name", ["m", "v"])
def test_a_state_left_out(name, rng):
    arrays = {key: np.ones(3, np.float32) for key in ("param", "grad", "m", "v")}
    arrays[name] = None
    with pytest.raises(TypeError, match=rf"^{name}: expected writable C-contiguous float32 of shape \(3,\), got None"):
        fastopt.adam(**arrays, step=1)
    with pytest.raises(TypeError, match="^buf: expected"):
        fastopt.sgd(arrays["param"], arrays["grad"], lr=0.1, momentum=0.9)


def test_the_message_says_what_came():
    param, grad = np.ones((3, 4), np.float32), np.ones((4, 3))
    with pytest.raises(TypeError) as caught:
        fastopt.sgd(param, grad, lr=0.1)
    assert str(caught.value) == "grad: expected C-contiguous float32 of shape (3, 4), got float64 (4, 3)"


@pytest.mark.filterwarnings("ignore:future versions will not create a writeable array:FutureWarning")
def test_an_output_that_numpy_warns_of_writing_to():
    """Other elements may share its memory: NumPy exports it as read-only, though its flags say otherwise."""
    shared = np.broadcast_arrays(np.ones((1, 3), np.float32), np.ones(3, np.float32))[1]
    assert shared.flags.c_contiguous
    ones = np.ones((1, 3), np.float32)
    with pytest.raises(ValueError, match="^out: expected writable"):
        fastopt.softmax(ones, out=shared)
    with pytest.raises(ValueError, match="^param: expected writable"):
        fastopt.sgd(shared, ones, lr=0.1)
    fastopt.sgd(ones, shared, lr=0.1)       # it may be read
    assert (shared == 1.0).all()


@pytest.mark.parametrize("dimensions", range(8))
def test_arrays_of_any_number_of_dimensions(dimensions):
    """Those of more than four are not held by their heads."""
    x = np.arange(2.0**dimensions, dtype=np.float32).reshape((2,) * dimensions)
    param = x.copy()
    fastopt.sgd(param, x, lr=1.0)
    assert (param == 0.0).all()
    if dimensions:
        np.testing.assert_allclose(fastopt.softmax(x).sum(axis=-1), 1.0, rtol=1e-6)
        with pytest.raises(ValueError, match="^out: expected writable C-contiguous float32 of shape"):
            fastopt.softmax(x, out=x.ravel().copy() if dimensions > 1 else np.ones(3, np.float32))
