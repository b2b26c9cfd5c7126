"""BatchNorm in every layout, in parts, folded, and beside PyTorch."""

from array import array as plain_array

import numpy as np
import pytest
from helpers import assert_same_bits

import fastopt
from fastopt import reference

f32 = np.float32
BOTH = pytest.mark.parametrize("module", [fastopt, reference], ids=["fastopt", "reference"])


def standard(rng, *shape):
    return rng.standard_normal(shape).astype(f32)


def both_passes(module, x, dy, gamma, beta, **options):
    mean, var = np.zeros_like(gamma), np.ones_like(gamma)
    y, cache = module.batch_norm_forward(x, gamma, beta, mean, var, **options)
    return [y, *module.batch_norm_backward(dy, cache), mean, var]


# Layouts.

SHAPES = [((5, 6), 0), ((5, 6), 1), ((4, 3, 50), 1), ((4, 50, 3), 2), ((3, 4, 50), 0), ((2, 70, 5, 6), 1),
          ((2, 5, 6, 70), 3), ((2, 5, 6, 70), -1), ((2, 5, 70, 6), -2), ((2, 3, 4, 5, 6), 2), ((1, 3, 40, 41), 1)]


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_every_layout(level, shape, axis, rng):
    """The reference's bits, and the values of the same numbers as (n, channels)."""
    channels = shape[axis]
    x, dy, (gamma, beta) = 2 * standard(rng, *shape) + 1, standard(rng, *shape), standard(rng, 2, channels)
    options = {"channel_axis": axis, "relu": True}
    got = both_passes(fastopt, x, dy, gamma, beta, **options)
    for array, right in zip(got, both_passes(reference, x, dy, gamma, beta, **options), strict=True):
        assert_same_bits(array, right)

    def flat(a):
        return np.ascontiguousarray(np.moveaxis(a, axis, -1).reshape(-1, channels))

    plain = both_passes(fastopt, flat(x), flat(dy), gamma, beta, relu=True)
    for array, right in zip((flat(got[0]), flat(got[1]), *got[2:]), plain, strict=True):
        np.testing.assert_allclose(array, right, rtol=1e-5, atol=1e-6)


@BOTH
def test_views_of_channels_last_memory(module, level, rng):
    """(N, C, H, W) as a view of (N, H, W, C): the bits of channels-last, in arrays of the same layout, no copy."""
    memory, dy, (gamma, beta) = standard(rng, 3, 5, 4, 7), standard(rng, 3, 5, 4, 7), standard(rng, 2, 7)

    def turned(a):
        return a.transpose(0, 3, 1, 2)

    last = both_passes(module, memory, dy, gamma, beta, channel_axis=3)
    view = both_passes(module, turned(memory), turned(dy), gamma, beta)
    for array, right in zip(view, [turned(last[0]), turned(last[1]), *last[2:]], strict=True):
        assert_same_bits(array, right)
    assert turned(memory).shape == view[0].shape
    assert view[0].strides == view[1].strides == turned(memory).strides

    _, cache = module.batch_norm_forward(turned(memory), gamma, beta)
    out = np.empty_like(memory)
    result = turned(out)
    assert module.batch_norm_backward(turned(dy), cache, out=result)[0] is result
    assert_same_bits(out, last[1])
    assert cache.x.base is memory
    given = standard(rng, 7), np.abs(standard(rng, 7))
    right = module.batch_norm_inference(memory, gamma, beta, *given, channel_axis=-1)
    result = turned(memory)
    assert_same_bits(module.batch_norm_inference(result, gamma, beta, *given, out=result), turned(right))
    assert_same_bits(memory, right)


def test_views_of_channels_last_memory_refused(rng):
    """Arrays beside such a view have its layout."""
    dy, (gamma, beta) = standard(rng, 3, 5, 4, 7), standard(rng, 2, 7)

    def turned(a):
        return a.transpose(0, 3, 1, 2)

    y, cache = fastopt.batch_norm_forward(turned(dy), gamma, beta)
    with pytest.raises(ValueError, match=r"^out: expected the memory layout of x \(channels last\), got strides"):
        fastopt.batch_norm_backward(y, cache, out=np.empty(y.shape, f32))
    with pytest.raises(ValueError, match=r"^out: expected the memory layout of x"):
        fastopt.batch_norm_forward(turned(dy), gamma, beta, out=np.empty(y.shape, f32))
    with pytest.raises(ValueError, match=r"^x: expected C-contiguous float32 array, got .* not C-contiguous"):
        fastopt.batch_norm_forward(dy.transpose(0, 2, 3, 1), gamma[:5], beta[:5])


