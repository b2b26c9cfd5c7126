"""Long rows split over the threads: when that happens, and that no bit depends on it."""

import numpy as np
import pytest
from helpers import THREADS, assert_same_bits, ulps
from logits import log_softmax64

import fastopt
from fastopt._runtime import parallel

SPLIT = 24576       # elements by which splitting must shorten a thread's work
BLOCK = 3072        # elements of a block
LENGTHS = (65536, 22 * BLOCK, 22 * BLOCK + 1, 22 * BLOCK + 15, 22 * BLOCK + 16, 22 * BLOCK - 1, 100_000)
"""Rows that two threads share; the last block has 1 to BLOCK elements before it is merged with a part of another."""
NAMES = ("log_softmax", "softmax", "log_softmax_backward", "softmax_backward")

pytestmark = pytest.mark.usefixtures("always_parallel")


def regions(call, threads):
    before = parallel.state()["regions"]
    with fastopt.num_threads(threads):
        call()
    return parallel.state()["regions"] - before


def inputs(name, x):
    """The arguments of a function for the logits x."""
    if not name.endswith("backward"):
        return [x]
    dy = np.random.default_rng(1).standard_normal(x.shape, dtype=np.float32)
    return [dy, getattr(fastopt, name.removesuffix("_backward"))(x)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("rows", "threads", "least"), [(1, 2, 2 * SPLIT), (3, 2, 2 * SPLIT), (1, 16, 26224),
                                                        (2, 3, 3 * SPLIT), (15, 16, 16 * SPLIT)])
def test_rows_beyond_a_multiple_of_the_threads_are_split(name, rows, threads, least, rng):
    """From the length on at which that shortens a thread's work by SPLIT elements."""
    calls = {}
    for n in (least - 1, least):
        arguments = inputs(name, rng.standard_normal((rows, n), dtype=np.float32))
        calls[n] = regions(lambda arguments=arguments: getattr(fastopt, name)(*arguments), threads)
    whole = int(rows > 1)                       # rows that are tasks need a region if there is more than one
    rest = rows % threads
    split = 3 if "backward" not in name else 1 + int(rest > 1)
    assert calls == {least - 1: whole, least: int(rows - rest > 1) + split}


def test_rows_that_fill_the_threads_are_not_split(rng):
    x = rng.standard_normal((4, 70_000), dtype=np.float32)
    assert regions(lambda: fastopt.log_softmax(x), 2) == 1
    assert regions(lambda: fastopt.softmax_cross_entropy(x, np.zeros(4, int)), 4) == 1


