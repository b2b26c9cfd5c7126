"""One row per layer class: test_layers.py and the slow suites run every row."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


def f32(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


@dataclass(frozen=True)
class LayerCase:
    """A layer class, and good and bad arguments of it."""

    name: str
    options: dict
    """Arguments of the constructor in which a layer is most itself, without `rng`."""
    x: Callable
    """rng -> an input of forward."""
    y_shape: tuple
    """Of its output."""
    takes_rng: bool = False
    exact: bool = True
    """Whether its bits are the reference's; else they are close."""
    refused: tuple = ()
    """(argument, value) pairs that the constructor refuses by a message that starts with the argument's name."""
    bad_x: tuple = ()
    """Functions of a good input: those of any layer of float32 arrays, unless the row has its own."""
    bad_dy: tuple = field(default=(lambda dy: dy.astype(np.float64), lambda dy: dy[:-1], lambda dy: dy.tolist()))
    argument: str = "x"
    """Of forward."""
    other_name: str = "x"
    """What else a message may call a bad x."""

    def make(self, module, seed=5):
        """A layer whose parameters are all different numbers."""
        extra = {"rng": np.random.default_rng(seed)} if self.takes_rng else {}
        layer = getattr(module, self.name)(**self.options, **extra)
        rng = np.random.default_rng(seed + 1)
        for array in (layer.params | layer.buffers).values():
            array[...] = rng.uniform(0.5, 1.5, array.shape)
        return layer

    def dy(self, rng):
        return f32(rng, *self.y_shape)


RNG_REFUSED = tuple(("rng", value) for value in (None, 7, np.random, np.random.RandomState(1)))
FLOATS_REFUSED = (lambda x: x.astype(np.float64), lambda x: x.tolist(), lambda x: np.repeat(x, 2, axis=-1)[..., ::2])

LAYERS = [
    LayerCase("BatchNorm", {"num_features": 5, "momentum": 0.3, "relu": True},
              lambda rng: f32(rng, 12, 5), (12, 5), other_name="gamma",
              bad_x=(*FLOATS_REFUSED, lambda x: x[:, :4].copy(), lambda x: x[:1]),
              refused=(("num_features", 2.0), ("num_features", 2**62), ("num_features", 10**400), ("num_features", -1),
                       ("eps", 0.0), ("momentum", 1.5), ("relu", "yes"), ("unbiased", 1), ("channel_axis", "last"))),
    LayerCase("LayerNorm", {"shape": (3, 5), "eps": 0.01}, lambda rng: f32(rng, 4, 3, 5), (4, 3, 5),
              other_name="gamma", bad_x=(*FLOATS_REFUSED, lambda x: x[..., :4].copy(), lambda x: x[0, 0]),
              refused=(("shape", ()), ("shape", (3, -1)), ("shape", 2.0), ("shape", None), ("shape", (2**40, 2**40)),
                       ("eps", 0.0), ("eps", None))),
    LayerCase("RMSNorm", {"shape": (3, 5), "eps": 0.01}, lambda rng: f32(rng, 4, 3, 5), (4, 3, 5),
              other_name="gamma", bad_x=(*FLOATS_REFUSED, lambda x: x[..., :4].copy(), lambda x: x[0, 0]),
              refused=(("shape", ()), ("shape", (3, -1)), ("shape", 2.0), ("shape", None), ("shape", (2**40, 2**40)),
                       ("eps", 0.0), ("eps", None))),
    LayerCase("Dropout", {"p": 0.25}, lambda rng: f32(rng, 4, 30), (4, 30), takes_rng=True, bad_x=FLOATS_REFUSED,
              refused=(*RNG_REFUSED, ("p", -0.1), ("p", 1.5), ("p", None), ("p", True), ("p", float("nan")))),
    LayerCase("Embedding", {"num_embeddings": 6, "dim": 3, "padding_idx": 2}, lambda rng: rng.integers(6, size=(2, 7)),
              (2, 7, 3), takes_rng=True, argument="indices",
              bad_x=(lambda x: x.astype(float), lambda x: x.tolist(), lambda x: x - 6, lambda x: x + 6),
              refused=(*RNG_REFUSED, ("num_embeddings", -1), ("num_embeddings", 2.0), ("num_embeddings", 2**62),
                       ("dim", -1), ("dim", None), ("dim", 2**60), ("padding_idx", 6), ("padding_idx", -1),
                       ("padding_idx", True), ("std", -1.0), ("std", None))),
    *(LayerCase("Dense", {"in_features": 6, "out_features": 5, **options}, takes_rng=True,
                **{"x": lambda rng: f32(rng, 4, 6), "y_shape": (4, 5), **others},
                bad_x=(*FLOATS_REFUSED, lambda x: x[..., :5].copy()))
      for options, others in (
          ({"activation": "relu", "dropout": 0.25},
           {"refused": (*RNG_REFUSED, ("in_features", -1), ("in_features", 2.0), ("in_features", 2**62),
                        ("out_features", -1), ("out_features", None), ("out_features", 2**60), ("activation", "cube"),
                        ("activation", None), ("bias", 1), ("dropout", -0.1), ("dropout", 1.5), ("dropout", "half"),
                        ("negative_slope", -1.0), ("negative_slope", None))}),
          ({"activation": "gelu", "dropout": 0.5}, {"exact": False}),
          ({"out_features": 6}, {"y_shape": (4, 6)}),
          ({"bias": False}, {"x": lambda rng: f32(rng, 2, 3, 6), "y_shape": (2, 3, 5)}))),
]
