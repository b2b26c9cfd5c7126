"""Two networks for the digits, made of the layers of a module: `fastopt` or `fastopt.reference`.

    pixels    Dense → BatchNorm with ReLU, twice; Dense
    tokens    Embedding of each pixel's grey level → Dropout → Dense → BatchNorm with ReLU → Dense with GELU and
              dropout → LayerNorm → Dense

A Dense ahead of a BatchNorm has no bias: BatchNorm would subtract it again.
"""

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastopt
from fastopt.demo.data import CLASSES, LEVELS, PIXELS

Array = NDArray[np.float32]


class GreyLevels(fastopt.Layer):
    """Pixels in [0, 1] as integers in [0, 16]. A layer of one's own has forward and backward, and maybe parameters."""

    def forward(self, x: Array, training: bool = True, *, out: None = None) -> NDArray[np.int64]:
        return np.rint(x * (LEVELS - 1)).astype(np.int64)

    def backward(self, dy: None, *, out: None = None) -> None:
        """Integers have no gradient."""


class Flatten(fastopt.Layer):
    """All axes but the first in one."""

    def forward(self, x: Array, training: bool = True, *, out: None = None) -> Array:
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy: Array, *, out: None = None) -> Array:
        return dy.reshape(self.shape)


def pixels(kernels: ModuleType, rng: np.random.Generator) -> list[Any]:
    return [
        kernels.Dense(PIXELS, 128, bias=False, rng=rng), kernels.BatchNorm(128, relu=True),
        kernels.Dense(128, 64, bias=False, rng=rng), kernels.BatchNorm(64, relu=True),
        kernels.Dense(64, CLASSES, rng=rng),
    ]


def tokens(kernels: ModuleType, rng: np.random.Generator) -> list[Any]:
    dim = 4
    return [
        GreyLevels(), kernels.Embedding(LEVELS, dim, std=0.02, rng=rng), kernels.Dropout(0.2, rng), Flatten(),
        kernels.Dense(PIXELS * dim, 128, bias=False, rng=rng), kernels.BatchNorm(128, relu=True),
        kernels.Dense(128, 64, "gelu", dropout=0.1, rng=rng), kernels.LayerNorm(64),
        kernels.Dense(64, CLASSES, rng=rng),
    ]


NETWORKS: dict[str, Callable[[ModuleType, np.random.Generator], list[Any]]] = {"pixels": pixels, "tokens": tokens}


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

    def loss_and_gradients(self, x: Array, labels: NDArray[np.int64]) -> float:
        """Return the mean cross-entropy of a mini-batch and write its gradients into `grads`."""
        logits = self.logits(x, training=True)
        loss, d = self.kernels.softmax_cross_entropy(logits, labels, out=logits)
        for layer in reversed(self.layers):
            d = layer.backward(d)
        return loss

    def accuracy(self, x: Array, labels: NDArray[np.int64]) -> float:
        """Fraction of the images whose largest logit is that of their label."""
        return float(np.mean(self.logits(x).argmax(axis=1) == labels))

    def snapshot(self) -> list[dict[str, Array]]:
        """Copies of all parameters and running statistics, layer by layer."""
        return [layer.state_dict() for layer in self.layers]

    def restore(self, snapshot: Sequence[Mapping[str, Array]]) -> None:
        """Copy a snapshot back into the network's arrays."""
        for layer, state in zip(self.layers, snapshot, strict=True):
            layer.load_state_dict(state)
