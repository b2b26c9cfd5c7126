"""What a user does in place to arrays that are bound: every step looks at them again."""

import array
import pickle
import sys
import warnings

import numpy as np
import pytest
from helpers import assert_same_bits, run

import fastopt
from fastopt._runtime import arrays

F = np.float32


@pytest.fixture(params=["heads", "buffers"])
def comparison(request):
    """By NumPy's array heads, or by acquiring each buffer again, as with a NumPy that has other heads."""
    before = arrays.swap_reads_heads(request.param == "heads")
    yield request.param
    arrays.swap_reads_heads(before)


def test_numpys_array_heads_are_read():
    """As long as the fallback is needed nowhere."""
    before = arrays.swap_reads_heads(True)
    arrays.swap_reads_heads(before)
    assert before


def retype(array):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)     # NumPy 2.5 on
        array.dtype = np.int32


def reshape(array):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        array.shape = (2, 2)


def freeze(array):
    array.flags.writeable = False


def grow(array):
    array.resize(100_000, refcheck=False)


def shrink(array):
    array.resize(3, refcheck=False)


REFUSED = [(grow, r"got float32 \(100000,\)"), (shrink, r"got float32 \(3,\)"), (reshape, r"got float32 \(2, 2\)"),
           (retype, r"got int32 \(4,\)"), (freeze, "got float32 .*read-only")]


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}], ids=["plain", "clip_norm"])
@pytest.mark.parametrize("which", ["param", "grad", "m", "average"])
@pytest.mark.parametrize(("change", "got"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_an_array_changed_in_place_is_refused(change, got, which, options, comparison):
    """The usual error, with nothing written."""
    params, grads = {"w": np.ones(4, F), "b": np.ones(4, F)}, {"w": np.ones(4, F), "b": np.ones(4, F)}
    opt = fastopt.Adam(average_decay=0.5, **options)
    opt.update(params, grads)
    opt.update(params, grads)
    changed = {"param": params, "grad": grads}.get(which) or {key: opt.state[key][which] for key in params}
    if change is freeze and which == "grad":
        freeze(changed["b"])
        opt.update(params, grads)       # it is only read
        return
    change(changed["b"])
    kept = {key: param.tobytes() for key, param in params.items()}
    if which == "param" and change not in (retype, freeze):
        got = r"got float32 \(4,\)"     # its state's shape, which is no longer the parameter's
    with pytest.raises((TypeError, ValueError), match=rf"^(params|grads|state \w+)\['b'\]: expected .*{got}"):
        opt.update(params, grads)
    assert opt.step_count == 2
    assert {key: param.tobytes() for key, param in params.items()} == kept


def test_all_arrays_of_a_parameter_changed_alike_are_bound_anew(comparison):
    """A parameter without state may become another one between two steps, and so may its gradient."""
    param, grad = np.zeros(4, F), np.ones(4, F)
    opt = fastopt.SGD(lr=1.0)
    opt.update([param], [grad])
    for array_ in (param, grad):
        reshape(array_)
    opt.update([param], [grad])
    assert_same_bits(param, np.full((2, 2), -2.0, F))
    for array_ in (param, grad):
        array_.resize(30, refcheck=False)
    opt.update([param], [grad])
    assert_same_bits(param, np.r_[np.full(4, -3.0, F), np.zeros(26, F)])
    assert opt.step_count == 3


def test_a_gradient_that_became_another_float_type_is_converted(comparison):
    param, grad = np.zeros(4, F), np.ones(8, F)
    opt = fastopt.SGD(lr=1.0)
    grad.resize(4, refcheck=False)
    opt.update([param], [grad])
    grad.resize(8, refcheck=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        grad.dtype = np.float64
    grad[...] = 2.0
    opt.update([param], [grad])
    assert_same_bits(param, np.full(4, -3.0, F))


def test_a_state_array_changed_in_place_takes_part_in_the_next_step(comparison):
    param, grad = np.zeros(4, F), np.zeros(4, F)
    opt = fastopt.Momentum(lr=1.0, momentum=1.0)
    opt.update(param, grad)
    opt.state[0]["v"][...] = 2.0
    opt.update(param, grad)
    assert_same_bits(param, np.full(4, 2.0, F))


def test_arrays_from_a_pickle_are_compared_by_their_heads():
    """Their dtype is an object of its own, which may go when the array gets another."""
    param, grad = (pickle.loads(pickle.dumps(np.ones(4, F))) for _ in range(2))
    assert param.dtype is not np.dtype(F)
    opt = fastopt.SGD(lr=1.0)
    for _ in range(3):
        opt.update([param], [grad])
    assert_same_bits(param, np.full(4, -2.0, F))
    retype(grad)
    with pytest.raises(TypeError, match=r"^grads\[0\]: expected .* got int32"):
        opt.update([param], [grad])
    retype(param)
    with pytest.raises(TypeError, match=r"^params\[0\]: expected .* got int32"):
        opt.update([param], [grad])


def test_a_schedule_that_changes_the_arrays():
    """What runs within the call cannot get between the comparison and the native code."""
    params, grads = [np.ones(4, F)], [np.ones(4, F)]

    def lr(step):
        if step == 3:
            params[0].resize(100_000, refcheck=False)
        return 1.0

    opt = fastopt.SGD(lr=1.0)
    opt.update(params, grads)
    opt.lr = lr
    opt.update(params, grads)
    with pytest.raises(ValueError, match=r"^grads\[0\]: expected"):
        opt.update(params, grads)
    assert opt.step_count == 2

    params[0] = np.ones(4, F)
    opt = fastopt.SGD(lr=1.0, per_param=lambda key, array: array.resize(array.size + 1, refcheck=False) or {})
    with pytest.raises(ValueError, match=r"^grads\[0\]: expected"):
        opt.update(params, grads)


def test_code_that_runs_while_gradients_are_converted():
    """NumPy's error callback, after other gradients have been bound."""
    params, first = [np.zeros(4, F), np.zeros(4, F)], np.ones(4, F)
    opt = fastopt.SGD(lr=1.0)
    before = np.seterrcall(lambda kind, flag: first.resize(100_000, refcheck=False))
    try:
        with np.errstate(over="call"), pytest.raises(ValueError, match=r"^grads\[0\]: expected .* \(100000"):
            opt.update(params, [first, np.full(4, 1e300)])
    finally:
        np.seterrcall(before)
    assert first.size == 100_000
    assert not np.concatenate(params).any()
    assert opt.step_count == 0


class Subclass(np.ndarray):
    pass


@pytest.mark.parametrize("make", [
    lambda: np.ones(4, F).view(Subclass), lambda: array.array("f", [1.0] * 4),
    lambda: memoryview(bytearray(np.ones(4, F).tobytes())).cast("f"),
], ids=["subclass", "array.array", "memoryview"])
def test_other_exporters_than_arrays(make):
    param, grad = make(), make()
    opt = fastopt.SGD(lr=0.25)
    for _ in range(3):
        opt.update([param], [grad])
    np.testing.assert_array_equal(np.asarray(param), 0.25)


class Fresh:
    """Exports (from Python 3.12 on) another buffer at each request."""

    def __init__(self, array):
        self.array = array

    def __buffer__(self, flags):
        return memoryview(self.array.copy())


@pytest.mark.parametrize("size", [4, 100_000])
@pytest.mark.parametrize("make", [pickle.PickleBuffer, pytest.param(Fresh, marks=pytest.mark.skipif(
    sys.version_info < (3, 12), reason="__buffer__ needs Python 3.12"))])
def test_a_gradient_whose_buffer_another_object_exports(make, size):
    """It is read anew at each step."""
    param, array_ = np.zeros(size, F), np.ones(size, F)
    grad, opt = make(array_), fastopt.SGD(lr=1.0)
    for _ in range(3):
        opt.update([param], [grad])
        array_ *= 2.0
    assert (param == -7.0).all()
    array_.resize(3, refcheck=False)
    with pytest.raises(ValueError, match=r"^grads\[0\]: expected .* of shape"):
        opt.update([param], [grad])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__ needs Python 3.12")
@pytest.mark.parametrize("at", range(1, 12))
def test_a_parameter_whose_buffer_resizes_a_gradient(at):
    """Whichever of its calls it is: the gradient is refused, its freed memory not read."""
    memory, grad, calls = np.zeros(4, F), np.ones(4, F), []

    class Param:
        def __buffer__(self, flags):
            calls.append(flags)
            if len(calls) == at:
                grad.resize(10_000_000, refcheck=False)
            return memoryview(memory)

    opt, params = fastopt.SGD(lr=1.0), [Param(), np.zeros(4, F)]

    def updates():
        for _ in range(12):
            opt.update(params, [grad, np.ones(4)])

    with pytest.raises(ValueError, match=r"^grads\[0\]: expected .* got float32 \(10000000,\)"):
        updates()
    assert (memory == -opt.step_count).all()


def test_other_exporters_that_change():
    """An array.array with an exported buffer refuses to; a subclass of ndarray does not."""
    numbers = array.array("f", [1.0] * 4)
    opt = fastopt.SGD(lr=0.25)
    opt.update([numbers], [np.ones(4, F)])
    with pytest.raises(BufferError):
        numbers.append(1.0)

    for param in (np.ones(4, F).view(Subclass).copy(), np.ones(4, F)):
        grad = np.ones(4, F).view(Subclass).copy()
        opt = fastopt.SGD(lr=0.25)
        opt.update([param], [grad])
        grad.resize(100_000, refcheck=False)
        with pytest.raises(ValueError, match=r"^grads\[0\]: expected"):
            opt.update([param], [grad])
        param.resize(100_000, refcheck=False)
        opt.update([param], [grad])
        assert (param[:4] == 0.5).all()


def test_freed_memory_is_never_touched():
    """Growing and shrinking arrays between steps, with the allocator told to spoil what is freed."""
    run("""
    import numpy as np, fastopt
    rng = np.random.default_rng(0)
    params, grads = [np.ones(5, np.float32) for _ in range(8)], [np.ones(5, np.float32) for _ in range(8)]
    opt, done = fastopt.Adam(average_decay=0.5), 0
    for k in range(2000):
        i, size = rng.integers(8), int(rng.choice([1, 5, 5, 5, 1000, 300_000]))
        own = [opt.state[i][name] for name in ("m", "v", "average")] if i in opt.state else []
        for array in [params[i], grads[i], *own][: rng.integers(1, 6)]:
            array.resize(size, refcheck=False)
        sizes = [len({p.size, g.size, *(a.size for a in (opt.state[j].values() if j in opt.state else []))})
                 for j, (p, g) in enumerate(zip(params, grads))]
        try:
            opt.update(params, grads)
            assert max(sizes) == 1
            done += 1
        except ValueError:
            assert max(sizes) > 1
            for array in [params[i], grads[i], *own]:
                array.resize(size, refcheck=False)
    assert opt.step_count == done > 200
    """, MALLOC_PERTURB_="165")


NOT_ARRAYS = [(dict, "type"), ({1.0}, "set"), (range(3), "range"), (None, "None"), ("w", "str"),
              (np.ma.masked_array(np.ones(3, F)), "masked array"), (np.array([np.ones(2)], object), "object")]


@pytest.mark.parametrize("options", [{}, {"average_decay": 0.5}, {"per_param": lambda key, p: {"lr": 1.0 / p.ndim}}],
                         ids=["plain", "average", "per_param"])
@pytest.mark.parametrize(("bad", "got"), NOT_ARRAYS, ids=[got for _, got in NOT_ARRAYS])
def test_a_parameter_that_is_no_array_is_named(bad, got, options):
    """Before it reaches NumPy or per_param."""
    good = np.ones(3, F)
    for cls in (fastopt.SGD, fastopt.Adam):
        with pytest.raises(TypeError, match=rf"^params\[1\]: expected writable C-contiguous float32 array, got {got}"):
            cls(**options).update([good, bad], [np.ones(3, F), bad])
        if bad is None:
            continue                # no gradient
        with pytest.raises(TypeError, match=rf"^grads\[1\]: expected C-contiguous float32 of shape \(3,\), got {got}"):
            cls(**options).update([good.copy(), good.copy()], [np.ones(3, F), bad])
    assert (good == 1.0).all()
