"""A network that learns 300 images by heart, and what helps against it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fastopt.demo.augment import augment
from fastopt.demo.data import Dataset, Examples, digits
from fastopt.demo.lessons import style
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Trainer

TITLE = "Overfitting, and what helps"
IMAGES, EPOCHS, SEEDS = 300, 60, 5
LR, MOMENTUM = 0.05, 0.9
L2, L1, DROPOUT, AUGMENT = 3e-3, 3e-4, 0.4, (("shift", 0.1), ("rotate", 10.0), ("zoom", 0.1))
SMALL = 1e-3
METHODS: dict[str, dict[str, Any]] = {
    "none": {}, "L2": {"l2": L2}, "L1": {"l1": L1}, "dropout": {"dropout": DROPOUT},
    "augmentation": {"augment": AUGMENT}}

TEXT = r"""
A network with more weights than it has examples can learn the examples by heart. It then says the right digit for each
training image and has learned less than it could about others. The sign is a gap: a training loss near 0, and a
validation loss, of images that it was not trained with, that is far above and may even rise.

Here {{ weights }} weights learn {{ images }} of the digits' training images for {{ epochs }} epochs. The other
{{ others }} training images validate. Everything is repeated with {{ seeds }} seeds, each of which draws other images
and other initial weights; figures are means.

{{ figure("by_heart") }}

At the end the network gets {{ results["none"].train_accuracy | percent(1) }} of its training images right and {{
results["none"].accuracy | percent(1) }} of the others. The training loss is {{ results["none"].train_loss | fixed(4)
}}, the validation loss {{ results["none"].loss | fixed(3) }}. It was lowest after {{ best_epoch | fixed(0) }} epochs
on average, with {{ lowest | fixed(3) }}: to stop there, *early stopping*, is the cheapest remedy, and `fastopt train`
keeps the best epoch for the same reason.

## Four remedies

- **L2** adds $\frac{\lambda}{2} \sum w^2$ to the loss, and so $\lambda w$ to the gradient: every weight is pulled to 0
  in proportion to its size. Here $\lambda =$ {{ l2 }}, on matrices only, not on biases.
- **L1** adds $\lambda \sum |w|$, and so $\lambda\,\text{sign}(w)$: every weight is pulled by the same amount. Here
  $\lambda =$ {{ l1 }}.
- **Dropout** sets each hidden unit to 0 with probability {{ dropout }} while training, and divides the others by
  {{ 1 - dropout }}, so that no unit can rely on another.
- **Augmentation** shifts, rotates and zooms each image a little, differently every time, so that there is nothing to
  learn by heart.

{{ code("settings") }}

{{ figure("remedies") }}

| | training loss | validation loss | gap | validation accuracy | better than none in |
| --- | --- | --- | --- | --- | --- |
{% for name, r in results.items() %}
| {{ name }} | {{ r.train_loss | fixed(3) }} | {{ r.loss | fixed(3) }} | {{ r.gap | fixed(3) }} |
{{- " " }}{{ r.accuracy | percent(1) }} | {{ "–" if name == "none" else "%d of %d seeds" | format(r.wins, seeds) }} |
{% endfor %}

All four narrow the gap and lower the validation loss. L2 and L1 do so a little, and the accuracy hardly moves: they
only say that small weights are likelier. Dropout does more, although its network knows the training images by heart as
well. Augmentation does most: it adds what the network lacks, the knowledge that a shifted digit is the same digit.

{{ figure("augmented") }}

## How many weights L1 makes zero

It is said that L1 gives weights that are exactly zero and L2 only small ones. In a picture of the minimum that is
right: the pull of L1 does not weaken near 0, so every weight whose gradient is smaller than $\lambda$ ends at 0. But
a step of gradient descent has a length. A weight that should be 0 jumps over it, is pulled back, and jumps over it
again:

{{ figure("crossing") }}

Each pull is $\eta \lambda =$ {{ pull }} at first and {{ last_pull }} in the end, where the learning rate is a
hundredth, and momentum {{ momentum }} adds up to ten of them. To land on 0 exactly a weight would have to be a
multiple of the step. So the honest count is of the weights that are nearly 0, here below {{ small }}:

| | exactly 0 | below {{ small }} | length of all weights |
| --- | --- | --- | --- |
{% for name in ("none", "L2", "L1") %}
{% set r = results[name] %}
| {{ name }} | {{ r.zero }} of {{ weights }} | {{ r.small | percent(1) }} | {{ r.norm | fixed(1) }} |
{% endfor %}

{{ figure("weights") }}

