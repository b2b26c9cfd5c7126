"""What is public, found by introspection, and what a good call of it is; good_calls.py has them all."""

import inspect
import shutil
import tempfile
import typing
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from optimizer_cases import taken_by

import fastopt
from fastopt._activation import ActivationCache
from fastopt._batchnorm import BatchNormCache
from fastopt._dropout import DropoutCache
from fastopt._layernorm import LayerNormCache, RMSNormCache

RETURNED = (ActivationCache, BatchNormCache, DropoutCache, LayerNormCache, RMSNormCache)
"""Classes that users get from public functions, though their names are not public."""

WITHOUT_CHECKS = {
    "Optimizer": "users call the classes derived from it",
    "Options": "a TypedDict: names and types of keyword arguments",
    "UpdateInfo": "a plain named tuple",
    "BatchGradientSums": "a plain named tuple: the functions that take one check it",
    "BatchStatistics": "a plain named tuple: the functions that take one check it",
    "reference": "the definition of results, which checks nothing",
}


@dataclass
class Case:
    """One good call with fresh arrays."""

    call: Callable[..., Any]
    arguments: dict[str, Any]
    """In the signature's order. Those of ``*parts`` are named parts[0], parts[1], …"""
    watch: tuple[Any, ...] = ()
    """Besides the arguments, what a refused call must leave as it is."""
    use: Callable[[Any], Any] = field(default=lambda result: result)
    """From what the call returned to something comparable: what an object that was made does next."""


Maker = Callable[[np.random.Generator, ModuleType], Case]
"""From random numbers and a module, fastopt or fastopt.reference, to a case."""


def is_record(kind):
    return typing.is_typeddict(kind) or issubclass(kind, tuple)


def methods(kind, name):
    """Public methods that fastopt defines, `__call__` included, and properties that can be assigned (`Adam.lr=`)."""
    for attribute, value in inspect.getmembers(kind):
        if attribute.startswith("_") and attribute != "__call__":
            continue
        if inspect.isfunction(value) and value.__module__.startswith("fastopt"):
            yield f"{name}.{attribute}", value
        elif isinstance(value, property) and value.fset is not None:
            yield f"{name}.{attribute}=", value.fset


def public():
    """Everything public that can be called, by name."""
    found = {kind.__name__ + name.removeprefix(kind.__name__): function for kind in RETURNED
             for name, function in methods(kind, kind.__name__)}
    for name in fastopt.__all__:
        if name in WITHOUT_CHECKS:
            continue
        value = getattr(fastopt, name)
        inside = {f"{name}.{n}": getattr(value, n) for n in value.__all__} if inspect.ismodule(value) else {name: value}
        for where, function in inside.items():
            found[where] = function
            if isinstance(function, type):
                found.update(methods(function, where))
    return found


GOOD = {
    "weight_decay": 0.01, "decoupled_weight_decay": 0.01, "l1": 0.001, "maximize": False, "grad_scale": 0.5,
    "clip_value": 1.0, "average_decay": 0.9, "average": None, "clip_norm": 10.0, "skip_nonfinite": False,
    "per_param": None, "clip_norm_per_param": None, "average_warmup": False,
}
"""Valid values of what ``**options`` may hold."""


def completed(function, arguments):
    """`arguments` with every other argument that the function takes, in the signature's order."""
    full = dict(arguments)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            for name in sorted(taken_by(function) - set(full) - {"average", "average_decay"}):
                full[name] = GOOD[name]
        elif parameter.kind is not parameter.VAR_POSITIONAL and parameter.default is not parameter.empty:
            full.setdefault(parameter.name, parameter.default)
    return full


def call_by_position(function, count):
    """`function` for arguments of which the first `count` are passed by position: those named parts[i]."""
    def call(**arguments):
        values = list(arguments.values())
        return function(*values[:count], **dict(list(arguments.items())[count:]))
    return call


CALLS: dict[str, list[Maker]] = {}


def case(name):
    """Decorator: a maker of good calls of `name`."""
    def add(maker):
        CALLS.setdefault(name, []).append(maker)
        return maker
    return add


def has_reference(name):
    """Whether fastopt.reference defines the result."""
    return name.split(".")[0] in fastopt.reference.__all__


class Folder:
    """A folder as something to watch: the names and contents of its files."""

    PREFIX = "fastopt-test-"

    def __init__(self):
        self.path = tempfile.mkdtemp(prefix=self.PREFIX)
        weakref.finalize(self, shutil.rmtree, self.path)

    def contents(self):
        return {path.name: path.read_bytes() for path in sorted(Path(self.path).iterdir())}


class Threads:
    """The number of threads, at first the default, as something to watch."""

    def __init__(self):
        fastopt.set_num_threads(None)

    def count(self):
        return fastopt.get_num_threads()
