"""One image, a handful or all of them for each step: what it does to noise, progress and time."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fastopt.demo.data import digits
from fastopt.demo.lessons import style
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Trainer

TITLE = "Batch, mini-batch and stochastic gradient descent"
NAMES = {1: "1 (stochastic)", 32: "32 (mini-batch)", None: "all (batch)"}
EPOCHS = {1: 5, 32: 60, None: 1000}
"""By the batch size; their numbers of updates are not far apart."""
LR, LARGE_LR = 0.05, 0.5
COMPARED = 5
"""Epochs after which the losses are compared."""
NOISE_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
DRAWS = 200
MEASURED = ("milliseconds",)
"""The facts that no two runs have in common: times."""
TIMED_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, None)

TEXT = r"""
The gradient that we want is that of the loss of all {{ images }} training images. It is a mean over images, so the mean
over a few of them, drawn at random, is an estimate of it. Three names for three sizes of a batch:

- **stochastic gradient descent**: one image an update;
- **mini-batch**: a few, usually 32 to 512;
- **batch gradient descent**: all of them.

An *iteration* is one update. An *epoch* is one pass over all images: {{ updates[1] }} updates with one image each,
{{ updates[32] }} with 32, and one with all.

## The noise of a step

Freeze a network in the middle of a training, draw {{ draws }} batches of each size, and measure how far their gradients
are from the one of all images. The variance of a mean of $B$ independent draws is $1/B$ of that of one draw. Our images
are drawn without being put back, which gives another factor, since a batch of all $N$ images has no noise:

$$\text{noise} = \sigma \sqrt{\frac{1}{B} \cdot \frac{N - B}{N - 1}}$$

{{ code("gradient_noise") }}

{{ figure("noise") }}

A single image's gradient is off by {{ single | fixed(1) }} times the length of the true gradient: mostly noise. With 32
it is {{ of_32 | fixed(2) }} times. Four times the images only halve the noise, and cost four times as much. That is why
a small batch pays.

## Against updates and against epochs

The same network ({{ units }} ReLU units, no BatchNorm, which needs more than one image), the same learning rate
{{ lr }}, the same seed:

{{ figure("updates") }}

An update with 32 images is as good as one with all of them: after 100 updates the losses are {{ at_100[32] | fixed(2)
}} and {{ at_100[none] | fixed(2) }}, although the second took {{ images }} / 32 ≈ {{ work | fixed(0) }} times the
work. One image is too few for this learning rate: {{ at_100[1] | fixed(2) }}, on a rough way.

{{ figure("epochs") }}

Per epoch the small batches win by far, as they make more updates of the same images. After {{ compared }} epochs:

| images an update | updates | training loss |
| --- | --- | --- |
{% for name, updates, loss in after %}
| {{ name }} | {{ updates }} | {{ loss | fixed(3) }} |
{% endfor %}

## Against time

An update with one image reads and changes all weights for that image alone, and pays for every call from Python. With
many images a weight that has been read serves all of them. Measured while this page was written:

{{ figure("seconds") }}

An epoch takes {{ milliseconds[1] | fixed(1) }} ms with one image an update, {{ milliseconds[32] | fixed(1) }} ms with
32 and {{ milliseconds[none] | fixed(1) }} ms with all. From some size on, larger batches are hardly faster, and each
epoch makes fewer updates. In between is the best of both, which is why mini-batches are what everybody uses.

## The learning rate goes with the batch size

Less noise allows larger steps. The training loss after {{ compared }} epochs with two learning rates:

| images an update | learning rate {{ lr }} | learning rate {{ large_lr }} |
| --- | --- | --- |
{% for name, small, large in rates %}
| {{ name }} | {{ small | fixed(3) }} | {{ large | fixed(3) }} |
{% endfor %}

With one image an update the large rate ends at {{ rates[0][2] | fixed(2) }}, no better than the
{{ know_nothing | fixed(2) }} of a network that knows nothing. With 32 images the same rate is the better one. Change
the batch size, and the learning rate has to be found again; a common first guess is to scale both alike (Goyal and
others 2017, arXiv:1706.02677).

`fastopt train --batch-size 1 --no-batch-norm --optimizer sgd --lr 0.02` trains with single images,
`--batch-size all` with all of them.
"""


def settings(batch_size: int | None, epochs: int, lr: float = LR) -> Settings:
    """Plain gradient descent with a constant learning rate."""
    return Settings(hidden=(64,), batch_norm=False, optimizer="sgd", lr=lr, l2=0.0, schedule="constant", warmup=0.0,
                    batch_size=batch_size, epochs=epochs)


def gradient_noise(trainer: Trainer, size: int, rng: np.random.Generator) -> float:
    """RMS distance of a batch's gradient from that of all images."""
    images = len(trainer.data.train.x)
    exact = flat_gradient(trainer, slice(None))
    squares = []
    for _ in range(DRAWS):
        batch = rng.choice(images, size, replace=False)
        estimate = flat_gradient(trainer, batch)
        squares.append(np.sum((estimate - exact) ** 2))
    return float(np.sqrt(np.mean(squares)) / np.linalg.norm(exact))


def flat_gradient(trainer: Trainer, batch: Any) -> NDArray[Any]:
    """The gradient of the mean loss of some training images, all parameters in one row."""
    x, labels = trainer.data.train
    trainer.network.loss_and_gradients(x[batch], labels[batch])
    return np.concatenate([grad.ravel() for grad in trainer.network.grads.values()]).astype(float)


def noise_of_one(trainer: Trainer) -> float:
    """The exact noise of a single image's gradient, σ, over the length of that of all images."""
    exact = flat_gradient(trainer, slice(None))
    squares = [np.sum((flat_gradient(trainer, [i]) - exact) ** 2) for i in range(len(trainer.data.train.x))]
    return float(np.sqrt(np.mean(squares)) / np.linalg.norm(exact))


