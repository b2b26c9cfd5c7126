"""More than 2³¹ elements in one array, in a few hundred megabytes of memory.

A `Stream` is an array of which most pages are the same 16 MiB, mapped again and again; only at both ends and around
the elements 2²⁹, 2³⁰ and 2³¹ (the byte offsets 2³¹ and 2³², and the largest 32-bit index) are there pages of its own.
They are compared with the reference. An index or offset of 32 bits would write elsewhere, and leave them as they were.
"""

import ctypes
import mmap
import os
import sys
import weakref

import numpy as np
import pytest
from helpers import assert_same_bits

import fastopt
from fastopt import reference

PERIOD = 1 << 22        # elements that are mapped repeatedly
WINDOW = 1 << 16        # elements on each side of a border
NEEDED = 1 << 30        # bytes of memory, page tables included


def available():
    """Bytes of memory that are free."""
    with open("/proc/meminfo", encoding="ascii") as file:
        facts = dict(line.split(":") for line in file)
    return int(facts["MemAvailable"].split()[0]) * 1024


@pytest.fixture(autouse=True)
def _enough_memory():
    if not sys.platform.startswith("linux") or sys.maxsize < 2**32:
        pytest.skip("memory is mapped repeatedly, which is written for 64-bit Linux")
    if available() < NEEDED:
        pytest.skip(f"needs {NEEDED >> 20} MiB of memory, {(NEEDED - available()) >> 20} MiB more than are free")


def libc_mmap(address, length, protection, flags, descriptor=-1):
    call = ctypes.CDLL(None, use_errno=True).mmap
    call.restype = ctypes.c_void_p
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    mapped = call(address, length, protection, flags, descriptor, 0)
    if mapped in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return mapped


