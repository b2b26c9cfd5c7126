"""The BatchNorm layer: parameters, their gradients, running statistics, and what backward needs."""

from collections.abc import Mapping

import numpy as np

from fastopt._batchnorm import BatchNormCache, batch_norm_backward, batch_norm_forward, forward_ranges
from fastopt._models import listed
from fastopt._runtime.arrays import Array, copy_arrays
from fastopt._runtime.hyper import integer
from fastopt._typing import Float32Array


class BatchNorm:
    """A batch normalisation layer: ``y = bn.forward(x, training=True)``, ``dx = bn.backward(dy)``.

    Parameters
    ----------
    num_features : int
        Channels.
    eps, momentum, channel_axis, unbiased, relu
        As in `fastopt.batch_norm_forward`.

    Attributes
    ----------
    gamma, beta, dgamma, dbeta, running_mean, running_var : float32 arrays of shape (num_features,)
        The same arrays for the layer's whole life, written in place: an optimizer may hold on to them.

    Notes
    -----
    Between forward and backward the layer holds a reference to x, which must keep its values; backward releases it.
    """

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1, channel_axis: int = 1,
                 unbiased: bool = True, relu: bool = False) -> None:
        num_features = integer(num_features, "num_features", 0, 2**61)
        channel_axis = integer(channel_axis, "channel_axis", -2**63, 2**63)
        forward_ranges(True, momentum, eps, unbiased, relu)
        self.num_features = num_features
        self.eps, self.momentum, self.channel_axis = eps, momentum, channel_axis
        self.unbiased, self.relu = unbiased, relu
        self.gamma: Float32Array = np.ones(num_features, np.float32)
        self.beta: Float32Array = np.zeros(num_features, np.float32)
        self.dgamma: Float32Array = np.zeros(num_features, np.float32)
        self.dbeta: Float32Array = np.zeros(num_features, np.float32)
        self.running_mean: Float32Array = np.zeros(num_features, np.float32)
        self.running_var: Float32Array = np.ones(num_features, np.float32)
        self._cache: BatchNormCache | None = None

    def forward(self, x: Float32Array, training: bool = True, *, out: Float32Array | None = None) -> Float32Array:
        """Return y; with training the running statistics are updated. See `fastopt.batch_norm_forward`."""
        y, self._cache = batch_norm_forward(
            x, self.gamma, self.beta, self.running_mean, self.running_var, training=training, momentum=self.momentum,
            eps=self.eps, channel_axis=self.channel_axis, unbiased=self.unbiased, relu=self.relu, out=out)
        return y

    def backward(self, dy: Float32Array, *, out: Float32Array | None = None) -> Float32Array:
        """Return dx and write dgamma and dbeta. `out` receives dx and may be dy. Once for each forward."""
        if self._cache is None:
            raise ValueError("backward: expected a forward pass before it, got none since the last backward")
        dx, _, _ = batch_norm_backward(dy, self._cache, out=(out, self.dgamma, self.dbeta))
        self._cache = None
        return dx

    def state_dict(self) -> dict[str, Float32Array]:
        """Copies of gamma, beta, running_mean and running_var."""
        return {name: getattr(self, name).copy() for name in ("gamma", "beta", "running_mean", "running_var")}

    def load_state_dict(self, state: Mapping[str, Float32Array]) -> None:
        """Copy the arrays of a `state_dict` into this layer's: all of them or, after an error or interrupt, none."""
        names = ("gamma", "beta", "running_mean", "running_var")
        if not isinstance(state, dict):
            raise TypeError(f"state: expected a dict, got {type(state).__name__}")
        if set(state) != set(names):
            raise ValueError(f"state: expected the keys {sorted(names)}, got [{listed(state)}]")
        shape = (self.num_features,)
        given = [Array(state[name], name, shape=shape) for name in names]
        held = [Array(getattr(self, name), f"self.{name}", writable=True, shape=shape) for name in names]
        copy_arrays(held, given)
