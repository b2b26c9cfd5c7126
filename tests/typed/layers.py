"""Layers as a user's program calls them: mypy checks every type here against the installed package."""

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import fastopt

Array = NDArray[np.float32]

rng = np.random.default_rng(0)
x: Array = np.ones((8, 3), np.float32)
indices: NDArray[np.int64] = np.zeros(8, np.int64)
layers: list[fastopt.Layer] = [fastopt.BatchNorm(3), fastopt.Dropout(0.5, rng)]
for layer in layers:
    x = layer.forward(x, training=True)
for layer in reversed(layers):
    x = layer.backward(x)
assert_type(fastopt.Dropout(0.5, rng).forward(x, out=x), Array)
dense = fastopt.Dense(3, 3, "gelu", dropout=0.1, rng=rng)
layers += [dense, fastopt.LayerNorm(3), fastopt.LayerNorm((2, 3), eps=1e-6), fastopt.RMSNorm(3)]
assert_type(dense.forward(x, training=False), Array)
assert_type(dense.backward(x, out=x), Array)
embedding = fastopt.Embedding(10, 3, padding_idx=0, rng=rng)
assert_type(embedding.forward(indices), Array)
embedding.backward(x)
assert_type(embedding.params, dict[str, Array])
assert_type(embedding.state_dict(), dict[str, Array])
fastopt.Adam().update(embedding.params, embedding.grads)


class Double(fastopt.Layer):
    def forward(self, x: Array, training: bool = True, *, out: Array | None = None) -> Array:
        return np.multiply(x, np.float32(2), out=out)

    def backward(self, dy: Array, *, out: Array | None = None) -> Array:
        return np.multiply(dy, np.float32(2), out=out)


layers.append(Double())

# Errors: mypy would report an unused "type: ignore" here.
fastopt.Dropout(0.5, 7)  # type: ignore[arg-type]
fastopt.Dense(3, 3, "cube", rng=rng)  # type: ignore[arg-type]
fastopt.Dense(3, 3)  # type: ignore[call-arg]
fastopt.Embedding(10, 3)  # type: ignore[call-arg]
embedding.load_state_dict([x])  # type: ignore[arg-type]