def train(data: Any, batch_size: int | None) -> dict[str, NDArray[Any]]:
    """Train, and return the training loss after some of the updates, about equally spaced on a logarithmic scale."""
    trainer = Trainer(settings(batch_size, EPOCHS[batch_size]), data)
    steps = trainer.settings.epochs * trainer.steps_per_epoch
    wanted = {int(step) for step in np.geomspace(1, steps, 150)} | {100}
    updates, losses = [0], [trainer.network.evaluate(data.train)[0]]

    def record(_: float) -> None:
        if trainer.optimizer.step_count in wanted:
            updates.append(trainer.optimizer.step_count)
            losses.append(trainer.network.evaluate(data.train)[0])

    for _ in range(trainer.settings.epochs):
        trainer.run_epoch(validate=False, each_step=record)
    return {"updates": np.array(updates), "epochs": np.array(updates) / trainer.steps_per_epoch,
            "losses": np.array(losses)}


def loss_after(data: Any, batch_size: int | None, lr: float) -> float:
    """The training loss after COMPARED epochs."""
    trainer = Trainer(settings(batch_size, COMPARED, lr), data)
    for _ in range(COMPARED):
        trainer.run_epoch(validate=False)
    return trainer.network.evaluate(data.train)[0]


def seconds_an_epoch(data: Any, batch_size: int | None) -> float:
    """The fastest of three epochs."""
    trainer = Trainer(settings(batch_size, 3), data)
    return min(trainer.run_epoch(validate=False).seconds for _ in range(3))


def run() -> dict[str, Any]:
    """All runs of this page."""
    data = digits()
    images = len(data.train.x)
    trainer = Trainer(settings(32, 2), data)
    trainer.run_epoch(validate=False)
    rng = np.random.default_rng(0)
    noise = {size: gradient_noise(trainer, size, rng) for size in NOISE_SIZES}
    runs = {size: train(data, size) for size in NAMES}
    steps = {size: Trainer(settings(size, 1), data).steps_per_epoch for size in NAMES}
    losses = {lr: {size: loss_after(data, size, lr) for size in NAMES} for lr in (LR, LARGE_LR)}
    return {
        "images": images, "work": images / 32, "units": 64, "lr": LR, "large_lr": LARGE_LR, "compared": COMPARED,
        "draws": DRAWS, "updates": steps,
        "noise": noise, "single": noise_of_one(trainer), "of_32": noise[32],
        "runs": runs, "at_100": {size: float(r["losses"][r["updates"] == 100][0]) for size, r in runs.items()},
        "after": [(name, COMPARED * steps[size], losses[LR][size]) for size, name in NAMES.items()],
        "rates": [(name, losses[LR][size], losses[LARGE_LR][size]) for size, name in NAMES.items()],
        "milliseconds": {size: 1000 * seconds_an_epoch(data, size) for size in TIMED_SIZES},
        "know_nothing": np.log(10),
    }


def theory(facts: dict[str, Any], sizes: NDArray[Any]) -> NDArray[Any]:
    """The noise of batches of these sizes, from that of one image."""
    n = facts["images"]
    return facts["single"] * np.sqrt((n - sizes) / (n - 1) / sizes)


def noise(facts: dict[str, Any]) -> Figure:
    """The distance of a batch's gradient from the true one: measured, and by the formula."""
    figure, ax = style.subplots(height=3.0)
    sizes = np.geomspace(1, facts["images"] - 1, 300)
    ax.loglog(sizes, theory(facts, sizes), color=style.GREY, label="the formula")
    ax.loglog(list(facts["noise"]), list(facts["noise"].values()), "o", color=style.BLUE,
              label=f"{facts['draws']} batches of each size")
    ax.axhline(1, color=style.ORANGE, linewidth=1, linestyle="--")
    ax.annotate("above: more noise than gradient", (1, 1), (0, 5), textcoords="offset points", color=style.ORANGE,
                fontsize=9)
    ax.set(xlabel="images in the batch, B", ylabel="noise / length of the gradient", ylim=(0.05, None))
    ax.legend(loc="lower left")
    return figure


def curves(facts: dict[str, Any], x: str) -> tuple[Figure, Any]:
    """The training losses of the three batch sizes over updates or epochs."""
    figure, ax = style.subplots(height=3.2)
    for size, name in NAMES.items():
        run = facts["runs"][size]
        ax.loglog(run[x][1:], run["losses"][1:], label=name)
    ax.set(xlabel=x, ylabel="training loss")
    ax.legend(title="images an update", loc="lower left")
    return figure, ax


def updates(facts: dict[str, Any]) -> Figure:
    """Training loss over updates: 32 images go the way of all, whose line hides theirs; one image goes a rough one."""
    return curves(facts, "updates")[0]


def epochs(facts: dict[str, Any]) -> Figure:
    """The same runs over epochs: small batches are far ahead."""
    figure, ax = curves(facts, "epochs")
    ax.axvline(facts["compared"], color=style.GREY, linewidth=1, linestyle="--")
    ax.annotate(f"{facts['compared']} epochs", (facts["compared"], 2.5), (4, 0), textcoords="offset points",
                color=style.GREY, fontsize=9)
    return figure


def seconds(facts: dict[str, Any]) -> Figure:
    """The time of an epoch: many images an update are faster for each image, up to a point."""
    figure, ax = style.subplots(height=2.8)
    sizes = [facts["images"] if size is None else size for size in facts["milliseconds"]]
    ax.loglog(sizes, list(facts["milliseconds"].values()), "o-")
    ax.set(xlabel="images an update", ylabel="milliseconds an epoch")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_major_formatter("{x:g}")
    return figure
