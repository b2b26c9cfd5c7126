"""The written definition of every result: the same names and signatures in plain NumPy."""

from fastopt.reference._adam import Adam, Adamax, AdamW, NAdam, RAdam, adam, adamax, nadam, radam
from fastopt.reference._adaptive import Adadelta, Adagrad, RMSprop, adadelta, adagrad, rmsprop
from fastopt.reference._layerwise import LAMB, LARS, lamb, lars
from fastopt.reference._sgd import ASGD, SGD, SGDM, Momentum, asgd, momentum, sgd, sgdm
from fastopt.reference._sign import Lion, Rprop, lion, rprop

__all__ = [
    "ASGD", "LAMB", "LARS", "SGD", "SGDM", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "Momentum",
    "NAdam", "RAdam", "RMSprop", "Rprop",
    "adadelta", "adagrad", "adam", "adamax", "asgd", "lamb", "lars", "lion", "momentum", "nadam", "radam", "rmsprop",
    "rprop", "sgd", "sgdm",
]
