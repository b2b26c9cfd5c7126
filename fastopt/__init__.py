"""Fused optimizer, BatchNorm and softmax kernels for networks trained in plain NumPy."""

from fastopt import init, reference, schedules
from fastopt._adam import Adam, adam
from fastopt._cross_entropy import softmax_cross_entropy, softmax_cross_entropy_loss
from fastopt._optimizer import Optimizer, UpdateInfo
from fastopt._runtime.config import show_config
from fastopt._runtime.threads import get_num_threads, num_threads, set_num_threads
from fastopt._sgd import SGD, Momentum, momentum, sgd
from fastopt._softmax import log_softmax

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adam",
    "Momentum",
    "Optimizer",
    "UpdateInfo",
    "adam",
    "get_num_threads",
    "init",
    "log_softmax",
    "momentum",
    "num_threads",
    "reference",
    "schedules",
    "set_num_threads",
    "sgd",
    "show_config",
    "softmax_cross_entropy",
    "softmax_cross_entropy_loss",
]
