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
        if defect in function.takes.get(name, ()):
            getattr(fastopt, function.name)(**arrays, **function.options)
        else:
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


CAST = "; cast the data and the parameters once, with fastopt.cast"
ASTYPE = "; its astype(numpy.float32) is a float32 copy"
CONTIGUOUS = "; numpy.ascontiguousarray makes a contiguous copy"


def test_the_message_says_what_came():
    param, grad = np.ones((3, 4), np.float32), np.ones((4, 3))
    with pytest.raises(TypeError) as caught:
        fastopt.sgd(param, grad, lr=0.1)
    assert str(caught.value) == f"grad: expected C-contiguous float32 of shape (3, 4), got float64 (4, 3){CAST}"


@pytest.mark.parametrize(("make", "hint"), [
    (lambda a: a.astype(np.float64), CAST), (lambda a: a.astype(np.float16), CAST),
    (lambda a: a.astype(np.longdouble), CAST), (lambda a: a.astype(">f4"), CAST), (lambda a: a.astype(">f8"), CAST),
    (lambda a: strided(a.astype(np.float64)), CAST), (lambda a: a.astype(int), ASTYPE),
    (lambda a: a.astype(bool), ASTYPE), (lambda a: a.astype(np.uint8), ASTYPE), (strided, CONTIGUOUS),
    (lambda a: a.T.copy().T, CONTIGUOUS), (misaligned, "; its copy() is aligned"),
    (lambda a: a.T, ""), (lambda a: a[1:], ""), (lambda a: misaligned(a[1:]), ""),    # another shape
    (lambda a: a.astype(complex), ""), (lambda a: a.astype(object), ""), (lambda a: np.ma.masked_array(a), ""),
    (lambda a: np.ma.masked_array(a, dtype=np.float64), ""), (lambda a: None, ""), (lambda a: a.tolist(), ""),
    (lambda a: np.float64(1), ""),
], ids=range(22))
def test_the_message_says_what_to_do(make, hint):
    """Only what makes the array right: what has another shape is not helped by a copy."""
    param = np.ones((3, 4), np.float32)
    with pytest.raises((TypeError, ValueError), match=r"^grad: ") as caught:
        fastopt.sgd(param, make(param), lr=0.1)
    _, separator, rest = str(caught.value).partition(", got ")
    assert separator
    assert rest.partition(";")[2] == hint[1:] if hint else ";" not in rest


@pytest.mark.parametrize(("make", "hint"), [
    (lambda a: a.astype(int), ASTYPE), (strided, CONTIGUOUS), (misaligned, "; its copy() is aligned"),
])
def test_a_copy_of_what_is_written_must_be_kept(make, hint):
    ones = np.ones((3, 4), np.float32)
    for call, name in ((lambda a: fastopt.sgd(a, ones, lr=0.1), "param"),
                       (lambda a: fastopt.softmax(ones, out=a), "out"),
                       (lambda a: fastopt.SGD(lr=0.1).update({"w": a}, {"w": ones}), "params['w']")):
        with pytest.raises((TypeError, ValueError)) as caught:
            call(make(ones))
        assert str(caught.value).startswith(f"{name}: expected writable")
        assert str(caught.value).endswith(f"{hint}, to be kept in its place")


def test_the_remedies_work():
    param = np.ones((3, 4), np.float32)
    for wrong, right in ((param.astype(np.float64), fastopt.cast), (param.astype(">f4"), fastopt.cast),
                         (param.astype(int), lambda a: a.astype(np.float32)), (strided(param), np.ascontiguousarray),
                         (misaligned(param), lambda a: a.copy())):
        with pytest.raises((TypeError, ValueError), match="; "):
            fastopt.sgd(param, wrong, lr=0.1)
        fastopt.sgd(param, right(wrong), lr=0.1)


def test_float64_where_float64_is_expected():
    with pytest.raises(TypeError, match=r"^statistics.mean: expected C-contiguous float64 .* got float32 \(3,\)$"):
        fastopt.batch_norm_forward(np.ones((4, 3), np.float32), *np.ones((2, 3), np.float32),
                                   statistics=(4, np.zeros(3, np.float32), np.ones(3)))


@pytest.mark.parametrize("call", [
    lambda a: fastopt.SGD(lr=0.1).update({"W1": a}, {"W1": a}), lambda a: fastopt.sgd(a, a, lr=0.1),
    lambda a: fastopt.softmax(a), lambda a: fastopt.softmax_cross_entropy(a, [0, 1, 2]),
    lambda a: fastopt.linear_cross_entropy(a, a, [0, 1, 2]), lambda a: fastopt.embedding_forward(a, np.arange(2)),
    lambda a: fastopt.batch_norm_forward(a, a[0], a[0]), lambda a: fastopt.layer_norm_forward(a, a[0], a[0]),
    lambda a: fastopt.rms_norm_forward(a, a[0]), lambda a: fastopt.activation_forward(a, "relu"),
    lambda a: fastopt.dropout_forward(a, 0.5, 1), lambda a: fastopt.Layer({"W1": a}),
    lambda a: fastopt.BatchNorm(3).forward(a), lambda a: fastopt.Dense(3, 2, rng=np.random.default_rng(0)).forward(a),
    lambda a: fastopt.Adam().load_state_dict({"step_count": 1, "steps": {0: 1}, "state": {0: {"m": a, "v": a}}}),
    lambda a: fastopt.softmax_cross_entropy(np.ones((2, 3), np.float32), [0, 1], class_weight=a[0]),
    lambda a: fastopt.softmax(np.ones((3, 3), np.float32), out=a),
], ids=range(17))
def test_every_family_says_what_to_do_about_float64(call):
    with pytest.raises(TypeError, match=r", got float64.*; cast the data and the parameters once, with fastopt\.cast$"):
        call(np.ones((3, 3)))


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
