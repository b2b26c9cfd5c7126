"""BatchNorm: a gradient in another memory layout than x's, and vectors with more axes of length 1."""

import sys
from array import array as plain_array

import numpy as np
import pytest
from helpers import THREADS, assert_same_bits, every_instant, misaligned

import fastopt
from fastopt import reference

f32 = np.float32
BOTH = pytest.mark.parametrize("module", [fastopt, reference], ids=["fastopt", "reference"])


def standard(rng, *shape):
    return rng.standard_normal(shape).astype(f32)


def channels_last(array, axis=1):
    """The same array, in memory that has the channels last."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, axis, -1)), -1, axis)


def gradients(module, x, dy, gamma, beta, axis=1, **options):
    _, cache = module.batch_norm_forward(x, gamma, beta, channel_axis=axis, relu=True)
    return module.batch_norm_backward(dy, cache, **options), module.batch_norm_backward_sums(dy, cache)


LAYOUTS = pytest.mark.parametrize("of_x", [np.ascontiguousarray, channels_last], ids=["C x", "channels-last x"])


@BOTH
@LAYOUTS
@pytest.mark.parametrize("shape", [(3, 7, 5, 4), (2, 3, 50), (2, 70, 5, 6), (2, 3, 2, 3, 4), (40, 16, 9, 9)])
def test_dy_in_the_other_layout(shape, of_x, module, level, rng):
    """The bits of dy in x's layout; dx has x's layout, dy is not written."""
    x, dy, (gamma, beta) = of_x(standard(rng, *shape)), standard(rng, *shape), standard(rng, 2, shape[1])
    others = [np.ascontiguousarray(dy), channels_last(dy)]
    assert others[0].strides != others[1].strides
    right, sums = gradients(module, x, of_x(dy), gamma, beta)
    for other in others:
        got, other_sums = gradients(module, x, other, gamma, beta)
        assert got[0].strides == x.strides
        for a, b in zip((*got, *other_sums), (*right, *sums), strict=True):
            assert_same_bits(a, b)
        assert_same_bits(other, dy)


@pytest.mark.parametrize("axis", [0, 2, -3, -1])
def test_any_channel_axis(axis, rng):
    x = standard(rng, 4, 5, 6, 7)
    dy, (gamma, beta) = standard(rng, *x.shape), standard(rng, 2, x.shape[axis])
    right, _ = gradients(fastopt, x, dy, gamma, beta, axis)
    got, _ = gradients(fastopt, x, channels_last(dy, axis), gamma, beta, axis)
    for a, b in zip(got, right, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("threads", THREADS)
def test_threads(threads, rng, always_parallel):
    x, dy, (gamma, beta) = standard(rng, 4, 33, 20, 17), standard(rng, 4, 33, 20, 17), standard(rng, 2, 33)
    right, _ = gradients(reference, x, dy, gamma, beta)
    with fastopt.num_threads(threads):
        got, _ = gradients(fastopt, x, channels_last(dy), gamma, beta)
    for a, b in zip(got, right, strict=True):
        assert_same_bits(a, b)


@LAYOUTS
def test_out_has_the_layout_of_x(of_x, rng):
    shape = (2, 3, 4, 5)
    x, dy, (gamma, beta) = of_x(standard(rng, *shape)), standard(rng, *shape), standard(rng, 2, 3)
    mine = of_x(dy)
    other = channels_last(dy) if mine.flags.c_contiguous else np.ascontiguousarray(dy)
    right, _ = gradients(fastopt, x, mine, gamma, beta)
    out = np.empty_like(mine)
    got, _ = gradients(fastopt, x, other, gamma, beta, out=out)
    assert got[0] is out
    assert_same_bits(out, right[0])
    before = other.copy()
    with pytest.raises(ValueError, match="^out: expected"):
        gradients(fastopt, x, other, gamma, beta, out=other)
    assert_same_bits(other, before)


@LAYOUTS
def test_out_over_a_part_of_dy_in_the_other_layout(of_x, rng):
    shape = (2, 3, 4, 5)
    x, (gamma, beta), room = of_x(standard(rng, *shape)), standard(rng, 2, 3), np.zeros(125, f32)
    plain, last = (lambda a: a.reshape(shape)), (lambda a: a.reshape(2, 4, 5, 3).transpose(0, 3, 1, 2))
    mine, other = (plain, last) if x.flags.c_contiguous else (last, plain)
    for written, read in ((room[5:], room[:120]), (room[:120], room[5:])):
        with pytest.raises(ValueError, match="^out: expected memory of its own or that of dy, got .* in part"):
            gradients(fastopt, x, other(read), gamma, beta, out=mine(written))
    with pytest.raises(ValueError, match="^(dgamma|dy): expected memory of its own"):
        gradients(fastopt, x, other(room[:120]), gamma, beta, out=(None, room[3:6], None))
    assert (room == 0).all()


@LAYOUTS
def test_out_in_the_memory_of_dy_in_the_other_layout(of_x, rng):
    shape = (2, 3, 4, 5)
    x, (gamma, beta), room = of_x(standard(rng, *shape)), standard(rng, 2, 3), standard(rng, 120)
    plain, last = room.reshape(shape), room.reshape(2, 4, 5, 3).transpose(0, 3, 1, 2)
    mine, other = (plain, last) if x.flags.c_contiguous else (last, plain)
    right, _ = gradients(fastopt, x, other.copy(), gamma, beta)
    _, cache = fastopt.batch_norm_forward(x, gamma, beta, relu=True)
    got = fastopt.batch_norm_backward(other, cache, out=mine)
    assert got[0] is mine
    for a, b in zip(got, right, strict=True):
        assert_same_bits(a, b)


@LAYOUTS
def test_interrupt_with_dy_in_the_other_layout(of_x, rng):
    """dx's memory receives dy in x's layout first: at no bytecode is it left with that."""
    shape = (2, 3, 4, 5)
    x, (gamma, beta), dy = of_x(standard(rng, *shape)), standard(rng, 2, 3), standard(rng, *shape)
    other = channels_last(dy) if x.flags.c_contiguous else dy
    _, cache = fastopt.batch_norm_forward(x, gamma, beta)
    every_instant(lambda: (of_x(np.ones(shape, f32)), np.ones(3, f32), np.ones(3, f32)),
                  lambda out: fastopt.batch_norm_backward(other, cache, out=out), lambda out: out)


def test_dy_in_the_other_layout_that_changes_during_the_call(rng):
    """By the code of another argument, after it has been validated: nothing is written beyond dx's memory."""
    x, (gamma, beta), dy = channels_last(standard(rng, 2, 3, 4, 5)), standard(rng, 2, 3), np.zeros((2, 3, 4, 5), f32)

    def sums():
        dy.shape = 1, 120
        yield np.zeros(3)
        yield np.zeros(3)

    _, cache = fastopt.batch_norm_forward(x, gamma, beta)
    out = np.ones_like(x)
    with pytest.raises(ValueError, match="^dy: expected an array that keeps its shape"):
        fastopt.batch_norm_backward(dy, cache, out=out, sums=sums())
    assert (out == 1).all()


