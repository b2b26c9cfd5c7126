"""Layers and optimizers in NumPy as one writes it, in float32: what `fastopt train` compares fastopt with.

The names and signatures are fastopt's, as far as the demo's networks and settings use them. Weights are drawn as
fastopt draws them, so that a training starts from the same network; formulas are those of `fastopt.reference`, to
rounding. Nothing is checked.

functions.py    activation functions, normalisation, softmax and cross-entropy
layers.py       layers around them
optimizer.py    what all optimizers share
optimizers.py   the rule of each
"""

from fastopt.demo.plain.functions import (
    activation_backward,
    activation_forward,
    softmax,
    softmax_cross_entropy,
    softmax_cross_entropy_loss,
)
from fastopt.demo.plain.layers import BatchNorm, Dense, Dropout, Embedding, LayerNorm
from fastopt.demo.plain.optimizers import (
    ASGD,
    LAMB,
    LARS,
    SGD,
    SGDM,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Adan,
    Lion,
    Momentum,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
    Sophia,
)

__all__ = [
    "ASGD", "LAMB", "LARS", "SGD", "SGDM", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Adan", "BatchNorm",
    "Dense", "Dropout", "Embedding", "LayerNorm", "Lion", "Momentum", "NAdam", "RAdam", "RMSprop", "Rprop", "Sophia",
    "activation_backward", "activation_forward", "softmax", "softmax_cross_entropy", "softmax_cross_entropy_loss",
]
