"""The written definition of every result: the same names and signatures in plain NumPy."""

from fastopt.reference._adam import Adam, adam
from fastopt.reference._cross_entropy import softmax_cross_entropy, softmax_cross_entropy_loss
from fastopt.reference._sgd import SGD, Momentum, momentum, sgd
from fastopt.reference._softmax import log_softmax

__all__ = [
    "SGD",
    "Adam",
    "Momentum",
    "adam",
    "log_softmax",
    "momentum",
    "sgd",
    "softmax_cross_entropy",
    "softmax_cross_entropy_loss",
]
