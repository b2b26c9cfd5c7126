"""The running mean inside momentum, Adam and BatchNorm: how far it looks back, and why it starts too small."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import fastopt
from fastopt.demo.data import digits
from fastopt.demo.lessons import style
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Trainer

TITLE = "Exponential averages"
BETAS = (0.9, 0.98)
LR, BETA1, BETA2 = 0.001, 0.9, 0.999

TEXT = r"""
Noisy numbers that arrive one at a time, such as the losses or gradients of mini-batches, are smoothed with an
exponential average: keep a share $\beta$ of the old average $m$ and add a share $1 - \beta$ of the new number $g$,

$$m_t = \beta\, m_{t-1} + (1 - \beta)\, g_t, \qquad m_0 = 0$$

It needs one number of memory. SGDM and Adam keep such an average of each weight's gradient, Adam and RMSprop one of its
square, BatchNorm one of each channel's mean and variance.

## How far it looks back

Written out, the number that arrived $k$ steps ago has the weight $(1 - \beta)\,\beta^k$ in the average: the weights
fall exponentially. The effective window is $1 / (1 - \beta)$ numbers: {{ window[0.9] | fixed(0) }} for $\beta = 0.9$,
{{ window[0.98] | fixed(0) }} for 0.98. They hold {{ inside[0.9] | percent }} and {{ inside[0.98] | percent }} of the
weight, near $1 - 1/e \approx$ {{ one_minus_e | percent }}.

{{ figure("weights") }}

The longer the window, the smoother the average, and the later it notices a change. Of independent noise with the
standard deviation 1, an average keeps $\sqrt{(1 - \beta) / (1 + \beta)}$: for the two $\beta$ that is
{{ noise[0.9] | fixed(3) }} and {{ noise[0.98] | fixed(3) }}. Measured on {{ channels }} channels of noise, with
`fastopt.SGDM` as the average: {{ measured[0.9] | fixed(3) }} and {{ measured[0.98] | fixed(3) }}.

{{ code("averages") }}

## Why it starts too small

The average starts at 0, and forgets that only slowly: after $t$ steps the weights of all numbers add up to
$1 - \beta^t$, not to 1. After the first step it is {{ share[0.9] | percent(0) }} of the first number for $\beta = 0.9$,
and {{ share[0.98] | percent(0) }} for 0.98. **Bias correction** divides by what is there (Kingma and Ba 2015,
arXiv:1412.6980, section 3):

$$\hat m_t = \frac{m_t}{1 - \beta^t}$$

Here the numbers are the losses of the first {{ steps }} mini-batches of a training on scikit-learn's digits. The first
loss is {{ losses[0] | fixed(2) }}; the averages without correction begin at {{ plain[0.9][0] | fixed(2) }} and
{{ plain[0.98][0] | fixed(2) }}.

{{ figure("losses_smoothed") }}

With $\beta = 0.98$ even the tenth average is only {{ tenth["plain"] | fixed(2) }} without correction and
{{ tenth["corrected"] | fixed(2) }} with it, where the mean of those ten losses is
{{ tenth["mean"] | fixed(2) }}. What correction cannot cure is the delay: while the losses fall, the long average lies
above them.

## What it is for in Adam

Adam divides one average by the root of another: $\hat m$ with $\beta_1 = {{ beta1 }}$, $\hat v$ of squares with
$\beta_2 = {{ beta2 }}$. Without correction both start too small, but not equally: the first step is
$(1 - \beta_1) / \sqrt{1 - \beta_2}$ = {{ ratio | fixed(2) }} times too long. With a constant gradient all steps should
be as long as the learning rate, {{ lr }}:

{{ code("adam_steps") }}

{{ figure("first_steps") }}

