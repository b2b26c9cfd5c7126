"""A fully connected network: matrix products by NumPy, everything else by the kernels it is given.

    hidden layer    h ← relu(batch_norm(h W; gamma, beta))      no bias: BatchNorm would subtract it again
    output layer    logits = h W + bias
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from fastopt import init


class Network:
    """Layers of the given sizes; `kernels` is the module `fastopt` or `fastopt.reference`.

    `params` and `grads` have the same keys, as an optimizer's `update` takes them. Every step writes its gradients into
    the same arrays. `running` holds BatchNorm's running statistics, which no optimizer updates.
    """

    def __init__(self, kernels: ModuleType, sizes: Sequence[int], rng: np.random.Generator) -> None:
        self.kernels = kernels
        self.hidden = len(sizes) - 2
        self.params: dict[str, NDArray[np.float32]] = {}
        self.running: dict[str, NDArray[np.float32]] = {}
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            self.params[f"weight{i}"] = init.he_normal((inputs, outputs), rng)
            if i < self.hidden:
                self.params[f"gamma{i}"] = np.ones(outputs, np.float32)
                self.params[f"beta{i}"] = np.zeros(outputs, np.float32)
                self.running[f"mean{i}"] = np.zeros(outputs, np.float32)
                self.running[f"var{i}"] = np.ones(outputs, np.float32)
            else:
                self.params["bias"] = np.zeros(outputs, np.float32)
        self.grads = {key: np.empty_like(param) for key, param in self.params.items()}

    def product(self, a: NDArray[np.float32], b: NDArray[np.float32],
                out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Do one of the matrix products of a training step."""
        product: NDArray[np.float32] = np.matmul(a, b, out=out)
        return product

    def loss_and_gradients(self, x: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        """Return the mean cross-entropy of a mini-batch and write its gradients into `grads`."""
        p, g = self.params, self.grads
        inputs, caches = [x], []
        for i in range(self.hidden):
            h, cache = self.kernels.batch_norm_forward(
                self.product(inputs[i], p[f"weight{i}"]), p[f"gamma{i}"], p[f"beta{i}"],
                self.running[f"mean{i}"], self.running[f"var{i}"], relu=True)
            inputs.append(h)
            caches.append(cache)
        logits = self.product(inputs[-1], p[f"weight{self.hidden}"]) + p["bias"]
        loss, d = self.kernels.softmax_cross_entropy(logits, labels, out=logits)

        np.sum(d, axis=0, out=g["bias"])
        for i in reversed(range(self.hidden + 1)):
            self.product(inputs[i].T, d, out=g[f"weight{i}"])
            if i > 0:
                d = self.product(d, p[f"weight{i}"].T)
                d, g[f"gamma{i - 1}"][...], g[f"beta{i - 1}"][...] = \
                    self.kernels.batch_norm_backward(d, caches[i - 1])
        return loss

    def logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's output for inference: BatchNorm uses its running statistics."""
        p, h = self.params, x
        for i in range(self.hidden):
            h = self.kernels.batch_norm_inference(
                h @ p[f"weight{i}"], p[f"gamma{i}"], p[f"beta{i}"],
                self.running[f"mean{i}"], self.running[f"var{i}"], relu=True)
        return h @ p[f"weight{self.hidden}"] + p["bias"]

    def accuracy(self, x: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        """Fraction of the images whose largest logit is that of their label."""
        return float(np.mean(self.logits(x).argmax(axis=1) == labels))

    def snapshot(self) -> dict[str, NDArray[np.float32]]:
        """Copies of all parameters and running statistics."""
        return {key: array.copy() for key, array in (self.params | self.running).items()}

    def restore(self, snapshot: Mapping[str, NDArray[np.float32]]) -> None:
        """Copy a snapshot back into the network's arrays."""
        for key, array in (self.params | self.running).items():
            array[...] = snapshot[key]
