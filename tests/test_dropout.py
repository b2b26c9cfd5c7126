"""Dropout: bits of the reference, the published numbers of Philox, exact probabilities, independence of the mask."""

import pickle

import numpy as np
import pytest
from helpers import AWKWARD, SPECIAL, THREADS, assert_same_bits, bits, compiled, random_bits, unaligned

import fastopt
from fastopt import reference
from fastopt._runtime import parallel
from fastopt.reference._dropout import philox, words

f32 = np.float32
ONES = np.ones(10**7, f32)

# kat_vectors of Random123 1.09: rounds, counter, key, words.
PUBLISHED = [
    (7, "00000000 00000000 00000000 00000000", "00000000 00000000", "5f6fb709 0d893f64 4f121f81 4f730a48"),
    (7, "ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "5207ddc2 45165e59 4d8ee751 8c52f662"),
    (7, "243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "4dfccaba 190a87f0 c47362ba b6b5242a"),
    (10, "00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (10, "ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (10, "243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def forward(x, p, rng, **options):
    return fastopt.dropout_forward(x, p, rng, **options)[0]


def raw(array):
    """Bits, each NaN's own too."""
    return array.view(np.uint32)


# The generator

@pytest.mark.parametrize(("rounds", "counter", "key", "expected"), PUBLISHED)
def test_published_numbers(rounds, counter, key, expected):
    counter, key, expected = ([int(word, 16) for word in text.split()] for text in (counter, key, expected))
    made = philox(tuple(np.array([word], np.uint64) for word in counter), tuple(key), rounds)
    assert made[:, 0].tolist() == expected


@pytest.mark.parametrize("key", [0, 1, 2**32, 2**64 - 1, 0x0123456789ABCDEF])
@pytest.mark.parametrize("group", [0, 1, 2**28 - 1, 2**28, 2**40 + 3, 2**57])
def test_words_of_the_kernels(key, group, level):
    """Groups from 2²⁸ on have counters of more than 32 bits."""
    assert compiled("philox", level).words(key, group) == words(key, 64, group).tolist()


def test_the_first_counter_has_the_published_numbers(level):
    assert [f"{word:08x}" for word in compiled("philox", level).words(0, 0)[::16]] == PUBLISHED[0][3].split()


# Bits

@pytest.mark.parametrize("p", [0.5, 0.1, 0.8, 2.0**-32, 1.0 - 2.0**-32, 0.0, 1.0])
def test_bits_of_the_reference(p, rng, level):
    for size in (0, *AWKWARD, 8191, 8192, 8193, 40_000):
        x = random_bits(rng, size)
        y, cache = fastopt.dropout_forward(x, p, 7)
        expected, other = reference.dropout_forward(x, p, 7)
        assert_same_bits(y, expected, size)
        dy = random_bits(rng, size)
        assert_same_bits(fastopt.dropout_backward(dy, cache), reference.dropout_backward(dy, other), size)


def test_alignment(rng, level):
    for offset in range(16):
        for target in (0, 5, offset):
            x = unaligned(random_bits(rng, 1000), offset)
            out = unaligned(np.zeros(1000, f32), target)
            assert_same_bits(forward(x, 0.3, 9, out=out), reference.dropout_forward(x, 0.3, 9)[0])


@pytest.mark.usefixtures("always_parallel")
@pytest.mark.parametrize("p", [0.3, 0.0, 1.0])
def test_threads_and_in_place(p, rng, level):
    x = random_bits(rng, 70_001)
    dy = random_bits(rng, 70_001)
    expected, cache = reference.dropout_forward(x, p, 11)
    slope = reference.dropout_backward(dy, cache)
    for threads in THREADS:
        with fastopt.num_threads(threads):
            y, cache = fastopt.dropout_forward(x, p, 11)
            assert_same_bits(y, expected)
            assert_same_bits(fastopt.dropout_backward(dy, cache), slope)
            for array, function, right in ((x.copy(), forward, expected), (dy.copy(), None, slope)):
                out = (function(array, p, 11, out=array) if function
                       else fastopt.dropout_backward(array, cache, out=array))
                assert out is array
                assert_same_bits(out, right)


@pytest.mark.parametrize("p", [0.5, 0.0, 1.0])
def test_large_arrays_are_shared_between_threads(p):
    backs_off, before = parallel.swap_back_off(False), parallel.state()["regions"]
    with fastopt.num_threads(2):
        forward(ONES[: 10**6], p, 1)
        forward(ONES[:10_000], p, 1)        # too small for that
    parallel.swap_back_off(backs_off)
    assert parallel.state()["regions"] == before + 1


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (5, 7), (2, 3, 4, 5), (2,) * 7])
@pytest.mark.parametrize("training", [True, False])
def test_shapes(shape, training, rng):
    x = rng.standard_normal(shape, dtype=f32)
    y, cache = fastopt.dropout_forward(x, 0.5, 3, training=training)
    assert y.shape == cache.shape == shape
    assert_same_bits(y, reference.dropout_forward(x, 0.5, 3, training=training)[0])
    dx = fastopt.dropout_backward(x, cache)
    assert_same_bits(dx, y)
    if x.size:
        assert_same_bits(y.ravel(), forward(x.ravel(), 0.5, 3, training=training))


# Special values and probabilities

@pytest.mark.parametrize("module", [fastopt, reference])
def test_dropped_elements_are_positive_zero(module, level):
    x = np.tile(SPECIAL, 1000)
    y, cache = module.dropout_forward(x, 0.5, 1)
    dropped = module.dropout_forward(np.ones_like(x), 0.5, 1)[0] == 0.0
    for value in SPECIAL:
        where = bits(x) == bits(np.array(value))
        assert 400 < np.count_nonzero(where & dropped) < 600
    assert not raw(y[dropped]).any()
    with np.errstate(over="ignore"):
        assert_same_bits(y[~dropped], x[~dropped] * f32(2))
    assert not raw(module.dropout_backward(x, cache)[dropped]).any()


@pytest.mark.parametrize("module", [fastopt, reference])
@pytest.mark.parametrize(("p", "training"), [(0.0, True), (2.0**-33, True), (0.0, False), (0.5, False), (1.0, False)])
def test_nothing_is_dropped(module, p, training, rng, level):
    """Bit for bit, signalling NaNs too. 2⁻³³ · 2³² is a half, which is rounded to the even 0."""
    x = random_bits(rng, 20_000)
    y, cache = module.dropout_forward(x, p, 5, training=training)
    assert (raw(y) == raw(x)).all()
    assert (raw(module.dropout_backward(x, cache)) == raw(x)).all()


@pytest.mark.parametrize("module", [fastopt, reference])
@pytest.mark.parametrize("p", [1.0, 1, 1.0 - 2.0**-33, np.nextafter(1.0, 0.0)])
def test_everything_is_dropped(module, p, rng, level):
    """Also where p · 2³² is rounded to 2³²: a half below it is rounded to even."""
    x = random_bits(rng, 20_000)
    y, cache = module.dropout_forward(x, p, 5)
    assert not raw(y).any()
    assert not raw(module.dropout_backward(x, cache)).any()


def test_an_element_is_dropped_where_its_word_is_below_the_threshold(level):
    """The threshold is exact: it is set to a word, to the next integer, and to halves between."""
    x, w = np.ones(256, f32), words(13, 256)
    for i in (0, 15, 16, 63, 64, 255):
        for threshold in (w[i], w[i] + 1.0, w[i] + 0.5, w[i] - 0.5):
            p = float(threshold) / 2.0**32
            below = w < np.rint(threshold)
            for module in (fastopt, reference):
                y = module.dropout_forward(x, p, 13)[0]
                assert_same_bits(y, np.where(below, f32(0), f32(1 / (1 - p))))


def test_the_factor_is_rounded_once():
    for p in (0.1, 0.3, 1 / 3, 0.7, 0.999, 1 - 2.0**-32):
        y = forward(ONES, p, 2)
        assert set(np.unique(y[y != 0])) <= {f32(1.0 / (1.0 - p))}


# Keys

def test_a_generator_gives_one_key(level):
    for make in (np.random.PCG64, np.random.MT19937, np.random.Philox):
        rng, twin, other = (np.random.Generator(make(1)) for _ in range(3))
        for p in (0.5, 0.0, 1.0):
            y, cache = fastopt.dropout_forward(ONES[:100], p, rng)
            assert cache.key == int(twin.integers(2**64, dtype=np.uint64))
            assert_same_bits(y, reference.dropout_forward(ONES[:100], p, other)[0])
        fastopt.dropout_forward(ONES[:0], 0.5, rng)
        twin.integers(2**64, dtype=np.uint64)
        assert rng.random() == twin.random()


def test_nothing_is_drawn_without_training_or_in_a_refused_call():
    rng, twin = np.random.default_rng(1), np.random.default_rng(1)
    fastopt.dropout_forward(ONES[:9], 0.5, rng, training=False)
    reference.dropout_forward(ONES[:9], 0.5, rng, training=False)
    for x, p, options in ((ONES[:9], 2.0, {}), (None, 0.5, {}), (ONES[:9], 0.5, {"out": ONES[:8].copy()}),
                          (ONES[:9], 0.5, {"out": ONES[1:10]}), (ONES[:9], 0.5, {"training": 1})):
        with pytest.raises((TypeError, ValueError)):
            fastopt.dropout_forward(x, p, rng, **options)
    assert rng.random() == twin.random()


@pytest.mark.parametrize("rng", [None, True, np.True_, 1.0, "1", np.random, np.random.RandomState(0), [1],
                                 np.random.PCG64(1), np.random.SeedSequence(1)], ids=repr)
def test_other_sources_of_keys_are_refused(rng):
    for training in (True, False):
        with pytest.raises(TypeError, match=r"^rng: expected a numpy.random.Generator or an int in \[0, 2\*\*64\), got "
                                            + type(rng).__name__):
            fastopt.dropout_forward(ONES[:4], 0.5, rng, training=training)


@pytest.mark.parametrize("key", [-1, 2**64, 10**5000], ids=["negative", "65 bits", "huge"])
def test_keys_out_of_range_are_refused(key):
    with pytest.raises(ValueError, match=r"^rng: expected an int in \[0, 2\*\*64\), got"):
        fastopt.dropout_forward(ONES[:4], 0.5, key)


@pytest.mark.parametrize("key", [0, 1, 2**63, 2**64 - 1, np.uint64(2**64 - 1), np.int8(3), np.array(4)])
def test_keys(key):
    y, cache = fastopt.dropout_forward(ONES[:300], 0.5, key)
    assert cache.key == int(key)
    assert_same_bits(y, reference.dropout_forward(ONES[:300], 0.5, key)[0])


# The cache

def test_the_cache_is_small_immutable_and_picklable():
    x = ONES[:1000].reshape(10, 100)
    y, cache = fastopt.dropout_forward(x, 0.25, 2**64 - 1)
    assert (cache.key, cache.p, cache.shape, cache.training) == (2**64 - 1, 0.25, (10, 100), True)
    for name in ("key", "p", "shape", "training", "mask"):
        with pytest.raises(AttributeError):
            setattr(cache, name, 1)
    assert len(pickle.dumps(cache)) < 200
    for again in (cache, cache, pickle.loads(pickle.dumps(cache))):
        assert_same_bits(fastopt.dropout_backward(x, again), y)


def test_backward_needs_the_shape_of_forward():
    _, cache = fastopt.dropout_forward(ONES[:12], 0.5, 1)
    with pytest.raises(ValueError, match=r"^dy: expected C-contiguous float32 of shape \(12,\)|^dy: expected"):
        fastopt.dropout_backward(ONES[:12].reshape(3, 4), cache)
    other = reference.dropout_forward(ONES[:12], 0.5, 1)[1]
    with pytest.raises(TypeError, match="^cache: expected what dropout_forward returned, got DropoutCache"):
        fastopt.dropout_backward(ONES[:12], other)


# Statistics: a test fails by chance once in more than 10⁶ keys, and the keys are fixed.

def deviation(count, n, p):
    """How far `count` of n draws is from its mean, in standard deviations."""
    return abs(count - n * p) / np.sqrt(n * p * (1 - p))


def kept_mask(p, key, n=10**7):
    return forward(ONES[:n], p, key) != 0.0


@pytest.mark.parametrize("p", [0.001, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_share_of_dropped_elements(p):
    for key in (0, 1, 2**40):
        assert deviation(np.count_nonzero(~kept_mask(p, key)), len(ONES), p) < 5


def test_bytes_of_the_mask():
    """Chi-square of the 256 values of 8 neighbours, and of 8 elements 16 and 64 apart: one counter, one lane."""
    mask = kept_mask(0.5, 3)[: 9_994_240]          # 64 · 8 · 19520
    for view in (mask.reshape(-1, 8), mask.reshape(-1, 8, 16).swapaxes(1, 2), mask.reshape(-1, 8, 64).swapaxes(1, 2)):
        counts = np.bincount(np.packbits(view.reshape(-1, 8), axis=1).ravel(), minlength=256)
        expected = counts.sum() / 256
        assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 5 * np.sqrt(2 * 255)


def test_runs_of_the_mask():
    """Lengths of runs of dropped elements are geometric."""
    p, mask = 0.3, kept_mask(0.3, 4)
    edges = np.flatnonzero(np.diff(mask.astype(np.int8)))
    lengths = np.diff(edges)[int(mask[edges[0] + 1]) :: 2]
    for length in range(1, 8):
        assert deviation(np.count_nonzero(lengths == length), len(lengths), p ** (length - 1) * (1 - p)) < 5
    assert deviation(np.count_nonzero(lengths >= 8), len(lengths), p**7) < 5


@pytest.mark.parametrize("p", [0.5, 0.1])
def test_no_serial_correlation(p):
    """At lags 1 to 64, which include the counters of a group and its words, 128, and a task."""
    dropped = ~kept_mask(p, 5)
    for lag in (*range(1, 65), 128, 1024, 8192):
        both = np.count_nonzero(dropped[lag:] & dropped[:-lag])
        n = len(dropped) - lag
        # Overlapping pairs: variance n · p² · (1 − p) · (1 + 3p), from pairs that share an element.
        assert abs(both - n * p * p) < 5 * np.sqrt(n * p * p * (1 - p) * (1 + 3 * p))


def test_no_correlation_between_neighbouring_keys():
    p, n = 0.5, 10**6
    masks = [kept_mask(p, key, n) for key in (0, 1, 2, 3, 2**32, 2**32 + 1, 2**63, 2**64 - 1)]
    for i, first in enumerate(masks):
        for second in masks[:i]:
            assert deviation(np.count_nonzero(first == second), n, 0.5) < 5
