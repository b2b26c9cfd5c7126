"""Fused optimizer, BatchNorm, softmax and dropout kernels for networks trained in plain NumPy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastopt import init
from fastopt._activation import activation_backward, activation_forward
from fastopt._adam import Adam, Adamax, AdamW, NAdam, RAdam, adam, adamax, nadam, radam
from fastopt._adaptive import Adadelta, Adagrad, Adan, RMSprop, adadelta, adagrad, adan, rmsprop
from fastopt._batchnorm import batch_norm_backward, batch_norm_forward, batch_norm_inference
from fastopt._batchnorm_fold import batch_norm_fold
from fastopt._batchnorm_statistics import (
    BatchGradientSums,
    BatchStatistics,
    batch_norm_backward_sums,
    batch_norm_merge,
    batch_norm_merge_sums,
    batch_norm_statistics,
)
from fastopt._cross_entropy import softmax_cross_entropy, softmax_cross_entropy_loss
from fastopt._dense import Dense
from fastopt._dropout import dropout_backward, dropout_forward
from fastopt._embedding import embedding_backward, embedding_forward
from fastopt._layernorm import layer_norm_backward, layer_norm_forward, rms_norm_backward, rms_norm_forward
from fastopt._layers import BatchNorm, Dropout, Embedding, Layer, LayerNorm, RMSNorm
from fastopt._layerwise import LAMB, LARS, lamb, lars
from fastopt._linear_cross_entropy import linear_cross_entropy
from fastopt._optimizer import Optimizer
from fastopt._options import Options, UpdateInfo
from fastopt._runtime.config import show_config
from fastopt._runtime.threads import get_num_threads, num_threads, set_num_threads
from fastopt._sgd import ASGD, SGD, SGDM, Momentum, asgd, momentum, sgd, sgdm
from fastopt._sign import Lion, Rprop, Sophia, lion, rprop, sophia
from fastopt._softmax import hardmax, log_softmax, log_softmax_backward, softmax, softmax_backward

if TYPE_CHECKING:
    from fastopt import adapters, convert, reference, schedules
    from fastopt._cast import cast
    from fastopt._heap import keep_heap
    from fastopt._state_file import load_state, save_state

__version__ = "0.1.0"

__all__ = [
    "ASGD", "LAMB", "LARS", "SGD", "SGDM", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Adan",
    "BatchGradientSums", "BatchNorm", "BatchStatistics", "Dense", "Dropout", "Embedding", "Layer", "LayerNorm", "Lion",
    "Momentum", "NAdam", "Optimizer", "Options", "RAdam", "RMSNorm", "RMSprop", "Rprop", "Sophia", "UpdateInfo",
    "activation_backward", "activation_forward", "adadelta", "adagrad", "adam", "adamax", "adan", "adapters", "asgd",
    "batch_norm_backward", "batch_norm_backward_sums", "batch_norm_fold", "batch_norm_forward", "batch_norm_inference",
    "batch_norm_merge", "batch_norm_merge_sums", "batch_norm_statistics", "cast", "convert", "dropout_backward",
    "dropout_forward", "embedding_backward", "embedding_forward", "get_num_threads", "hardmax", "init", "keep_heap",
    "lamb", "lars", "layer_norm_backward", "layer_norm_forward", "linear_cross_entropy", "lion", "load_state",
    "log_softmax", "log_softmax_backward", "momentum", "nadam", "num_threads", "radam", "reference",
    "rms_norm_backward", "rms_norm_forward", "rmsprop", "rprop", "save_state", "schedules", "set_num_threads", "sgd",
    "sgdm", "show_config", "softmax", "softmax_backward", "softmax_cross_entropy", "softmax_cross_entropy_loss",
    "sophia",
]


_ELSEWHERE = {"cast": "_cast", "keep_heap": "_heap", "load_state": "_state_file", "save_state": "_state_file"}

if not TYPE_CHECKING:       # with a __getattr__, type checkers would take every name

    def __getattr__(name: str) -> Any:
        """Import what many programs do not use when it is first asked for: together half of the import time."""
        if name in ("adapters", "convert", "reference", "schedules"):
            return import_module(f"fastopt.{name}")
        if name in _ELSEWHERE:
            return getattr(import_module(f"fastopt.{_ELSEWHERE[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"Any", "TYPE_CHECKING", "import_module"})
