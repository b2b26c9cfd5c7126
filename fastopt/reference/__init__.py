"""The written definition of every result: the same names and signatures in plain NumPy."""

from fastopt.reference._activation import activation_backward, activation_forward
from fastopt.reference._adam import Adam, Adamax, AdamW, NAdam, RAdam, adam, adamax, nadam, radam
from fastopt.reference._adaptive import Adadelta, Adagrad, Adan, RMSprop, adadelta, adagrad, adan, rmsprop
from fastopt.reference._batchnorm import (
    batch_norm_backward,
    batch_norm_backward_sums,
    batch_norm_fold,
    batch_norm_forward,
    batch_norm_inference,
    batch_norm_merge,
    batch_norm_merge_sums,
    batch_norm_statistics,
)
from fastopt.reference._cross_entropy import softmax_cross_entropy, softmax_cross_entropy_loss
from fastopt.reference._dropout import dropout_backward, dropout_forward
from fastopt.reference._embedding import embedding_backward, embedding_forward
from fastopt.reference._layernorm import (
    layer_norm_backward,
    layer_norm_forward,
    rms_norm_backward,
    rms_norm_forward,
)
from fastopt.reference._layers import BatchNorm, Dense, Dropout, Embedding, Layer, LayerNorm, RMSNorm
from fastopt.reference._layerwise import LAMB, LARS, lamb, lars
from fastopt.reference._linear_cross_entropy import linear_cross_entropy
from fastopt.reference._sgd import ASGD, SGD, SGDM, Momentum, asgd, momentum, sgd, sgdm
from fastopt.reference._sign import Lion, Rprop, Sophia, lion, rprop, sophia
from fastopt.reference._softmax import hardmax, log_softmax, log_softmax_backward, softmax, softmax_backward

__all__ = [
    "ASGD", "LAMB", "LARS", "SGD", "SGDM", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Adan", "BatchNorm",
    "Dense", "Dropout", "Embedding", "Layer", "LayerNorm", "Lion", "Momentum", "NAdam", "RAdam", "RMSNorm", "RMSprop",
    "Rprop", "Sophia", "activation_backward", "activation_forward", "adadelta", "adagrad", "adam", "adamax", "adan",
    "asgd", "batch_norm_backward", "batch_norm_backward_sums", "batch_norm_fold", "batch_norm_forward",
    "batch_norm_inference", "batch_norm_merge", "batch_norm_merge_sums", "batch_norm_statistics", "dropout_backward",
    "dropout_forward", "embedding_backward", "embedding_forward", "hardmax", "lamb", "lars", "layer_norm_backward",
    "layer_norm_forward", "linear_cross_entropy", "lion", "log_softmax", "log_softmax_backward", "momentum", "nadam",
    "radam", "rms_norm_backward", "rms_norm_forward", "rmsprop", "rprop", "sgd", "sgdm", "softmax", "softmax_backward",
    "softmax_cross_entropy", "softmax_cross_entropy_loss", "sophia",
]
