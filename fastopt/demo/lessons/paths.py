"""A long, narrow valley: the way of each optimizer to its lowest point."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import fastopt
from fastopt.demo.lessons import style
from fastopt.demo.lessons.descent import FAMILIES, OPTIMIZERS, Array, descend

TITLE = "Paths through a narrow valley"
START = (-7.0, 2.0)
CURVATURE = np.array([0.1, 2.0], np.float32)
FRAME = np.array([8.0, 3.2])
NEAR, LATER = 0.1, 400
RATES = np.geomspace(1e-3, 100, 51)

TEXT = r"""
The loss of a network is steep in some directions and almost flat in others. The smallest example with this trouble is a
valley with two weights:

$$f(x, y) = \frac{x^2}{20} + y^2, \qquad \text{gradient} = \left(\frac{x}{10},\; 2y\right)$$

Its lowest point is $(0, 0)$. All runs start at $({{ start[0] }}, {{ start[1] }})$, where the gradient is
$({{ gradient[0] }}, {{ gradient[1] }})$: it points across the valley, although the way to go is along it.

## Why gradient descent zigzags

For gradient descent, the two coordinates have nothing to do with each other. Each step with the learning rate $\eta$
multiplies $x$ by $1 - 0.1\,\eta$ and $y$ by $1 - 2\,\eta$. The steep direction allows no $\eta$ above
{{ limit | fixed(1) }}; beyond it $y$ grows. But with such a rate $x$ is still slow. The best compromise makes both
factors equally large, $\eta = 2 / (0.1 + 2) \approx$ {{ best_rate | fixed(3) }}, and each step then leaves
{{ best_factor | fixed(3) }} of the distance: $y$ jumps from side to side while $x$ creeps.

{{ figure("zigzag") }}

The ratio of the curvatures, here {{ condition | fixed(0) }}, is called the condition number $\kappa$. The best factor
of gradient descent is $(\kappa - 1) / (\kappa + 1)$ (Nocedal and Wright, Numerical Optimization, section 3.3): the
narrower the valley, the closer to 1. That is what momentum, and a step size for each weight, are made for.

## The path of each optimizer

Each optimizer tries {{ rates }} learning rates from {{ lowest }} to {{ highest }}. The picture shows the one with which
the distance from the minimum soonest stays below {{ near }}, without ever leaving the picture.

{{ code("follow") }}

{{ figure("paths") }}

Three things to see. **Momentum** damps the zigzag and gains speed along the valley; Nesterov's variant looks ahead and
is damped more. **Adagrad, Adam and their relatives** divide each coordinate by the size of its own gradients. To them
the valley is round: they set off diagonally, at the same speed in both directions (RAdam after its first steps, which
are SGD's). **Lion** takes steps of one length
in each coordinate, whatever the gradient, so its rate must be small to come near; **Rprop** adapts the length of each
coordinate's steps to whether the sign of its gradient changed.

| optimizer | learning rate | steps until the distance stays below {{ near }} |
| --- | --- | --- |
{% for name, lr, steps in table %}
| {{ name }} | {{ lr | digits(2) }} | {{ steps }} |
{% endfor %}

Do not read the table as a ranking. Each optimizer was allowed {{ rates }} tries on a problem without noise, and those
whose first steps are as long as the learning rate, whatever the gradient, gain from a rate near the distance of the
minimum, which nobody knows beforehand. What carries over to networks is the shape of the paths.
"""


def gradient(w: Array) -> Array:
    """Of x²/20 + y²."""
    return CURVATURE * w


def follow(name: str, lr: float) -> Array:
    """The path of an optimizer."""
    return descend(OPTIMIZERS[name](lr), gradient, START, LATER, hessian=CURVATURE)


def arrival(path: Array) -> int:
    """The step from which on a path is near the minimum; LATER if it never is, or leaves the picture."""
    far = np.flatnonzero(np.hypot(*path.T) >= NEAR)
    inside = (np.abs(path) <= FRAME).all()
    return int(far[-1]) + 1 if inside else LATER


def run() -> dict[str, Any]:
    """All runs of this page."""
    tuned = {}
    for name in OPTIMIZERS:
        with np.errstate(over="ignore", invalid="ignore"):      # learning rates that are too large
            tries = {float(lr): follow(name, float(lr)) for lr in RATES}
        lr, path = min(tries.items(), key=lambda item: arrival(item[1]))
        tuned[name] = lr, arrival(path), path[:arrival(path) + 1]
    low, high = CURVATURE.astype(float).round(6)
    best = 2 / (low + high)
    return {
        "start": START, "gradient": gradient(np.array(START, np.float32)), "near": NEAR, "rates": len(RATES),
        "lowest": RATES[0], "highest": RATES[-1], "limit": 2 / high, "best_rate": best, "best_factor": 1 - best * low,
        "condition": high / low, "tuned": tuned,
        "table": [(name, lr, steps) for name, (lr, steps, _) in tuned.items()],
        "zigzags": {lr: descend(fastopt.SGD(lr), gradient, START, 30) for lr in (0.3, best, 1.01)},
    }


def valley(ax: Any) -> None:
    """Contours of f and a cross at the minimum."""
    (right, top) = FRAME
    x, y = np.meshgrid(np.linspace(-right, right, 161), np.linspace(-top, top, 65))
    height: NDArray[np.float64] = x**2 / 20 + y**2
    ax.contour(x, y, height, levels=np.array([0.1, 0.5, 1.5, 3, 5, 7.5]), colors="#c3c9d1", linewidths=0.8)
    ax.plot(0, 0, "x", color=style.RED, markersize=7, zorder=3)
    ax.set(xlim=(-right, right), ylim=(-top, top))
    ax.grid(False)


def zigzag(facts: dict[str, Any]) -> Figure:
    """Thirty steps of gradient descent: too small a rate creeps, the best one zigzags, too large a one leaves."""
    figure, axes = style.subplots(1, 3, height=2.3, sharey=True)
    notes = ("slow", "the best", "too large")
    for ax, note, (lr, path) in zip(axes, notes, facts["zigzags"].items(), strict=True):
        valley(ax)
        ax.plot(*path.T, ".-", linewidth=1.2)
        ax.set_title(f"η = {lr:.3g}: {note}")
        ax.set_xlabel("x")
    axes[0].set_ylabel("y")
    return figure


def paths(facts: dict[str, Any]) -> Figure:
    """The path of each optimizer with its best learning rate; a dot is a step, a cross the minimum."""
    figure, axes = style.subplots(6, 3, height=10.0, sharex=True, sharey=True)
    names = [name for family in FAMILIES.values() for name in family]
    for ax, name in zip(axes.flat, names, strict=True):
        _, steps, path = facts["tuned"][name]
        valley(ax)
        ax.plot(*path.T, ".-", linewidth=1.2, markersize=4)
        ax.set_title(f"{name}, {steps} steps")
    for ax in axes[-1]:
        ax.set_xlabel("x")
    for ax in axes[:, 0]:
        ax.set_ylabel("y")
    return figure
