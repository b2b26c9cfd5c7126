"""Drawing hyper-parameters: on which scale, at random or on a grid, and where to look next."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fastopt.demo.data import Dataset, digits
from fastopt.demo.lessons import style
from fastopt.demo.search.space import Space
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Diverged, Trainer

TITLE = "Searching hyper-parameters"
LOW, HIGH, DRAWS = 1e-4, 1.0, 10_000
TRIALS, EPOCHS = 27, 3
SHIFTS = tuple(k * 4 / 15 for k in range(-2, 3))
"""Of the learning rate's range, in decades: fifths of the distance between two values of the grid."""
ROUNDS = 3

TEXT = r"""
Weights are learned; learning rate, regularisation, dropout, layers and units are not. They are tried: train with some
values, look at the validation loss, and never at the test images. What matters is which values are tried.

## The right scale

Say the learning rate is somewhere between {{ low }} and {{ high | fixed(0) }}. Uniform draws on this range waste
nearly all of themselves on one decade, that between 0.1 and 1. The share of the draws in $[a, b]$ is $(b - a) / (1 -
0.0001)$, which is {{ linear_expected[3] | percent(0) }} for the highest decade and {{ linear_expected[0] | percent(2)
}} for the lowest. Draw the exponent instead,

$$\eta = 10^{u}, \qquad u \text{ uniform on } [-4, 0]$$

and each of the four decades gets a quarter. Of {{ draws }} draws:

| decade | uniform | uniform exponent |
| --- | --- | --- |
{% for name, linear, logarithmic in decades %}
| {{ name }} | {{ linear | percent(1) }} | {{ logarithmic | percent(1) }} |
{% endfor %}

{{ code("draw") }}

{{ figure("scales") }}

The same holds for L2, for batch sizes, and for the momentum $\beta$, an average over about $1 / (1 - \beta)$ steps:
from 0.9 to 0.905 little happens (10 steps become {{ steps_905 | fixed(1) }}), from 0.99 to 0.995 the average becomes
twice as long. So it is $1 - \beta$ that is drawn on the scale of its logarithm. Of {{ draws }} draws of β from 0.9 to
0.999, half are above {{ median_momentum | fixed(3) }}: that is $1 - \sqrt{0.1 \cdot 0.001}$.

## Random or grid

Three parameters and {{ trials }} trainings: learning rate, L2 and dropout. A grid has three values of each, in all
combinations. Random points, as many, have {{ trials }} values of each. If one parameter matters more than the others,
and one usually does, the grid has looked at three values of it {{ per_value }} times over (Bergstra and Bengio 2012).

{{ figure("projections") }}

| | trainings | different learning rates | different values of L2 | different dropouts |
| --- | --- | --- | --- | --- |
{% for name, count in distinct.items() %}
| {{ name }} | {{ trials }} | {{ count.lr }} | {{ count.l2 }} | {{ count.dropout }} |
{% endfor %}

All were trained: a network of 64 units with momentum, {{ epochs }} epochs of the digits each. The validation loss over
each parameter, on its scale:

{{ figure("importance") }}

The learning rate decides; L2 and dropout hardly show. In figures: of the variance of $\log(\text{loss})$ of all
{{ pooled }} random trainings of this page, a parabola in the learning rate's exponent explains
{{ explained["lr"] | percent(0) }}, one in that of L2 {{ explained["l2"] | percent(0) }}, one in dropout
{{ explained["dropout"] | percent(0) }}.

Does random search find more, then? A grid of three learning rates in four decades has one every {{ apart | fixed(2)
}} decades, so the best one can be {{ farthest | fixed(2) }} decades away from all of them. Between {{ trials }}
random ones the mean distance is 4 / {{ trials + 1 }} ≈ {{ spacing | fixed(2) }} decades. But a grid may be lucky, and
this one is: one of its values, {{ lucky }}, is near the best. Its luck depends on where we happened to put the range.
So search {{ searches }} ranges of the learning rate, a fifth of the grid's spacing apart, both ways:

| learning rates | best of the grid | best of the random points |
| --- | --- | --- |
{% for low, high, grid, random in compared %}
| {{ low }} to {{ high }} | {{ grid | fixed(4) }} | {{ random | fixed(4) }} |
{% endfor %}
| mean | {{ mean["grid"] | fixed(4) }} | {{ mean["random"] | fixed(4) }} |
| worst | {{ worst["grid"] | fixed(4) }} | {{ worst["random"] | fixed(4) }} |

## From coarse to fine

Random points also say where to look next. Take the box around the best quarter, widen it a little, draw as many points
again in it, and repeat. `Space.zoom` does that on each parameter's scale:

{{ code("coarse_to_fine") }}

{{ figure("zoom") }}

With {{ per_round }} trainings a round, the range of the learning rate shrinks from {{ widths[0] | fixed(1) }} decades
to {{ widths[1] | fixed(1) }} and {{ widths[2] | fixed(1) }}. The median validation loss of a round falls from {{
medians[0] | fixed(3) }} to {{ medians[1] | fixed(3) }} and {{ medians[2] | fixed(3) }}: fewer trainings are wasted.
The best is {{ fine_best | fixed(4) }} after {{ trials }} trainings.

A caution: the lowest of many validation losses is a little lucky, and the more trials there are, the luckier. What the
chosen settings are worth is for images to say that no choice was made on, once.
"""


