"""A gradient that one has derived oneself, compared with differences of the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import fastopt
import fastopt.reference
from fastopt.demo.lessons import style

TITLE = "Checking a gradient"
ROWS, UNITS = 8, 3
DISTANCES = 2.0 ** -np.arange(0, 40)
DISTANCE = 2.0**-7

TEXT = r"""
Whoever writes a layer derives its gradient by hand, and a mistake there is silent: the network may still learn, only
worse. But a gradient can be checked without deriving anything. Move one number $x$ by a small distance $h$ in both
directions, and see how much the loss $L$ changes:

$$\frac{\partial L}{\partial x} \approx \frac{L(x + h) - L(x - h)}{2h}$$

{{ code("differences") }}

This costs two losses for each number, too much for training and just right for a test. The two gradients are compared
by their relative error, the length of their difference divided by the sum of their lengths:

{{ code("relative_error") }}

## The layers of fastopt

The loss is $\frac{1}{2}\sum c\, y^2$, with the layer's output $y$ and random $c$, so that the gradient to send back is
$c\,y$. The distance $h$ is $2^{-7} \approx$ {{ distance | digits(2) }}.

{{ code("check") }}

| layer | gradient of | relative error |
| --- | --- | --- |
{% for layer, errors in layers.items() %}
{% for array, error in errors.items() %}
| {{ layer }} | {{ array }} | {{ error | digits(2) }} |
{% endfor %}
{% endfor %}

## What a mistake looks like

BatchNorm's mean and variance depend on $x$, too. A popular mistake is to treat them as constants, and to send back
$\gamma\, dy / \sqrt{\sigma^2 + \varepsilon}$. Its relative error is {{ wrong_error | fixed(2) }}; that of the right
gradient is {{ right_error | digits(2) }}.

{{ figure("mistake") }}

## How small a distance

Mathematics wants $h$ as small as possible; the computer does not. The difference of two losses that are almost equal
keeps only their rounding errors, which are then divided by a tiny $2h$.

{{ figure("distances") }}

The error of the formula itself shrinks like $h^2$ (like $h$, if one moves in one direction only), while the rounding
error grows like $1/h$. They meet near the cube root of the relative rounding error: at
$h \approx$ {{ best["float64"] | digits(2) }} in float64, with an error of {{ least["float64"] | digits(2) }}, and at
$h \approx$ {{ best["float32"] | digits(2) }} in float32, with an error of {{ least["float32"] | digits(2) }}. So
gradients are checked in float64 where the code allows it. As a rule of thumb (Stanford's course CS231n gives similar
limits), an error below 10⁻⁷ in float64, or 10⁻³ in float32, is a right gradient, and one above 10⁻² is a mistake.
"""


def differences(loss: Callable[[], float], x: NDArray[Any], h: float) -> NDArray[Any]:
    """The gradient of a loss with respect to an array that it reads, by central differences."""
    gradient = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        value = x[i]
        x[i] = value + h
        above = loss()
        x[i] = value - h
        below = loss()
        x[i] = value
        gradient[i] = (above - below) / (2 * h)
    return gradient


def relative_error(a: NDArray[Any], b: NDArray[Any]) -> float:
    """0 for equal gradients, 1 for opposite ones."""
    return float(np.linalg.norm(a - b) / (np.linalg.norm(a) + np.linalg.norm(b)))


def check(layer: fastopt.Layer) -> dict[str, float]:
    """The relative errors of a layer's gradients."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, UNITS), dtype=np.float32)
    c = rng.random(layer.forward(x).shape, dtype=np.float32)

    def loss() -> float:
        return float(0.5 * np.sum(c * layer.forward(x) ** 2))

    gradients = {"x": layer.backward(c * layer.forward(x)), **layer.grads}
    return {name: relative_error(gradients[name], differences(loss, array, DISTANCE))
            for name, array in {"x": x, **layer.params}.items()}


