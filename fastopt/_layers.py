"""Layers: parameters, their gradients, and what backward needs, around the functions. Dense is in _dense.py."""

from __future__ import annotations  # numpy.random, which the signatures name, is loaded by those who draw from it

from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from fastopt import init
from fastopt._batchnorm import batch_norm_backward, batch_norm_forward, forward_ranges
from fastopt._dropout import dropout_backward, dropout_forward
from fastopt._dropout import ranges as dropout_ranges
from fastopt._embedding import embedding_backward, embedding_forward
from fastopt._layernorm import layer_norm_backward, layer_norm_forward, rms_norm_backward, rms_norm_forward
from fastopt._layernorm import ranges as layer_norm_ranges
from fastopt._models import listed
from fastopt._runtime.arrays import Array, advice, copy_arrays, require_disjoint
from fastopt._runtime.hyper import Ranges, integer
from fastopt._typing import Float32Array

training_range = Ranges(training="bool")


class Layer:
    """What all layers share, and the base of a user's own.

    A layer has two methods: ``y = layer.forward(x, training=True, out=None)`` and, once for each forward,
    ``dx = layer.backward(dy, out=None)``, which also writes `grads`. With ``training=False`` forward is inference:
    nothing is dropped, and BatchNorm uses its running statistics.

    Parameters
    ----------
    params : dict of float32 arrays by name, optional
        What an optimizer updates.
    buffers : dict of float32 arrays by other names, optional
        What else `state_dict` holds.

    Attributes
    ----------
    params, grads : dicts of float32 arrays with the same keys
        For ``optimizer.update(layer.params, layer.grads)``.
    buffers : dict of float32 arrays
        The same arrays for the layer's whole life, as those of `params` and `grads`: they are written in place.

    Notes
    -----
    Between forward and backward a layer holds references to arrays, such as x, which must keep their values; backward
    releases them. Copies of a layer, by `copy.deepcopy` and `pickle`, hold none: they start with a forward pass.

    One optimizer call updates several layers together: join their dicts under keys of your own, such as
    ``{f"{i}.{name}": array for i, layer in enumerate(layers) for name, array in layer.params.items()}``.
    """

    forward: Callable[..., NDArray[Any]]
    backward: Callable[..., Any]

    def __init__(self, params: Mapping[str, Float32Array] | None = None,
                 buffers: Mapping[str, Float32Array] | None = None) -> None:
        given = {"params": params, "buffers": buffers}
        for group, arrays in given.items():
            if not isinstance(arrays, Mapping | None):
                raise TypeError(f"{group}: expected a dict or None, got {type(arrays).__name__}")
            for name, array in (arrays or {}).items():
                if not isinstance(name, str) or not isinstance(array, np.ndarray):
                    raise TypeError(f"{group}: expected float32 arrays by name, got {type(array).__name__} "
                                    f"for {listed([name])}{advice(array)}")
                Array(array, (group, name), writable=True)
        if both := (params or {}).keys() & (buffers or {}).keys():
            raise ValueError(f"buffers: expected names that params does not have, got {listed(both)}")
        self.params: dict[str, Float32Array] = dict(params or {})
        self.grads: dict[str, Float32Array] = {name: np.zeros_like(param) for name, param in self.params.items()}
        self.buffers: dict[str, Float32Array] = dict(buffers or {})
        self._cache: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}

    def _forward_cache(self) -> Any:
        """What the last forward pass left for backward."""
        if self._cache is None:
            raise ValueError("backward: expected a forward pass before it, got none since the last backward")
        return self._cache

    def state_dict(self) -> dict[str, Float32Array]:
        """Copies of the arrays in `params` and `buffers`, by name."""
        return {name: array.copy() for name, array in (self.params | self.buffers).items()}

    def load_state_dict(self, state: Mapping[str, Float32Array]) -> None:
        """Copy the arrays of a `state_dict` into this layer's: all of them or, after an error or interrupt, none."""
        held = {name: Array(array, (f"self.{group}", name), writable=True)
                for group in ("params", "buffers") for name, array in getattr(self, group).items()}
        if not isinstance(state, dict):
            raise TypeError(f"state: expected a dict, got {type(state).__name__}")
        if state.keys() != held.keys():
            raise ValueError(f"state: expected the keys {sorted(held)}, got [{listed(state)}]")
        copy_arrays([*held.values()], [Array(state[name], name, shape=array.shape) for name, array in held.items()])


