"""The same network with and without BatchNorm, over learning rates and starts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import fastopt
from fastopt.demo.data import Dataset, digits
from fastopt.demo.lessons import style
from fastopt.demo.lessons.initialisation import INITS
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Diverged, Trainer

TITLE = "BatchNorm: larger learning rates, careless starts"
EPOCHS, SEEDS, ENOUGH = 6, 2, 0.9
RATES = tuple(float(lr) for lr in np.geomspace(1e-3, 10, 9))
ACTIVATIONS = ("relu", "tanh", "sigmoid")

TEXT = r"""
The lesson on how weights start ended with networks in which no signal came through. Batch normalisation (Ioffe and
Szegedy 2015, arXiv:1502.03167) makes sure that it does, whatever the weights: between the matrix product of a layer and
its activation function it gives every unit the mean 0 and the variance 1 over the mini-batch, and then lets training
choose another mean $\beta$ and another standard deviation $\gamma$:

$$y = \gamma\, \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta$$

Here {{ rows }} rows of three units, with very different means and standard deviations, pass `fastopt.BatchNorm`, whose
$\gamma$ starts at 1 and whose $\beta$ starts at 0:

{{ code("normalise") }}

| unit | mean before | standard deviation before | mean after | standard deviation after |
| --- | --- | --- | --- | --- |
{% for mean, std, after, new in units %}
| {{ loop.index }} | {{ mean | fixed(2) }} | {{ std | fixed(2) }} | {{ after | fixed(2) }} | {{ new | fixed(2) }} |
{% endfor %}

## Which learning rates work

A network of five hidden layers of 100 ReLU units learns scikit-learn's digits by plain SGD for {{ epochs }} epochs,
with each of {{ rates }} learning rates from {{ lowest }} to {{ highest }}, twice, with other random numbers:

{{ code("train") }}

{{ figure("learning_rates") }}

The learning rates with which both trainings classify at least {{ enough | percent(0) }} of the validation
images rightly:

| | from | to | largest / smallest |
| --- | --- | --- | --- |
{% for batch_norm, (low, high) in span.items() %}
| {{ "with BatchNorm" if batch_norm else "without" }} | {{ low | digits(2) }} | {{ high | digits(2) }} |
{{- " " }}{{ ratio[batch_norm] | fixed(0) }} |
{% endfor %}

Without BatchNorm, a step that is too long changes the scale of every later layer's inputs, and their gradients with it.
With BatchNorm the scale of a matrix does not matter to what comes after it, so the largest usable rate is
{{ gain | fixed(0) }} times as large. At small rates BatchNorm gains nothing: both are slow.

## Careless starts

The same network with a learning rate of {{ start_lr }} for {{ start_epochs }} epochs, from the four starts of the
lesson on how weights start:

| accuracy on validation images | zero | 0.01 | Xavier | He |
| --- | --- | --- | --- | --- |
{% for (activation, batch_norm), reached in starts.items() %}
| {{ activation }}{{ ", BatchNorm" if batch_norm }} | {{ reached["zero"] | percent }} |
{{- " " }}{{ reached["normal"] | percent }} | {{ reached["xavier"] | percent }} | {{ reached["he"] | percent }} |
{% endfor %}

{{ figure("careless_starts") }}

