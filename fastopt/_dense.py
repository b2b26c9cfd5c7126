"""The Dense layer: NumPy's matrix product; bias, activation function and dropout in one pass."""

from __future__ import annotations  # numpy.random, which the signatures name, is loaded by those who draw from it

import math

import numpy as np

from fastopt import init
from fastopt._activation import KEEP_X, Activation, activation_backward, activation_forward, check_activation
from fastopt._layers import Layer, training_range
from fastopt._runtime.arrays import Array, require_disjoint, require_disjoint_or_same
from fastopt._runtime.hyper import Ranges, integer
from fastopt._typing import Float32Array

HE = frozenset({"relu", "leaky_relu", "gelu", "gelu_tanh", "silu"})
"""Activation functions that let about half of the variance through: weights start from He's distribution."""

_bias_range = Ranges(bias="bool")


def matrix(array: Float32Array) -> Float32Array:
    """A view with all leading axes in one; -1 for them would be ambiguous if the last is empty."""
    array = np.asarray(array)
    return array if array.ndim == 2 else array.reshape(math.prod(array.shape[:-1]), array.shape[-1])


class Dense(Layer):
    """A fully connected layer: ``y = dense.forward(x, training=True)``, ``dx = dense.backward(dy)``.

    ::

        y = dropout(activation(x · weight + bias))

    Parameters
    ----------
    in_features, out_features : int
        The lengths of the last axes of x and y.
    activation : str
        One of `fastopt.activation_forward`'s.
    bias : bool
        False ahead of a BatchNorm, which would subtract the bias again.
    dropout : float
        Probability of dropping an element of y in training, in [0, 1].
    negative_slope : float
        Of leaky_relu.
    rng : numpy.random.Generator
        The weights are drawn from it, by `fastopt.init.he_normal` for relu, leaky_relu, gelu, gelu_tanh and silu and
        by `fastopt.init.xavier_normal` for the others; with dropout each forward pass in training draws one key.
        Layers may share one. `state_dict` does not hold its state.

    Attributes
    ----------
    params, grads
        ``"weight"``, of shape (in_features, out_features), and unless `bias` is False ``"bias"``, of shape
        (out_features,), which starts at zero.

    Notes
    -----
    x has any number of leading axes, none included. Forward writes the product into y's array and activates it there,
    or for gelu, gelu_tanh and silu, whose backward needs it, into an array of its own. The products are NumPy's, so
    their bits depend on its BLAS.
    """

    def __init__(self, in_features: int, out_features: int, activation: Activation = "identity", *, bias: bool = True,
                 dropout: float = 0.0, negative_slope: float = 0.01, rng: np.random.Generator) -> None:
        in_features = integer(in_features, "in_features", 0, 2**61)
        out_features = integer(out_features, "out_features", 0, 2**61 // max(in_features, 1))
        _bias_range(bias)
        check_activation(activation, dropout, negative_slope)
        draw = init.he_normal if activation in HE else init.xavier_normal
        params = {"weight": draw((in_features, out_features), rng)}
        if bias:
            params["bias"] = np.zeros(out_features, np.float32)
        super().__init__(params)
        self.in_features, self.out_features = in_features, out_features
        self.activation: Activation = activation
        self.dropout, self.negative_slope, self.rng = dropout, negative_slope, rng

    def _checked(self, group: str, writable: bool) -> list[Array]:
        """The arrays of `params` or `grads`, validated."""
        shapes = {"weight": (self.in_features, self.out_features), "bias": (self.out_features,)}
        return [Array(array, (f"self.{group}", name), writable=writable, shape=shapes[name])
                for name, array in getattr(self, group).items()]

    def forward(self, x: Float32Array, training: bool = True, *, out: Float32Array | None = None) -> Float32Array:
        """Return y. `out` receives it."""
        training_range(training)
        check_activation(self.activation, self.dropout, self.negative_slope)
        source = Array(x, "x")
        if source.shape[-1:] != (self.in_features,):
            raise ValueError(f"x: expected shape (..., {self.in_features}), got {source.shape}")
        arrays, shape = [source, *self._checked("params", False)], (*source.shape[:-1], self.out_features)
        if out is not None:
            require_disjoint(*arrays, Array(out, "out", writable=True, shape=shape))
        weight, bias = self.params["weight"], self.params.get("bias")
        keeps_product = self.activation in KEEP_X
        product = np.empty(shape, np.float32) if out is None or keeps_product else out
        np.matmul(matrix(x), weight, out=matrix(product))
        y, cache = product, None
        dropout = self.dropout if training else 0.0
        if self.activation != "identity" or bias is not None or dropout > 0.0:
            y, cache = activation_forward(product, self.activation, bias, dropout=dropout, rng=self.rng,
                                          negative_slope=self.negative_slope, out=out if keeps_product else product)
        self._cache = x, cache
        return y

    def backward(self, dy: Float32Array, *, out: Float32Array | None = None) -> Float32Array:
        """Return dx and write the gradients. `out` receives dx and may be dy. Once for each forward."""
        x, cache = self._forward_cache()
        source = Array(x, "x")
        slope = Array(dy, "dy", shape=(*source.shape[:-1], self.out_features))
        weights, gradients = self._checked("params", False), self._checked("grads", True)
        require_disjoint(source, slope, *weights, *gradients)
        dx = np.empty(source.shape, np.float32) if out is None else out
        if out is not None:
            target = Array(out, "out", writable=True, shape=source.shape)
            require_disjoint_or_same(target, slope)
            require_disjoint(source, *weights, *gradients, target)
        dz = np.asarray(dy)
        if cache is not None:
            unchanged = cache.activation == "identity" and cache.dropout == 0.0 and dz.flags.writeable
            dz, _ = activation_backward(dz, cache, out=(dz if unchanged else None, self.grads.get("bias")))
        np.matmul(matrix(x).T, matrix(dz), out=self.grads["weight"])
        np.matmul(matrix(dz), self.params["weight"].T, out=matrix(dx))
        self._cache = None
        return dx
