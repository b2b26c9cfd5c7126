"""A parabola, a learning rate, and what each optimizer makes of the same gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import fastopt
from fastopt.demo.lessons import style
from fastopt.demo.lessons.descent import FAMILIES, OPTIMIZERS, descend

TITLE = "Minimising a parabola"
LR, MOMENTUM, STEPS, NEAR = 0.1, 0.9, 200, 0.1
LATER = 2 * STEPS
RATES = (0.02, 0.1, 0.5, 0.9, 1.05)

TEXT = r"""
Training a network means finding the weights at which a loss is smallest. Everything that an optimizer does can be seen
with one weight $w$ and a loss whose minimum we know.

## The learning rate is a factor on the error

The loss $(w - 5)^2$ has its minimum at $w = 5$, and its gradient is $2(w - 5)$. Gradient descent subtracts the
gradient, times a learning rate $\eta$:

$$w \leftarrow w - \eta \cdot 2(w - 5)$$

Subtract 5 on both sides, and the rule for the error $w - 5$ is a multiplication:

$$(w - 5) \leftarrow (1 - 2\eta)\,(w - 5)$$

With $\eta = {{ lr }}$ each step leaves {{ factor | fixed(1) }} of the error. From $w = 0$, by hand and by
`fastopt.SGD`:

| step | gradient | w by hand | w by fastopt.SGD |
| --- | --- | --- | --- |
{% for step, gradient, w, computed in parabola %}
| {{ step }} | {{ gradient | fixed(3) }} | {{ w | fixed(4) }} | {{ computed | fixed(4) }} |
{% endfor %}

A factor near 1 is slow, 0 arrives in one step, a negative one jumps from side to side, and one below −1 moves away:
for this parabola every $\eta$ above 1 diverges.

{{ figure("learning_rates") }}

## Momentum

A ball that rolls downhill keeps its velocity $v$. Each step keeps {{ momentum }} of it and adds the new gradient
(Polyak 1964; the formula of `fastopt.Momentum`):

$$v \leftarrow 0.9\,v - \eta \cdot \text{gradient}, \qquad w \leftarrow w + v$$

Take the loss $w^2 / 2$, whose gradient is $w$ itself, start at $w = 1$ with $\eta = {{ lr }}$, and calculate:

{{ code("momentum_by_hand") }}

| step | gradient | velocity by hand | w by hand | w by fastopt.Momentum |
| --- | --- | --- | --- | --- |
{% for step, gradient, v, w, computed in rolling %}
| {{ step }} | {{ gradient | fixed(4) }} | {{ v | fixed(4) }} | {{ w | fixed(4) }} | {{ computed | fixed(4) }} |
{% endfor %}

The first step is {{ first_steps[0] | fixed(2) }} long. The second is already {{ first_steps[1] | fixed(2) }}:
$0.9 \cdot 0.1 = 0.09$ are left of the velocity, and the new gradient at $w = 0.9$ adds another $0.1 \cdot 0.9 = 0.09$.
The ball is faster than plain gradient descent, and therefore rolls past the minimum and swings around it. The theory of
such a swing gives one turn in {{ period | fixed(1) }} steps, while the swing shrinks by
$\sqrt{0.9} \approx$ {{ shrinks | fixed(3) }} a step. The run crosses the minimum every {{ half_turn | fixed(1) }} steps
on average, half of that.

{{ figure("momentum") }}

## The same learning rate means something else to each optimizer

Now every optimizer of fastopt minimises $(w - 5)^2$ from $w = 0$ with the same learning rate {{ lr }}. The first
gradient is −10. The table says how long the first step is, and after which step the error stays below {{ near }}.

{{ code("minimise") }}

| optimizer | first step | error stays below {{ near }} from step |
| --- | --- | --- |
{% for name, step, arrived in arrivals %}
| {{ name }} | {{ step }} | {{ arrived or "not in %d steps" | format(steps) }} |
{% endfor %}

SGD multiplies the gradient by the learning rate: its first step is {{ first["SGD"] | fixed(1) }}, and it would be ten
times as long for a loss ten times as large. Adam divides by the size of the gradients so far: its first step is the
learning rate, {{ first["Adam"] | fixed(1) }}, whatever the gradient. SGDM, which takes an average of the gradients,
starts with a tenth of SGD's step. Adadelta has no learning rate in its original form; it starts with tiny steps.
So a learning rate that is right for one optimizer says nothing about another.

{{ figure("convergence") }}

