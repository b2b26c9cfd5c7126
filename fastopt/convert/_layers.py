"""Layers' state to and from torch.nn's and Keras' layers. The package's docstring lists the differences."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastopt._dense import Dense
from fastopt._layers import BatchNorm, Embedding, Layer, LayerNorm, RMSNorm
from fastopt._models import listed
from fastopt._typing import Float32Array
from fastopt.convert._shared import array_of

Convertible: TypeAlias = BatchNorm | LayerNorm | RMSNorm | Dense | Embedding

_NAMES: dict[type[Layer], dict[str, str]] = {
    BatchNorm: {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var"},
    LayerNorm: {"gamma": "weight", "beta": "bias"},
    RMSNorm: {"gamma": "weight"},
    Dense: {"weight": "weight", "bias": "bias"},
    Embedding: {"weight": "weight"},
}
"""For each class the names of its arrays and torch's, in Keras' order."""


def layer_to_torch(layer: Convertible) -> dict[str, NDArray[Any]]:
    """Return the layer's arrays under the names of ``state_dict()`` of torch.nn's layer.

    Parameters
    ----------
    layer : BatchNorm, LayerNorm, RMSNorm, Dense or Embedding
        For torch.nn's BatchNorm1d, 2d or 3d, LayerNorm, RMSNorm, Linear and Embedding.

    Returns
    -------
    dict
        Copies. Dense's weight is transposed to (out_features, in_features). BatchNorm's num_batches_tracked is 0: it is
        not counted here, and torch uses it only with momentum=None.

    Raises
    ------
    TypeError
        A layer of another class.
    """
    names, state = _names(layer), layer.state_dict()
    arrays: dict[str, NDArray[Any]] = {names[name]: state[name] for name in names if name in state}
    if isinstance(layer, Dense):
        arrays["weight"] = np.ascontiguousarray(arrays["weight"].T)
    if isinstance(layer, BatchNorm):
        arrays["num_batches_tracked"] = np.array(0, np.int64)
    return arrays


def layer_from_torch(layer: Convertible, state_dict: Mapping[str, Any]) -> None:
    """Copy the arrays of a torch.nn layer's ``state_dict()`` into this layer's: all of them or, after an error, none.

    Parameters
    ----------
    layer : BatchNorm, LayerNorm, RMSNorm, Dense or Embedding
        Constructed with the same shapes and hyper-parameters.
    state_dict : dict
        float32 tensors on the CPU, or NumPy arrays. num_batches_tracked is ignored.

    Raises
    ------
    TypeError, ValueError
        A layer of another class; other names, types or shapes than the layer's.
    """
    names = _names(layer)
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict: expected a dict of arrays, got {type(state_dict).__name__}")
    given = {name: value for name, value in state_dict.items() if name != "num_batches_tracked"}
    expected = [names[name] for name in layer.state_dict()]
    if set(given) != set(expected):
        raise ValueError(f"state_dict: expected arrays named {', '.join(expected)} for {type(layer).__name__}, got "
                         f"{listed(given) if given else 'none'}")
    _load(layer, {name: array_of("state_dict", theirs, given[theirs]) for name, theirs in names.items()
                  if theirs in given}, transposed=isinstance(layer, Dense))


def layer_to_keras(layer: Convertible) -> list[Float32Array]:
    """Return the layer's arrays in the order in which ``set_weights`` of Keras' layer takes them.

    Parameters
    ----------
    layer : BatchNorm, LayerNorm, RMSNorm, Dense or Embedding
        For Keras' BatchNormalization, LayerNormalization, RMSNormalization, Dense and Embedding.

    Returns
    -------
    list of float32 arrays
        Copies: gamma, beta, moving mean, moving variance; gamma, beta; gamma; kernel, bias; the table.

    Raises
    ------
    TypeError
        A layer of another class.
    """
    names, state = _names(layer), layer.state_dict()
    return [state[name] for name in names if name in state]


def layer_from_keras(layer: Convertible, weights: Sequence[Any]) -> None:
    """Copy what a Keras layer's ``get_weights`` returns into this layer's arrays: all of them or, after an error, none.

    Parameters
    ----------
    layer : BatchNorm, LayerNorm, RMSNorm, Dense or Embedding
        Constructed with the same shapes and the hyper-parameters that correspond to Keras'.
    weights : list of float32 arrays
        In the order of `layer_to_keras`.

    Raises
    ------
    TypeError, ValueError
        A layer of another class; another number of arrays, other types or shapes than the layer's.
    """
    names = [name for name in _names(layer) if name in layer.state_dict()]
    if not isinstance(weights, (list, tuple)):
        raise TypeError(f"weights: expected a list of arrays, got {type(weights).__name__}")
    if len(weights) != len(names):
        raise ValueError(f"weights: expected {len(names)} arrays, {', '.join(names)}, for {type(layer).__name__}, got "
                         f"{len(weights)}")
    _load(layer, {name: array_of("weights", name, value) for name, value in zip(names, weights, strict=True)})


def _load(layer: Layer, state: dict[str, Float32Array], transposed: bool = False) -> None:
    if transposed and state["weight"].ndim == 2:
        state["weight"] = state["weight"].T
    layer.load_state_dict({name: np.ascontiguousarray(array) for name, array in state.items()})


def _names(layer: Any) -> dict[str, str]:
    for kind, names in _NAMES.items():
        if isinstance(layer, kind):
            return names
    raise TypeError(f"layer: expected one of {', '.join(kind.__name__ for kind in _NAMES)}, got {type(layer).__name__}")
