"""What a call borrows it gives back: references to arrays and C memory, when it is refused as well."""

import ctypes
import gc
import sys
import weakref

import numpy as np
import pytest
from arguments import FUNCTIONS
from fastopt._runtime.arrays import Array

import fastopt

CALLS = 400


class Heap(ctypes.Structure):
    """struct mallinfo2 of glibc."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]


@pytest.fixture(scope="module")
def allocated():
    """A function that returns how many bytes of malloc are in use."""
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        pytest.skip("needs glibc's mallinfo2")
    mallinfo.restype = Heap

    def count():
        heap = mallinfo()
        return heap.uordblks + heap.hblkhd

    return count


def labels_and_counts(rng):
    x = rng.standard_normal((3, 40), dtype=np.float32)
    return {"logits": x, "labels": np.array([0, 1, 2]), "reduction": "none", "count_correct": True}


CASES = [
    *(pytest.param(function.name, lambda rng, row=function: {**row.arrays(rng), **row.options}, function.refused,
                   id=function.name) for function in FUNCTIONS),
    pytest.param("softmax_cross_entropy", labels_and_counts, (), id="softmax_cross_entropy of labels"),
    pytest.param("softmax_cross_entropy_loss", labels_and_counts, (), id="softmax_cross_entropy_loss of labels"),
]


def calls(name, arguments, refused):
    """The call, and those that are refused: for a wrong number, and for the last array's type, seen after others."""
    function = getattr(fastopt, name)
    arrays = [key for key, value in arguments.items() if isinstance(value, np.ndarray)]
    wrong = [{**arguments, key: value} for key, value in refused if key in ("axis", "eps", "lr")][:1]
    wrong.append({**arguments, arrays[-1]: 0.5})

    def run():
        function(**arguments)
        for bad in wrong:
            try:
                function(**bad)
            except (TypeError, ValueError):
                continue
            raise AssertionError("was not refused")

    return run


@pytest.mark.parametrize(("name", "make", "refused"), CASES)
def test_everything_is_given_back(name, make, refused, rng, allocated):
    arguments = make(rng)
    run = calls(name, arguments, refused)
    for _ in range(CALLS):
        run()
    gc.collect()
    arrays = [value for value in arguments.values() if isinstance(value, np.ndarray)]
    references, bytes_before = [sys.getrefcount(array) for array in arrays], allocated()
    for _ in range(CALLS):
        run()
    gc.collect()
    assert [sys.getrefcount(array) for array in arrays] == references
    assert allocated() - bytes_before < 8 * CALLS       # a block of malloc takes at least 16 bytes


def test_what_long_rows_need_is_given_back(rng, allocated, always_parallel):
    """Two threads share each row: numbers for each of its blocks."""
    x, labels = rng.standard_normal((1, 50_000), dtype=np.float32), np.array([7])
    out = np.empty_like(x)
    with fastopt.num_threads(2):
        for round_ in range(2):
            before = allocated()
            for _ in range(CALLS):
                fastopt.log_softmax(x, out=out)
                fastopt.softmax_cross_entropy(x, labels, out=out)
            gc.collect()
            assert round_ == 0 or allocated() - before < 8 * CALLS


def test_refused_arrays_are_given_back():
    ones = np.ones((2, 6), np.float32)
    for wrong in (np.ones((2, 3)), ones[:, ::2], np.ma.masked_array(ones)):
        references = sys.getrefcount(wrong)
        with pytest.raises((TypeError, ValueError), match="^x: expected"):
            fastopt.softmax(wrong)
        gc.collect()
        assert sys.getrefcount(wrong) == references


def test_an_array_that_refers_to_its_own_cache_is_collected():
    """Array is seen by the garbage collector: a subclass such as an automatic differentiation's can form a cycle."""

    class Tensor(np.ndarray):
        cache: object

    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2).view(Tensor)
    x.cache = fastopt.batch_norm_forward(x, *np.ones((4, 2), np.float32))
    freed = weakref.ref(x)
    del x
    gc.collect()
    assert freed() is None


def test_a_second_init_is_refused_and_loses_nothing():
    first, second = np.ones(3, np.float32), np.ones(4, np.float32)
    references = sys.getrefcount(first)
    held = Array(first, "first")
    with pytest.raises(TypeError, match="^Array: expected one call of __init__, got another"):
        held.__init__(second, "second")
    assert held.shape == (3,)
    del held
    assert sys.getrefcount(first) == references
