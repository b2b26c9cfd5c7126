"""From logits to probabilities to a loss, and the gradient that comes out so simple."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import fastopt
from fastopt.demo.data import digits
from fastopt.demo.lessons import style
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Trainer

TITLE = "Softmax and cross-entropy"
LOGITS = (5.0, 2.0, -1.0, 3.0)
LABEL = 0
TEMPERATURES = (0.5, 1.0, 2.0, 5.0)
SHIFT = 1000.0
H = 0.01

TEXT = r"""
The last layer of a classifier gives one number a class, the logits. Here are four: $z = (5, 2, -1, 3)$. Softmax makes
probabilities of them: positive, with the sum 1, and in the same order.

$$\hat y_i = \frac{e^{z_i}}{\sum_j e^{z_j}}$$

| class | logit $z$ | $e^z$ | $\hat y$ by hand | `fastopt.softmax` |
| --- | --- | --- | --- | --- |
{% for k, z, power, by_hand, computed in table %}
| {{ k }} | {{ z }} | {{ power | fixed(3) }} | {{ by_hand | fixed(4) }} | {{ computed | fixed(4) }} |
{% endfor %}

The column of $e^z$ has the sum {{ total | fixed(3) }}. A logit that is larger by 3 makes a class
$e^3 \approx$ {{ ratio | fixed(1) }} times as probable: class 0 against class 1. The largest logit alone would be the
hard answer, (1, 0, 0, 0), which is `fastopt.hardmax`; softmax is its soft form, which has a gradient.

## Temperature: how sure

Divide the logits by a temperature $T$ before softmax. Cold ($T$ below 1) is closer to the hard answer, hot is closer to
equal probabilities. The order never changes, so neither does the accuracy, but what the network says about how sure it
is does. Language models draw the next word with a temperature.

{{ figure("temperature") }}

## Why the largest logit is subtracted first

Softmax does not change when the same number is added to all logits: $e^{z+c} = e^z e^c$, and $e^c$ cancels. That is
useful, since $e^z$ is more than float32 can hold from $z \approx$ {{ overflow | fixed(2) }} on. Add
{{ shift | fixed(0) }} to our logits, and the formula as it is written gives `{{ naive }}`, not a number, because it
divides infinity by infinity. With $z - \max z$ in place of $z$ the largest power is $e^0 = 1$:

{{ code("stable_softmax") }}

`fastopt.softmax` does the same and gives {{ stable[0] | fixed(4) }} for class 0, as before.

## Cross-entropy: the surprise at the true class

If the true class is $k$, the loss is $-\log \hat y_k$: 0 for a network that is sure and right, and large for one that
is sure and wrong.

| true class | $\hat y_k$ | loss $-\log \hat y_k$ |
| --- | --- | --- |
{% for k, p, cost in losses %}
| {{ k }} | {{ p | fixed(4) }} | {{ cost | fixed(3) }} |
{% endfor %}

A network that knows nothing gives every one of the 10 digits the probability 0.1: a loss of
$\log 10 \approx$ {{ know_nothing | fixed(3) }}. That is what a training of the digits should start near, and a good
first thing to check.

## The gradient is ŷ − y

The loss is $-z_k + \log \sum_j e^{z_j}$. Its derivative by $z_i$ is $e^{z_i} / \sum_j e^{z_j} = \hat y_i$, minus 1 if
$i$ is the true class. With $y$ as the row of zeros and a one at the true class:

$$\frac{\partial\,\text{loss}}{\partial z} = \hat y - y$$

Trust no gradient that you have not checked. Move one logit by $\pm h$, here $h =$ {{ h }}, look at how the loss
changes, and compare with the gradient that `fastopt.softmax_cross_entropy` returns beside the loss:

{{ code("finite_differences") }}

| logit | $\hat y - y$ | `fastopt.softmax_cross_entropy` | finite differences |
| --- | --- | --- | --- |
{% for k, expected, gradient, difference in gradients %}
| {{ k }} | {{ expected | fixed(5) }} | {{ gradient | fixed(5) }} | {{ difference | fixed(5) }} |
{% endfor %}

The largest difference is {{ worst }}. It is not 0: the central difference leaves an error of order $h^2$, and float32
rounds the logits.

{{ figure("gradient") }}

## Why not the squared error