def test_more_than_two_to_the_sixteen_channels_and_one_channel(level, rng):
    for shape in [(3, 70_000), (70_000, 1), (2, 1, 70_000)]:
        x, dy, (gamma, beta) = standard(rng, *shape), standard(rng, *shape), standard(rng, 2, shape[1])
        for array, right in zip(both_passes(fastopt, x, dy, gamma, beta), both_passes(reference, x, dy, gamma, beta),
                                strict=True):
            assert_same_bits(array, right)


# In parts.

def test_statistics_and_sums_are_those_of_the_reference(level, rng):
    for shape in [(300, 70), (5, 6, 49), (2, 3, 2000)]:
        x, dy = standard(rng, *shape) + 3, standard(rng, *shape)
        ones = np.ones(shape[1], f32)
        got, right = fastopt.batch_norm_statistics(x), reference.batch_norm_statistics(x)
        assert got.count == right.count == x.size // shape[1]
        assert_same_bits(got.mean, right.mean)
        assert_same_bits(got.m2, right.m2)
        caches = [module.batch_norm_forward(x, ones, 0 * ones, relu=True)[1] for module in (fastopt, reference)]
        assert_same_bits(got.mean, caches[0].mean)
        sums = (fastopt.batch_norm_backward_sums(dy, caches[0]), reference.batch_norm_backward_sums(dy, caches[1]))
        for a, b in zip(*sums, strict=True):
            assert_same_bits(a, b)
        merged = [module.batch_norm_merge(got, got, got) for module in (fastopt, reference)]
        added = [module.batch_norm_merge_sums(*sums) for module in (fastopt, reference)]
        assert merged[0].count == merged[1].count == 3 * got.count
        for a, b in zip((*merged[0][1:], *added[0]), (*merged[1][1:], *added[1]), strict=True):
            assert_same_bits(a, b)


@pytest.mark.parametrize("mean", [3.5e38, np.inf])
def test_a_given_mean_beyond_float32(level, mean, rng):
    """Of either sign, it is not rounded to an infinite float32: y of gamma 0 is beta."""
    x, dy = standard(rng, 5, 4), standard(rng, 5, 4)
    gamma, beta = np.array([0, 0, 1, 1], f32), np.array([1, 1, np.inf, -np.inf], f32)
    statistics = 8, mean * np.array([-1.0, 1.0, -1.0, 1.0]), np.full(4, 1e60)
    with np.errstate(all="ignore"):
        got, right = [both_passes(module, x, dy, gamma, beta, statistics=statistics)
                      for module in (fastopt, reference)]
    for a, b in zip(got, right, strict=True):
        assert_same_bits(a, b)
    if mean < np.inf:
        np.testing.assert_array_equal(got[0][:, :2], 1.0)


@BOTH
@pytest.mark.parametrize("relu", [False, True])
def test_a_batch_in_parts_is_the_whole_batch(module, relu, rng):
    """Synchronised BatchNorm: three parts of different sizes, one of a single row."""
    x, dy, (gamma, beta) = 5 * standard(rng, 50, 4) + 1000, standard(rng, 50, 4), standard(rng, 2, 4)
    whole = both_passes(module, x, dy, gamma, beta, relu=relu)
    cuts = [slice(0, 20), slice(20, 21), slice(21, 50)]
    statistics = module.batch_norm_merge(*(module.batch_norm_statistics(x[cut]) for cut in cuts))
    assert statistics.count == 50
    mean, var = np.zeros(4, f32), np.ones(4, f32)
    passes = [module.batch_norm_forward(x[cut], gamma, beta, mean if i == 0 else None, var if i == 0 else None,
                                        relu=relu, statistics=statistics) for i, cut in enumerate(cuts)]
    sums = module.batch_norm_merge_sums(*(module.batch_norm_backward_sums(dy[cut], cache)
                                          for cut, (_, cache) in zip(cuts, passes, strict=True)))
    gradients = [module.batch_norm_backward(dy[cut], cache, sums=sums)
                 for cut, (_, cache) in zip(cuts, passes, strict=True)]
    got = [np.concatenate([y for y, _ in passes]), np.concatenate([g[0] for g in gradients]), *gradients[1][1:], mean,
           var]
    for array, right in zip(got, whole, strict=True):
        np.testing.assert_allclose(array, right, rtol=2e-6, atol=1e-6)


