"""What BatchNorm normalises with when it classifies one image, and what goes wrong with other statistics."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import fastopt
from fastopt.demo.data import Examples, digits
from fastopt.demo.lessons import style
from fastopt.demo.network import Network
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Trainer

TITLE = "BatchNorm: training and inference"
SIZES = (2, 4, 8, 16, 30, 60, 120, 240)
MOMENTA = (0.1, 0.01)
REPEATS = 6
PROBED = 4

TEXT = r"""
In training, BatchNorm normalises with the mean and variance of the mini-batch. At inference there may be no batch: one
image comes, and its answer must not depend on which other images happen to come with it. So during training the layer
also keeps running averages of the batches' statistics, which take their place at inference:

$$\text{running} \leftarrow (1 - m)\,\text{running} + m \cdot \text{batch}, \qquad m = 0.1$$

In fastopt, as in most libraries, an argument says which is meant: `layer.forward(x, training=True)` or `False`. What if
it is forgotten?

## Inference with the statistics of a batch

A network of five hidden layers, trained for {{ epochs }} epochs, classifies the {{ images }} validation images: with
its running statistics, and in training mode in random batches of several sizes.

{{ code("in_training_mode") }}

{{ figure("batch_sizes") }}

| statistics | accuracy | images whose answer depends on their batch |
| --- | --- | --- |
| running | {{ running | percent }} | none |
{% for size in sizes | reverse %}
| of a batch of {{ size }} | {{ accuracy[size] | percent }} | {{ changed[size] | percent }} |
{% endfor %}

With batches about as large as in training, {{ trained_with }}, little is lost, so the mistake stays hidden; with small
ones the network is useless: of two images, one is always above the mean and the other one below it, by exactly the
same amount. The last column counts images that got another answer when they were shuffled into other batches. A single
image has no variance at all: fastopt refuses it in training mode, with the message

> {{ refusal }}

## Running statistics that have not settled yet

The running mean starts at 0 and the running variance at 1: at values that have nothing to do with the network. After
$t$ steps they still have the weight $(1 - m)^t$. With $m = 0.1$ that is {{ remaining[0.1] | percent(2) }} after the
{{ steps }} steps of the first epoch. With $m = 0.01$, which other libraries write as a momentum of 0.99, it is still
{{ remaining[0.01] | percent(0) }}.

{{ figure("settling") }}