class _Entry:
    """An attribute that is an entry of one of a layer's dicts."""

    def __init__(self, group: str, name: str) -> None:
        self._group, self._name = group, name

    @overload
    def __get__(self, layer: None, kind: type) -> _Entry: ...
    @overload
    def __get__(self, layer: Layer, kind: type) -> Float32Array: ...
    def __get__(self, layer: Layer | None, kind: type) -> _Entry | Float32Array:
        return self if layer is None else getattr(layer, self._group)[self._name]

    def __set__(self, layer: Layer, array: Float32Array) -> None:
        getattr(layer, self._group)[self._name] = array


class BatchNorm(Layer):
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
        The arrays in `params`, `grads` and `buffers`: ``params["gamma"]``, ``params["beta"]``, ``grads["gamma"]``,
        ``grads["beta"]``, ``buffers["running_mean"]``, ``buffers["running_var"]``.
    """

    gamma, beta = _Entry("params", "gamma"), _Entry("params", "beta")
    dgamma, dbeta = _Entry("grads", "gamma"), _Entry("grads", "beta")
    running_mean, running_var = _Entry("buffers", "running_mean"), _Entry("buffers", "running_var")

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1, channel_axis: int = 1,
                 unbiased: bool = True, relu: bool = False) -> None:
        num_features = integer(num_features, "num_features", 0, 2**61)
        channel_axis = integer(channel_axis, "channel_axis", -2**63, 2**63)
        forward_ranges(True, momentum, eps, unbiased, relu)
        self.num_features = num_features
        self.eps, self.momentum, self.channel_axis = eps, momentum, channel_axis
        self.unbiased, self.relu = unbiased, relu
        ones, zeros = np.ones(num_features, np.float32), np.zeros(num_features, np.float32)
        super().__init__({"gamma": ones, "beta": zeros}, {"running_mean": zeros.copy(), "running_var": ones.copy()})

    def forward(self, x: Float32Array, training: bool = True, *, out: Float32Array | None = None) -> Float32Array:
        """Return y; with training the running statistics are updated. See `fastopt.batch_norm_forward`."""
        y, self._cache = batch_norm_forward(
            x, self.gamma, self.beta, self.running_mean, self.running_var, training=training, momentum=self.momentum,
            eps=self.eps, channel_axis=self.channel_axis, unbiased=self.unbiased, relu=self.relu, out=out)
        return y

    def backward(self, dy: Float32Array, *, out: Float32Array | None = None) -> Float32Array:
        """Return dx and write dgamma and dbeta. `out` receives dx and may be dy. Once for each forward."""
        dx, _, _ = batch_norm_backward(dy, self._forward_cache(), out=(out, self.dgamma, self.dbeta))
        self._cache = None
        return dx


def _last_axes(shape: int | Sequence[int]) -> tuple[int, ...]:
    lengths = init.check_shape(shape)
    if not lengths:
        raise ValueError("shape: expected at least one axis, got ()")
    return lengths


class LayerNorm(Layer):
    """A layer normalisation layer: ``y = norm.forward(x)``, ``dx = norm.backward(dy)``; the same in inference.

    Parameters
    ----------
    shape : int or tuple of int
        The last axes of x, which are normalised together; at least one.
    eps : float
        As in `fastopt.layer_norm_forward`.

    Attributes
    ----------
    params, grads
        ``"gamma"``, which starts at one, and ``"beta"``, at zero, of that shape.
    """

    def __init__(self, shape: int | Sequence[int], *, eps: float = 1e-5) -> None:
        self.shape, self.eps = _last_axes(shape), eps
        layer_norm_ranges(eps)
        super().__init__({"gamma": np.ones(self.shape, np.float32), "beta": np.zeros(self.shape, np.float32)})

    def forward(self, x: Float32Array, training: bool = True, *, out: Float32Array | None = None) -> Float32Array:
        """Return y. `out` receives it. See `fastopt.layer_norm_forward`."""
        training_range(training)
        y, self._cache = layer_norm_forward(x, self.params["gamma"], self.params["beta"], eps=self.eps, out=out)
        return y

    def backward(self, dy: Float32Array, *, out: Float32Array | None = None) -> Float32Array:
        """Return dx and write the gradients. `out` receives dx and may be dy. Once for each forward."""
        dx, _, _ = layer_norm_backward(dy, self._forward_cache(), out=(out, self.grads["gamma"], self.grads["beta"]))
        self._cache = None
        return dx


class RMSNorm(Layer):
    """An RMS normalisation layer: ``y = norm.forward(x)``, ``dx = norm.backward(dy)``; the same in inference.

    Parameters
    ----------
    shape : int or tuple of int
        The last axes of x, which are normalised together; at least one.
    eps : float
        As in `fastopt.rms_norm_forward`.

    Attributes
    ----------
    params, grads
        ``"gamma"``, which starts at one, of that shape.
    """

    def __init__(self, shape: int | Sequence[int], *, eps: float = 1e-5) -> None:
        self.shape, self.eps = _last_axes(shape), eps
        layer_norm_ranges(eps)
        super().__init__({"gamma": np.ones(self.shape, np.float32)})

    def forward(self, x: Float32Array, training: bool = True, *, out: Float32Array | None = None) -> Float32Array:
        """Return y. `out` receives it. See `fastopt.rms_norm_forward`."""
        training_range(training)
        y, self._cache = rms_norm_forward(x, self.params["gamma"], eps=self.eps, out=out)
        return y

    def backward(self, dy: Float32Array, *, out: Float32Array | None = None) -> Float32Array:
        """Return dx and write the gradient. `out` receives dx and may be dy. Once for each forward."""
        dx, _ = rms_norm_backward(dy, self._forward_cache(), out=(out, self.grads["gamma"]))
        self._cache = None
        return dx


class Dropout(Layer):
    """A dropout layer, without parameters: ``y = dropout.forward(x, training=True)``, ``dx = dropout.backward(dy)``.

    Parameters
    ----------
    p : float
        Probability of dropping an element, in [0, 1].
    rng : numpy.random.Generator
        Each forward pass in training draws one key from it. Layers may share one. `state_dict` does not hold its state.
    """

    def __init__(self, p: float, rng: np.random.Generator) -> None:
        dropout_ranges(p, True)
        self.p, self.rng = p, init.check_generator(rng)
        super().__init__()

    def forward(self, x: Float32Array, training: bool = True, *, out: Float32Array | None = None) -> Float32Array:
        """Return y. `out` receives it and may be x. See `fastopt.dropout_forward`."""
        y, self._cache = dropout_forward(x, self.p, self.rng, training=training, out=out)
        return y

    def backward(self, dy: Float32Array, *, out: Float32Array | None = None) -> Float32Array:
        """Return dx. `out` receives it and may be dy. Once for each forward."""
        dx = dropout_backward(dy, self._forward_cache(), out=out)
        self._cache = None
        return dx


class Embedding(Layer):
    """A table of learned rows: ``y = embedding.forward(indices)``, ``embedding.backward(dy)``.

    Parameters
    ----------
    num_embeddings : int
        Rows.
    dim : int
        Columns: the length of y's last axis.
    padding_idx : int, optional
        A row that starts at zero and has no gradient.
    std : float
        Of the normal distribution that the rows are drawn from: 1 as in torch.nn.Embedding, transformers often have
        0.02.
    rng : numpy.random.Generator
        Draws the rows.

    Attributes
    ----------
    params, grads
        ``"weight"``, of shape (num_embeddings, dim).
    """

    def __init__(self, num_embeddings: int, dim: int, padding_idx: int | None = None, *, std: float = 1.0,
                 rng: np.random.Generator) -> None:
        num_embeddings = integer(num_embeddings, "num_embeddings", 0, 2**61)
        dim = integer(dim, "dim", 0, 2**61 // max(num_embeddings, 1))
        self.num_embeddings, self.dim, self.padding_idx = num_embeddings, dim, padding_idx
        padding = self._padding()
        weight = init.normal((num_embeddings, dim), rng, std=std)
        if padding is not None:
            weight[padding] = 0.0
        super().__init__({"weight": weight})

    def _padding(self) -> int | None:
        return None if self.padding_idx is None else integer(self.padding_idx, "padding_idx", 0, self.num_embeddings)

    def forward(self, indices: NDArray[Any], training: bool = True, *, out: Float32Array | None = None) -> Float32Array:
        """Return y of shape ``(*indices.shape, dim)``; keep a copy of the indices. See `fastopt.embedding_forward`."""
        training_range(training)
        y = embedding_forward(self.params["weight"], indices, out=out)
        self._cache = np.array(indices, np.int64)
        return y

    def backward(self, dy: Float32Array, *, out: None = None) -> None:
        """Write the table's gradient. Indices have none, so that nothing is returned. Once for each forward."""
        indices, gradient = self._forward_cache(), self.grads["weight"]
        if out is not None:
            raise TypeError(f"out: expected None, as indices have no gradient, got {type(out).__name__}")
        padding, shape = self._padding(), (self.num_embeddings, self.dim)
        require_disjoint(Array(dy, "dy", shape=(*indices.shape, self.dim)),
                         Array(gradient, ("self.grads", "weight"), writable=True, shape=shape))
        gradient.fill(0.0)
        embedding_backward(dy, indices, self.num_embeddings, padding_idx=padding, out=gradient)
        self._cache = None