@BOTH
@pytest.mark.parametrize("rest", [(), (3, 2), (0,)])
def test_an_empty_part_gets_what_every_part_gets(module, level, rest, rng):
    """Running statistics, mean, invstd, dgamma and dbeta are those of the whole batch, though x has no values."""
    full = (30, 4, *([2] * len(rest)))
    x, dy, (gamma, beta) = standard(rng, *full), standard(rng, *full), standard(rng, 2, 4)
    empty = np.empty((0, 4, *rest) if rest != (0,) else (5, 4, 0), f32)
    statistics = module.batch_norm_merge(module.batch_norm_statistics(x), module.batch_norm_statistics(empty))
    results = []
    for part, gradient in ((x, dy), (empty, empty)):
        mean, var = np.full(4, 7, f32), np.full(4, 8, f32)
        y, cache = module.batch_norm_forward(part, gamma, beta, mean, var, statistics=statistics)
        results.append((y, cache, gradient, mean, var))
    sums = module.batch_norm_merge_sums(*(module.batch_norm_backward_sums(g, cache) for _, cache, g, _, _ in results))
    got = [(mean, var, *cache.saved, *module.batch_norm_backward(g, cache, sums=sums)[1:])
           for _, cache, g, mean, var in results]
    assert results[1][0].shape == empty.shape
    assert not (got[0][0] == 7).any()
    for whole, part in zip(*got, strict=True):
        assert_same_bits(part, whole)


@BOTH
def test_the_statistics_of_no_values(module, level):
    """Those that were given, or NaN."""
    empty, ones, twos = np.empty((0, 3), f32), np.ones(3, f32), np.full(3, 2, f32)
    _, cache = module.batch_norm_forward(empty, twos, ones, twos, twos, training=False, eps=2.0)
    assert cache.mean.tolist() == [2, 2, 2]
    assert cache.invstd.tolist() == [0.5] * 3
    assert cache.scale.tolist() == cache.beta.tolist() == [1, 1, 1]
    _, cache = module.batch_norm_forward(empty, twos, ones)
    assert np.isnan(cache.saved).all()
    none, nothing = np.empty((4, 0), f32), np.empty(0)
    y, cache = module.batch_norm_forward(none, none[0], none[0], statistics=(5, nothing, nothing))
    assert y.shape == (4, 0)
    assert cache.mean.shape == (0,)
    assert module.batch_norm_backward(none, cache, sums=(nothing, nothing))[1].shape == (0,)


@BOTH
def test_merging_is_well_conditioned(module):
    """mean/std 2²⁰ in one part and a constant in the other: var is exact."""
    a = np.array([[2.0**20], [2.0**20 + 1]], f32)
    b = np.full((2, 1), 2.0**20, f32)
    count, mean, m2 = module.batch_norm_merge(*map(module.batch_norm_statistics, (a, b)))
    assert (count, mean[0], m2[0]) == (4, 2.0**20 + 0.25, 0.75)
    empty = module.batch_norm_statistics(np.empty((0, 1), f32))
    again = module.batch_norm_merge(empty, (count, mean, m2), empty)
    assert (again.count, again.mean[0], again.m2[0]) == (4, mean[0], m2[0])
    assert again.mean is not mean
    assert module.batch_norm_merge(empty, empty).count == 0


def test_parts_refused(rng):
    x, ones = standard(rng, 4, 3), np.ones(3, f32)
    good = fastopt.batch_norm_statistics(x)
    _, cache = fastopt.batch_norm_forward(x, ones, ones)
    d = np.ones(3)
    for wrong, error, message in [
        (5, TypeError, r"^statistics: expected \(count, mean, m2\), got int"),
        ((1, d, d), ValueError, r"^statistics.count: expected an int in \[2, 2\*\*63\), got 1"),
        ((2**63, d, d), ValueError, r"^statistics.count: expected an int in \[2, 2\*\*63\), got 9223372036854775808"),
        ((10**400, d, d), ValueError, r"^statistics.count: expected .*, got an int of 1329 bits"),
        ((10**5000, d, d), ValueError, r"^statistics.count: expected .*, got an int of 16610 bits"),
        ((2.0, d, d), TypeError, r"^statistics.count: expected an int, got float"),
        ((4, d.astype(f32), d), TypeError, r"^statistics.mean: expected C-contiguous float64 .* got float32"),
        ((4, d, np.ones(4)), ValueError, r"^statistics.m2: expected C-contiguous float64 .* got float64 \(4,\)"),
    ]:
        with pytest.raises(error, match=message):
            fastopt.batch_norm_forward(x, ones, ones, statistics=wrong)
    with pytest.raises(ValueError, match=r"^statistics: expected None without training, got statistics"):
        fastopt.batch_norm_forward(x, ones, ones, ones, ones, training=False, statistics=good)
    with pytest.raises(TypeError, match=r"^parts: expected at least one \(count, mean, m2\), got none"):
        fastopt.batch_norm_merge()
    with pytest.raises(TypeError, match=r"^parts\[1\]: expected \(count, mean, m2\), got float"):
        fastopt.batch_norm_merge(good, 1.0)
    for count, error, shown in [(-1, ValueError, "-1"), (10**400, ValueError, "an int of 1329 bits"),
                                (1.0, TypeError, "float 1.0"), (True, TypeError, "bool True")]:
        with pytest.raises(error, match=rf"^parts\[1\].count: expected an int.*, got {shown}$"):
            fastopt.batch_norm_merge(good, (count, d, d))
    with pytest.raises(ValueError, match=r"^parts\[1\]: expected .* of shape \(3,\), got float64 \(2,\)"):
        fastopt.batch_norm_merge(good, (2, np.ones(2), np.ones(2)))
    with pytest.raises(TypeError, match=r"^sums: expected two arrays, got float"):
        fastopt.batch_norm_backward(x, cache, sums=1.0)
    with pytest.raises(ValueError, match=r"^sums.dy: expected .* of shape \(3,\), got float64 \(4,\)"):
        fastopt.batch_norm_backward(x, cache, sums=(np.ones(4), d))
    with pytest.raises(TypeError, match=r"^cache: expected"):
        fastopt.batch_norm_backward_sums(x, None)