After one epoch, the statistics of all validation images together give {{ first_epoch["batch"] | percent }}. The running
ones give {{ first_epoch[0.1] | percent }} with $m = 0.1$, and only {{ first_epoch[0.01] | percent }} with $m = 0.01$:
**the weights are exactly the same**, since running statistics take no part in training. Whoever trains briefly, or on
few large batches, and finds a network that is good in training and bad on validation images, should look here before
blaming overfitting. After {{ epochs }} epochs the two momenta give {{ last_epoch[0.1] | percent }} and
{{ last_epoch[0.01] | percent }}.
"""


def make_trainer(momentum: float = 0.1) -> Trainer:
    """A training by SGD whose BatchNorm layers have a momentum of their own."""
    trainer = Trainer(Settings(hidden=(100,) * 5, optimizer="sgd", lr=0.1, l2=0.0, schedule="constant", warmup=0.0,
                               epochs=10), digits())
    for layer in trainer.network.layers:
        if isinstance(layer, fastopt.BatchNorm):
            layer.momentum = momentum
    return trainer


def in_training_mode(network: Network, x: NDArray[np.float32]) -> NDArray[np.intp]:
    """The classes of images in one batch with its own statistics; the running ones stay as they were."""
    state = network.state_dict()
    classes = network.logits(x, training=True).argmax(axis=1)
    network.load_state_dict(state)
    return classes


def in_batches(network: Network, images: Examples, size: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """The classes of images that are shuffled into batches of a size, each with its own statistics."""
    classes = np.empty(len(images.x), np.intp)
    for batch in np.split(rng.permutation(len(images.x)), len(images.x) // size):
        classes[batch] = in_training_mode(network, images.x[batch])
    return classes


def run() -> dict[str, Any]:
    """All runs of this page."""
    curves: dict[Any, list[float]] = {"batch": [], **{momentum: [] for momentum in MOMENTA}}
    trainers = {momentum: make_trainer(momentum) for momentum in MOMENTA}
    images = trainers[0.1].data.validation

    def probe(momentum: float, _loss: float) -> None:
        network = trainers[momentum].network
        curves[momentum].append(network.evaluate(images)[1])
        if momentum == 0.1:
            curves["batch"].append(float(np.mean(in_training_mode(network, images.x) == images.labels)))

    for momentum, trainer in trainers.items():
        for epoch in range(trainer.settings.epochs):
            trainer.run_epoch(each_step=functools.partial(probe, momentum) if epoch < PROBED else None)
    same = all(np.array_equal(trainers[0.1].network.params[key], param)
               for key, param in trainers[0.01].network.params.items())
    network, rng = trainers[0.1].network, np.random.default_rng(0)
    answers = {size: [in_batches(network, images, size, rng) for _ in range(REPEATS)] for size in SIZES}
    try:
        refusal = str(in_training_mode(network, images.x[:1]))
    except ValueError as error:
        refusal = str(error)
    steps = trainers[0.1].steps_per_epoch
    return {
        "epochs": trainers[0.1].settings.epochs, "images": len(images.x), "sizes": SIZES, "refusal": refusal,
        "trained_with": trainers[0.1].settings.batch_size, "same_weights": same,
        "running": trainers[0.1].history[-1].validation_accuracy,
        "accuracy": {size: float(np.mean(np.array(of) == images.labels)) for size, of in answers.items()},
        "changed": {size: float(np.mean(np.ptp(np.array(of[:2]), axis=0) > 0)) for size, of in answers.items()},
        "steps": steps, "remaining": {momentum: (1 - momentum)**steps for momentum in MOMENTA},
        "curves": curves, "first_epoch": {key: curve[steps - 1] for key, curve in curves.items()},
        "last_epoch": {momentum: trainer.history[-1].validation_accuracy for momentum, trainer in trainers.items()},
    }


def batch_sizes(facts: dict[str, Any]) -> Figure:
    """Accuracy with the statistics of a batch, by its size, and with running statistics, which need no batch."""
    figure, ax = style.subplots(height=3.0)
    ax.axhline(100 * facts["running"], color=style.BLUE, label="running statistics")
    ax.plot(SIZES, [100 * facts["accuracy"][size] for size in SIZES], "o-", color=style.ORANGE,
            label="statistics of the batch")
    ax.set(xscale="log", xlabel="images in a batch", ylabel="accuracy, %", ylim=(0, 103))
    ax.set_xticks(SIZES, [str(size) for size in SIZES])
    ax.minorticks_off()
    ax.legend(loc="lower right")
    return figure


def settling(facts: dict[str, Any]) -> Figure:
    """Accuracy after each step with three kinds of statistics and the same weights: running ones must settle first."""
    figure, ax = style.subplots(height=3.2)
    for key, colour, label in (("batch", style.GREY, "all validation images"), (0.1, style.BLUE, "running, m = 0.1"),
                               (0.01, style.ORANGE, "running, m = 0.01")):
        curve = facts["curves"][key]
        ax.plot(range(1, len(curve) + 1), [100 * accuracy for accuracy in curve], color=colour, label=label)
    ax.axvline(facts["steps"], color=style.GREY, linewidth=1, linestyle="--")
    ax.annotate("one epoch", (facts["steps"], 3), (4, 0), textcoords="offset points", color=style.GREY, fontsize=9)
    ax.set(xlabel="step", ylabel="accuracy, %", ylim=(0, 103))
    ax.legend(loc="lower right")
    return figure