class Stream:
    """An array of `size` floats, of which `windows` (pairs of start and stop) have memory of their own."""

    def __init__(self, size, rng, positive=False):
        page = mmap.PAGESIZE // 4
        self.windows = [(0, WINDOW), *((border - WINDOW, border + WINDOW) for border in (1 << 29, 1 << 30, 1 << 31)),
                        (size // page * page - WINDOW, size)]
        length = -(-size // page) * mmap.PAGESIZE
        address = libc_mmap(None, length, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)     # MAP_NORESERVE
        weakref.finalize(self, ctypes.CDLL(None).munmap, ctypes.c_void_p(address), ctypes.c_size_t(length))
        both = mmap.PROT_READ | mmap.PROT_WRITE
        descriptor = os.memfd_create("period")
        os.ftruncate(descriptor, PERIOD * 4)
        for start in range(0, length, PERIOD * 4):
            libc_mmap(address + start, min(PERIOD * 4, length - start), both, mmap.MAP_SHARED | 0x10, descriptor)
        os.close(descriptor)
        for start, stop in self.windows:
            libc_mmap(address + start * 4, -(-(stop - start) // page) * mmap.PAGESIZE, both,
                      mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10)                              # MAP_FIXED
        self.array = np.frombuffer((ctypes.c_float * size).from_address(address), np.float32)
        self.fill(rng, positive)

    def fill(self, rng, positive):
        for start, stop in [(PERIOD, 2 * PERIOD), *self.windows]:
            values = rng.standard_normal(stop - start, dtype=np.float32)
            self.array[start:stop] = np.abs(values) if positive else values

    def copies(self):
        return [self.array[start:stop].copy() for start, stop in self.windows]


SIZE = (1 << 31) + (1 << 20) + 13


def test_the_borders_are_memory_of_their_own(rng):
    stream = Stream(SIZE, rng)
    before = stream.copies()
    stream.array[PERIOD : 2 * PERIOD] = 7.0
    assert stream.array[100 * PERIOD + PERIOD // 2] == 7.0      # elsewhere it is all the same memory
    for (start, stop), values in zip(stream.windows, before, strict=True):
        assert_same_bits(stream.array[start:stop], values)


@pytest.mark.parametrize(("name", "states", "options"), [
    ("sgd", (), {"lr": 0.1, "weight_decay": 0.01}), ("adam", ("m", "v"), {"step": 2}),
])
def test_optimizers(name, states, options, rng, figures):
    streams = {"param": Stream(SIZE, rng), "grad": Stream(SIZE, rng),
               **{state: Stream(SIZE, rng, positive=True) for state in states}}
    before = {key: stream.copies() for key, stream in streams.items()}
    getattr(fastopt, name)(**{key: stream.array for key, stream in streams.items()}, **options)
    for window, (start, stop) in enumerate(streams["param"].windows):
        arrays = {key: copies[window] for key, copies in before.items()}
        getattr(reference, name)(**arrays, **options)
        for key, expected in arrays.items():
            assert_same_bits(streams[key].array[start:stop], expected, f"{key}[{start}:{stop}]")
    figures(elements=SIZE * len(streams))


def test_log_softmax(rng, figures):
    rows, classes = (SIZE >> 10) + 1, 1024
    x, out = Stream(rows * classes, rng), Stream(rows * classes, rng)
    fastopt.log_softmax(x.array.reshape(rows, classes), out=out.array.reshape(rows, classes))
    for start, stop in [(PERIOD, 2 * PERIOD), *x.windows]:
        part = x.array[start:stop].reshape(-1, classes)
        y = out.array[start:stop].reshape(-1, classes)
        assert_same_bits(y, fastopt.log_softmax(part), f"[{start}:{stop}]")
        np.testing.assert_allclose(y, reference.log_softmax(part.astype(np.float64)), rtol=1e-6)
    figures(elements=2 * rows * classes)


def numpy_sums(x, *others):
    """Σ x · other · … of each channel, in double, over (outer, channels, inner)."""
    total = np.zeros(x.shape[1])
    step = max(1, PERIOD // (x.shape[1] * x.shape[2]))
    for start in range(0, x.shape[0], step):
        for first in range(0, x.shape[2], PERIOD):
            part = slice(start, start + step), slice(None), slice(first, first + PERIOD)
            product = x[part].astype(np.float64)
            for other in others:
                product *= other[part] if isinstance(other, np.ndarray) else other(x[part])
            total += product.sum((0, 2))
    return total


CHANNELS = {"(N, C)": ((SIZE >> 6, 64, 1), 64), "(N, C, L)": ((2, 4, (1 << 28) + (1 << 20)), 1)}
"""(outer, channels, inner), and the channels in one window. No window crosses from one long channel into the next."""


@pytest.mark.parametrize("layout", CHANNELS)
def test_batch_norm(layout, rng, figures):
    shape, width = CHANNELS[layout]
    size = shape[0] * shape[1] * shape[2]
    channels, inner = shape[1:]
    x, dy, out = (Stream(size, rng) for _ in range(3))
    gamma, beta = rng.standard_normal((2, channels), dtype=np.float32)
    running = np.zeros((2, channels), np.float32)
    whole = x.array.reshape(shape)
    count, mean, m2 = fastopt.batch_norm_statistics(whole)
    expected = numpy_sums(whole) / count
    np.testing.assert_allclose(mean, expected, rtol=1e-9, atol=1e-12)
    center = expected[:, np.newaxis]
    squares = numpy_sums(whole, lambda part: part) - count * (center * center)[:, 0]
    np.testing.assert_allclose(m2, squares, rtol=1e-9)

    y, cache = fastopt.batch_norm_forward(whole, gamma, beta, *running, out=out.array.reshape(shape))
    assert count == shape[0] * inner == cache.count
    assert_same_bits(cache.mean, mean)
    np.testing.assert_allclose(running[0], 0.1 * mean, rtol=1e-6)
    np.testing.assert_allclose(running[1], 0.1 * m2 / (count - 1), rtol=1e-6)

    def parts():
        """For each window its flat bounds, its own channels and the reference's forward pass with all statistics."""
        for start, stop in x.windows:
            start, stop = -(-start // width) * width, stop // width * width
            own = slice(None) if width > 1 else slice(start // inner % channels, start // inner % channels + 1)
            part = x.array[start:stop].reshape(-1, width, 1)
            yield start, stop, own, *reference.batch_norm_forward(
                part, gamma[own], beta[own], statistics=(count, mean[own], m2[own]))

    for start, stop, _, y, _ in parts():
        assert_same_bits(out.array[start:stop], y.ravel(), f"y[{start}:{stop}]")

    slopes = dy.array.reshape(shape)
    sums = fastopt.batch_norm_backward_sums(slopes, cache)
    np.testing.assert_allclose(sums.dy, numpy_sums(slopes), rtol=1e-9)
    np.testing.assert_allclose(sums.dy_x, numpy_sums(slopes, whole) - mean * sums.dy, rtol=1e-8)
    _, dgamma, dbeta = fastopt.batch_norm_backward(slopes, cache, out=out.array.reshape(shape))
    for start, stop, own, _, of_part in parts():
        dx, dg, db = reference.batch_norm_backward(dy.array[start:stop].reshape(-1, width, 1), of_part,
                                                   sums=(sums.dy[own], sums.dy_x[own]))
        assert_same_bits(out.array[start:stop], dx.ravel(), f"dx[{start}:{stop}]")
        assert_same_bits(dgamma[own], dg)
        assert_same_bits(dbeta[own], db)
    figures(elements=6 * size)
