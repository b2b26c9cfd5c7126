"""A network of fully connected layers, made of the layers of a module: `fastopt`, `fastopt.reference` or `demo.plain`.

    pixels    hidden layers: Dense → BatchNorm → activation → dropout, once for each; Dense
    tokens    Embedding of each pixel's grey level → LayerNorm, and then the same

A Dense ahead of a BatchNorm has no bias: BatchNorm would subtract it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastopt
from fastopt.demo.data import Dataset, Examples
from fastopt.demo.settings import Settings, SettingsError

Array = NDArray[np.float32]
EMBEDDING = 4
"""Numbers that a grey level's embedding has."""


class GreyLevels(fastopt.Layer):
    """Pixels in [0, 1] as integers. A layer of one's own has forward and backward, and maybe parameters."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Array, training: bool = True, *, out: None = None) -> NDArray[np.int64]:
        return np.rint(x * (self.levels - 1)).astype(np.int64)

    def backward(self, dy: None, *, out: None = None) -> None:
        """Integers have no gradient."""


class Flatten(fastopt.Layer):
    """All axes but the first in one."""

    def forward(self, x: Array, training: bool = True, *, out: None = None) -> Array:
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy: Array, *, out: None = None) -> Array:
        return dy.reshape(self.shape)


class Activation(fastopt.Layer):
    """An activation function and dropout, of the module `kernels`, after a BatchNorm."""

    def __init__(self, kernels: ModuleType, activation: str, dropout: float, rng: np.random.Generator) -> None:
        super().__init__()
        self.kernels, self.activation, self.dropout, self.rng = kernels, activation, dropout, rng

    def forward(self, x: Array, training: bool = True, *, out: None = None) -> Array:
        y, self.cache = self.kernels.activation_forward(
            x, self.activation, dropout=self.dropout if training else 0.0, rng=self.rng)
        return y

    def backward(self, dy: Array, *, out: None = None) -> Array:
        dx, _ = self.kernels.activation_backward(dy, self.cache)
        return dx


def initialise(layer: Any, name: str, rng: np.random.Generator) -> Any:
    """Draw a Dense layer's weights anew."""
    weight = layer.params["weight"]
    match name:
        case "he":
            weight[...] = fastopt.init.he_normal(weight.shape, rng)
        case "xavier":
            weight[...] = fastopt.init.xavier_normal(weight.shape, rng)
        case "normal":
            weight[...] = fastopt.init.normal(weight.shape, rng, std=0.01)
        case _:
            weight.fill(0.0)
    return layer


def make_layers(settings: Settings, data: Dataset, kernels: ModuleType, weights: np.random.Generator,
                dropped: np.random.Generator) -> list[Any]:
    """The layers; `weights` draws what they start with, `dropped` what dropout drops.

    Raises
    ------
    SettingsError
        Tokens of images whose pixels are real numbers.
    """
    width = data.pixels
    layers: list[Any] = []

    def dense(units: int, **options: Any) -> Any:
        return initialise(kernels.Dense(width, units, **options, rng=weights), settings.init, weights)

    if settings.network == "tokens":
        if data.levels is None:
            raise SettingsError("network", f"expected pixels for {data.name}, whose pixels have no levels, "
                                           "got 'tokens'")
        layers = [GreyLevels(data.levels), kernels.Embedding(data.levels, EMBEDDING, std=0.02, rng=weights), Flatten(),
                  kernels.LayerNorm(width * EMBEDDING)]
        width *= EMBEDDING
    for units in settings.hidden:
        if not settings.batch_norm:
            layers.append(dense(units, activation=settings.activation))
        else:
            fused = settings.activation == "relu"
            layers += [dense(units, bias=False), kernels.BatchNorm(units, relu=fused)]
            if not fused:
                layers.append(Activation(kernels, settings.activation, 0.0, dropped))
        if settings.dropout:
            layers.append(kernels.Dropout(settings.dropout, dropped))
        width = units
    return [*layers, dense(data.classes)]


class Network:
    """Layers one after the other, and softmax cross-entropy, of the module `kernels`.

    `params` and `grads` are those of all layers under the layer's number and the name, as an optimizer's `update` takes
    them.
    """

    def __init__(self, kernels: ModuleType, layers: Sequence[Any]) -> None:
        self.kernels = kernels
        self.layers = layers
        self.params: dict[str, Array] = {}
        self.grads: dict[str, Array] = {}
        for i, layer in enumerate(layers):
            self.params |= {f"{i}.{name}": param for name, param in layer.params.items()}
            self.grads |= {f"{i}.{name}": grad for name, grad in layer.grads.items()}

    def logits(self, x: Array, training: bool = False) -> Array:
        """The network's output; for inference nothing is dropped, and BatchNorm uses its running statistics."""
        for layer in self.layers:
            x = layer.forward(x, training)
        return x

    def loss_and_gradients(self, x: Array, labels: NDArray[np.int64]) -> tuple[float, int]:
        """Write the gradients of a mini-batch's mean cross-entropy into `grads`.

        Return that loss, and how many of the images have their largest logit at their label.
        """
        logits = self.logits(x, training=True)
        right = int(np.count_nonzero(logits.argmax(axis=1) == labels))
        loss, d = self.kernels.softmax_cross_entropy(logits, labels, out=logits)
        self.backward(d)
        return float(loss), right

    def backward(self, d: Array) -> None:
        """Write the gradients of all layers, from that of the logits."""
        for layer in reversed(self.layers):
            d = layer.backward(d)

    def hessian(self, x: Array, rng: np.random.Generator) -> dict[str, Array]:
        """The Gauss-Newton-Bartlett estimate of the Hessian's diagonal, for Sophia: algorithm 2 of arXiv:2305.14342.

        The squared gradients of the loss of labels that are drawn from the network's own probabilities, times the
        batch's size. `grads` is overwritten.
        """
        logits = self.logits(x, training=True)
        probabilities = self.kernels.softmax(logits)
        labels = (probabilities.cumsum(axis=1) < rng.random((len(x), 1))).sum(axis=1).clip(max=logits.shape[1] - 1)
        self.backward(self.kernels.softmax_cross_entropy(logits, labels, out=logits)[1])
        return {key: len(x) * grad * grad for key, grad in self.grads.items()}

    def evaluate(self, examples: Examples) -> tuple[float, float]:
        """The mean cross-entropy, and the fraction of the images whose largest logit is that of their label."""
        logits = self.logits(examples.x)
        loss = self.kernels.softmax_cross_entropy_loss(logits, examples.labels)
        return float(loss), float(np.mean(logits.argmax(axis=1) == examples.labels))

    def state_dict(self) -> dict[int, dict[str, Array]]:
        """Copies of all parameters and running statistics, by the layer's number."""
        return {i: layer.state_dict() for i, layer in enumerate(self.layers)}

    def load_state_dict(self, state: Mapping[int, Mapping[str, Array]]) -> None:
        """Copy a state back into the network's arrays."""
        for i, layer in enumerate(self.layers):
            layer.load_state_dict(state[i])
