"""Layers around the functions, in NumPy. As `fastopt`'s they keep their arrays for life."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastopt.reference._activation import activation_backward, activation_forward
from fastopt.reference._batchnorm import batch_norm_backward, batch_norm_forward
from fastopt.reference._dropout import dropout_backward, dropout_forward
from fastopt.reference._embedding import embedding_backward, embedding_forward
from fastopt.reference._formula import Array
from fastopt.reference._layernorm import layer_norm_backward, layer_norm_forward, rms_norm_backward, rms_norm_forward

HE = {"relu", "leaky_relu", "gelu", "gelu_tanh", "silu"}


class Layer:
    """See `fastopt.Layer`."""

    def __init__(self, params: Mapping[str, Array] | None = None, buffers: Mapping[str, Array] | None = None) -> None:
        self.params, self.buffers = dict(params or {}), dict(buffers or {})
        self.grads = {name: np.zeros_like(param) for name, param in self.params.items()}
        self._cache: Any = None

    def _forward_cache(self) -> Any:
        if self._cache is None:
            raise ValueError("backward: expected a forward pass before it, got none since the last backward")
        cache, self._cache = self._cache, None
        return cache

    def state_dict(self) -> dict[str, Array]:
        return {name: array.copy() for name, array in (self.params | self.buffers).items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        copies = {name: state[name].copy() for name in self.params | self.buffers}
        for name, array in (self.params | self.buffers).items():
            array[...] = copies[name]


class BatchNorm(Layer):
    """See `fastopt.BatchNorm`."""

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1, channel_axis: int = 1,
                 unbiased: bool = True, relu: bool = False) -> None:
        self.num_features = num_features
        self.eps, self.momentum, self.channel_axis = eps, momentum, channel_axis
        self.unbiased, self.relu = unbiased, relu
        self.gamma, self.beta = np.ones(num_features, np.float32), np.zeros(num_features, np.float32)
        self.running_mean, self.running_var = np.zeros(num_features, np.float32), np.ones(num_features, np.float32)
        super().__init__({"gamma": self.gamma, "beta": self.beta},
                         {"running_mean": self.running_mean, "running_var": self.running_var})
        self.dgamma, self.dbeta = self.grads.values()

    def forward(self, x: Array, training: bool = True, *, out: Array | None = None) -> Array:
        y, self._cache = batch_norm_forward(
            x, self.gamma, self.beta, self.running_mean, self.running_var, training=training, momentum=self.momentum,
            eps=self.eps, channel_axis=self.channel_axis, unbiased=self.unbiased, relu=self.relu, out=out)
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        return batch_norm_backward(dy, self._forward_cache(), out=(out, self.dgamma, self.dbeta))[0]


class Dense(Layer):
    """See `fastopt.Dense`."""

    def __init__(self, in_features: int, out_features: int, activation: str = "identity", *, bias: bool = True,
                 dropout: float = 0.0, negative_slope: float = 0.01, rng: np.random.Generator) -> None:
        self.in_features, self.out_features, self.activation = in_features, out_features, activation
        self.dropout, self.negative_slope, self.rng = dropout, negative_slope, rng
        fan = in_features if activation in HE else in_features + out_features
        weight = rng.standard_normal((in_features, out_features), dtype=np.float32)
        weight *= np.float32(math.sqrt(2.0 / max(fan, 1)))
        super().__init__({"weight": weight, **({"bias": np.zeros(out_features, np.float32)} if bias else {})})

    def forward(self, x: Array, training: bool = True, *, out: Array | None = None) -> Array:
        rows = x.reshape(math.prod(x.shape[:-1]), self.in_features)
        z = (rows @ self.params["weight"]).reshape(*x.shape[:-1], self.out_features)
        y, cache = activation_forward(
            z, self.activation, self.params.get("bias"), dropout=self.dropout if training else 0.0, rng=self.rng,
            negative_slope=self.negative_slope, out=out)
        self._cache = rows, x.shape, cache
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        rows, shape, cache = self._forward_cache()
        dz, _ = activation_backward(dy, cache, out=(None, self.grads.get("bias")))
        dz = dz.reshape(len(rows), self.out_features)
        self.grads["weight"][...] = rows.T @ dz
        dx = (dz @ self.params["weight"].T).reshape(shape)
        if out is None:
            return dx
        out[...] = dx
        return out


class LayerNorm(Layer):
    """See `fastopt.LayerNorm`."""

    def __init__(self, shape: int | Sequence[int], *, eps: float = 1e-5) -> None:
        self.shape, self.eps = tuple(shape) if isinstance(shape, Sequence) else (shape,), eps
        super().__init__({"gamma": np.ones(shape, np.float32), "beta": np.zeros(shape, np.float32)})

    def forward(self, x: Array, training: bool = True, *, out: Array | None = None) -> Array:
        y, self._cache = layer_norm_forward(x, self.params["gamma"], self.params["beta"], eps=self.eps, out=out)
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        gradients = self.grads["gamma"], self.grads["beta"]
        return layer_norm_backward(dy, self._forward_cache(), out=(out, *gradients))[0]


class RMSNorm(Layer):
    """See `fastopt.RMSNorm`."""

    def __init__(self, shape: int | Sequence[int], *, eps: float = 1e-5) -> None:
        self.shape, self.eps = tuple(shape) if isinstance(shape, Sequence) else (shape,), eps
        super().__init__({"gamma": np.ones(shape, np.float32)})

    def forward(self, x: Array, training: bool = True, *, out: Array | None = None) -> Array:
        y, self._cache = rms_norm_forward(x, self.params["gamma"], eps=self.eps, out=out)
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        return rms_norm_backward(dy, self._forward_cache(), out=(out, self.grads["gamma"]))[0]


class Dropout(Layer):
    """See `fastopt.Dropout`."""

    def __init__(self, p: float, rng: np.random.Generator) -> None:
        self.p, self.rng = p, rng
        super().__init__()

    def forward(self, x: Array, training: bool = True, *, out: Array | None = None) -> Array:
        y, self._cache = dropout_forward(x, self.p, self.rng, training=training, out=out)
        return y

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        return dropout_backward(dy, self._forward_cache(), out=out)


class Embedding(Layer):
    """See `fastopt.Embedding`."""

    def __init__(self, num_embeddings: int, dim: int, padding_idx: int | None = None, *, std: float = 1.0,
                 rng: np.random.Generator) -> None:
        self.num_embeddings, self.dim, self.padding_idx = num_embeddings, dim, padding_idx
        weight = rng.standard_normal((num_embeddings, dim), dtype=np.float32)
        weight *= np.float32(std)
        if padding_idx is not None:
            weight[padding_idx] = 0.0
        super().__init__({"weight": weight})

    def forward(self, indices: Array, training: bool = True, *, out: Array | None = None) -> Array:
        self._cache = indices.copy()
        return embedding_forward(self.params["weight"], indices, out=out)

    def backward(self, dy: Array, *, out: None = None) -> None:
        self.grads["weight"][...] = 0.0
        embedding_backward(dy, self._forward_cache(), self.num_embeddings, padding_idx=self.padding_idx,
                           out=self.grads["weight"])
