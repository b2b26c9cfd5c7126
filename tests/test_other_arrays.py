"""Memory of PyTorch and JAX, where they are installed: what is updated, taken and refused."""

import numpy as np
import pytest

import fastopt

F = np.float32


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def jnp():
    return pytest.importorskip("jax.numpy")


@pytest.mark.parametrize("way", ["function", "class"])
def test_a_torch_tensor_is_updated_in_place(way, torch):
    p = torch.nn.Parameter(torch.ones(3, 4))
    (p * torch.arange(4.0)).sum().backward()
    param, grad, pointer = p.detach().numpy(), p.grad.numpy(), p.data_ptr()
    if way == "function":
        fastopt.sgd(param, grad, lr=0.5)
    else:
        fastopt.SGD(lr=0.5).update({"p": param}, {"p": grad})
    assert p.data_ptr() == pointer
    assert torch.equal(p.detach(), 1 - 0.5 * torch.arange(4.0).expand(3, 4))
    assert torch.equal(p.grad, torch.arange(4.0).expand(3, 4))
    with torch.no_grad():
        p.fill_(2.0)
    assert (param == 2).all()


HINT = r"; its detach\(\)\.numpy\(\) is a NumPy array on the same memory$"


def test_torch_tensors_are_refused(torch):
    ones, param = np.ones((2, 3), F), torch.ones(2, 3)
    for tensor in (param, torch.nn.Parameter(param)):
        got = rf"got {type(tensor).__name__}{HINT}"
        with pytest.raises(TypeError, match=rf"^param: expected .*, {got}"):
            fastopt.sgd(tensor, ones, lr=0.5)
        with pytest.raises(TypeError, match=rf"^grad: expected .*, {got}"):
            fastopt.sgd(ones, tensor, lr=0.5)
        with pytest.raises(TypeError, match=rf"^params\['w'\]: expected .*, {got}"):
            fastopt.SGD(lr=0.5).update({"w": tensor}, {"w": ones})
        with pytest.raises(TypeError, match=rf"^grads\['w'\]: expected .*, {got}"):
            fastopt.SGD(lr=0.5).update({"w": ones}, {"w": tensor})
        with pytest.raises(TypeError, match=rf"^x: expected .*, {got}"):
            fastopt.softmax(tensor)
        with pytest.raises(TypeError, match=rf"^params: expected float32 arrays by name, .*{HINT}"):
            fastopt.Layer({"w": tensor})
    with pytest.raises(TypeError, match=rf"^labels: expected .*, got Tensor{HINT}"):
        fastopt.softmax_cross_entropy(ones, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TypeError, match=rf"^indices: expected .*, got Tensor{HINT}"):
        fastopt.embedding_forward(ones, torch.zeros(2, dtype=torch.int64))
    assert (ones == 1).all()
    assert (param == 1).all()


def test_a_torch_parameter_that_is_not_contiguous(torch):
    p = torch.nn.Parameter(torch.ones(3, 4).T)
    with pytest.raises(ValueError, match="^param: .* not C-contiguous; numpy.ascontiguousarray"):
        fastopt.sgd(p.detach().numpy(), np.ones((4, 3), F), lr=0.5)
    p.data = p.data.contiguous()
    fastopt.sgd(p.detach().numpy(), np.ones((4, 3), F), lr=0.5)
    assert (p == 0.5).all()


def test_jax_arrays_are_refused_where_they_would_be_written(jnp):
    ones, array = np.ones((2, 3), F), jnp.ones((2, 3))
    hint = r"; numpy\.array makes a copy that can be written, and jitted functions take NumPy arrays$"
    for call, name in ((lambda: fastopt.sgd(array, ones, lr=0.5), "param"),
                       (lambda: fastopt.SGD(lr=0.5).update({"w": array}, {"w": ones}), r"params\['w'\]"),
                       (lambda: fastopt.softmax(ones, out=array), "out")):
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected writable .*, got ArrayImpl{hint}"):
            call()
    assert (array == 1).all()
    param = np.array(array)
    fastopt.sgd(param, ones, lr=0.5)
    assert (param == 0.5).all()


@pytest.mark.parametrize("way", ["function", "class"])
def test_jax_gradients_are_waited_for_and_taken(way, jnp):
    jax = pytest.importorskip("jax")

    def slow(w):
        for _ in range(6):
            w = w @ w
        return w

    w = np.full((300, 300), F(1 / 300))
    jitted = jax.jit(slow)
    wanted = np.array(jitted(w))
    param = np.zeros((300, 300), F)
    for _ in range(5):
        param.fill(0)
        grad = jitted(w)                    # returns before it is computed
        if way == "function":
            fastopt.sgd(param, grad, lr=1.0)
        else:
            fastopt.SGD(lr=1.0).update([param], [grad])
        np.testing.assert_array_equal(param, -wanted)


def test_jax_inputs_are_taken(jnp):
    x = jnp.asarray(np.float32([[1, 2, 4]]))
    np.testing.assert_array_equal(fastopt.softmax(x), fastopt.softmax(np.float32([[1, 2, 4]])))
