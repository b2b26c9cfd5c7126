"""Dropout's mask over 10⁹ draws: 100 keys of a Generator, 10⁷ elements each, their counts added.

A deviation of more than 5 standard deviations fails: by chance once in 10⁴ seeds over everything that is counted.
"""

import numpy as np
import pytest

import fastopt

ELEMENTS = 64 * 8 * 19_520
KEYS = 100
LAGS = (*range(1, 65), 128, 1024, 8192)


@pytest.mark.parametrize("p", [0.5, 0.1])
def test_a_billion_draws(p, seed, trials, figures):
    ones, out = np.ones(ELEMENTS, np.float32), np.empty(ELEMENTS, np.float32)
    rng, keys = np.random.default_rng(seed), trials(KEYS)
    dropped_in_all, before = 0, None
    pairs, values, agreed = np.zeros(len(LAGS)), np.zeros((3, 256)), 0
    for _ in range(keys):
        fastopt.dropout_forward(ones, p, rng, out=out)
        dropped = out == 0.0
        dropped_in_all += np.count_nonzero(dropped)
        pairs += [np.count_nonzero(dropped[lag:] & dropped[:-lag]) for lag in LAGS]
        for row, apart in zip(values, (1, 16, 64), strict=True):    # neighbours, words of a counter, groups
            eight = dropped.reshape(-1, 8, apart).swapaxes(1, 2).reshape(-1, 8)
            row += np.bincount(np.packbits(eight, axis=1).ravel(), minlength=256)
        agreed += 0 if before is None else np.count_nonzero(dropped & before)
        before = dropped
    draws = keys * ELEMENTS
    figures(draws=draws)

    assert abs(dropped_in_all - draws * p) < 5 * np.sqrt(draws * p * (1 - p))

    both = p * p                                    # overlapping pairs: those that share an element are correlated
    expected = keys * (ELEMENTS - np.array(LAGS)) * both
    assert (np.abs(pairs - expected) < 5 * np.sqrt(expected * (1 - p) * (1 + 3 * p))).all()

    ones_in = np.array([value.bit_count() for value in range(256)])
    expected = draws / 8 * p**ones_in * (1 - p) ** (8 - ones_in)
    chi_square = ((values - expected) ** 2 / expected).sum(axis=1)
    assert (np.abs(chi_square - 255) < 5 * np.sqrt(2 * 255)).all(), chi_square

    compared = (keys - 1) * ELEMENTS                # one key and the next
    assert abs(agreed - compared * both) <= 5 * np.sqrt(compared * both * (1 - both))
