"""The learning rate as a function of the step: every kind as a curve, and what it does to a training."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fastopt import schedules
from fastopt.demo.data import digits
from fastopt.demo.lessons import style
from fastopt.demo.settings import SCHEDULES, Settings
from fastopt.demo.trainer import Trainer

TITLE = "Learning-rate schedules"
STEPS = 1000
LR, EPOCHS, SEEDS = 0.2, 20, 5
CONTENDERS: dict[str, dict[str, Any]] = {
    f"constant, {LR:g}": dict(schedule="constant"),
    f"constant, {LR / 100:g}": dict(schedule="constant", lr=LR / 100),
    **{name: dict(schedule=name) for name in SCHEDULES if name != "constant"}}
DEEP_LR, WARMED_EPOCHS, WARMED_SEEDS, WARMUP = 0.05, 6, 8, 0.1

TEXT = r"""
A large learning rate gets near the minimum quickly, and then jumps around it: the noise of the mini-batches moves the
weights by steps that are as long as ever. A small one would come to rest, but takes forever to get there. So start
large and end small.

## The curves

In fastopt a schedule is a function of the step, which counts from 1, and takes the place of the learning rate:
`fastopt.Momentum(fastopt.schedules.cosine(0.2, 1000))`. With $t = \text{step} - 1$, the number of updates already made,
$n$ updates in all and a peak of 1:

| schedule | formula |
| --- | --- |
| `constant` | $1$ |
| `piecewise_constant` | one value up to a step, the next one after it |
| `exponential_decay` | $r^{\,t/n}$ |
| `inverse_time_decay` | $1 / (1 + k\,t/n)$ |
| `inv_scaling` | $1 / (1 + t)^{p}$ |
| `cosine` | $(1 + \cos(\pi t/n)) / 2$ (Loshchilov and Hutter 2017, arXiv:1608.03983) |
| `linear_warmup` | $t / w$ for the first $w$ updates, then 1 (Goyal and others 2017, arXiv:1706.02677) |
| `noam` | proportional to $\min(s^{-1/2},\ s\,w^{-3/2})$ at step $s$ (Vaswani and others 2017, arXiv:1706.03762) |
| `inverse_sqrt` | a warm-up of $w$ updates, then $\sqrt{w/t}$ |
| `join` | one schedule after the other: here a warm-up and a cosine |

{{ code("curves") }}

{{ figure("all_schedules") }}

Halfway, after {{ half }} updates, the cosine is at {{ halfway["cosine"] | fixed(2) }}, the exponential decay that ends
at {{ last["exponential_decay"] | fixed(2) }} already at {{ halfway["exponential_decay"] | fixed(2) }}, and the inverse
time decay with the same end at {{ halfway["inverse_time_decay"] | fixed(2) }}. The difference between schedules is how
long they stay large.

## The effect on a training

A network of 64 ReLU units learns the digits for {{ epochs }} epochs with momentum 0.9 and L2 regularisation of 0.001,
without BatchNorm. The learning rate starts at {{ lr }} and, unless it is constant, ends at a hundredth of that. Means
over {{ seeds }} seeds:

| schedule | training loss at the end | validation loss at the end |
| --- | --- | --- |
{% for name, train, validation in table %}
| {{ name }} | {{ train | fixed(4) }} | {{ validation | fixed(4) }} |
{% endfor %}

{{ figure("effect") }}

The constant large rate is fast and stays restless: in the last quarter of the training its loss changes by {{
restless | percent(0) }} from one epoch to the next, that of the cosine by {{ calm | percent(1) }}. The constant small
rate is calm and far behind. The cosine ends at {{ ratio | percent(0) }} of the training loss of the constant large
rate, with the same number of updates. Inverse time decay falls so early that most of the training is slow: here it
ends behind the constant large rate. Piecewise constant is as good as the cosine here; what the two share
is that they stay large for a long time and then get small.

## Warm-up

