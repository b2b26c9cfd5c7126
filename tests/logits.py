"""Families of rows of logits, and their exact log-softmax, loss and gradient."""

import mpmath
import numpy as np

from fastopt.reference._softmax import moments

mpmath.mp.prec = 160


def normal(sigma, offset=0.0):
    return lambda rng, rows, n: (sigma * rng.standard_normal((rows, n)) + offset).astype(np.float32)


def dominant(by):
    """One logit of each row, at a random index, is increased by `by`."""

    def make(rng, rows, n):
        x = rng.standard_normal((rows, n)).astype(np.float32)
        x[np.arange(rows), rng.integers(n, size=rows)] += np.float32(by)
        return x

    return make


def ties(rng, rows, n):
    return rng.integers(-3, 4, (rows, n)).astype(np.float32)


def all_equal(rng, rows, n):
    return np.repeat(rng.standard_normal((rows, 1)).astype(np.float32), n, axis=1)


def masked(rng, rows, n):
    """Many entries of −inf; each row has at least one number."""
    x = rng.standard_normal((rows, n)).astype(np.float32)
    x[rng.random((rows, n)) < 0.5] = -np.inf
    x[np.arange(rows), rng.integers(n, size=rows)] = 0.5
    return x


def far_below(rng, rows, n):
    """Terms that are subnormal or underflow to 0."""
    x = rng.uniform(-110, -80, (rows, n)).astype(np.float32)
    x[np.arange(rows), rng.integers(n, size=rows)] = 0.0
    return x


def near_base_switch(rng, rows, n):
    """Largest elements on both sides of 512, where the kernels change their base."""
    return (rng.choice([-512.0, 512.0], (rows, 1)) + rng.uniform(-3, 3, (rows, n))).astype(np.float32)


def barely_confident(rng, rows, n):
    """The others' terms are about 2⁻¹² of the largest one, where the kernels change the way they exclude it."""
    x = rng.standard_normal((rows, n))
    others = np.log(np.exp(x).sum(axis=1))
    x[np.arange(rows), rng.integers(n, size=rows)] = others + 12 * np.log(2) + rng.uniform(-1, 1, rows)
    return x.astype(np.float32)


FAMILIES = {
    "sigma 1": normal(1), "sigma 3": normal(3), "sigma 10": normal(10), "sigma 30": normal(30),
    "sigma 100": normal(100),
    "offset 1e4": normal(1, 1e4), "offset -1e4": normal(10, -1e4), "offset 1e30": normal(1, 1e30), "tiny": normal(1e-6),
    "dominant +5": dominant(5), "dominant +10": dominant(10), "dominant +20": dominant(20),
    "dominant +40": dominant(40),
    "dominant +80": dominant(80), "ties": ties, "all equal": all_equal, "-inf": masked, "far below": far_below,
    "base switch": near_base_switch, "barely confident": barely_confident,
}


def exact_row(x):
    """(log-softmax, softmax) of one row in mpmath."""
    values = [mpmath.mpf(float(v)) for v in x]
    m = max(values)
    terms = [mpmath.exp(v - m) for v in values]
    total = mpmath.fsum(terms)
    # log(total) as log1p without the largest term: 160 bits cannot represent 1 + exp(-200).
    rest = mpmath.fsum(sorted(terms)[:-1])
    log_sum = mpmath.log1p(rest)
    return [v - m - log_sum for v in values], [t / total for t in terms]


def log_softmax64(x, axis=-1):
    """log-softmax in float64 by the same method, for more rows than mpmath can compute in a test."""
    distance, _, log_sum = moments(x, axis)
    return distance - log_sum


def exact_ulps(actual, exact):
    """Largest error of float32 values in units in the last place of the exact ones."""
    worst = 0.0
    for a, e in zip(np.ravel(actual), exact, strict=True):
        if mpmath.isinf(e):
            if float(a) != float(e):
                return float("inf")
            continue
        if not np.isfinite(a):
            return float("inf")
        exponent = mpmath.frexp(e)[1] if e else -1000
        unit = mpmath.ldexp(1, max(exponent, -125) - 24)
        worst = max(worst, float(abs(mpmath.mpf(float(a)) - e) / unit))
    return worst
