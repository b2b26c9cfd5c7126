"""The written definition of every result: the same names and signatures in plain NumPy."""

from fastopt.reference._adam import Adam, adam
from fastopt.reference._batchnorm import BatchNorm, batch_norm_backward, batch_norm_forward, batch_norm_inference
from fastopt.reference._sgd import SGD, Momentum, momentum, sgd

__all__ = [
    "SGD",
    "Adam",
    "BatchNorm",
    "Momentum",
    "adam",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference",
    "momentum",
    "sgd",
]
