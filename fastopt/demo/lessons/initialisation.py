"""What weights of zero, of size 0.01, Xavier's and He's do to a signal that passes five layers, and to training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import fastopt
from fastopt.demo.data import Dataset, digits
from fastopt.demo.lessons import style
from fastopt.demo.network import initialise
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Trainer

TITLE = "How weights start"
WIDTH, LAYERS, IMAGES, EPOCHS = 256, 5, 1000, 15
ACTIVATIONS = ("relu", "tanh", "sigmoid")
INITS = {"zero": "zero", "normal": "0.01", "xavier": "Xavier", "he": "He"}
COLOURS = dict(zip(INITS, (style.GREY, style.PURPLE, style.ORANGE, style.BLUE), strict=True))

TEXT = r"""
A weight matrix has to start somewhere. Where it starts decides whether a deep network learns at all. The reason can be
seen before any training: send a signal through the layers and look at what arrives.

## Five layers, nothing learned yet

{{ images }} inputs of {{ width }} standard normal numbers pass {{ layers }} layers of {{ width }} units:

{{ code("activations") }}

Each matrix is drawn from a normal distribution with mean 0. The four starts differ in its standard deviation:

| start | standard deviation of a weight | here | made for |
| --- | --- | --- | --- |
| zero | 0 | 0 | nothing |
| 0.01 | 0.01 | 0.01 | shallow networks |
| Xavier (Glorot and Bengio 2010) | $\sqrt{2 / (n_\text{in} + n_\text{out})}$ | {{ xavier_std }} | tanh, linear |
| He (He et al. 2015, arXiv:1502.01852) | $\sqrt{2 / n_\text{in}}$ | {{ he_std }} | ReLU |

{{ figure("relu_histograms") }}

A ReLU layer sets half of its inputs to zero, and so halves their mean square. He's factor 2 makes up for it: the mean
square of the activations is {{ square["he"][0] | fixed(2) }} after the first layer and still
{{ square["he"][-1] | fixed(2) }} after the last. With Xavier each layer halves it, so that $2^{-5} =$ {{ halved }}
should be left: here it is {{ square["xavier"][-1] | fixed(4) }}. With 0.01 next to nothing is left after two layers,
with zero nothing after one.

{{ figure("sigmoid_histograms") }}

With a sigmoid the activations do not shrink to 0 but to one half, which looks harmless. It is not: a unit that says 0.5
whatever the input says nothing. What counts is how much a unit's activation differs **from input to input**.

## What is left of the signal

{{ figure("signal") }}

| standard deviation over inputs, after layer {{ layers }} | zero | 0.01 | Xavier | He |
| --- | --- | --- | --- | --- |
{% for activation, left in last.items() %}
| {{ activation }} | {{ left["zero"] | digits(2) }} | {{ left["normal"] | digits(2) }} |
{{- " " }}{{ left["xavier"] | digits(2) }} | {{ left["he"] | digits(2) }} |
{% endfor %}

The slope of the sigmoid is at most ¼, so that with Xavier's weights each layer passes on a quarter of the signal at
most: {{ sigmoid_ratio | fixed(2) }} from layer 4 to layer 5. The gradient that comes back is multiplied by the same
slopes. The slope of tanh is up to 1, and that of a ReLU is 1 wherever it passes anything.

## What training makes of it

The same starts in networks of {{ layers }} hidden layers of 100 units on real images, scikit-learn's digits, trained by
SGD with a learning rate of {{ lr }} for {{ epochs }} epochs, without BatchNorm:

{{ code("train") }}

{{ figure("training") }}

| accuracy on validation images | zero | 0.01 | Xavier | He |
| --- | --- | --- | --- | --- |
{% for activation, reached in accuracy.items() %}
| {{ activation }} | {{ reached["zero"] | percent }} | {{ reached["normal"] | percent }} |
{{- " " }}{{ reached["xavier"] | percent }} | {{ reached["he"] | percent }} |
{% endfor %}

A loss of $\ln 10 \approx$ {{ guessing | fixed(2) }} is that of guessing among ten digits. There the networks stay that
start with zero or 0.01, whatever the activation, and all sigmoid networks: no signal comes through, and no gradient
comes back. Zero has another fault, which no patience cures: all units of a layer start equal, get equal gradients and
remain equal. After training, the number of different units among the 100 of the sigmoid network's first layer is
{{ distinct["zero"] }}; with Xavier's start it is {{ distinct["xavier"] }}.

The rule of thumb: **He for ReLU and its relatives, Xavier for tanh**, and no deep stacks of sigmoids. BatchNorm, which
has a lesson of its own, makes networks far less sensitive to the start.
"""


def activations(activation: Any, init: str) -> list[NDArray[np.float32]]:
    """The outputs of five layers, one after the other."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((IMAGES, WIDTH), dtype=np.float32)
    outputs = []
    for _ in range(LAYERS):
        layer = initialise(fastopt.Dense(WIDTH, WIDTH, activation, rng=rng), init, rng)
        x = layer.forward(x)
        outputs.append(x)
    return outputs


def train(data: Dataset, activation: str, init: str) -> Trainer:
    """A training on the digits."""
    settings = Settings(hidden=(100,) * LAYERS, activation=activation, init=init, batch_norm=False, optimizer="sgd",
                        lr=0.1, l2=0.0, schedule="constant", warmup=0.0, epochs=EPOCHS)
    trainer = Trainer(settings, data)
    for _ in range(EPOCHS):
        trainer.run_epoch()
    return trainer