For an example that the network gets wrong and is sure about, cross-entropy has a gradient of almost −1 at the true
class: the worse, the more is learned. The squared error $\frac12 \sum_i (\hat y_i - y_i)^2$, sent back through softmax,
has another factor $\hat y_k$ in it, which is tiny just then: the example teaches nothing.

{{ figure("wrong_and_sure") }}

With {{ sure | percent(1) }} for the true class of two, the gradient of cross-entropy is {{ cross_gradient | fixed(3)
}}, that of the squared error {{ squared_gradient | fixed(3) }}.

## A hard example of the digits

After {{ epochs }} epochs, a network of {{ units }} units gets {{ accuracy | percent(1) }} of {{ images }} validation
images right. The image with the largest loss is a {{ hard_label }}, and the network says {{ hard_guess }}: the
probability of the right digit is {{ hard_p | fixed(4) }}, the loss {{ hard_loss | fixed(2) }}. This one image of
{{ images }} has {{ hard_share | percent(0) }} of the sum of all validation losses: the mean loss punishes confident
mistakes, while the accuracy counts all mistakes alike.

{{ figure("hard_example") }}
"""


def stable_softmax(z: NDArray[Any]) -> NDArray[Any]:
    """Softmax of each row, for logits of any size."""
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def loss(z: NDArray[np.float32], label: int) -> float:
    """The cross-entropy of one row of logits."""
    return float(fastopt.softmax_cross_entropy_loss(z[None], [label]))


def finite_differences(z: NDArray[np.float32], label: int) -> NDArray[Any]:
    """(loss(z + h) − loss(z − h)) / 2h for each logit."""
    slopes = np.empty(len(z))
    for i in range(len(z)):
        above, below = z.copy(), z.copy()
        above[i] += H
        below[i] -= H
        rise = loss(above, label) - loss(below, label)
        slopes[i] = rise / (above[i] - below[i])
    return slopes


def squared_error_gradient(p: Any) -> Any:
    """Of ½ Σ (ŷ − y)² by the true class's logit, with two classes and the probability p for the true one.

    The derivatives of p by its logit are p (1 − p) for the true class and −p (1 − p) for the other.
    """
    return (p - 1) * p * (1 - p) - (1 - p) * p * (1 - p)


def run() -> dict[str, Any]:
    """All runs of this page."""
    z = np.array(LOGITS, np.float32)
    y = np.eye(len(z))[LABEL]
    powers = np.exp(np.array(LOGITS))
    by_hand = powers / powers.sum()
    computed = fastopt.softmax(z)
    with np.errstate(over="ignore", invalid="ignore"):
        large = np.exp(z + np.float32(SHIFT))
        naive = large / large.sum()
    gradient = fastopt.softmax_cross_entropy(z[None], [LABEL])[1][0]
    slopes = finite_differences(z, LABEL)
    losses = [loss(z, k) for k in range(len(z))]
    sure = 0.001
    return {
        "table": list(zip(range(4), LOGITS, powers, by_hand, computed, strict=True)),
        "total": powers.sum(), "ratio": by_hand[0] / by_hand[1], "probabilities": computed,
        "temperatures": {t: fastopt.softmax(z / np.float32(t)) for t in TEMPERATURES},
        "overflow": np.log(np.finfo(np.float32).max), "shift": SHIFT, "naive": str(naive[0]),
        "stable": fastopt.softmax(z + np.float32(SHIFT)), "stable_by_hand": stable_softmax(z + np.float32(SHIFT)),
        "losses": [(k, computed[k], cost) for k, cost in enumerate(losses)], "know_nothing": np.log(10),
        "h": H, "gradients": list(zip(range(4), by_hand - y, gradient, slopes, strict=True)),
        "worst": np.abs(slopes - gradient).max(),
        "sure": sure, "cross_gradient": sure - 1, "squared_gradient": squared_error_gradient(sure),
        **hard_example_of_digits(),
    }


def hard_example_of_digits() -> dict[str, Any]:
    """Train on the digits, and find the validation image with the largest loss."""
    data = digits()
    trainer = Trainer(Settings(hidden=(32,), epochs=30), data)
    for _ in range(trainer.settings.epochs):
        trainer.run_epoch()
    x, labels = data.validation
    logits = trainer.network.logits(x)
    losses = fastopt.softmax_cross_entropy(logits, labels, reduction="none")[0]
    hard = int(losses.argmax())
    probabilities = fastopt.softmax(logits)
    return {
        "epochs": trainer.settings.epochs, "units": trainer.settings.hidden[0], "images": len(x),
        "accuracy": float(np.mean(logits.argmax(axis=1) == labels)),
        "hard_image": x[hard].reshape(data.shape), "hard_label": int(labels[hard]),
        "hard_probabilities": probabilities[hard], "hard_guess": int(probabilities[hard].argmax()),
        "hard_p": float(probabilities[hard, labels[hard]]), "hard_loss": float(losses[hard]),
        "hard_share": float(losses[hard] / losses.sum()),
    }


def temperature(facts: dict[str, Any]) -> Figure:
    """Softmax of (5, 2, −1, 3) at four temperatures: cold is sure, hot is undecided."""
    figure, axes = style.subplots(1, len(TEMPERATURES), height=2.5, sharey=True)
    for ax, (t, probabilities) in zip(axes, facts["temperatures"].items(), strict=True):
        bars = ax.bar(range(4), probabilities, color=[style.BLUE, style.GREY, style.GREY, style.GREY])
        ax.bar_label(bars, [f"{p:.3f}" for p in probabilities], fontsize=8, padding=2)
        ax.set_title(f"T = {t:g}")
        ax.set(xlabel="class", xticks=range(4), ylim=(0, 1.1))
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel("probability")
    return figure


def gradient(facts: dict[str, Any]) -> Figure:
    """The step that the gradient asks for: the true class's logit up, every other one down by its probability."""
    figure, ax = style.subplots(height=2.6)
    step = [-row[2] for row in facts["gradients"]]
    bars = ax.bar(range(4), step, 0.5, color=[style.GREEN, style.ORANGE, style.ORANGE, style.ORANGE])
    ax.bar_label(bars, [f"{s:+.4f}".replace("-", "−") for s in step], padding=3)
    ax.axhline(0, color=style.GREY, linewidth=1)
    ax.set(ylabel="y − ŷ", xticks=range(4), xticklabels=["class 0: true", "class 1", "class 2", "class 3"],
           ylim=(-0.2, 0.22))
    ax.grid(axis="x", visible=False)
    return figure