@LAYOUTS
def test_what_stays_refused(of_x, rng):
    shape = (2, 3, 4, 5)
    x, dy, (gamma, beta) = of_x(standard(rng, *shape)), standard(rng, *shape), standard(rng, 2, 3)
    wanted = ("C-contiguous float32 of shape" if x.flags.c_contiguous
              else r"a C-contiguous array or the memory layout of x \(channels last\), got strides")
    for wrong in (np.repeat(dy, 2, axis=3)[..., ::2], dy[::-1], np.asfortranarray(dy), channels_last(dy, axis=2)):
        assert wrong.shape == shape
        with pytest.raises(ValueError, match=rf"^dy: expected {wanted}"):
            gradients(fastopt, x, wrong, gamma, beta)
    for layout in (np.ascontiguousarray, channels_last):
        with pytest.raises(TypeError, match=r"^dy: expected .*, got float64 .*; cast the data"):
            gradients(fastopt, x, layout(dy.astype(np.float64)), gamma, beta)
        with pytest.raises(TypeError, match=r"^dy: expected .*, got masked array"):
            gradients(fastopt, x, np.ma.masked_array(layout(dy)), gamma, beta)
        with pytest.raises(ValueError, match=r"^dy: expected .*, got float32 \(2, 3, 4, 4\)|^dy: .* shape of x"):
            gradients(fastopt, x, layout(dy[..., :4]), gamma, beta)
    with pytest.raises(ValueError, match=r"^dy: expected .*, got .*not aligned|^dy: expected .*strides"):
        gradients(fastopt, x, misaligned(channels_last(dy).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2), gamma, beta)
    with pytest.raises(ValueError, match=r"^dy: expected .*, got .*not aligned"):
        gradients(fastopt, x, misaligned(dy), gamma, beta)


