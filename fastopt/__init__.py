"""Fused optimizer, BatchNorm and softmax kernels for networks trained in plain NumPy."""

from fastopt import init, reference, schedules
from fastopt._adam import Adam, adam
from fastopt._batchnorm import BatchNorm, batch_norm_backward, batch_norm_forward, batch_norm_inference
from fastopt._optimizer import Optimizer, UpdateInfo
from fastopt._runtime.config import show_config
from fastopt._runtime.threads import get_num_threads, num_threads, set_num_threads
from fastopt._sgd import SGD, Momentum, momentum, sgd

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adam",
    "BatchNorm",
    "Momentum",
    "Optimizer",
    "UpdateInfo",
    "adam",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference",
    "get_num_threads",
    "init",
    "momentum",
    "num_threads",
    "reference",
    "schedules",
    "set_num_threads",
    "sgd",
    "show_config",
]
