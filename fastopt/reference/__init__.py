"""The written definition of every result: the same names and signatures in plain NumPy."""

from fastopt.reference._adam import Adam, adam
from fastopt.reference._sgd import SGD, Momentum, momentum, sgd

__all__ = ["SGD", "Adam", "Momentum", "adam", "momentum", "sgd"]