def test_two_axes_have_one_layout(rng):
    x, dy, (gamma, beta) = standard(rng, 8, 3), standard(rng, 8, 3), standard(rng, 2, 3)
    with pytest.raises(ValueError, match=r"^dy: expected C-contiguous .* not C-contiguous; numpy.ascontiguousarray"):
        gradients(fastopt, x, np.asfortranarray(dy), gamma, beta)


def test_the_class_takes_dy_in_the_other_layout(rng):
    x, dy, layers = standard(rng, 2, 3, 4, 5), standard(rng, 2, 3, 4, 5), [fastopt.BatchNorm(3) for _ in range(2)]
    results = []
    for layer, slope in zip(layers, (dy, channels_last(dy)), strict=True):
        layer.forward(x)
        results.append((layer.backward(slope), layer.dgamma, layer.dbeta))
    for a, b in zip(*results, strict=True):
        assert_same_bits(a, b)


def test_the_copy_of_dy_is_freed(rng):
    x, dy = standard(rng, 2, 3, 4, 5), channels_last(standard(rng, 2, 3, 4, 5))
    _, cache = fastopt.batch_norm_forward(x, *standard(rng, 2, 3))
    before = sys.getrefcount(dy)
    for _ in range(3):
        fastopt.batch_norm_backward(dy, cache)
    assert sys.getrefcount(dy) == before


# Vectors.

VECTORS = [(1, 5), (5, 1), (1, 5, 1, 1), (1, 1, 1, 5), (1, 1, 5, 1, 1, 1)]


@BOTH
@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("shape", [(8, 5), (3, 5, 4, 2), (1, 5, 2), (0, 5)])
@pytest.mark.parametrize("training", [True, False])
def test_vectors_with_axes_of_length_one(vector, shape, training, module, rng):
    """The bits of those of shape (5,); the gradients have the shapes of gamma and beta."""
    x, dy = standard(rng, *shape), standard(rng, *shape)
    results = []
    arrays = [*standard(rng, 3, 5), np.abs(standard(rng, 5))]
    for turned in (False, True):
        gamma, beta, mean, var = (a.reshape(vector if turned else 5).copy() for a in arrays)
        y, cache = module.batch_norm_forward(x, gamma, beta, mean, var, training=training)
        dx, dgamma, dbeta = module.batch_norm_backward(dy, cache)
        for array in (dgamma, dbeta, mean, var):
            assert array.shape == gamma.shape
        inferred = module.batch_norm_inference(x, gamma, beta, mean, np.abs(var))
        results.append([a.ravel() for a in (y, dx, dgamma, dbeta, mean, var, inferred)])
        given = np.empty_like(gamma), np.empty_like(beta)
        assert module.batch_norm_backward(dy, cache, out=(None, *given))[1] is given[0]
        assert_same_bits(given[0], dgamma)
    for a, b in zip(*results, strict=True):
        assert_same_bits(a, b)


@BOTH
def test_gamma_and_beta_of_several_shapes(module, rng):
    x = standard(rng, 4, 5)
    _, cache = module.batch_norm_forward(x, np.ones((1, 5), f32), np.ones(5, f32))
    _, dgamma, dbeta = module.batch_norm_backward(x, cache)
    assert dgamma.shape == (1, 5)
    assert dbeta.shape == (5,)
    _, cache = module.batch_norm_forward(x, np.ones(5, f32), np.ones((5, 1), f32))
    _, dgamma, dbeta = module.batch_norm_backward(x, cache)
    assert dgamma.shape == (5,)
    assert dbeta.shape == (5, 1)


@BOTH
@pytest.mark.parametrize("vector", [(1,), (1, 1), (1, 1, 1, 1)])
def test_one_channel(vector, module, rng):
    x, one = standard(rng, 6, 1), np.ones(vector, f32)
    y, cache = module.batch_norm_forward(x, one, 0 * one)
    assert_same_bits(y, module.batch_norm_forward(x, np.ones(1, f32), np.zeros(1, f32))[0])
    assert module.batch_norm_backward(x, cache)[1].shape == vector


def test_no_channels():
    x = np.empty((4, 0), f32)
    for vector in ((0,), (1, 0), (0, 1)):
        _, cache = fastopt.batch_norm_forward(x, np.empty(vector, f32), np.empty(vector, f32))
        assert fastopt.batch_norm_backward(x, cache)[1].shape == vector
    for vector in ((0, 0), (2, 0), ()):
        with pytest.raises(ValueError, match=r"^gamma: expected C-contiguous float32 of shape \(0,\)"):
            fastopt.batch_norm_forward(x, np.empty(vector, f32), np.empty(0, f32))