def special_rows(rng, n):
    """name → a row of n logits."""
    rows = {"normal": 3 * rng.standard_normal(n), "ties": rng.integers(-3, 4, n), "far": 1000 + rng.standard_normal(n),
            "all -inf": np.full(n, -np.inf), "all equal": np.full(n, 2.5)}
    for name, at in (("first", 0), ("middle", n // 2), ("last but one", n - n % BLOCK - 1), ("last", n - 1)):
        for value in (30.0, 60.0, np.inf, -np.inf, np.nan):
            rows[f"{value} in the {name} block"] = np.where(np.arange(n) == at, value, 5 * rng.standard_normal(n))
    rows["two of the largest"] = np.where(np.isin(np.arange(n), (5, n - 5)), 20.0, rng.standard_normal(n))
    return {name: row.astype(np.float32) for name, row in rows.items()}


@pytest.mark.parametrize("n", LENGTHS)
def test_same_bits_for_any_threads(n, rng, level):
    kinds = special_rows(rng, n)
    several = np.stack([kinds["normal"], kinds["60.0 in the middle block"], kinds["nan in the last block"]])
    for kind, x in {**{kind: row[None] for kind, row in kinds.items()}, "three rows": several}.items():
        for name in NAMES:
            with np.errstate(all="ignore"), fastopt.num_threads(1):
                arguments = inputs(name, x)
                expected = getattr(fastopt, name)(*arguments)
            if name == "log_softmax" and kind != "three rows":
                exact = log_softmax64(x)
                assert np.array_equal(np.isnan(expected), np.isnan(exact))
                assert ulps(expected[np.isfinite(exact)], exact[np.isfinite(exact)]).max(initial=0.0) <= 2.0
            for i, threads in enumerate(THREADS[1:] if n == LENGTHS[0] else (2, 7)):
                with fastopt.num_threads(threads):
                    assert_same_bits(getattr(fastopt, name)(*arguments), expected, f"{name}, {kind}, {threads} threads")
                    copies = [array.copy() for array in arguments]
                    out = copies[i % len(copies)]
                    getattr(fastopt, name)(*copies, out=out)
                    assert_same_bits(out, expected, f"{name}, {kind}, {threads} threads, in place")


def test_more_rows_than_a_group_holds(rng):
    """70 rows that 128 threads share are two groups."""
    x = rng.standard_normal((70, 73_000), dtype=np.float32)
    labels = rng.integers(x.shape[1], size=len(x))
    with fastopt.num_threads(1):
        expected, (loss, d) = fastopt.log_softmax(x), fastopt.softmax_cross_entropy(x, labels)
    assert regions(lambda: fastopt.log_softmax(x, out=x.copy()), 128) == 6
    with fastopt.num_threads(128):
        assert_same_bits(fastopt.log_softmax(x), expected)
        loss2, d2 = fastopt.softmax_cross_entropy(x, labels)
    assert loss2 == loss
    assert_same_bits(d2, d)


OPTIONS = [
    {}, {"count_correct": True}, {"label_smoothing": 0.1}, {"class_weight": True, "reduction": "none"},
    {"class_weight": True, "label_smoothing": 0.2, "reduction": "sum"}, {"soft": True},
    {"soft": True, "class_weight": True},
]


def both(x, labels, options):
    """The gradient, in a new array and in place, and losses and counts of these calls and of the loss alone."""
    copy = x.copy()
    loss, *found = fastopt.softmax_cross_entropy(x, labels, **options)
    loss2, *found2 = fastopt.softmax_cross_entropy(copy, labels, out=copy, **options)
    alone = fastopt.softmax_cross_entropy_loss(x, labels, **options)
    numbers = loss, loss2, *found[1:], *found2[1:], *(alone if isinstance(alone, tuple) else [alone])
    return found[0], found2[0], np.concatenate([np.ravel(number) for number in numbers]).astype(np.float64)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_cross_entropy(options, rng, level):
    n = 22 * BLOCK + 3
    options = dict(options)
    x = np.stack([row for kind, row in special_rows(rng, n).items() if "inf" not in kind and "nan" not in kind])
    x = np.vstack([x, x])[:15]                  # of 16 threads
    labels = rng.integers(n, size=len(x))
    labels[::3] = x[::3].argmax(1)
    labels[1] = -100
    sensitive = slice(6, 7)                     # a confident row with that label: the loss has the last bits of the sum
    if options.pop("soft", False):
        labels = rng.random(x.shape, dtype=np.float32)
    if "class_weight" in options:
        options["class_weight"] = rng.uniform(0.1, 2, n).astype(np.float32)
    for rows in (slice(0, 1), slice(0, 3), sensitive, slice(None)):
        with fastopt.num_threads(1):
            expected = both(x[rows], labels[rows], options)
        for threads in (2, 4, 256):
            with fastopt.num_threads(threads):
                for ours, theirs in zip(both(x[rows], labels[rows], options), expected, strict=True):
                    assert_same_bits(ours, theirs, f"{threads} threads")


def test_a_label_in_every_block(rng, level):
    n = 22 * BLOCK + 3
    x = rng.standard_normal((1, n), dtype=np.float32)
    top = int(x.argmax())
    for start in range(0, n, BLOCK):
        for label in (start, min(start + BLOCK, n) - 1, top):
            labels = np.array([label])
            with fastopt.num_threads(1):
                loss, d, correct = fastopt.softmax_cross_entropy(x, labels, count_correct=True)
            with fastopt.num_threads(3):
                loss2, d2, correct2 = fastopt.softmax_cross_entropy(x, labels, count_correct=True)
            assert (loss2, correct2) == (loss, correct) == (loss, int(label == top))
            assert_same_bits(d2, d)


def test_writes_nothing_else(rng, level):
    x = rng.standard_normal((1, 22 * BLOCK + 3), dtype=np.float32)
    for name in (*NAMES, "softmax_cross_entropy"):
        room = np.full(x.size + 5000, 7.0, np.float32)
        out = room[2500:-2500].reshape(x.shape)
        arguments = [x, np.zeros(1, int)] if name == "softmax_cross_entropy" else inputs(name, x)
        with fastopt.num_threads(2):
            getattr(fastopt, name)(*arguments, out=out)
        assert (room[:2500] == 7.0).all()
        assert (room[-2500:] == 7.0).all()