ASGD takes SGD's steps and keeps their average aside; RAdam starts like SGD, because it divides by the gradients' size
only when it has seen enough of them. Lion never settles: with a constant learning rate its steps always have the same
length, {{ lion_steps | fixed(1) }}. What makes it settle is a learning rate that falls.
"""


def parabola_by_hand(w: float, lr: float, steps: int) -> list[tuple[float, float]]:
    """Gradient descent on (w − 5)²: the gradient and the new w of each step."""
    history = []
    for _ in range(steps):
        gradient = 2 * (w - 5)
        w = w - lr * gradient
        history.append((gradient, w))
    return history


def momentum_by_hand(w: float, lr: float, steps: int) -> list[tuple[float, float, float]]:
    """Momentum on w²/2: the gradient, the new velocity and the new w of each step."""
    v = 0.0
    history = []
    for _ in range(steps):
        gradient = w
        v = 0.9 * v - lr * gradient
        w = w + v
        history.append((gradient, v, w))
    return history


def minimise(name: str, lr: float) -> Any:
    """Minimise (w − 5)² from 0: w before each step and after the last."""
    optimizer = OPTIMIZERS[name](lr)
    return descend(optimizer, lambda w: 2 * (w - 5), start=[0.0], steps=LATER, hessian=[2.0])[:, 0]


def run() -> dict[str, Any]:
    """All runs of this page."""
    sgd = descend(fastopt.SGD(LR), lambda w: 2 * (w - 5), [0.0], 5)[1:, 0]
    ball = descend(fastopt.Momentum(LR, momentum=MOMENTUM), np.copy, [1.0], 80)[:, 0]
    plain = descend(fastopt.SGD(LR), np.copy, [1.0], 80)[:, 0]
    runs = {name: minimise(name, LR) for name in OPTIMIZERS}
    first = {name: float(w[1]) for name, w in runs.items()}
    crossings = np.flatnonzero(np.sign(ball[1:]) != np.sign(ball[:-1]))
    # w[t+1] = (1 + momentum - lr) w[t] - momentum w[t-1]: complex roots of modulus sqrt(momentum) and this angle.
    angle = math.acos((1 + MOMENTUM - LR) / (2 * math.sqrt(MOMENTUM)))
    return {
        "lr": LR, "momentum": MOMENTUM, "near": NEAR, "steps": STEPS, "factor": 1 - 2 * LR,
        "parabola": [(i + 1, *row, sgd[i]) for i, row in enumerate(parabola_by_hand(0.0, LR, 5))],
        "rolling": [(i + 1, *row, ball[i + 1]) for i, row in enumerate(momentum_by_hand(1.0, LR, 5))],
        "first_steps": np.abs(np.diff(ball[:3])),
        "period": 2 * math.pi / angle, "shrinks": math.sqrt(MOMENTUM), "half_turn": float(np.diff(crossings).mean()),
        "ball": ball, "plain": plain,
        "rates": {lr: descend(fastopt.SGD(lr), lambda w: 2 * (w - 5), [0.0], 15)[:, 0] for lr in RATES},
        "runs": runs, "first": first,
        "arrivals": [(name, first[name], arrival(np.abs(w - 5))) for name, w in runs.items()],
        "lion_steps": float(np.abs(np.diff(runs["Lion"])).mean()),
    }


def arrival(error: Any) -> int | None:
    """The first of STEPS steps from which on the error is below NEAR, LATER included, or None."""
    far = np.flatnonzero(error >= NEAR)
    return None if far[-1] >= STEPS else int(far[-1]) + 1


def learning_rates(facts: dict[str, Any]) -> Figure:
    """Gradient descent on (w − 5)² from 0 with five learning rates: slow, good, one step, jumping, diverging."""
    figure, axes = style.subplots(1, 5, height=2.4, sharey=True)
    for ax, (lr, w) in zip(axes, facts["rates"].items(), strict=True):
        ax.axhline(5, color=style.GREY, linewidth=1, linestyle="--")
        ax.plot(w, marker=".", linewidth=1.2)
        ax.set_title(f"η = {lr:g}\nfactor {1 - 2 * lr:.2g}".replace("-", "−"))
        ax.set_xlabel("step")
        ax.set_ylim(-16, 26)
    axes[0].set_ylabel("w")
    axes[0].annotate("minimum", (1, 5), (0, 4), textcoords="offset points", color=style.GREY, fontsize=9)
    return figure


def momentum(facts: dict[str, Any]) -> Figure:
    """On w²/2 from 1 with the same learning rate: momentum is faster, overshoots, and swings in a shrinking hull."""
    figure, ax = style.subplots(height=3.2)
    hull = facts["shrinks"] ** np.arange(len(facts["ball"])) * np.abs(facts["ball"]).max()
    ax.fill_between(np.arange(len(hull)), -hull, hull, color=style.ORANGE, alpha=0.1, linewidth=0)
    ax.axhline(0, color=style.GREY, linewidth=1, linestyle="--")
    ax.plot(facts["plain"], label="SGD")
    ax.plot(facts["ball"], label="Momentum 0.9", marker=".")
    ax.set(xlabel="step", ylabel="w")
    ax.legend()
    return figure


def convergence(facts: dict[str, Any]) -> Figure:
    """All optimizers on (w − 5)² with the same learning rate: some are slow, some fast, some roll past 5."""
    figure, axes = style.subplots(2, 2, height=5.6, sharex=True, sharey=True)
    for ax, (family, names) in zip(axes.flat, FAMILIES.items(), strict=True):
        ax.axhline(5, color=style.GREY, linewidth=1, linestyle="--")
        for name in names:
            ax.plot(facts["runs"][name][:101], label=name, linewidth=1.4)
        ax.set_title(family)
        ax.legend(loc="upper right", ncols=2, handlelength=1.2)
        ax.set_ylim(-0.5, 13.5)
    for ax in axes[1]:
        ax.set_xlabel("step")
    for ax in axes[:, 0]:
        ax.set_ylabel("w")
    return figure
