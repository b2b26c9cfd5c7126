"""The contents of arrays, states and objects as comparable values, to see what a call has changed."""

import array
import re

import numpy as np
from slow.cases import Folder, Threads

import fastopt
from fastopt._activation import ActivationCache
from fastopt._batchnorm import BatchNormCache
from fastopt._dropout import DropoutCache
from fastopt._layernorm import LayerNormCache, RMSNormCache
from fastopt.reference import _layernorm as reference_layernorm
from fastopt.reference._activation import ActivationCache as ReferenceActivationCache
from fastopt.reference._batchnorm import BatchNormCache as ReferenceCache
from fastopt.reference._optimizer import Optimizer as ReferenceOptimizer


def digest(value):
    """A comparable value that differs if any byte, shape, type or flag differs."""
    if isinstance(value, np.ndarray):
        owner = value
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        strides = value.strides if value.size > 1 else None
        return (type(value).__name__, value.dtype.str, value.shape, strides, value.flags.writeable, owner.shape,
                tuple(map(id, value.flat)) if value.dtype.hasobject else np.asarray(value).tobytes(),
                b"" if owner.dtype.hasobject else np.asarray(owner).tobytes(),
                np.ma.getmaskarray(value).tobytes() if isinstance(value, np.ma.MaskedArray) else b"")
    if isinstance(value, (fastopt.Optimizer, ReferenceOptimizer)):
        lr = value.lr if isinstance(value, fastopt.Optimizer) else value._hyper["lr"]
        return (value.step_count, dict(value.steps), digest(lr), digest(contents(value.state)))
    if isinstance(value, (fastopt.Layer, fastopt.reference.Layer)):
        return digest(parts(value))
    if isinstance(value, (BatchNormCache, ReferenceCache)):
        return (digest(value.mean), digest(value.invstd), digest(value.scale), digest(value.beta), digest(value.x),
                value.training, value.relu, value.count)
    if isinstance(value, DropoutCache):
        return (value.key, value.p, value.shape, value.training)
    if isinstance(value, ActivationCache):
        return (value.activation, value.dropout, value.key, value.negative_slope, value.shape, value.channels,
                digest(value.saved), digest(value.bias))
    if isinstance(value, ReferenceActivationCache):
        return tuple(map(digest, (value.activation, value.negative_slope, value.saved, value.channels, value.dropout)))
    if isinstance(value, (LayerNormCache, reference_layernorm.LayerNormCache)):
        return tuple(map(digest, (value.gamma, value.mean, value.invstd, value.x)))
    if isinstance(value, (RMSNormCache, reference_layernorm.RMSNormCache)):
        return tuple(map(digest, (value.gamma, value.invrms, value.x)))
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, Folder):
        return tuple(sorted(value.contents().items()))
    if isinstance(value, Threads):
        return value.count()
    if isinstance(value, (memoryview, array.array, bytearray, bytes)):
        return bytes(value)
    if type(value) in (dict, list) or isinstance(value, tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return (type(value).__name__, tuple((repr(key), digest(entry)) for key, entry in items))
    if isinstance(value, str):
        return re.sub(rf"{Folder.PREFIX}\w+", "", value)       # each twin has a folder of its own
    if isinstance(value, (bool, int, float, type(None), np.generic)):
        return (type(value).__name__, repr(value))
    return (type(value).__name__, id(value))


def contents(state):
    """A state as plain dicts, whatever mapping the optimizer shows it in."""
    return {key: dict(entry) for key, entry in state.items()}


def parts(layer):
    """A layer's arrays, and its Generator if it has one."""
    return (layer.params, layer.grads, layer.buffers, getattr(layer, "rng", None))
