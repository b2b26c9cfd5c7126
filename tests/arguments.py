"""One row per public function: what it takes and writes. test_bad_input.py runs every row against every defect.

A new function gets all those tests by a row here, an optimizer by its row in optimizer_cases.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from optimizer_cases import REFUSED, ROWS

import fastopt


def f32(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def positive(rng, *shape):
    return np.abs(f32(rng, *shape))


@dataclass(frozen=True)
class Function:
    """A public function, its valid arguments, and hyper-parameters that it must refuse."""

    name: str
    arrays: Callable
    """rng -> {argument: float32 array}, all of them passed by keyword, in the signature's order."""
    written: tuple
    """Those of `arrays` that the function writes; they must not overlap any other."""
    options: dict = field(default_factory=dict)
    """Other arguments, valid."""
    refused: tuple = ()
    """(argument, value) pairs, each of which is refused by a message that starts with the argument's name."""
    overlap: tuple = ()
    """Pairs of arguments that may be the same array."""
    takes: dict = field(default_factory=dict)
    """{argument: defects of test_bad_input.py that it takes, converted where necessary}."""


AXIS_REFUSED = (("axis", 2), ("axis", -3), ("axis", 0.5), ("axis", None), ("axis", True), ("axis", (0,)),
                ("axis", 10**5000))
DISTRIBUTIONS = {"float64", "float16", "int32", "other byte order", "list", "strided", "reversed", "misaligned"}
CROSS_ENTROPY_REFUSED = (
    ("reduction", "max"), ("reduction", None), ("reduction", 1), ("label_smoothing", 1.0), ("label_smoothing", -0.1),
    ("label_smoothing", float("nan")), ("label_smoothing", "much"), ("ignore_index", 0.5), ("ignore_index", "none"),
    ("labels", np.full((3, 40), 1e39)), ("count_correct", True),
)


def optimizer(row):
    """The function of an optimizer: param, grad and all of its state, of one shape, with an average."""
    states = [*row.states, *row.optional_states, "average"]
    refused = {**{name: values for name, values in REFUSED.items() if name in row.taken}, **row.refused}
    return Function(
        row.function,
        lambda rng: {"param": f32(rng, 3, 40), "grad": f32(rng, 3, 40),
                     **{state: positive(rng, 3, 40) for state in states}},
        written=("param", *(state for state in states if state not in row.read)),
        options={**({"step": 2} if "step" in row.taken else {}), **row.valid, "average_decay": 0.9},
        refused=tuple((name, value) for name, values in refused.items() for value in values),
    )


INDICES_REFUSED = tuple(("indices", value) for value in (
    np.array([0, 1, 3]), np.array([0, -1, 2]), np.array([0, 1, 2**64 - 1], np.uint64), np.zeros(3, bool), np.zeros(3),
    [0, 1, 2], None, 1, np.ma.masked_array([0, 1, 2], np.zeros(3, bool))))

BATCH_NORM_REFUSED = (
    ("momentum", -0.1), ("momentum", 1.1), ("momentum", float("nan")), ("momentum", None), ("momentum", True),
    ("eps", 0.0), ("eps", -1e-5), ("eps", float("inf")), ("eps", "small"), ("channel_axis", 2), ("channel_axis", -3),
    ("channel_axis", 1.0), ("channel_axis", None), ("channel_axis", True), ("channel_axis", 10**5000),
)


LAYER_NORM_REFUSED = (("eps", 0.0), ("eps", -1e-5), ("eps", float("inf")), ("eps", float("nan")), ("eps", None))


def batch_norm_cache(module=fastopt):
    x = np.linspace(-3, 4, 24, dtype=np.float32).reshape(8, 3)
    return module.batch_norm_forward(x, np.ones(3, np.float32), np.zeros(3, np.float32))[1]


def dropout_cache(module=fastopt):
    return module.dropout_forward(np.ones((3, 40), np.float32), 0.5, 7)[1]


def layer_norm_cache(module=fastopt):
    x, one = np.linspace(-3, 4, 24, dtype=np.float32).reshape(8, 3), np.ones(3, np.float32)
    return module.layer_norm_forward(x, one, one)[1]


def rms_norm_cache(module=fastopt):
    return module.rms_norm_forward(np.linspace(-3, 4, 24, dtype=np.float32).reshape(8, 3), np.ones(3, np.float32))[1]