class Normalisation:
    """A loss of batch-normalised numbers: in float32 by fastopt, in float64 by fastopt.reference."""

    def __init__(self, dtype: Any) -> None:
        self.kernels: Any = fastopt if dtype == "float32" else fastopt.reference
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((ROWS, UNITS)).astype(dtype)
        self.c = rng.random((ROWS, UNITS)).astype(dtype)
        self.gamma, self.beta = np.ones(UNITS, dtype), np.zeros(UNITS, dtype)

    def loss(self) -> float:
        y, _ = self.kernels.batch_norm_forward(self.x, self.gamma, self.beta)
        return float(0.5 * np.sum(self.c * y**2))

    def gradient(self) -> NDArray[Any]:
        y, cache = self.kernels.batch_norm_forward(self.x, self.gamma, self.beta)
        dx, _, _ = self.kernels.batch_norm_backward(self.c * y, cache)
        return dx

    def wrong_gradient(self) -> NDArray[Any]:
        """With mean and variance taken for constants."""
        y, _ = self.kernels.batch_norm_forward(self.x, self.gamma, self.beta)
        return self.gamma * self.c * y / np.sqrt(self.x.var(axis=0) + 1e-5)

    def one_sided(self, h: float) -> NDArray[Any]:
        """Differences in one direction: the mean of both directions' is central."""
        here = self.loss()
        gradient = np.empty(self.x.shape)
        for i in np.ndindex(self.x.shape):
            value = self.x[i]
            self.x[i] = value + h
            gradient[i] = (self.loss() - here) / h
            self.x[i] = value
        return gradient


def run() -> dict[str, Any]:
    """All runs of this page."""
    rng = np.random.default_rng(1)
    functions = {dtype: Normalisation(dtype) for dtype in ("float32", "float64")}
    double = functions["float64"]
    curves = {dtype: [relative_error(f.gradient(), differences(f.loss, f.x, h)) for h in DISTANCES]
              for dtype, f in functions.items()}
    curves["one direction"] = [relative_error(double.gradient(), double.one_sided(h)) for h in DISTANCES]
    numeric = differences(double.loss, double.x, 2.0**-17)
    return {
        "distance": DISTANCE,
        "layers": {"Dense, tanh": check(fastopt.Dense(UNITS, UNITS, "tanh", rng=rng)),
                   "BatchNorm": check(fastopt.BatchNorm(UNITS)), "LayerNorm": check(fastopt.LayerNorm(UNITS))},
        "numeric": numeric, "right": double.gradient(), "wrong": double.wrong_gradient(),
        "right_error": relative_error(double.gradient(), numeric),
        "wrong_error": relative_error(double.wrong_gradient(), numeric),
        "curves": curves,
        "best": {dtype: DISTANCES[int(np.argmin(curve))] for dtype, curve in curves.items()},
        "least": {dtype: min(curve) for dtype, curve in curves.items()},
    }


def mistake(facts: dict[str, Any]) -> Figure:
    """Each derived number of BatchNorm's gradient over the measured one: all on the line, or not."""
    figure, axes = style.subplots(1, 2, height=3.2, sharex=True, sharey=True)
    largest = np.abs(facts["numeric"]).max() * 1.2
    for ax, kind, colour, title in ((axes[0], "right", style.BLUE, "right"),
                                    (axes[1], "wrong", style.ORANGE, "statistics as constants")):
        ax.plot([-largest, largest], [-largest, largest], color=style.GREY, linewidth=1, linestyle="--")
        ax.plot(facts["numeric"].ravel(), facts[kind].ravel(), "o", color=colour)
        ax.set_title(title)
        ax.set_xlabel("by differences")
    axes[0].set_ylabel("derived")
    return figure


def distances(facts: dict[str, Any]) -> Figure:
    """The relative error by distance: on the right that of the formula, on the left that of rounding."""
    figure, ax = style.subplots(height=3.4)
    for name, colour, label in (("float32", style.ORANGE, "float32, both directions"),
                                ("one direction", style.GREY, "float64, one direction"),
                                ("float64", style.BLUE, "float64, both directions")):
        ax.plot(DISTANCES, facts["curves"][name], ".-", color=colour, label=label)
    ax.set(xscale="log", yscale="log", xlabel="distance h", ylabel="relative error")
    ax.legend(loc="lower left")
    return figure