L1 makes {{ results["L1"].small | percent(0) }} of the weights small, as small as the last pulls, and leaves the rest;
L2 shrinks all of them, and few get that small. To get exact zeros, set weights below a threshold to 0 after training,
or use a *proximal* step, which stops at 0 in place of jumping over it. With all L1 weights below {{ small }} set to 0,
the validation accuracy is {{ pruned | percent(2) }}; it was {{ results["L1"].accuracy | percent(2) }} before.

With the command line: `fastopt train --l2 0.003`, `--l1 0.0003`, `--dropout 0.4`, `--augment shift rotate zoom`, and
any of them together."""


def settings(seed: int, **remedy: Any) -> Settings:
    """Momentum without any regularisation, but for the remedy."""
    plain: dict[str, Any] = {
        "hidden": (256, 128), "batch_norm": False, "optimizer": "momentum",
        "momentum": MOMENTUM, "lr": LR, "l2": 0.0, "schedule": "cosine",
        "warmup": 0.0, "epochs": EPOCHS, "seed": seed}
    return Settings(**plain | remedy)


def few(data: Dataset, seed: int) -> Dataset:
    """IMAGES of the training images to train with, the others to validate."""
    x, labels = data.train
    order = np.random.default_rng(seed).permutation(len(x))
    some, others = order[:IMAGES], order[IMAGES:]
    return dataclasses.replace(data, train=Examples(x[some], labels[some]),
                               validation=Examples(x[others], labels[others]))


def train(data: Dataset, seed: int, remedy: dict[str, Any]) -> dict[str, Any]:
    """Train, and return the losses over epochs and what the network is like at the end."""
    trainer = Trainer(settings(seed, **remedy), data)
    training = []
    for _ in range(EPOCHS):
        trainer.run_epoch()
        training.append(trainer.network.evaluate(data.train)[0])    # without dropout, and of the images as they are
    matrices = [param for param in trainer.network.params.values() if param.ndim == 2]
    weights = np.concatenate([matrix.ravel() for matrix in matrices])
    last = trainer.history[-1]
    accuracy = trainer.network.evaluate(data.train)[1]
    for matrix in matrices:
        matrix[np.abs(matrix) < SMALL] = 0.0
    return {"training": training, "validation": [epoch.validation_loss for epoch in trainer.history],
            "train_accuracy": accuracy, "accuracy": last.validation_accuracy, "weights": weights,
            "pruned": trainer.network.evaluate(data.validation)[1]}


def summary(runs: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds; `wins` counts the seeds with a lower validation loss at the end than without a remedy."""
    def mean(name: str) -> Any:
        return np.mean([run[name] for run in runs], axis=0)

    training, validation = mean("training"), mean("validation")
    return {"training": training, "validation": validation, "train_loss": training[-1], "loss": validation[-1],
            "gap": validation[-1] - training[-1],
            "train_accuracy": mean("train_accuracy"), "accuracy": mean("accuracy"),
            "wins": sum(run["validation"][-1] < other["validation"][-1]
                        for run, other in zip(runs, plain, strict=True)),
            "zero": round(np.mean([np.count_nonzero(run["weights"] == 0) for run in runs])),
            "small": float(np.mean([np.mean(np.abs(run["weights"]) < SMALL) for run in runs])),
            "norm": float(np.mean([np.linalg.norm(run["weights"]) for run in runs])),
            "weights": np.abs(runs[0]["weights"])}


def crossing_zero(weight: float, steps: int) -> Any:
    """A weight that only L1 acts on, and one that only L2 acts on, with the learning rate of this page."""
    path = np.full((2, steps + 1), weight)
    for t in range(steps):
        l1, l2 = path[:, t]
        path[:, t + 1] = l1 - LR * L1 * np.sign(l1), l2 - LR * L2 * l2
    return path


def run() -> dict[str, Any]:
    """All runs of this page."""
    data = digits()
    subsets = [few(data, seed) for seed in range(SEEDS)]
    runs = {name: [train(subset, seed, remedy) for seed, subset in enumerate(subsets)]
            for name, remedy in METHODS.items()}
    results = {name: summary(of_seeds, runs["none"]) for name, of_seeds in runs.items()}
    six = data.train.x[:6]
    return {
        "images": IMAGES, "others": len(data.train.x) - IMAGES, "epochs": EPOCHS, "seeds": SEEDS,
        "weights": runs["none"][0]["weights"].size, "results": results,
        "best_epoch": np.mean([1 + int(np.argmin(run["validation"])) for run in runs["none"]]),
        "lowest": np.mean([min(run["validation"]) for run in runs["none"]]),
        "l2": L2, "l1": L1, "dropout": DROPOUT, "small": SMALL, "momentum": MOMENTUM,
        "pull": LR * L1, "last_pull": LR * settings(0).final_lr * L1,
        "pruned": np.mean([run["pruned"] for run in runs["L1"]]),
        "crossing": crossing_zero(1e-4 + 4e-6, 20),
        "originals": six.reshape(-1, *data.shape),
        "changed": [augment(six, data.shape, AUGMENT, np.random.default_rng(seed)).reshape(-1, *data.shape)
                    for seed in range(3)],
    }