def draw(rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """Learning rates, uniform and with a uniform exponent."""
    linear = rng.uniform(LOW, HIGH, DRAWS)
    logarithmic = 10 ** rng.uniform(math.log10(LOW), math.log10(HIGH), DRAWS)
    return linear, logarithmic


def space_of(shift: float) -> Space:
    """Four decades of the learning rate from 1e-4 on, shifted by so many decades."""
    low, high = LOW * 10**shift, HIGH * 10**shift
    return Space.parse([f"lr={low:.3g}..{high:.3g}", "l2=1e-6..1e-2", "dropout=0..0.5"])


def loss_of(data: Dataset, space: Space, point: Any) -> float:
    """The validation loss after a training with the point's values, or log 10 if it diverged."""
    base = Settings(hidden=(64,), optimizer="momentum", epochs=EPOCHS, batch_norm=False)
    trainer = Trainer(space.settings(base, point), data)
    try:
        for epoch in range(EPOCHS):
            trainer.run_epoch(validate=epoch == EPOCHS - 1)
    except Diverged:
        return math.log(10)
    loss = trainer.history[-1].validation_loss
    assert loss is not None
    return loss


def coarse_to_fine(data: Dataset, rng: np.random.Generator) -> list[Any]:
    """Rounds of random points, each in the box around the last one's best."""
    space, rounds = space_of(0), []
    for _ in range(ROUNDS):
        points = [space.sample(rng) for _ in range(TRIALS // ROUNDS)]
        losses = [loss_of(data, space, point) for point in points]
        rounds.append((space, points, losses))
        space = space.zoom(points, [-loss for loss in losses])
    return rounds


def search(data: Dataset, space: Space, rng: np.random.Generator) -> tuple[Space, dict[str, Any], dict[str, Any]]:
    """The points of a grid and as many random ones, and their losses."""
    points = {"grid": space.grid(TRIALS), "random": [space.sample(rng) for _ in range(TRIALS)]}
    return space, points, {name: np.array([loss_of(data, space, point) for point in of_search])
                           for name, of_search in points.items()}


def shares(values: NDArray[Any]) -> list[float]:
    """The share of the values in each decade from 1e-4 to 1."""
    return [float(np.mean((values >= 10.0**k) & (values < 10.0 ** (k + 1)))) for k in range(-4, 0)]


def run() -> dict[str, Any]:
    """All runs of this page."""
    rng = np.random.default_rng(0)
    linear, logarithmic = draw(rng)
    betas = Space.parse(["momentum=0.9..0.999"])
    momenta = [float(betas.sample(rng)["momentum"]) for _ in range(DRAWS)]
    data = digits()
    searches = [search(data, space_of(shift), rng) for shift in SHIFTS]
    space, points, losses = searches[len(SHIFTS) // 2]
    pool = [point for _, points, _ in searches for point in points["random"]]
    pooled = np.concatenate([losses["random"] for _, _, losses in searches])
    bests = {name: [float(losses[name].min()) for _, _, losses in searches] for name in ("grid", "random")}
    rounds = coarse_to_fine(data, rng)
    return {
        "low": LOW, "high": HIGH, "draws": DRAWS, "linear": linear, "logarithmic": logarithmic,
        "decades": list(zip(("0.0001 to 0.001", "0.001 to 0.01", "0.01 to 0.1", "0.1 to 1"), shares(linear),
                            shares(logarithmic), strict=True)),
        "linear_expected": [9 * 10.0**k / (HIGH - LOW) for k in range(-4, 0)],
        "steps_905": 1 / (1 - 0.905), "median_momentum": float(np.median(momenta)),
        "trials": TRIALS, "per_value": TRIALS // 3, "epochs": EPOCHS, "searches": len(searches), "pooled": len(pool),
        "points": points, "losses": losses, "space": space,
        "distinct": {name: {parameter: len({point[parameter] for point in of_search}) for parameter in space.names}
                     for name, of_search in points.items()},
        "explained": {p.name: explained([p.position(point[p.name]) for point in pool], pooled)
                      for p in space.parameters},
        "apart": 4 / 3, "farthest": 4 / 3 / 2, "spacing": 4 / (TRIALS + 1),
        "lucky": points["grid"][int(losses["grid"].argmin())]["lr"],
        "compared": [(space.parameters[0].low, space.parameters[0].high, *pair)
                     for (space, _, _), pair in zip(searches, zip(*bests.values(), strict=True), strict=True)],
        "mean": {name: float(np.mean(of_searches)) for name, of_searches in bests.items()},
        "worst": {name: max(of_searches) for name, of_searches in bests.items()},
        "rounds": rounds, "per_round": TRIALS // ROUNDS,
        "widths": [math.log10(each.parameters[0].high / each.parameters[0].low) for each, _, _ in rounds],
        "medians": [float(np.median(of_round)) for _, _, of_round in rounds],
        "fine_best": min(min(of_round) for _, _, of_round in rounds),
    }


def explained(positions: list[float], losses: NDArray[Any]) -> float:
    """The share of the variance of log(loss) that a parabola in one parameter's position explains."""
    logs = np.log(losses)
    fitted = np.polynomial.Polynomial.fit(positions, logs, 2)(np.array(positions))
    return float(1 - np.var(logs - fitted) / np.var(logs))


def scales(facts: dict[str, Any]) -> Figure:
    """Learning rates drawn uniformly, and with a uniform exponent, on a logarithmic axis."""
    figure, axes = style.subplots(2, 1, height=3.6, sharex=True)
    bins = np.geomspace(LOW, HIGH, 41)
    for ax, name, title in zip(axes, ("linear", "logarithmic"), ("uniform", "uniform exponent"), strict=True):
        ax.hist(facts[name], bins, color=style.BLUE)
        ax.set_title(title)
        ax.set(xscale="log", ylabel="draws")
        for edge in (1e-3, 1e-2, 1e-1):
            ax.axvline(edge, color=style.GREY, linewidth=0.8, linestyle="--")
    axes[1].set_xlabel("learning rate")
    return figure


def projections(facts: dict[str, Any]) -> Figure:
    """The same number of points: a grid shows three values of each parameter, random points one each."""
    figure, axes = style.subplots(1, 2, height=3.2, sharey=True)
    for ax, (name, points) in zip(axes, facts["points"].items(), strict=True):
        lr, l2 = ([point[parameter] for point in points] for parameter in ("lr", "l2"))
        ax.loglog(lr, l2, "o", color=style.BLUE, alpha=0.7)
        ax.plot(lr, np.full(len(lr), 6e-7), "|", color=style.ORANGE, markersize=10, clip_on=False)
        ax.plot(np.full(len(l2), 5.5e-5), l2, "_", color=style.ORANGE, markersize=10, clip_on=False)
        count = facts["distinct"][name]["lr"]
        ax.set_title(f"{name}: {count} learning rates")
        ax.set(xlabel="learning rate", xlim=(5e-5, 1.3), ylim=(5e-7, 1.3e-2))
    axes[0].set_ylabel("L2")
    return figure


def importance(facts: dict[str, Any]) -> Figure:
    """Validation loss of each training over each parameter: only the learning rate shows a valley."""
    figure, axes = style.subplots(1, 3, height=3.0, sharey=True)
    for ax, parameter in zip(axes, facts["space"].parameters, strict=True):
        for name, marker, color in (("grid", "s", style.ORANGE), ("random", "o", style.BLUE)):
            ax.plot([point[parameter.name] for point in facts["points"][name]], facts["losses"][name], marker,
                    color=color, label=name, alpha=0.8, markersize=4.5)
        ax.set_yscale("log")
        ax.set_xscale(parameter.kind.scale.name)
        ax.set_xlabel({"lr": "learning rate", "l2": "L2"}.get(parameter.name, parameter.name))
    axes[0].set_ylabel("validation loss")
    axes[0].legend(loc="lower left")
    return figure


def zoom(facts: dict[str, Any]) -> Figure:
    """Three rounds: a line is a round's range of the learning rate, a dot a training."""
    figure, ax = style.subplots(height=3.2)
    for k, (space, points, losses) in enumerate(facts["rounds"]):
        lr = space.parameters[0]
        color = (style.GREY, style.ORANGE, style.BLUE)[k]
        ax.loglog([point["lr"] for point in points], losses, "o", color=color, label=f"round {k + 1}")
        ax.plot([lr.low, lr.high], [0.045 * 0.87**k] * 2, color=color, linewidth=4, solid_capstyle="butt")
    ax.set(xlabel="learning rate", ylabel="validation loss")
    ax.legend(loc="upper right")
    return figure
