"""Embedding: rows of a table by index, and the gradient of the table."""

import numpy as np

from fastopt.reference._formula import Array


def embedding_forward(weight: Array, indices: Array, *, out: Array | None = None) -> Array:
    """See `fastopt.embedding_forward`."""
    y: Array = weight[indices]
    if out is None:
        return y.reshape(*indices.shape, weight.shape[1])
    out[...] = y
    return out


def embedding_backward(dy: Array, indices: Array, num_embeddings: int, *, padding_idx: int | None = None,
                       out: Array | None = None) -> Array:
    """See `fastopt.embedding_backward`."""
    rows, indices = dy.reshape(indices.size, dy.shape[-1]), indices.ravel()
    if padding_idx is not None:
        rows, indices = rows[indices != padding_idx], indices[indices != padding_idx]
    if out is None:
        out = np.zeros((num_embeddings, dy.shape[-1]), dy.dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        total = out.astype(np.float64)
        np.add.at(total, indices, rows)     # in the order of the positions
        named = np.unique(indices)
        out[named] = total[named]
    return out