The longest uncorrected step, number {{ longest_step }}, is {{ longest | fixed(1) }} times the learning rate, and the
last one shown still {{ last | fixed(1) }} times: $\beta_2$ forgets its start only after thousands of steps.
"""


def averages(numbers: NDArray[np.float32], beta: float) -> NDArray[np.float32]:
    """The average after each number: the m of fastopt.SGDM, to which the numbers are gradients."""
    optimizer = fastopt.SGDM(beta=beta)
    w = np.zeros_like(numbers[0])
    after = []
    for number in numbers:
        optimizer.update(w, number)
        after.append(optimizer.state[0]["m"].copy())
    return np.array(after)


def adam_steps(correct: bool) -> NDArray[np.float64]:
    """How far each step of Adam moves a weight whose gradient is always 1."""
    optimizer = fastopt.Adam(LR, betas=(BETA1, BETA2), bias_correction=correct)
    w = np.zeros(1, np.float32)
    places = [0.0]
    for _ in range(100):
        optimizer.update(w, np.ones(1, np.float32))
        places.append(float(w[0]))
    return -np.diff(places)


def run() -> dict[str, Any]:
    """All runs of this page."""
    losses: list[float] = []
    trainer = Trainer(Settings(lr=1e-3, schedule="constant", warmup=0.0), digits())
    for _ in range(3):
        trainer.run_epoch(each_step=losses.append)
    series = np.array(losses, np.float32)[:, np.newaxis]
    plain = {beta: averages(series, beta)[:, 0] for beta in BETAS}
    steps = np.arange(1, len(losses) + 1)
    corrected = {beta: plain[beta] / (1 - beta**steps) for beta in BETAS}
    noise = np.random.default_rng(0).standard_normal((400, 2000), dtype=np.float32)
    adam = {correct: adam_steps(correct) for correct in (True, False)}
    window = {beta: 1 / (1 - beta) for beta in BETAS}
    return {
        "window": window, "inside": {beta: 1 - beta ** round(window[beta]) for beta in BETAS},
        "one_minus_e": 1 - math.exp(-1), "channels": noise.shape[1],
        "noise": {beta: math.sqrt((1 - beta) / (1 + beta)) for beta in BETAS},
        "measured": {beta: float(averages(noise, beta)[-1].std()) for beta in BETAS},
        "share": {beta: 1 - beta for beta in BETAS},
        "losses": series[:, 0], "steps": len(losses), "plain": plain, "corrected": corrected,
        "tenth": {"plain": plain[0.98][9], "corrected": corrected[0.98][9], "mean": series[:10].mean()},
        "lr": LR, "beta1": BETA1, "beta2": BETA2, "ratio": (1 - BETA1) / math.sqrt(1 - BETA2), "adam": adam,
        "last": adam[False][-1] / LR, "longest": adam[False].max() / LR, "longest_step": int(adam[False].argmax()) + 1,
    }


def weights(facts: dict[str, Any]) -> Figure:
    """The weight of past numbers in the average; most of it lies in the effective window, which is shaded."""
    figure, axes = style.subplots(1, 2, height=2.8)
    age = np.arange(101)
    for ax, beta, colour in zip(axes, BETAS, (style.BLUE, style.ORANGE), strict=True):
        ax.axvspan(0, facts["window"][beta], color=colour, alpha=0.12, linewidth=0)
        ax.plot(age, (1 - beta) * beta**age, color=colour)
        ax.set_title(f"β = {beta}: window {facts['window'][beta]:.0f}")
        ax.set_xlabel("steps ago")
        ax.set_ylim(bottom=0)
    axes[0].set_ylabel("weight")
    return figure


def losses_smoothed(facts: dict[str, Any]) -> Figure:
    """Losses of mini-batches and their averages: uncorrected ones (dashed) start near 0, corrected ones at a loss."""
    figure, axes = style.subplots(1, 2, height=3.2, sharey=True)
    steps = np.arange(1, facts["steps"] + 1)
    for ax, beta, colour in zip(axes, BETAS, (style.BLUE, style.ORANGE), strict=True):
        ax.plot(steps, facts["losses"], ".", color=style.GREY, markersize=3, alpha=0.7, label="mini-batch")
        ax.plot(steps, facts["plain"][beta], "--", color=colour, label="uncorrected")
        ax.plot(steps, facts["corrected"][beta], color=colour, label="corrected")
        ax.set_title(f"β = {beta}")
        ax.set_xlabel("step")
        ax.set_ylim(bottom=0)
        ax.legend()
    axes[0].set_ylabel("loss")
    return figure


def first_steps(facts: dict[str, Any]) -> Figure:
    """Steps of Adam for a constant gradient: corrected ones are as long as lr, uncorrected ones several times that."""
    figure, ax = style.subplots(height=2.8)
    steps = np.arange(1, len(facts["adam"][True]) + 1)
    ax.plot(steps, facts["adam"][False] / facts["lr"], "--", color=style.ORANGE, label="uncorrected")
    ax.plot(steps, facts["adam"][True] / facts["lr"], color=style.BLUE, label="corrected")
    ax.set(xlabel="step", ylabel="length of the step / lr")
    ax.set_ylim(bottom=0)
    ax.legend()
    return figure
