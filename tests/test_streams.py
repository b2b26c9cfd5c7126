"""The streams of a rule, (param, grad, average, state…): which must be given and which are only read."""

import numpy as np
import pytest
from fastopt._runtime.binding import Binding
from helpers import assert_same_bits

from fastopt._runtime import dispatch, driver

AVERAGING = (1.0, False, float("inf"), 0.0, 0.0, 0.0, 0.5, True)
"""What every optimizer's kernel takes last: with an average, and nothing else."""
READ = 1 << 3
"""Of the first state."""


def ones():
    return np.ones(40, np.float32)


def read_only():
    array = ones()
    array.flags.writeable = False
    return array


def test_an_average_that_the_rule_needs():
    rule, param = dispatch.active.sgd.sgdm(1, 0.1, 0.9, AVERAGING), ones()
    with pytest.raises(TypeError, match=r"^average: expected writable .* got None$"):
        driver.apply(rule, param, ones(), None, ones())
    with pytest.raises(TypeError, match=r"^state average\[0\]: expected an array, got None when the model was bound"):
        Binding([0], [(param, None, None, ones())], ("m",), [0]).apply([rule], [ones()])
    with pytest.raises(ValueError, match=r"^arrays: expected 4, got 3$"):
        driver.apply(rule, param, ones(), ones())
    assert_same_bits(param, ones())


def test_any_sequence_of_the_shared_arguments():
    arrays = [(ones(), ones(), ones(), ones()) for _ in range(2)]
    for given, shared in zip(arrays, (AVERAGING, list(AVERAGING)), strict=True):
        driver.apply(dispatch.active.sgd.sgdm(1, 0.1, 0.9, shared), *given)
    for one, other in zip(*arrays, strict=True):
        assert_same_bits(one, other)


def test_a_stream_bound_as_read_only():
    binding = Binding([0], [(ones(), None, ones(), read_only())], ("m",), [0], READ)
    with pytest.raises(ValueError, match="^rules: expected rules that only read"):
        binding.apply([dispatch.active.sgd.sgdm(1, 0.1, 0.9, AVERAGING)], [ones()])
    assert binding.measure(dispatch.active.layerwise.squares(), [ones()]) == 40.0
    with pytest.raises(ValueError, match=r"^state m\[0\]: expected writable"):
        Binding([0], [(ones(), None, ones(), read_only())], ("m",), [0])


def test_a_read_only_stream_overlaps_nothing_that_is_written():
    room = np.ones(80, np.float32)
    with pytest.raises(ValueError, match=r"^state m\[0\]: expected memory of its own, .* overlaps params\[0\]$"):
        Binding([0], [(room[:40], None, None, room[39:79])], ("m",), [0], READ)
    binding = Binding([0], [(ones(), None, None, room[:40])], ("m",), [0], READ)
    assert binding.measure(dispatch.active.layerwise.squares(), [room[39:79]]) == 40.0  # both are only read


@pytest.mark.parametrize(("family", "function", "numbers", "missing"), [
    ("adam", "adam", (1, 0.1, 0.9, 0.99, 1e-8, True, False, True), "vmax"),
    ("adaptive", "rmsprop", (1, 0.1, 0.9, 1e-8, False, True, 0.0), "grad_avg"),
    ("adaptive", "rmsprop", (1, 0.1, 0.9, 1e-8, False, False, 0.9), "buf"),
    ("sign", "sophia", (1, 0.1, 0.9, 0.99, 0.1, 1e-8, True), "hessian"),
])
def test_a_state_that_only_some_options_need(family, function, numbers, missing):
    """The functions decide by the array itself, so that only a rule can be asked for one that is not there."""
    make = getattr(getattr(dispatch.active, family), function)
    rule = make(*numbers, (1.0, False, float("inf"), 0.0, 0.0, 0.0, 0.0, False))
    names = {"adam": ("m", "v", "vmax"), "rmsprop": ("v", "grad_avg", "buf"), "sophia": ("m", "h", "hessian")}[function]
    arrays = [None if name == missing else ones() for name in names]
    with pytest.raises(TypeError, match=rf"^{missing}: expected .* got None$"):
        driver.apply(rule, ones(), ones(), None, *arrays)