Adam divides the gradient by its size. Its very first steps therefore move every weight by the full learning rate,
while the gradients still say little about where to go. With a large rate this throws the weights far away, and the
training has to find its way back. A warm-up starts with short steps. Five hidden layers, Adam with a peak of {{
deep_lr }}, a cosine, {{ warmed_epochs }} epochs, {{ warmed_seeds }} seeds:

| | highest loss of a batch, median | training loss at the end, mean |
| --- | --- | --- |
{% for name, peak, loss in warmed_table %}
| {{ name }} | {{ peak | fixed(2) }} | {{ loss | fixed(3) }} |
{% endfor %}

A network that knows nothing has a loss of {{ know_nothing | fixed(2) }}. Without warm-up the loss first rises far above
that. With it, the end is better in {{ warmed_wins }} of {{ warmed_seeds }} seeds.

{{ figure("warm_up") }}

BatchNorm and a smaller rate help against the same trouble. Warm-up costs next to nothing, and `fastopt train` has 5 %
of it by default: `fastopt train --schedule cosine --warmup 0.1`."""


def curves() -> dict[str, Any]:
    """Every schedule, for a training of 1000 updates and a peak of 1."""
    n, w = STEPS, 100
    return {
        "constant": schedules.constant(1.0),
        "piecewise_constant": schedules.piecewise_constant(
            [n // 3, 2 * n // 3], [1.0, 0.1, 0.01]),
        "exponential_decay": schedules.exponential_decay(1.0, n, 0.01),
        "inverse_time_decay": schedules.inverse_time_decay(1.0, n, 99),
        "inv_scaling": schedules.inv_scaling(1.0, power=0.5),
        "cosine": schedules.cosine(1.0, n),
        "linear_warmup": schedules.linear_warmup(1.0, w),
        "noam": schedules.noam(d_model=64, warmup_steps=w, factor=80.0),
        "inverse_sqrt": schedules.inverse_sqrt(1.0, w),
        "join": schedules.join(
            [schedules.linear_warmup(1.0, w), schedules.cosine(1.0, n - w)], [w]),
    }


def train(data: Any, epochs: int, **settings: Any) -> Trainer:
    """Train with momentum, L2 and no warm-up."""
    common: dict[str, Any] = {"optimizer": "momentum", "lr": LR, "l2": 1e-3, "batch_norm": False, "hidden": (64,),
                              "warmup": 0.0, "epochs": epochs}
    trainer = Trainer(Settings(**common | settings), data)
    for _ in range(epochs):
        trainer.run_epoch()
    return trainer


def run() -> dict[str, Any]:
    """All runs of this page."""
    steps = np.arange(1, STEPS + 2)
    rates = {name: np.array([schedule(int(step)) for step in steps]) for name, schedule in curves().items()}
    data = digits()
    runs, table = {}, []
    for name, settings in CONTENDERS.items():
        trainers = [train(data, EPOCHS, seed=seed, **settings) for seed in range(SEEDS)]
        runs[name] = np.array([[epoch.loss for epoch in trainer.history] for trainer in trainers])
        table.append((name, np.mean([trainer.network.evaluate(data.train)[0] for trainer in trainers]),
                      np.mean([trainer.history[-1].validation_loss for trainer in trainers])))
    losses = {name: loss for name, loss, _ in table}
    large = next(iter(CONTENDERS))
    warmed = {}
    for warmup in (0.0, WARMUP):
        pairs = [deep(data, seed, warmup) for seed in range(WARMED_SEEDS)]
        warmed[warmup] = np.array([losses for losses, _ in pairs]), np.array([loss for _, loss in pairs])
    return {
        "rates": rates, "half": STEPS // 2, "halfway": {name: rate[STEPS // 2] for name, rate in rates.items()},
        "last": {name: rate[STEPS] for name, rate in rates.items()},
        "lr": LR, "epochs": EPOCHS, "seeds": SEEDS, "runs": runs, "table": table,
        "ratio": losses["cosine"] / losses[large],
        "restless": change(runs[large]), "calm": change(runs["cosine"]),
        "warmed": warmed, "warmed_seeds": WARMED_SEEDS, "warmed_epochs": WARMED_EPOCHS, "deep_lr": DEEP_LR,
        "warmed_table": [(f"{warmup:.0%} warm-up".replace("%", " %") if warmup else "no warm-up",
                          np.median(losses.max(axis=1)), ends.mean()) for warmup, (losses, ends) in warmed.items()],
        "warmed_wins": int((warmed[WARMUP][1] < warmed[0.0][1]).sum()),
        "know_nothing": np.log(10),
    }


def change(losses: Any) -> float:
    """The mean relative change of the loss from one epoch to the next in the last quarter."""
    last = losses[:, -EPOCHS // 4 - 1:]
    return float(np.mean(np.abs(np.diff(last, axis=1)) / last[:, :-1]))


def deep(data: Any, seed: int, warmup: float) -> tuple[list[float], float]:
    """The losses of all batches of a deep network with a large rate, and the training loss at the end."""
    trainer = Trainer(Settings(optimizer="adam", lr=DEEP_LR, l2=0.0, batch_norm=False, hidden=(64,) * 5, warmup=warmup,
                               epochs=WARMED_EPOCHS, seed=seed), data)
    losses: list[float] = []
    for _ in range(WARMED_EPOCHS):
        trainer.run_epoch(validate=False, each_step=losses.append)
    return losses, trainer.network.evaluate(data.train)[0]


def all_schedules(facts: dict[str, Any]) -> Figure:
    """Every schedule over 1000 updates, with a peak of 1; warm-ups take 100."""
    figure, axes = style.subplots(2, 5, height=4.0, sharex=True, sharey=True)
    for ax, (name, rate) in zip(axes.flat, facts["rates"].items(), strict=True):
        ax.plot(rate)
        ax.set_title(name.replace("_", "_\n", 1) if len(name) > 12 else name, fontsize=9)
        ax.set(ylim=(-0.03, 1.08), xticks=[0, 500, 1000])
    for ax in axes[-1]:
        ax.set_xlabel("updates")
    for ax in axes[:, 0]:
        ax.set_ylabel("rate / peak")
    return figure


def effect(facts: dict[str, Any]) -> Figure:
    """Training loss, mean of the seeds: a rate that is large at first and small in the end does best."""
    figure, ax = style.subplots(height=3.6)
    for name, losses in facts["runs"].items():
        style_of = dict(linestyle="--") if name.startswith("constant") else {}
        ax.semilogy(range(1, EPOCHS + 1), losses.mean(axis=0), label=name, **style_of)
    ax.set(xlabel="epoch", ylabel="training loss", xlim=(1, EPOCHS), xticks=range(2, EPOCHS + 1, 2))
    ax.legend(ncols=2)
    return figure


def warm_up(facts: dict[str, Any]) -> Figure:
    """Loss of each batch in the first two epochs, a line a seed: without warm-up the first steps go far astray."""
    figure, axes = style.subplots(1, 2, height=2.9, sharey=True)
    for ax, (warmup, (losses, _)), color in zip(axes, facts["warmed"].items(), (style.RED, style.BLUE), strict=True):
        for line in losses:
            ax.semilogy(range(1, 75), line[:74], color=color, linewidth=1, alpha=0.7)
        ax.axhline(facts["know_nothing"], color=style.GREY, linewidth=1, linestyle="--")
        ax.set_title(f"warm-up: {warmup:.0%} of the updates".replace("%", " %") if warmup else "no warm-up")
        ax.set_xlabel("update")
    axes[0].set_ylabel("loss of the batch")
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].annotate("knows nothing: log 10", (10, facts["know_nothing"]), (0, 9),
                     textcoords="offset points", fontsize=8, color=style.GREY)
    return figure
