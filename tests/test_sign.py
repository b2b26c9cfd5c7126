"""Lion, Rprop and Sophia against hand-computed steps."""

import numpy as np
import pytest
from helpers import assert_same_bits
from optimizer_cases import model

import fastopt


def test_lion_by_hand():
    """The step is lr whatever the gradient's size, 0 for c = 0; m follows with β₂; decay is decoupled."""
    param, m = np.array([2.0, 2.0, 2.0], np.float32), np.array([1.0, -1.0, 0.0], np.float32)
    fastopt.lion(param, np.array([8.0, -1e-3, 0.0], np.float32), m, lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    np.testing.assert_allclose(param, [1.8, 2.0, 1.9], rtol=1e-6)
    np.testing.assert_allclose(m, [1.07, -0.99001, 0.0], rtol=1e-6)


def test_lion_takes_the_sign_of_the_mixture():
    """c = 0.9 · m + 0.1 · g: −0.9 + 0.8 is negative although the gradient is positive."""
    param, m = np.zeros(2, np.float32), np.array([-1.0, -1.0], np.float32)
    fastopt.lion(param, np.array([8.0, 10.0], np.float32), m, lr=0.1)
    np.testing.assert_allclose(param, [0.1, -0.1], rtol=1e-6)


def test_rprop_by_hand():
    """Step sizes grow by 1.2 while the sign holds, and shrink by 0.5, without a step, when it turns."""
    param, prev, step_size = np.zeros(1, np.float32), np.zeros(1, np.float32), np.full(1, 0.1, np.float32)
    path = [(1.0, -0.1, 0.1), (1.0, -0.22, 0.12), (-1.0, -0.22, 0.06), (-1.0, -0.16, 0.06), (-1.0, -0.088, 0.072)]
    for grad, at, size in path:
        fastopt.rprop(param, np.full(1, grad, np.float32), prev, step_size)
        np.testing.assert_allclose((param[0], step_size[0]), (at, size), rtol=1e-5)


def test_rprop_step_sizes_stay_within_their_limits():
    param, prev, step_size = np.zeros(1, np.float32), np.zeros(1, np.float32), np.full(1, 0.1, np.float32)
    for _ in range(20):
        fastopt.rprop(param, np.ones(1, np.float32), prev, step_size, step_sizes=(0.05, 0.5))
    assert step_size[0] == np.float32(0.5)
    for sign in range(20):
        fastopt.rprop(param, np.full(1, (-1.0) ** (sign // 2), np.float32), prev, step_size, etas=(0.5, 1.01),
                      step_sizes=(0.05, 0.5))
    assert step_size[0] >= np.float32(0.05)


def test_rprop_limits_in_order():
    with pytest.raises(ValueError, match="^step_sizes: expected the smaller one first"):
        fastopt.Rprop(step_sizes=(1.0, 0.1))


def test_sophia_by_hand():
    """m = 0.5 · g, h = 0.5 · hessian; the ratio is clipped at ±1 and where h is not positive it is the sign."""
    param, m, h = np.zeros((3, 5), np.float32)
    param[:] = 2.0
    grad = np.array([1.0, -1.0, 8.0, 1.0, 0.0], np.float32)
    hessian = np.array([4.0, 4.0, 4.0, -4.0, 4.0], np.float32)
    fastopt.sophia(param, grad, m, h, hessian, lr=0.1, betas=(0.5, 0.5), rho=0.5, weight_decay=0.5)
    np.testing.assert_allclose(m, [0.5, -0.5, 4.0, 0.5, 0.0], rtol=1e-6)
    np.testing.assert_allclose(h, [2.0, 2.0, 2.0, -2.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(param, [1.85, 1.95, 1.8, 1.8, 1.9], rtol=1e-6)
    kept = h.copy()
    fastopt.sophia(param, grad, m, h, lr=0.1)
    assert_same_bits(h, kept)


def test_sophia_reads_one_array_as_gradient_and_hessian():
    """Both are only read. (What is written may overlap neither: test_bad_input.py.)"""
    both, expected = np.ones((3, 40), np.float32), np.ones((3, 40), np.float32)
    grad = np.linspace(-1, 1, 40, dtype=np.float32)
    fastopt.sophia(*expected[:1], grad, *expected[1:], grad.copy())
    fastopt.sophia(*both[:1], grad, *both[1:], grad)
    assert_same_bits(both, expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_update_hessian_gives_the_references_bits(level, threads, rng):
    """Before the first update, between updates, and through state_dict; hyper-parameters per parameter included."""
    options = dict(lr=0.01, rho=0.5, average_decay=0.9,
                   per_param=lambda key, param: {} if param.ndim > 1 else {"betas": (0.8, 0.7)})
    ours, theirs = fastopt.Sophia(**options), fastopt.reference.Sophia(**options)
    params = model(rng)
    copies = {key: param.copy() for key, param in params.items()}
    with fastopt.num_threads(threads):
        for step in range(6):
            grads, hessians = model(rng), model(rng)
            if step % 2 == 0:
                ours.update_hessian(params, hessians)
                theirs.update_hessian(copies, hessians)
            if step == 3:
                state = ours.state_dict()
                ours = fastopt.Sophia(**options)
                ours.load_state_dict(state)
            ours.update(params, grads)
            theirs.update(copies, grads)
    assert ours.steps == theirs.steps
    for key, param in params.items():
        assert_same_bits(param, copies[key], key)
        for name, array in theirs.state[key].items():
            assert_same_bits(ours.state[key][name], array, f"{key} {name}")


def test_update_hessian_is_the_functions_average(rng):
    """One array, and an estimate in float64, which is converted as a gradient is."""
    param, grad, hessian = rng.standard_normal((3, 100)).astype(np.float32)
    expected, m, h = param.copy(), np.zeros(100, np.float32), np.zeros(100, np.float32)
    fastopt.sophia(expected, grad, m, h, hessian)
    opt = fastopt.Sophia()
    opt.update_hessian(param, hessian.astype(np.float64))
    assert (opt.step_count, opt.steps) == (0, {0: 0})
    opt.update(param, grad)
    assert_same_bits(param, expected)
    assert_same_bits(opt.state[0]["h"], h)


@pytest.mark.parametrize("bound", [False, True])
def test_update_hessian_refuses_with_nothing_changed(bound):
    params = {"a": np.ones(3, np.float32), "b": np.ones((2, 2), np.float32)}
    good = {key: np.ones_like(param) for key, param in params.items()}
    opt = fastopt.Sophia()
    if bound:
        opt.update(params, good)
    before = opt.state_dict()
    for wrong, message in [
        ({"a": good["a"]}, "^hessians: expected the keys of params, got none for 'b'$"),
        ([good["a"], good["b"]], "^hessians: expected a dict like params, got list$"),
        ({**good, "b": np.ones(4, np.float32)}, r"^hessians\['b'\]: expected C-contiguous float32 of shape \(2, 2\)"),
        ({**good, "b": "no"}, r"^hessians\['b'\]: expected .* got str$"),
        ({**good, "b": params["b"]}, r"^hessians\['b'\]: expected memory of its own, .* overlaps params\['b'\]$"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            opt.update_hessian(params, wrong)
        after = opt.state_dict()
        assert (after["steps"], after["step_count"]) == (before["steps"], before["step_count"])
        assert after["state"].keys() == before["state"].keys()
        for key, entry in before["state"].items():
            for name, array in entry.items():
                assert_same_bits(after["state"][key][name], array)
    with pytest.raises(ValueError, match=r"^betas\[1\]: expected"):
        fastopt.Sophia(per_param=lambda key, param: {"betas": (0.9, 1.0)}).update_hessian(params, good)
    with pytest.raises(TypeError, match=r"^grads\['b'\]: expected"):
        opt.update(params, {**good, "b": "no"})
    opt.update_hessian(params, good)
    np.testing.assert_allclose(opt.state["b"]["h"], 0.01, rtol=1e-5)
