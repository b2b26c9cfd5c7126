"""Another build of fastopt, beside the imported one in the same process: a contender by the name of NAME."""

import importlib
import os
import sys

import bench_adam
from draws import CASES
from rows import LARGEST

from fastopt.bench import activation, dropout, embedding, layernorm, softmax
from fastopt.bench.batchnorm import Fastopt, FastoptNewArray, batch_norm
from fastopt.bench.contenders import contender
from fastopt.bench.optimizers import ADAM, MOMENTUM, by_class, by_function

NAME = "before"


def load(folder):
    """The package fastopt of this folder."""
    def modules():
        return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "fastopt"}

    imported = modules()
    for name in imported:
        del sys.modules[name]
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module("fastopt")
    finally:
        sys.path.remove(folder)
        for name in modules():
            del sys.modules[name]
        sys.modules.update(imported)
    found = os.path.dirname(module.__path__[0])
    if not os.path.samefile(found, folder):
        raise ImportError(f"expected a build of fastopt in {folder}, got that of {found}")
    return module


def register(module):
    """Let a build take part wherever the imported one does and it has the functions."""
    LARGEST[NAME] = LARGEST["fastopt"]
    for case in (ADAM, *CASES):
        contender(NAME, str(case))(by_function(module))
    for case in (bench_adam.ADAMW, MOMENTUM):
        contender(NAME, case.torch[0])(by_class(module))
    contender(NAME, *softmax.WITH_OUT)(softmax.by_module(module))
    contender(f"{NAME} new array", *softmax.WITH_OUT)(softmax.by_module(module, allocates=True))
    for family, kernels in ((activation, activation.kernels()), (dropout, dropout.KERNELS),
                            (embedding, embedding.PASSES)):
        if all(hasattr(module, kernel.partition(",")[0]) for kernel in kernels):
            contender(NAME, *kernels)(family.ours(False, module))
            contender(f"{NAME} new array", *kernels)(family.ours(True, module))
    if hasattr(module, "layer_norm_forward"):
        layernorm.layer_norm(NAME)(type("Before", (layernorm.Fastopt,), {"module": module}))
    batch_norm(NAME)(type("Before", (Fastopt,), {"module": module}))
    batch_norm(f"{NAME} new array", allocates=True)(type("BeforeNewArray", (FastoptNewArray,), {"module": module}))
