"""Inverted dropout with the numbers of Philox 4x32, in NumPy."""

from typing import NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from fastopt.reference._formula import Array

ROUNDS = 7
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
INCREMENTS = 0x9E3779B9, 0xBB67AE85
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
GROUP, LANES = 64, 16

Words = NDArray[np.uint64]
"""Words of 32 bits."""


class DropoutCache(NamedTuple):
    """See `fastopt.dropout_forward`."""

    key: int
    p: float
    shape: tuple[int, ...]
    training: bool


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[int, int], rounds: int = ROUNDS) -> Words:
    """Philox 4x32 (Salmon, Moraes, Dror and Shaw 2011): four words, the first axis, for each counter of four words."""
    a, b, c, d = counter
    key0, key1 = key
    for _ in range(rounds):
        p, q = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (q >> HALF) ^ b ^ np.uint64(key0), q & LOW, (p >> HALF) ^ d ^ np.uint64(key1), p & LOW
        key0, key1 = (key0 + INCREMENTS[0]) % 2**32, (key1 + INCREMENTS[1]) % 2**32
    return np.stack([a, b, c, d])


def words(key: int, count: int, first_group: int = 0) -> Words:
    """One word for each of `count` elements, the first of which is at 64 · first_group.

    Word j of counter 16 · g + l belongs to element 64 · g + 16 · j + l, for l < 16.
    """
    groups: Words = np.arange(first_group, first_group - (-count // GROUP), dtype=np.uint64)
    lanes: Words = np.arange(LANES, dtype=np.uint64)
    counter: Words = groups[:, np.newaxis] * np.uint64(LANES) + lanes
    zero = np.zeros_like(counter)
    made = philox((counter & LOW, counter >> HALF, zero, zero), (key % 2**32, key // 2**32))
    return made.transpose(1, 0, 2).reshape(-1)[:count]


def drop(x: Array, cache: DropoutCache, out: Array | None) -> Array:
    """x / (1 − p) where the element is kept, else +0; x itself without training."""
    if out is None:
        out = np.empty(x.shape, np.float32)
    threshold = round(cache.p * 2.0**32) if cache.training else 0       # half to even
    if threshold == 0:
        out[...] = x
        return out
    kept = words(cache.key, x.size).reshape(x.shape) >= threshold
    scale = np.float32(1.0 / (1.0 - cache.p) if cache.p < 1.0 else 0.0)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        out[...] = np.where(kept, x * scale, np.float32(0.0))
    return out


def draw_key(rng: np.random.Generator | SupportsIndex) -> int:
    """One key from a Generator, or the int itself."""
    return int(rng.integers(2**64, dtype=np.uint64) if isinstance(rng, np.random.Generator) else rng)


def dropout_forward(x: Array, p: float, rng: np.random.Generator | SupportsIndex, *, training: bool = True,
                    out: Array | None = None) -> tuple[Array, DropoutCache]:
    """See `fastopt.dropout_forward`."""
    cache = DropoutCache(draw_key(rng) if training else 0, float(p), x.shape, bool(training))
    return drop(x, cache, out), cache


def dropout_backward(dy: Array, cache: DropoutCache, *, out: Array | None = None) -> Array:
    """See `fastopt.dropout_backward`."""
    return drop(dy, cache, out)