BatchNorm divides by the standard deviation, so that weights of 0.01 give the same signal as weights of any other size;
even five layers of sigmoids learn. Only zero stays hopeless: there is no signal to divide.
"""


def normalise() -> tuple[Any, Any]:
    """Rows of three units, and what BatchNorm makes of them."""
    rng = np.random.default_rng(0)
    x = rng.normal([-3.0, 0.5, 20.0], [0.1, 1.0, 5.0], (64, 3)).astype(np.float32)
    return x, fastopt.BatchNorm(3).forward(x, training=True)


def train(data: Dataset, epochs: int, **settings: Any) -> Trainer | None:
    """A training by plain SGD; None if the loss became infinite."""
    trainer = Trainer(Settings(hidden=(100,) * 5, optimizer="sgd", l2=0.0, schedule="constant", warmup=0.0,
                               epochs=epochs, **settings), data)
    try:
        for _ in range(epochs):
            trainer.run_epoch()
    except Diverged:
        return None
    return trainer


def run() -> dict[str, Any]:
    """All runs of this page."""
    data = digits()
    losses: dict[tuple[bool, float], list[float]] = {}
    accuracies: dict[tuple[bool, float], list[float]] = {}
    for batch_norm in (True, False):
        for lr in RATES:
            trainers = [train(data, EPOCHS, batch_norm=batch_norm, lr=lr, seed=seed) for seed in range(SEEDS)]
            key = batch_norm, lr
            losses[key] = [trainer.history[-1].loss if trainer else math.inf for trainer in trainers]
            accuracies[key] = [trainer.history[-1].validation_accuracy or 0.0 if trainer else 0.0
                               for trainer in trainers]
    span = {}
    for batch_norm in (True, False):
        working = [lr for lr in RATES if min(accuracies[batch_norm, lr]) >= ENOUGH]
        span[batch_norm] = min(working), max(working)
    start_lr, start_epochs = 0.1, 8
    trained = {(activation, batch_norm): {
        init: train(data, start_epochs, activation=activation, init=init, batch_norm=batch_norm, lr=start_lr)
        for init in INITS} for activation in ACTIVATIONS for batch_norm in (False, True)}
    x, y = normalise()
    return {
        "rows": len(x), "units": np.column_stack([x.mean(axis=0), x.std(axis=0), y.mean(axis=0), y.std(axis=0)]),
        "epochs": EPOCHS, "rates": len(RATES), "lowest": RATES[0], "highest": RATES[-1],
        "enough": ENOUGH, "losses": losses, "accuracies": accuracies, "span": span,
        "ratio": {batch_norm: high / low for batch_norm, (low, high) in span.items()},
        "gain": span[True][1] / span[False][1], "start_lr": start_lr, "start_epochs": start_epochs,
        "starts": {key: {init: trainer.history[-1].validation_accuracy for init, trainer in of.items() if trainer}
                   for key, of in trained.items()},
    }


def learning_rates(facts: dict[str, Any]) -> Figure:
    """Training loss by learning rate: more of them work with BatchNorm (shaded; crosses: the loss became infinite)."""
    figure, ax = style.subplots(height=3.6)
    top = 3.0
    for batch_norm, colour, label in ((True, style.BLUE, "with BatchNorm"), (False, style.ORANGE, "without")):
        worst = np.array([max(facts["losses"][batch_norm, lr]) for lr in RATES])
        shown = np.minimum(worst, top)
        ax.plot(RATES, shown, "o-", color=colour, label=label)
        lost = np.isinf(worst)
        ax.plot(np.array(RATES)[lost], shown[lost], "x", color=colour, markersize=10, markeredgewidth=2.5)
        ax.axvspan(*facts["span"][batch_norm], color=colour, alpha=0.12, linewidth=0)
    ax.axhline(math.log(10), color=style.GREY, linewidth=1, linestyle="--")
    ax.annotate("guessing", (RATES[0], math.log(10)), (0, 4), textcoords="offset points", color=style.GREY, fontsize=9)
    ax.set(xscale="log", xlabel="learning rate", ylabel="training loss (worse of two)", ylim=(0, top + 0.1))
    ax.legend(loc="lower left")
    return figure


def careless_starts(facts: dict[str, Any]) -> Figure:
    """Accuracy on validation images by start: with BatchNorm every start but zero learns."""
    figure, axes = style.subplots(1, 3, height=2.8, sharey=True)
    places = np.arange(len(INITS))
    for ax, activation in zip(axes, ACTIVATIONS, strict=True):
        for shift, batch_norm, colour in ((-0.2, False, style.ORANGE), (0.2, True, style.BLUE)):
            reached = facts["starts"][activation, batch_norm]
            ax.bar(places + shift, [100 * reached[init] for init in INITS], 0.38, color=colour,
                   label="with BatchNorm" if batch_norm else "without")
        ax.set_xticks(places, INITS.values())
        ax.set_title(activation)
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel("accuracy, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