def test_sums_after_inference_are_those_of_the_reference(level, rng):
    """relu's mask is that of the y returned, which is computed in float32, unlike in training."""
    x, dy, (gamma, beta, mean) = standard(rng, 4000, 6), standard(rng, 4000, 6), standard(rng, 3, 6)
    x[:2000] = mean - beta / gamma      # y is 0 but for rounding
    results = []
    for module in (fastopt, reference):
        y, cache = module.batch_norm_forward(x, gamma, beta, mean, np.ones(6, f32), training=False, eps=1e-30,
                                             relu=True)
        sums = module.batch_norm_backward_sums(dy, cache)
        np.testing.assert_allclose(sums.dy, np.where(y > 0, dy, 0).sum(0, np.float64), rtol=1e-12, atol=1e-9)
        results.append(sums)
    for got, right in zip(*results, strict=True):
        assert_same_bits(got, right)


def test_the_reference_takes_float64(rng):
    """Its y and dx in float64 are those of float32, but for rounding."""
    x, (gamma, beta) = standard(rng, 50, 4), standard(rng, 2, 4)
    single, cache = reference.batch_norm_forward(x, gamma, beta)
    double, wide = reference.batch_norm_forward(x.astype(np.float64), gamma, beta)
    assert double.dtype == np.float64
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-6)
    dx = reference.batch_norm_backward(x.astype(np.float64), wide)[0]
    assert dx.dtype == np.float64
    np.testing.assert_allclose(reference.batch_norm_backward(x, cache)[0], dx, rtol=0, atol=1e-6)


# Folding.

@BOTH
@pytest.mark.parametrize("bias", [False, True])
def test_fold(module, bias, rng):
    gamma, beta, mean = standard(rng, 3, 6)
    var = np.abs(standard(rng, 6))
    bias = standard(rng, 6) if bias else None
    zero = 0 if bias is None else bias
    for shape, axis in [((6, 5), 0), ((5, 6), 1), ((6, 2, 3, 3), 0)]:
        weight = standard(rng, *shape)
        new_weight, new_bias = module.batch_norm_fold(weight, bias, gamma, beta, mean, var, 1e-3, output_axis=axis)
        flat, new_flat = (np.moveaxis(w, axis, -1).reshape(-1, 6) for w in (weight, new_weight))
        x = standard(rng, 20, len(flat))
        expected = module.batch_norm_inference((x @ flat + zero).astype(f32), gamma, beta, mean, var, eps=1e-3)
        np.testing.assert_allclose(x @ new_flat + new_bias, expected, rtol=1e-4, atol=1e-4)
        for got, right in zip(reference.batch_norm_fold(weight, bias, gamma, beta, mean, var, 1e-3, output_axis=axis),
                              (new_weight, new_bias), strict=True):
            assert_same_bits(got, right)
        room = np.empty(6, f32) if bias is None else bias.copy()
        in_place = weight.copy()
        module.batch_norm_fold(in_place, None if bias is None else room, gamma, beta, mean, var, 1e-3,
                               output_axis=axis, out=(in_place, room))
        assert_same_bits(in_place, new_weight)
        assert_same_bits(room, new_bias)