def by_heart(facts: dict[str, Any]) -> Figure:
    """Without a remedy: the training loss falls towards 0, the validation loss stops falling early."""
    figure, ax = style.subplots(height=3.0)
    result, epochs = facts["results"]["none"], np.arange(1, EPOCHS + 1)
    ax.plot(epochs, result["training"], label="300 training images")
    ax.plot(epochs, result["validation"], label="897 others")
    ax.fill_between(epochs, result["training"], result["validation"], color=style.ORANGE, alpha=0.1, linewidth=0)
    ax.axvline(facts["best_epoch"], color=style.GREY, linewidth=1, linestyle="--")
    ax.annotate("lowest on average", (facts["best_epoch"], 0.7), (4, 0), textcoords="offset points", fontsize=9,
                color=style.GREY)
    ax.annotate("the gap", (EPOCHS * 0.75, result["gap"] / 2), ha="center", va="center", color=style.ORANGE)
    ax.set(xlabel="epoch", ylabel="loss", ylim=(0, 0.8), xlim=(1, EPOCHS))
    ax.legend()
    return figure


def remedies(facts: dict[str, Any]) -> Figure:
    """Training loss (dashed) and validation loss of each remedy; in grey those without any."""
    names = [name for name in METHODS if name != "none"]
    figure, axes = style.subplots(1, 4, height=2.9, sharey=True)
    epochs, plain = np.arange(1, EPOCHS + 1), facts["results"]["none"]
    for ax, name, color in zip(axes, names, (style.BLUE, style.PURPLE, style.GREEN, style.RED), strict=True):
        result = facts["results"][name]
        ax.plot(epochs, plain["training"], "--", color=style.GREY, linewidth=1.2)
        ax.plot(epochs, plain["validation"], color=style.GREY, linewidth=1.2)
        ax.plot(epochs, result["training"], "--", color=color)
        ax.plot(epochs, result["validation"], color=color)
        ax.set_title(f"{name}\ngap {result['gap']:.2f}")
        ax.set(xlabel="epoch", ylim=(0, 0.5), xlim=(1, EPOCHS))
    axes[0].set_ylabel("loss")
    axes[0].plot([], [], color="black", label="validation")
    axes[0].plot([], [], "--", color="black", label="training")
    axes[0].legend(loc="upper right", fontsize=8)
    return figure


def augmented(facts: dict[str, Any]) -> Figure:
    """Six training images, on top, and three changed copies of each."""
    rows = [facts["originals"], *facts["changed"]]
    figure, axes = style.subplots(len(rows), 6, height=3.6)
    for line, images in zip(axes, rows, strict=True):
        for ax, image in zip(line, images, strict=True):
            ax.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
    axes[0, 0].set_ylabel("original")
    return figure


def crossing(facts: dict[str, Any]) -> Figure:
    """A weight near 0 with nothing but a penalty: L1 jumps over 0 and back, L2 hardly pulls any more."""
    figure, ax = style.subplots(height=2.6)
    for path, name in zip(facts["crossing"], ("L1", "L2"), strict=True):
        ax.plot(1e4 * path, ".-", label=name)
    ax.axhline(0, color=style.GREY, linewidth=1, linestyle="--")
    ax.set(xlabel="step", ylabel="weight, in 1/10000", xticks=range(0, 21, 5))
    ax.legend()
    return figure


def weights(facts: dict[str, Any]) -> Figure:
    """Sizes of all weights after training, first seed: L2 moves the hill to the left, L1 makes a second one near 0."""
    figure, axes = style.subplots(3, 1, height=4.4, sharex=True, sharey=True)
    bins = np.geomspace(1e-7, 2, 90)
    for ax, name in zip(axes, ("none", "L2", "L1"), strict=True):
        sizes = facts["results"][name]["weights"]
        ax.hist(sizes, bins, weights=np.full(len(sizes), 100 / len(sizes)))
        ax.axvline(SMALL, color=style.ORANGE, linewidth=1.2, linestyle="--")
        ax.set_title(name)
        ax.set(xscale="log", ylabel="% of weights")
    axes[0].annotate(f"below {SMALL:g}", (SMALL, 0.92), (-4, 0), xycoords=("data", "axes fraction"), ha="right",
                     textcoords="offset points", color=style.ORANGE, fontsize=9, va="top")
    axes[-1].set_xlabel("size of the weight |w|")
    return figure
