"""Embedding: rows of a table by index, and the gradient of the table."""

from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from fastopt._integers import described, element, int64_copy, is_integer_array
from fastopt._runtime import dispatch
from fastopt._runtime.arrays import Array, copied_int64, require_disjoint, require_disjoint_from_copied
from fastopt._runtime.hyper import integer
from fastopt._typing import Float32Array


def _copied(indices: Any) -> Array:
    """An Array of an int64 copy of the indices."""
    array = copied_int64(indices, "indices")
    if array is None:
        if not is_integer_array(indices):
            raise TypeError(f"indices: expected an array of integers, got {described(indices)}")
        array = int64_copy(indices, "indices")[1]
    return array


def _require_rows(array: Array, indices: NDArray[Any], num_embeddings: int) -> None:
    """Refuse `array`, a copy of `indices`, if one of them is not the index of a row."""
    wrong = dispatch.active.embedding.first_outside(array, num_embeddings)
    if wrong >= 0:
        raise ValueError(f"indices: expected integers in [0, {num_embeddings}), got "
                         f"{element(indices, 'indices', wrong)}")


def embedding_forward(weight: Float32Array, indices: NDArray[Any], *, out: Float32Array | None = None) -> Float32Array:
    """Rows of a table, chosen by index.

    ::

        y[i, …] = weight[indices[i, …]]

    Parameters
    ----------
    weight : float32 array of shape (num_embeddings, D), C-contiguous
        The table.
    indices : integer array of any shape
        Row numbers in [0, num_embeddings), of any integer type and layout.
    out : float32 array of shape ``(*indices.shape, D)``, optional
        Receives the result. By default a new array is created.

    Returns
    -------
    float32 array of shape ``(*indices.shape, D)``
        `out`, or the new array.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, an index is out of range, or `out` overlaps `weight` or `indices`. Nothing
        has been written then.

    Notes
    -----
    The form of torch.nn.functional.embedding and of numpy.take along axis 0, except that negative indices are refused.
    """
    table = Array(weight, "weight")
    if len(table.shape) != 2:
        raise ValueError(f"weight: expected shape (num_embeddings, D), got {table.shape}")
    index = _copied(indices)
    _require_rows(index, indices, table.shape[0])
    shape = (*index.shape, table.shape[1])
    y = np.empty(shape, np.float32) if out is None else out
    target = Array(y, "out", writable=True, shape=shape)
    if out is not None:
        require_disjoint(table, target)
        require_disjoint_from_copied(out, "out", indices, "indices")
    dispatch.active.embedding.forward(table, index, target)
    return y


def embedding_backward(dy: Float32Array, indices: NDArray[Any], num_embeddings: SupportsIndex, *,
                       padding_idx: SupportsIndex | None = None, out: Float32Array | None = None) -> Float32Array:
    """Gradient of a loss with respect to the table of `fastopt.embedding_forward`.

    ::

        dweightₖ = Σ dyᵢ over the positions i with indicesᵢ = k

    Parameters
    ----------
    dy : float32 array of shape ``(*indices.shape, D)``, C-contiguous
        Gradient with respect to the result.
    indices : integer array of any shape
        Those of the forward call.
    num_embeddings : int
        Rows of the table, at least 0.
    padding_idx : int, optional
        A row in [0, num_embeddings) whose positions contribute nothing.
    out : float32 array of shape (num_embeddings, D), optional
        The gradient is added to it: dweightₖ = outₖ + Σ dyᵢ. By default a new array is created.

    Returns
    -------
    float32 array of shape (num_embeddings, D)
        `out`, or the new array.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, an index is out of range, or `out` overlaps `dy` or `indices`. Nothing has
        been written then.
    MemoryError
        If there is no memory for the new array, or for 32 bytes per index. Nothing has been written then.

    Notes
    -----
    A sum starts from outₖ, or from 0, is computed in double in the order of the positions (C order of `indices`) and
    rounded to float32 once: the bits are those of numpy.add.at on a float64 copy of `out`, for any number of threads.
    Rows of `out` that no index names keep their bits. The time depends on the number of indices, not on
    num_embeddings, apart from the zeros of a new array.

    The form of torch.nn.functional.embedding's gradient, with its `padding_idx`, except that negative values are
    refused.
    """
    slope = Array(dy, "dy")
    index = _copied(indices)
    if len(slope.shape) != len(index.shape) + 1 or slope.shape[:-1] != index.shape:
        expected = ", ".join(map(str, (*index.shape, "D")))
        raise ValueError(f"dy: expected shape ({expected}), that of indices and one axis more, got {slope.shape}")
    width = slope.shape[-1]
    rows = integer(num_embeddings, "num_embeddings", 0, 2**63 // (4 * max(width, 1)))
    padding = -1 if padding_idx is None else integer(padding_idx, "padding_idx", 0, rows)
    _require_rows(index, indices, rows)
    dweight = np.zeros((rows, width), np.float32) if out is None else out
    target = Array(dweight, "out", writable=True, shape=(rows, width))
    if out is not None:
        require_disjoint(slope, target)
        require_disjoint_from_copied(out, "out", indices, "indices")
    dispatch.active.embedding.backward(slope, index, padding, target, fresh=out is None)
    return dweight