def run() -> dict[str, Any]:
    """All runs of this page."""
    data = digits()
    outputs = {activation: {init: activations(activation, init) for init in INITS} for activation in ACTIVATIONS}
    trainings = {activation: {init: train(data, activation, init) for init in INITS}
                 for activation in ACTIVATIONS}
    signal = {activation: {init: [over_inputs(y) for y in layers] for init, layers in starts.items()}
              for activation, starts in outputs.items()}
    return {
        "images": IMAGES, "width": WIDTH, "layers": LAYERS, "epochs": EPOCHS,
        "lr": trainings["relu"]["he"].settings.peak_lr,
        "xavier_std": math.sqrt(2 / (WIDTH + WIDTH)), "he_std": math.sqrt(2 / WIDTH), "guessing": math.log(10),
        "halved": 0.5**LAYERS,
        "outputs": outputs, "signal": signal,
        "square": {init: [float(np.mean(y * y)) for y in layers] for init, layers in outputs["relu"].items()},
        "last": {activation: {init: stds[-1] for init, stds in starts.items()}
                 for activation, starts in signal.items()},
        "sigmoid_ratio": signal["sigmoid"]["xavier"][4] / signal["sigmoid"]["xavier"][3],
        "losses": {activation: {init: [epoch.loss for epoch in trainer.history] for init, trainer in starts.items()}
                   for activation, starts in trainings.items()},
        "accuracy": {activation: {init: trainer.history[-1].validation_accuracy for init, trainer in starts.items()}
                     for activation, starts in trainings.items()},
        "distinct": {init: distinct_units(trainings["sigmoid"][init]) for init in INITS},
    }


def over_inputs(y: NDArray[np.float32]) -> float:
    """The standard deviation of a unit's outputs over the inputs: its root mean square over units."""
    return float(np.sqrt(np.mean(np.var(y, axis=0, dtype=np.float64))))


def distinct_units(trainer: Trainer) -> int:
    """How many units of the first layer have different weights, to four decimals."""
    return len(np.unique(trainer.network.params["0.weight"].T.round(4), axis=0))


def relu_histograms(facts: dict[str, Any]) -> Figure:
    """ReLU activations by layer without the zeros, which std counts: with He's start they keep their size."""
    return histograms(facts["outputs"]["relu"], np.linspace(0, 3, 31), hide_zeros=True)


def sigmoid_histograms(facts: dict[str, Any]) -> Figure:
    """Sigmoid activations by layer: with a start of 0.01 all units soon say 0.5, whatever the input."""
    return histograms(facts["outputs"]["sigmoid"], np.linspace(0, 1, 41), hide_zeros=False)


def histograms(outputs: dict[str, list[NDArray[np.float32]]], bins: NDArray[np.float64], hide_zeros: bool) -> Figure:
    """A row for each start, a column for each layer."""
    starts = [init for init in INITS if init != "zero"]
    figure, axes = style.subplots(len(starts), LAYERS, height=4.2, sharex=True)
    for row, init in zip(axes, starts, strict=True):
        for layer, (ax, y) in enumerate(zip(row, outputs[init], strict=True), start=1):
            counts, _, _ = ax.hist(y[y > 0] if hide_zeros else y.ravel(), bins=bins, color=COLOURS[init])
            ax.set_ylim(0, 1.3 * counts.max())
            ax.set_yticks([])
            ax.set_title(f"layer {layer}" if init == starts[0] else "")
            ax.text(0.97, 0.95, f"std {y.std():.2g}", transform=ax.transAxes, ha="right", va="top", fontsize=8)
        row[0].set_ylabel(INITS[init])
    figure.supxlabel("activation", fontsize=10)
    return figure


def signal(facts: dict[str, Any]) -> Figure:
    """The standard deviation of a unit's activation over inputs, by layer: flat lines pass the signal on."""
    figure, axes = style.subplots(1, 3, height=3.0, sharey=True)
    for ax, (activation, starts) in zip(axes, facts["signal"].items(), strict=True):
        for init in ("he", "xavier", "normal"):
            ax.plot(range(1, LAYERS + 1), starts[init], "o-", color=COLOURS[init], label=INITS[init])
        ax.set_yscale("log")
        ax.set_title(activation)
        ax.set_xticks(range(1, LAYERS + 1))
        ax.set_xlabel("layer")
    axes[0].set_ylabel("standard deviation\nover inputs")
    axes[0].legend(loc="lower left")
    return figure


def training(facts: dict[str, Any]) -> Figure:
    """Training loss on the digits: only ReLU and tanh networks with Xavier's or He's start learn."""
    figure, axes = style.subplots(1, 3, height=3.0, sharey=True)
    for ax, (activation, starts) in zip(axes, facts["losses"].items(), strict=True):
        for init, losses in starts.items():
            ax.plot(range(1, len(losses) + 1), losses, color=COLOURS[init], label=INITS[init],
                    linewidth=4 if init == "zero" else 1.8, alpha=0.5 if init == "zero" else 1)
        ax.set_title(activation)
        ax.set_xlabel("epoch")
        ax.set_ylim(0, 2.6)
    axes[0].set_ylabel("training loss")
    axes[0].legend(loc="center right")
    return figure