def wrong_and_sure(facts: dict[str, Any]) -> Figure:
    """Gradients by the true class's logit, of two: that of the squared error vanishes where the network is wrong."""
    figure, ax = style.subplots(height=3.0)
    p = np.linspace(0, 1, 201)
    ax.plot(p, 1 - p, label="cross-entropy: 1 − ŷ")
    ax.plot(p, -squared_error_gradient(p), label="squared error: 2 ŷ (1 − ŷ)²")
    ax.annotate("wrong and sure:\nnothing to learn from", (0.005, 0.01), (0.07, 0.5), fontsize=9, color=style.ORANGE,
                arrowprops=dict(arrowstyle="->", color=style.ORANGE))
    ax.set(xlabel="probability ŷ of the true class", ylabel="size of the gradient", xlim=(0, 1), ylim=(0, 1.05))
    ax.legend()
    return figure


def hard_example(facts: dict[str, Any]) -> Figure:
    """The validation image with the largest loss, and what the network takes it for."""
    figure, (left, right) = style.subplots(1, 2, height=3.0, width_ratios=(1, 2))
    left.imshow(facts["hard_image"], cmap="gray_r")
    left.set_title(f"label: {facts['hard_label']}", pad=8)
    left.set(xticks=[], yticks=[])
    left.grid(False)
    colors = [style.GREY] * 10
    colors[facts["hard_guess"]], colors[facts["hard_label"]] = style.ORANGE, style.GREEN
    bars = right.bar(range(10), facts["hard_probabilities"], color=colors)
    shown = {facts["hard_guess"], facts["hard_label"]}
    right.bar_label(bars, [f"{p:.3f}" if k in shown else "" for k, p in enumerate(facts["hard_probabilities"])],
                    fontsize=9, padding=2)
    right.set(xlabel="digit (green: the label)", ylabel="probability", xticks=range(10), ylim=(0, 1.1))
    right.grid(axis="x", visible=False)
    return figure
