"""What layers compute, in NumPy as it is usually written. `fastopt bench` times these functions, too.

They compute in the type of their arrays: with float64 they are what results are compared with.
"""

import functools
import importlib.util
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

f32 = np.float32


# Activation functions

SLOPE = 0.01
"""Of leaky_relu."""


@functools.cache
def erf() -> Callable[[Array], Array]:
    """SciPy's, or Python's element by element; NumPy has none."""
    if importlib.util.find_spec("scipy"):
        return importlib.import_module("scipy.special").erf
    return np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def normal(z: Array) -> Array:
    return 0.5 * (1 + erf()(z * math.sqrt(0.5)))


def tanh_of_gelu(z: Array) -> Array:
    return np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z))


def gelu_backward(dy: Array, z: Array, _: Array) -> Array:
    return dy * (normal(z) + z * np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi))


def gelu_tanh_backward(dy: Array, z: Array, _: Array) -> Array:
    t = tanh_of_gelu(z)
    inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z * z)
    return dy * (0.5 * (1 + t) + 0.5 * z * (1 - t * t) * inner)


def silu_backward(dy: Array, z: Array, _: Array) -> Array:
    s = sigmoid(z)
    return dy * (s * (1 + z * (1 - s)))


FUNCTIONS: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "identity": (lambda z: z, lambda dy, z, y: dy.copy()),
    "relu": (lambda z: np.maximum(z, 0), lambda dy, z, y: dy * (y > 0)),
    "leaky_relu": (lambda z: np.where(z < 0, SLOPE * z, z), lambda dy, z, y: np.where(y > 0, dy, SLOPE * dy)),
    "sigmoid": (sigmoid, lambda dy, z, y: dy * y * (1 - y)),
    "tanh": (np.tanh, lambda dy, z, y: dy * (1 - y * y)),
    "gelu": (lambda z: z * normal(z), gelu_backward),
    "gelu_tanh": (lambda z: 0.5 * z * (1 + tanh_of_gelu(z)), gelu_tanh_backward),
    "silu": (lambda z: z * sigmoid(z), silu_backward),
}
"""name → y of z, dx of (dy, z, y), where z is x + bias."""


def dropout_mask(shape: tuple[int, ...], p: float, rng: np.random.Generator) -> Array:
    """0 for a dropped element, else 1 / (1 − p)."""
    return (rng.random(shape, dtype=np.float32) >= p) / f32(1 - p)


@np.errstate(over="ignore")         # sigmoid's exp(−z) of a very small z; 1 / inf is right
def activation_forward(x: Array, activation: str, bias: Array | None = None, *, dropout: float = 0.0,
                       rng: np.random.Generator | None = None) -> tuple[Array, tuple[Any, ...]]:
    z = x if bias is None else x + bias
    y = FUNCTIONS[activation][0](z)
    if not dropout or rng is None:
        return y, (activation, z, y, None, bias is not None)
    mask = dropout_mask(y.shape, dropout, rng)
    return y * mask, (activation, z, y, mask, bias is not None)


@np.errstate(over="ignore")
def activation_backward(dy: Array, cache: tuple[Any, ...]) -> tuple[Array, Array | None]:
    activation, z, y, mask, has_bias = cache
    dx = FUNCTIONS[activation][1](dy if mask is None else dy * mask, z, y)
    return dx, dx.sum(0) if has_bias else None


# Normalisation

def per_channel(values: Array, x: Array, axis: int = 1) -> Array:
    """One value for each channel, in a shape that is broadcast with x."""
    return values.reshape([-1 if k == axis else 1 for k in range(x.ndim)])


def batch_norm_forward(x: Array, gamma: Array, beta: Array, running_mean: Array | None = None,
                       running_var: Array | None = None, relu: bool = False, axis: int = 1) -> tuple[Any, ...]:
    axes = tuple(k for k in range(x.ndim) if k != axis)
    mean = x.mean(axes)
    xhat = x - per_channel(mean, x, axis)
    var = (xhat**2).mean(axes)
    invstd = 1 / np.sqrt(var + f32(1e-5))
    xhat *= per_channel(invstd, x, axis)
    y = per_channel(gamma, x, axis) * xhat + per_channel(beta, x, axis)
    if running_mean is not None and running_var is not None:
        n = x.size // len(mean)
        running_mean += 0.1 * (mean - running_mean)
        running_var += 0.1 * (var * (n / (n - 1)) - running_var)
    return np.maximum(y, 0) if relu else y, (xhat, gamma * invstd, y > 0 if relu else None)


def batch_norm_backward(dy: Array, cache: tuple[Any, ...], axis: int = 1) -> tuple[Any, ...]:
    xhat, slope, positive = cache
    axes = tuple(k for k in range(dy.ndim) if k != axis)
    if positive is not None:
        dy = dy * positive
    dgamma, dbeta = (dy * xhat).sum(axes), dy.sum(axes)
    n = f32(dy.size // len(dbeta))
    dx = per_channel(slope, dy, axis) * (
        dy - per_channel(dbeta / n, dy, axis) - xhat * per_channel(dgamma / n, dy, axis))
    return dx, dgamma, dbeta


def batch_norm_inference(x: Array, gamma: Array, beta: Array, mean: Array, var: Array, axis: int = 1) -> Array:
    scale = gamma / np.sqrt(var + f32(1e-5))
    return x * per_channel(scale, x, axis) + per_channel(beta - mean * scale, x, axis)


def layer_norm_forward(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> tuple[Array, tuple[Array, ...]]:
    """Of a matrix's rows."""
    centred = x - x.mean(1, keepdims=True)
    invstd = 1 / np.sqrt((centred * centred).mean(1, keepdims=True) + f32(eps))
    xhat = centred * invstd
    return xhat * gamma + beta, (xhat, invstd, gamma)


def layer_norm_backward(dy: Array, cache: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    xhat, invstd, gamma = cache
    g = dy * gamma
    dx = invstd * (g - g.mean(1, keepdims=True) - xhat * (g * xhat).mean(1, keepdims=True))
    return dx, (dy * xhat).sum(0), dy.sum(0)


# Embedding

def embedding_backward(dy: Array, indices: Array, gradient: Array) -> None:
    """Sorted by index and summed in runs: a third of np.add.at's time."""
    order = np.argsort(indices, axis=None, kind="stable")
    indices = indices.ravel()[order]
    begins = np.flatnonzero(np.diff(indices, prepend=-1))
    gradient.fill(0)
    gradient[indices[begins]] = np.add.reduceat(dy.reshape(len(order), -1)[order], begins, axis=0)


# Softmax and cross-entropy

def log_softmax(x: Array) -> Array:
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(x: Array) -> Array:
    exp = np.exp(x - x.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def softmax_cross_entropy(logits: Array, labels: Array, *, out: Array | None = None) -> tuple[float, Array]:
    """The mean loss and its gradient."""
    rows = np.arange(len(logits))
    largest = logits.max(axis=1, keepdims=True)
    exp = np.exp(logits - largest)
    total = exp.sum(axis=1, keepdims=True)
    loss = (np.log(total[:, 0]) + (largest[:, 0] - logits[rows, labels])).mean()
    p = np.divide(exp, total, out=out)
    p[rows, labels] -= 1
    p /= len(p)
    return float(loss), p


def softmax_cross_entropy_loss(logits: Array, labels: Array) -> float:
    return -float(log_softmax(logits)[np.arange(len(logits)), labels].mean())
