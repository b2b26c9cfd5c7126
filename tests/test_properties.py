"""Properties over models that hypothesis generates: any shapes, options, threads and chunks, the reference's bits."""

import numpy as np
from helpers import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from optimizer_cases import ROWS

import fastopt
from fastopt._runtime import driver, parallel

FLOATS = hnp.from_dtype(np.dtype(np.float32), allow_nan=True, allow_infinity=True, allow_subnormal=True)
RATES = st.sampled_from([0.0, 1e-3, 0.5])


@st.composite
def models(draw):
    """Parameters, and two steps' gradients of the same shapes."""
    shapes = draw(st.lists(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40), max_size=6))
    fill = st.integers(0, 2**32 - 1)
    seeds = draw(st.tuples(fill, fill, fill))
    return [[np.random.default_rng(seed).standard_normal(shape).astype(np.float32) for shape in shapes]
            for seed in seeds]


@settings(max_examples=80, deadline=None)
@given(model=models(), row=st.sampled_from(ROWS), l1=RATES, weight_decay=RATES,
       clip_norm=st.sampled_from([None, 0.5, 1e3]), average_decay=st.sampled_from([None, 0.9]),
       special=FLOATS, threads=st.integers(1, 5), chunk=st.sampled_from([16, 64, 8192]))
def test_any_model_gets_the_references_bits(model, row, l1, weight_decay, clip_norm, average_decay, special, threads,
                                            chunk):
    params, *steps = model
    for grads in steps:
        for grad in grads[:1]:
            grad.ravel()[:1] = special
    if row.layerwise or clip_norm is not None:
        chunk = 8192    # the blocks in which norms are summed
    name = row.name
    options = dict(row.settings[0], l1=l1, weight_decay=weight_decay, clip_norm=clip_norm, average_decay=average_decay)
    theirs = [param.copy() for param in params]
    ours, reference = getattr(fastopt, name)(**options), getattr(fastopt.reference, name)(**options)
    kept = driver.swap_chunk(chunk), parallel.swap_serial_below(0.0)
    try:
        with np.errstate(all="ignore"), fastopt.num_threads(threads):
            for grads in steps:
                ours.update(params, grads)
                reference.update(theirs, grads)
    finally:
        driver.swap_chunk(kept[0])
        parallel.swap_serial_below(kept[1])
    for i, (a, b) in enumerate(zip(params, theirs, strict=True)):
        assert_same_bits(a, b, f"{name} {i}")
        for key, state in ours.state[i].items():
            assert_same_bits(state, reference.state[i][key], f"{name} {i} {key}")


@settings(max_examples=80, deadline=None)
@given(rows=st.integers(0, 40), classes=st.integers(1, 70), scale=st.sampled_from([0.1, 1.0, 30.0, 1e4]),
       seed=st.integers(0, 2**32 - 1), ignored=st.booleans())
def test_cross_entropy_gradients_sum_to_zero_and_losses_are_not_negative(rows, classes, scale, seed, ignored):
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((rows, classes)) * scale).astype(np.float32)
    labels = rng.integers(0, classes, rows)
    if ignored:
        labels[::3] = -100
    losses, d = fastopt.softmax_cross_entropy(logits, labels, reduction="none")
    assert (losses >= 0).all()
    assert (losses[labels == -100] == 0).all()
    assert (d[labels == -100] == 0).all()
    assert (np.abs(d.astype(np.float64).sum(1)) <= 1e-6).all()


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(2, 300), channels=st.integers(1, 40), offset=st.sampled_from([0.0, 1.0, 1e4, -1e6]),
       seed=st.integers(0, 2**32 - 1))
def test_batch_norm_output_is_normalised_wherever_the_input_lies(rows, channels, offset, seed):
    x = (np.random.default_rng(seed).standard_normal((rows, channels)) + offset).astype(np.float32)
    one, zero = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    y, _ = fastopt.batch_norm_forward(x, one, zero, eps=1e-12)
    moving = np.ptp(x, axis=0) > 0
    y = y.astype(np.float64)
    assert (y[:, ~moving] == 0).all()
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-6)
    var = x[:, moving].var(0, dtype=np.float64)     # of two rows that are nearly equal, not much more than eps
    np.testing.assert_allclose(y[:, moving].var(0), var / (var + 1e-12), rtol=1e-5)