def test_fold_takes_any_object_with_a_buffer(rng):
    weight, bias, (gamma, beta, mean) = standard(rng, 3, 2), standard(rng, 3), standard(rng, 3, 3)
    var, out = np.ones(3, f32), plain_array("f", [0, 0, 0])
    expected = fastopt.batch_norm_fold(weight, bias, gamma, beta, mean, var)
    got = fastopt.batch_norm_fold(memoryview(weight), *(plain_array("f", a) for a in (bias, gamma, beta, mean, var)),
                                  out=(None, out))
    assert got[1] is out
    for array, right in zip(got, expected, strict=True):
        assert_same_bits(np.asarray(array), right)


def test_fold_refused(rng):
    weight, ones = standard(rng, 3, 2), np.ones(3, f32)
    good = (weight, ones, ones, ones, ones, ones)
    for index, name in enumerate(["weight", "bias", "gamma", "beta", "mean", "var"]):
        wrong = list(good)
        wrong[index] = good[index].astype(np.float64)
        with pytest.raises(TypeError, match=rf"^{name}: expected .* got float64"):
            fastopt.batch_norm_fold(*wrong)
    with pytest.raises(ValueError, match=r"^gamma: expected .* of shape \(2,\)"):
        fastopt.batch_norm_fold(*good, output_axis=1)
    with pytest.raises(ValueError, match=r"^output_axis: expected an int in \[-2, 2\), got 2"):
        fastopt.batch_norm_fold(*good, output_axis=2)
    with pytest.raises(ValueError, match=r"^eps: expected"):
        fastopt.batch_norm_fold(*good, 0.0)
    with pytest.raises(TypeError, match=r"^out: expected a tuple \(weight, bias\), got ndarray"):
        fastopt.batch_norm_fold(*good, out=weight)
    with pytest.raises(ValueError, match=r"^(out\[1\]|gamma|beta|mean|var): expected memory of its own"):
        fastopt.batch_norm_fold(*good, out=(weight, ones))
    assert (ones == 1).all()
    before = weight.copy()
    with pytest.raises(ValueError, match=r"^out\[1\]: expected memory of its own, got an array that overlaps weight$"):
        fastopt.batch_norm_fold(*good, out=(None, weight.reshape(-1)[1:4]))
    assert_same_bits(weight, before)


def test_fold_keeps_the_sign_of_zero():
    ones, weight = np.ones(2, f32), np.array([[-0.0, 0.0], [1.0, -0.0]], f32)
    folded, _ = fastopt.batch_norm_fold(weight, None, ones, ones, ones, ones)
    assert (np.signbit(folded) == np.signbit(weight)).all()


# PyTorch, where it is installed.

@pytest.mark.parametrize("shape", [(64, 30), (8, 5, 40), (4, 6, 9, 9)])
def test_running_statistics_are_torchs(shape, rng):
    """Gradients are compared in test_gradients.py."""
    torch = pytest.importorskip("torch")
    channels = shape[1]
    x, (gamma, beta, mean) = 3 * standard(rng, *shape) + 2, standard(rng, 3, channels)
    var = np.abs(standard(rng, channels)) + f32(0.1)
    running = torch.tensor(mean, dtype=torch.float64), torch.tensor(var, dtype=torch.float64)
    torch.nn.functional.batch_norm(torch.tensor(x, dtype=torch.float64), *running, training=True)
    fastopt.batch_norm_forward(x, gamma, beta, mean, var)
    for array, tensor in zip((mean, var), running, strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 5, 3), (2, 3, 5, 4), (2, 3, 20)])
def test_channels_last_views_refuse_arrays_in_the_shape_of_their_memory(rng, shape):
    """An (N, C, H, W) view of (N, H, W, C) memory: the latter's shape is another one."""
    x = standard(rng, 2, 4, 5, 3).transpose(0, 3, 1, 2)
    gamma, beta = np.ones(3, f32), np.zeros(3, f32)
    other = np.full(shape, 7, f32)
    _, cache = fastopt.batch_norm_forward(x, gamma, beta)
    for call in (lambda: fastopt.batch_norm_forward(x, gamma, beta, out=other),
                 lambda: fastopt.batch_norm_inference(x, gamma, beta, beta, gamma, out=other),
                 lambda: fastopt.batch_norm_backward(other, cache),
                 lambda: fastopt.batch_norm_backward(x, cache, out=other)):
        with pytest.raises(ValueError, match=r"(out|dy): expected the shape of x, \(2, 3, 4, 5\), got"):
            call()
    assert np.all(other == 7)