def activation_cache(module=fastopt):
    return module.activation_forward(np.ones((3, 40), np.float32), "tanh", np.ones(40, np.float32), dropout=0.5,
                                     rng=7)[1]


CACHES = {
    "activation_backward": activation_cache, "batch_norm_backward": batch_norm_cache,
    "batch_norm_backward_sums": batch_norm_cache, "dropout_backward": dropout_cache,
    "layer_norm_backward": layer_norm_cache, "rms_norm_backward": rms_norm_cache,
}
"""What makes the cache that a backward function takes."""


FUNCTIONS = [
    *(optimizer(row) for row in ROWS if row.calls),
    *(Function(name, lambda rng: {"x": f32(rng, 3, 40), "out": f32(rng, 3, 40)}, written=("out",),
               overlap=(("out", "x"),), refused=AXIS_REFUSED)
      for name in ("log_softmax", "softmax", "hardmax")),
    *(Function(name, lambda rng: {"dy": f32(rng, 3, 40), "y": f32(rng, 3, 40), "out": f32(rng, 3, 40)},
               written=("out",), overlap=(("out", "dy"), ("out", "y")), refused=AXIS_REFUSED)
      for name in ("log_softmax_backward", "softmax_backward")),
    Function("softmax_cross_entropy",
             lambda rng: {"logits": f32(rng, 3, 40), "labels": positive(rng, 3, 40),
                          "class_weight": positive(rng, 40), "out": f32(rng, 3, 40)},
             written=("out",), overlap=(("out", "logits"),), refused=CROSS_ENTROPY_REFUSED,
             takes={"labels": DISTRIBUTIONS}),
    Function("softmax_cross_entropy_loss",
             lambda rng: {"logits": f32(rng, 3, 40), "labels": positive(rng, 3, 40),
                          "class_weight": positive(rng, 40)},
             written=(), refused=CROSS_ENTROPY_REFUSED, takes={"labels": DISTRIBUTIONS}),
    Function("linear_cross_entropy",        # its out is a tuple: test_linear_cross_entropy.py
             lambda rng: {"x": f32(rng, 6, 8), "weight": f32(rng, 5, 8), "bias": f32(rng, 5),
                          "class_weight": positive(rng, 5)},
             written=(), options={"labels": np.arange(6) % 5},
             refused=(*CROSS_ENTROPY_REFUSED[:-1], ("chunk", 0), ("chunk", -1), ("chunk", 2.0), ("chunk", True))),
    Function("embedding_forward",
             lambda rng: {"weight": f32(rng, 3, 40), "out": f32(rng, 3, 40)},
             written=("out",), options={"indices": np.array([2, 0, 2])}, refused=INDICES_REFUSED),
    Function("embedding_backward",
             lambda rng: {"dy": f32(rng, 3, 40), "out": f32(rng, 3, 40)},
             written=("out",), options={"indices": np.array([2, 0, 2]), "num_embeddings": 3, "padding_idx": 0},
             refused=(*INDICES_REFUSED, ("num_embeddings", -1), ("num_embeddings", 3.0), ("num_embeddings", None),
                      ("num_embeddings", True), ("num_embeddings", 2**63), ("padding_idx", -1), ("padding_idx", 3),
                      ("padding_idx", 0.5), ("padding_idx", False))),
    Function(
        "batch_norm_forward",
        lambda rng: {"x": f32(rng, 8, 3), "gamma": f32(rng, 3), "beta": f32(rng, 3), "running_mean": f32(rng, 3),
                     "running_var": positive(rng, 3), "out": f32(rng, 8, 3)},
        written=("running_mean", "running_var", "out"),
        refused=(*BATCH_NORM_REFUSED, ("training", 1), ("training", None), ("unbiased", "no"), ("relu", 1.0)),
        takes={name: {"one dimension more"} for name in ("gamma", "beta", "running_mean", "running_var")},
    ),
    Function(
        "batch_norm_backward",
        lambda rng: {"dy": f32(rng, 8, 3), "out": f32(rng, 8, 3)},
        written=("out",),
        options={"cache": batch_norm_cache()},
        refused=(("cache", None), ("cache", 1.0)),
        overlap=(("dy", "out"),),
    ),
    Function(
        "batch_norm_backward_sums",
        lambda rng: {"dy": f32(rng, 8, 3)},
        written=(),
        options={"cache": batch_norm_cache()},
        refused=(("cache", None), ("cache", 1.0)),
    ),
    Function(
        "batch_norm_statistics",
        lambda rng: {"x": f32(rng, 8, 3)},
        written=(),
        refused=BATCH_NORM_REFUSED[9:],
    ),
    Function(
        "batch_norm_inference",
        lambda rng: {"x": f32(rng, 8, 3), "gamma": f32(rng, 3), "beta": f32(rng, 3), "mean": f32(rng, 3),
                     "var": positive(rng, 3), "out": f32(rng, 8, 3)},
        written=("out",),
        refused=(*BATCH_NORM_REFUSED[5:], ("relu", "yes")),
        takes={name: {"one dimension more"} for name in ("gamma", "beta", "mean", "var")},
        overlap=(("x", "out"),),
    ),
    Function(
        "dropout_forward",
        lambda rng: {"x": f32(rng, 3, 40), "out": f32(rng, 3, 40)},
        written=("out",),
        options={"p": 0.5, "rng": 7},
        refused=(("p", -0.1), ("p", 1.1), ("p", float("nan")), ("p", float("inf")), ("p", None), ("p", True),
                 ("p", "0.5"), ("p", np.ones(1)), ("p", 10**5000), ("rng", None), ("rng", False), ("rng", -1),
                 ("rng", 2**64), ("rng", 0.5), ("rng", np.random), ("training", 1), ("training", None)),
        overlap=(("x", "out"),),
    ),
    Function(
        "dropout_backward",
        lambda rng: {"dy": f32(rng, 3, 40), "out": f32(rng, 3, 40)},
        written=("out",),
        options={"cache": dropout_cache()},
        refused=(("cache", None), ("cache", 1.0), ("cache", batch_norm_cache())),
        overlap=(("dy", "out"),),
    ),
    Function(
        "activation_forward",
        lambda rng: {"x": f32(rng, 3, 40), "bias": f32(rng, 40), "out": f32(rng, 3, 40)},
        written=("out",),
        options={"activation": "tanh", "dropout": 0.5, "rng": 7},
        refused=(("activation", "Tanh"), ("activation", None), ("activation", 4), ("activation", ["tanh"]),
                 ("dropout", -0.1), ("dropout", 1.1), ("dropout", float("nan")), ("dropout", None), ("dropout", True),
                 ("dropout", "0.5"), ("dropout", 10**5000), ("rng", None), ("rng", False), ("rng", -1), ("rng", 2**64),
                 ("rng", 0.5), ("rng", np.random), ("negative_slope", -0.1), ("negative_slope", float("inf")),
                 ("negative_slope", float("nan")), ("negative_slope", None), *BATCH_NORM_REFUSED[9:]),
        overlap=(("x", "out"),),
        takes={"bias": {"one dimension more"}},
    ),
    Function(
        "activation_backward",
        lambda rng: {"dy": f32(rng, 3, 40), "out": f32(rng, 3, 40)},
        written=("out",),
        options={"cache": activation_cache()},
        refused=(("cache", None), ("cache", 1.0), ("cache", dropout_cache())),
        overlap=(("dy", "out"),),
    ),
    Function(
        "layer_norm_forward",
        lambda rng: {"x": f32(rng, 8, 3), "gamma": f32(rng, 3), "beta": f32(rng, 3), "out": f32(rng, 8, 3)},
        written=("out",),
        refused=LAYER_NORM_REFUSED,
    ),
    Function(
        "rms_norm_forward",
        lambda rng: {"x": f32(rng, 8, 3), "gamma": f32(rng, 3), "out": f32(rng, 8, 3)},
        written=("out",),
        refused=LAYER_NORM_REFUSED,
    ),
    *(Function(name, lambda rng: {"dy": f32(rng, 8, 3), "out": f32(rng, 8, 3)}, written=("out",),
               options={"cache": CACHES[name]()},
               refused=(("cache", None), ("cache", 1.0), ("cache", batch_norm_cache())), overlap=(("dy", "out"),))
      for name in ("layer_norm_backward", "rms_norm_backward")),
]
