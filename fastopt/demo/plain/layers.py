"""Layers around the functions, with the arrays and state of fastopt's."""

import numpy as np

from fastopt import init
from fastopt.demo.plain.functions import (
    Array,
    activation_backward,
    activation_forward,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_inference,
    dropout_mask,
    embedding_backward,
    layer_norm_backward,
    layer_norm_forward,
)
from fastopt.reference import Layer

HE = ("relu", "leaky_relu", "gelu", "gelu_tanh", "silu")
"""Activation functions with which weights start from He's distribution."""


class Dense(Layer):
    def __init__(self, in_features: int, out_features: int, activation: str = "identity", *, bias: bool = True,
                 dropout: float = 0.0, rng: np.random.Generator) -> None:
        draw = init.he_normal if activation in HE else init.xavier_normal
        params = {"weight": draw((in_features, out_features), rng)}
        if bias:
            params["bias"] = np.zeros(out_features, np.float32)
        super().__init__(params)
        self.activation, self.dropout, self.rng = activation, dropout, rng

    def forward(self, x: Array, training: bool = True, *, out: None = None) -> Array:
        z = x @ self.params["weight"]
        if "bias" in self.params:
            z += self.params["bias"]
        self.x, self.activated = x, None
        if self.activation == "identity" and not self.dropout:
            return z
        y, self.activated = activation_forward(z, self.activation, dropout=self.dropout if training else 0.0,
                                               rng=self.rng)
        return y

    def backward(self, dy: Array, *, out: None = None) -> Array:
        if self.activated is not None:
            dy, _ = activation_backward(dy, self.activated)
        if "bias" in self.params:
            dy.sum(0, out=self.grads["bias"])
        np.matmul(self.x.T, dy, out=self.grads["weight"])
        return dy @ self.params["weight"].T


class BatchNorm(Layer):
    def __init__(self, num_features: int, *, relu: bool = False) -> None:
        super().__init__({"gamma": np.ones(num_features, np.float32), "beta": np.zeros(num_features, np.float32)},
                         {"running_mean": np.zeros(num_features, np.float32),
                          "running_var": np.ones(num_features, np.float32)})
        self.relu = relu

    def forward(self, x: Array, training: bool = True, *, out: None = None) -> Array:
        gamma, beta, mean, var = *self.params.values(), *self.buffers.values()
        if training:
            y, self.cache = batch_norm_forward(x, gamma, beta, mean, var, self.relu)
            return y
        y = batch_norm_inference(x, gamma, beta, mean, var)
        return np.maximum(y, 0, out=y) if self.relu else y

    def backward(self, dy: Array, *, out: None = None) -> Array:
        dx, self.grads["gamma"][...], self.grads["beta"][...] = batch_norm_backward(dy, self.cache)
        return dx


class LayerNorm(Layer):
    """Of the rows of a matrix."""

    def __init__(self, shape: int) -> None:
        super().__init__({"gamma": np.ones(shape, np.float32), "beta": np.zeros(shape, np.float32)})

    def forward(self, x: Array, training: bool = True, *, out: None = None) -> Array:
        y, self.cache = layer_norm_forward(x, self.params["gamma"], self.params["beta"])
        return y

    def backward(self, dy: Array, *, out: None = None) -> Array:
        dx, self.grads["gamma"][...], self.grads["beta"][...] = layer_norm_backward(dy, self.cache)
        return dx


class Dropout(Layer):
    def __init__(self, p: float, rng: np.random.Generator) -> None:
        super().__init__()
        self.p, self.rng = p, rng

    def forward(self, x: Array, training: bool = True, *, out: None = None) -> Array:
        if not training:
            return x
        self.mask = dropout_mask(x.shape, self.p, self.rng)
        return x * self.mask

    def backward(self, dy: Array, *, out: None = None) -> Array:
        return dy * self.mask


class Embedding(Layer):
    def __init__(self, num_embeddings: int, dim: int, *, std: float = 1.0, rng: np.random.Generator) -> None:
        super().__init__({"weight": init.normal((num_embeddings, dim), rng, std=std)})

    def forward(self, indices: Array, training: bool = True, *, out: None = None) -> Array:
        self.indices = indices
        return self.params["weight"][indices]

    def backward(self, dy: Array, *, out: None = None) -> None:
        embedding_backward(dy, self.indices, self.grads["weight"])