@pytest.mark.parametrize("vector", [(6, 6), (1,), (), (1, 1), (2, 6), (6, 2), (2, 3), (1, 3, 2), (7,), (1, 7), (12,)])
def test_other_shapes_are_refused(vector, rng):
    x, ones = standard(rng, 8, 6), np.ones(6, f32)
    for place, name in enumerate(("gamma", "beta", "running_mean", "running_var")):
        arrays = [ones.copy() for _ in range(4)]
        arrays[place] = np.ones(vector, f32)
        with pytest.raises(ValueError, match=rf"^{name}: expected .*C-contiguous float32 of shape \(6,\), got float32"):
            fastopt.batch_norm_forward(x, *arrays)
        assert all((a == 1).all() for a in arrays)
    x = standard(rng, 8, 1)
    with pytest.raises(ValueError, match=r"^gamma: expected .* shape \(1,\), got float32 \(\)"):
        fastopt.batch_norm_forward(x, np.ones((), f32), np.ones(1, f32))


def test_vectors_are_written_through(rng):
    """Running statistics in views of one larger array."""
    x, room = standard(rng, 8, 5), np.ones((2, 5), f32)
    mean, var = np.ones(5, f32), np.ones(5, f32)
    fastopt.batch_norm_forward(x, mean.copy(), mean.copy(), room[:1], room[1:])
    fastopt.batch_norm_forward(x, mean.copy(), mean.copy(), mean, var)
    assert_same_bits(room, np.stack([mean, var]))
    assert (mean != 1).all()


def test_the_class_takes_such_vectors(rng):
    layer, x = fastopt.BatchNorm(5), standard(rng, 8, 5)
    right = layer.forward(x, training=False)
    layer.gamma = np.ones((1, 5), f32)
    assert_same_bits(layer.forward(x, training=False), right)
    layer.backward(x)
    assert layer.dgamma.shape == (5,)


@pytest.mark.parametrize("vector", VECTORS)
def test_fold(vector, rng):
    weight, (bias, gamma, beta, mean), var = standard(rng, 5, 6), standard(rng, 4, 5), np.abs(standard(rng, 5))
    right = fastopt.batch_norm_fold(weight, bias, gamma, beta, mean, var)
    turned = [a.reshape(vector) for a in (bias, gamma, beta, mean, var)]
    for module in (fastopt, reference):
        for a, b in zip(module.batch_norm_fold(weight, *turned), right, strict=True):
            assert_same_bits(a, b)
        out = weight.copy(), turned[0].copy()
        module.batch_norm_fold(*out, *turned[1:], out=out)
        assert_same_bits(out[0], right[0])
        assert_same_bits(out[1].ravel(), right[1])


@pytest.mark.parametrize("vector", [(1, 5), (5, 1), (1, 5, 1, 1)])
@pytest.mark.parametrize("activation", ["relu", "gelu", "identity"])
def test_the_bias_of_an_activation(vector, activation, rng):
    x, dy, bias = standard(rng, 8, 5), standard(rng, 8, 5), standard(rng, 5)
    for module in (fastopt, reference):
        results = []
        for b in (bias, bias.reshape(vector)):
            y, cache = module.activation_forward(x, activation, b)
            dx, dbias = module.activation_backward(dy, cache)
            assert dbias.shape == b.shape
            results.append([y, dx, dbias.ravel()])
            assert module.activation_backward(dy, cache, out=(None, np.empty_like(b)))[1].shape == b.shape
        for a, b in zip(*results, strict=True):
            assert_same_bits(a, b)
    with pytest.raises(ValueError, match=r"^bias: expected C-contiguous float32 of shape \(5,\), got float32 \(5, 5\)"):
        fastopt.activation_forward(x, activation, np.ones((5, 5), f32))


def test_vectors_of_any_object_with_a_buffer(rng):
    x, ones = standard(rng, 4, 3), np.ones((1, 3), f32)
    y, cache = fastopt.batch_norm_forward(x, memoryview(ones), plain_array("f", [0, 0, 0]))
    assert_same_bits(y, fastopt.batch_norm_forward(x, ones, np.zeros(3, f32))[0])
    assert fastopt.batch_norm_backward(x, cache)[1].shape == (1, 3)
