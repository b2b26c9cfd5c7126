"""What is searched: parameters, each on its own scale, and points of the space that they span.

    scale            parameters                            a draw u from [0, 1) becomes
    linear           layers, units, dropout, warmup        low + u (high − low)
    log              lr, l1, l2, decoupled, batch-size …   low (high / low)ᵘ
    log of 1 − x     momentum (β₁), beta2, average         1 − (1 − low) ((1 − high) / (1 − low))ᵘ

An integer is drawn between half a unit below the range and half a unit above, and rounded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from fastopt.demo.settings import ACTIVATIONS, INITS, OPTIMIZERS, SCHEDULES, Settings, SettingsError

Value = float | int | str
Point = dict[str, Value]
"""A value of each parameter, by its name."""

DIGITS = 3
"""Significant digits of a number that is drawn: of 1 − x on the scale of its logarithm."""
BEST = 0.25
"""Share of the points in whose box the search goes on."""
MARGIN = 0.1
"""What this box is widened by on each side, as a share of the former range on the parameter's scale."""


class SpaceError(ValueError):
    """A space that cannot be searched."""


class Scale(NamedTuple):
    """A function that makes equal steps of equally important changes, and its inverse."""

    name: str
    forward: Callable[[float], float]
    backward: Callable[[float], float]


LINEAR = Scale("linear", float, float)
LOG = Scale("log", math.log, math.exp)
LOG_OF_REST = Scale("log of 1 − x", lambda x: -math.log1p(-x), lambda y: -math.expm1(-y))


class Kind(NamedTuple):
    """A parameter that can be searched: its scale and whether it is an integer, or its choices."""

    scale: Scale = LINEAR
    integer: bool = False
    choices: tuple[str, ...] = ()


KINDS = {
    "lr": Kind(LOG),
    "momentum": Kind(LOG_OF_REST),
    "beta2": Kind(LOG_OF_REST),
    "layers": Kind(LINEAR, integer=True),
    "units": Kind(LINEAR, integer=True),
    "dropout": Kind(LINEAR),
    "l1": Kind(LOG),
    "l2": Kind(LOG),
    "decoupled": Kind(LOG),
    "batch-size": Kind(LOG, integer=True),
    "average": Kind(LOG_OF_REST),
    "clip-norm": Kind(LOG),
    "final-lr": Kind(LOG),
    "warmup": Kind(LINEAR),
    "optimizer": Kind(choices=tuple(OPTIMIZERS)),
    "activation": Kind(choices=ACTIVATIONS),
    "init": Kind(choices=INITS),
    "schedule": Kind(choices=SCHEDULES),
}
"""By the name that `--space` takes."""

WIDE = ("lr=1e-5..1", "momentum=0..0.999", "layers=1..3", "units=16..256", "dropout=0..0.6", "l2=1e-6..1e-1",
        "decoupled=1e-5..1")
"""The default space, of which an optimizer takes what it has."""


@dataclass(frozen=True)
class Parameter:
    """A range [low, high] on the scale of the parameter's kind, or choices.

    A position in [0, 1] is a place on the range, in the scale's units; a choice's position is the middle of its share.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Value, ...] = ()

    @property
    def kind(self) -> Kind:
        return KINDS[self.name]

    @property
    def ends(self) -> tuple[float, float]:
        """The range's ends on the scale."""
        margin = 0.5 if self.kind.integer else 0.0
        return self.kind.scale.forward(self.low - margin), self.kind.scale.forward(self.high + margin)

    def at(self, position: float) -> Value:
        """The value at a position in [0, 1]."""
        if self.choices:
            return self.choices[min(int(position * len(self.choices)), len(self.choices) - 1)]
        start, end = self.ends
        value = self.kind.scale.backward(start + position * (end - start))
        value = round(value) if self.kind.integer else rounded(value, self.kind.scale)
        return min(max(value, self.low), self.high)

    def position(self, value: Value) -> float:
        """The position of a value of the range: the inverse of `at`."""
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        start, end = self.ends
        return (self.kind.scale.forward(float(value)) - start) / (end - start) if start < end else 0.5

    def around(self, values: Iterable[Value]) -> Parameter:
        """The smallest range with all these values, widened; or those choices that are among them."""
        values = list(values)
        if self.choices:
            return dataclasses.replace(self, choices=tuple(choice for choice in self.choices if choice in values))
        positions = [self.position(value) for value in values]
        low, high = self.at(max(0.0, min(positions) - MARGIN)), self.at(min(1.0, max(positions) + MARGIN))
        assert not isinstance(low, str)
        assert not isinstance(high, str)
        return dataclasses.replace(self, low=low, high=high)

    def __str__(self) -> str:
        if self.choices:
            return f"{self.name} {', '.join(map(str, self.choices))}"
        return f"{self.name} {self.low:g}..{self.high:g} ({self.kind.scale.name})"


def rounded(value: float, scale: Scale) -> float:
    """The value, or 1 minus it if it is 1 − x that is on a logarithmic scale, with so many significant digits."""
    if scale is LOG_OF_REST:
        return round(value, DIGITS - 1 - math.floor(math.log10(1 - value)))
    return float(f"{value:.{DIGITS}g}")


@dataclass(frozen=True)
class Space:
    """The points whose values are in the ranges of some parameters.

    Examples
    --------
    >>> space = Space.parse(["lr=1e-4..1e-1", "units=16..512", "activation=relu,gelu"])
    >>> space.sample(np.random.default_rng(0))
    {'lr': 0.00814, 'units': 150, 'activation': 'relu'}
    """

    parameters: tuple[Parameter, ...]

    @classmethod
    def parse(cls, words: Iterable[str]) -> Space:
        """The space of words such as lr=1e-4..1e-1 and activation=relu,gelu.

        Raises
        ------
        SpaceError
            An unknown name, one given twice, or values that are no range or choices of the parameter.
        """
        parameters = tuple(map(parsed, words))
        names = [parameter.name for parameter in parameters]
        for name in names:
            if names.count(name) > 1:
                raise SpaceError(f"expected each name once, got {name} {names.count(name)} times")
        return cls(parameters)

    @classmethod
    def wide(cls, settings: Settings, fixed: Iterable[str] = ()) -> Space:
        """The default space of the settings' optimizer, without the fixed parameters."""
        without = set(fixed)
        without.add("l2" if settings.choice.decoupled_only else "decoupled")
        if settings.choice.momentum is None:
            without.add("momentum")
        return cls(tuple(parameter for parameter in map(parsed, WIDE) if parameter.name not in without))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    def sample(self, rng: np.random.Generator) -> Point:
        """A random point, uniform on each parameter's scale. One number is drawn for each parameter, in order."""
        return {parameter.name: parameter.at(rng.random()) for parameter in self.parameters}

    def grid(self, n: int) -> list[Point]:
        """A grid of at most n points: the middles of equal parts of each parameter's scale.

        The parts of the parameters differ by at most one, the first parameters having more; a parameter with choices
        has at most as many parts as choices.
        """
        parts = [1] * len(self.parameters)
        growing = True
        while growing:
            growing = False
            for i, parameter in enumerate(self.parameters):
                more = math.prod(parts) // parts[i] * (parts[i] + 1)
                if more <= n and parts[i] < (len(parameter.choices) or n):
                    parts[i] += 1
                    growing = True
        axes = [[parameter.choices[k] if parameter.choices else parameter.at((k + 0.5) / count) for k in range(count)]
                for parameter, count in zip(self.parameters, parts, strict=True)]
        return [dict(zip(self.names, values, strict=True)) for values in product(*axes)]

    def zoom(self, points: Sequence[Point], scores: Sequence[Any]) -> Space:
        """The space to go on with: the box around the best quarter of the points, at least two, widened a little.

        Parameters
        ----------
        points : sequence of Point
            In this space.
        scores : sequence
            One for each point: anything that can be compared, more is better.
        """
        order = sorted(range(len(points)), key=lambda i: scores[i], reverse=True)
        best = [points[i] for i in order[:max(2, math.ceil(BEST * len(points)))]]
        return Space(tuple(parameter.around(point[parameter.name] for point in best) for parameter in self.parameters))

    def settings(self, base: Settings, point: Point) -> Settings:
        """The settings `base` with the values of a point. All hidden layers have the same number of units."""
        values: dict[str, Any] = {name.replace("-", "_"): value for name, value in point.items()}
        layers, units = values.pop("layers", len(base.hidden)), values.pop("units", None)
        if "layers" in point or "units" in point:
            values["hidden"] = (base.hidden[0] if units is None else units,) * layers
        return dataclasses.replace(base, **values)

    def check(self, base: Settings) -> None:
        """Raise SpaceError unless the settings take the ends of all ranges, with all choices."""
        if not self.parameters:
            raise SpaceError("expected at least one parameter, got none")
        if not base.hidden and ("layers" in self.names) != ("units" in self.names):
            raise SpaceError("expected layers and units, or --hidden with at least one layer, got only one of them")
        choices = [parameter for parameter in self.parameters if parameter.choices]
        ranges = [parameter for parameter in self.parameters if not parameter.choices]
        middle: Point = {parameter.name: parameter.at(0.5) for parameter in ranges}
        for chosen in product(*(parameter.choices for parameter in choices)):
            point = middle | dict(zip((parameter.name for parameter in choices), chosen, strict=True))
            ends = [{**point, parameter.name: end} for parameter in ranges for end in (parameter.low, parameter.high)]
            for each in ends or [point]:
                try:
                    self.settings(base, each)
                except SettingsError as error:
                    raise SpaceError(f"{error.name.replace('_', '-')}: {error.message}") from None

    def __str__(self) -> str:
        return "\n".join(f"  {parameter}" for parameter in self.parameters)


def parsed(word: str) -> Parameter:
    """The parameter that a word such as lr=1e-4..1e-1 or activation=relu,gelu says."""
    name, _, text = word.partition("=")
    if name not in KINDS:
        raise SpaceError(f"expected some of {', '.join(KINDS)}, got {name!r}")
    kind = KINDS[name]
    low, dots, high = text.partition("..")
    if kind.choices or not dots:
        values = text.split(",")
        if len(values) < 2 or len(set(values)) < len(values):
            form = "" if kind.choices else "LOW..HIGH, or "
            raise SpaceError(f"{name}: expected {form}two or more different values with commas, got {text!r}")
        if kind.choices:
            for value in values:
                if value not in kind.choices:
                    raise SpaceError(f"{name}: expected some of {', '.join(kind.choices)}, got {value!r}")
            return Parameter(name, choices=tuple(values))
        return Parameter(name, choices=tuple(number(name, value) for value in values))
    start, end = number(name, low), number(name, high)
    if not start < end:
        raise SpaceError(f"{name}: expected LOW..HIGH with LOW below HIGH, got {text!r}")
    if kind.integer and start < 0:
        raise SpaceError(f"{name}: expected a range of ints from 0 on, got {text!r}")
    if kind.scale is LOG and start <= 0:
        raise SpaceError(f"{name}: expected a range above 0, its scale is logarithmic, got {text!r}")
    if kind.scale is LOG_OF_REST and end >= 1:
        raise SpaceError(f"{name}: expected a range below 1, the scale is that of log(1 − {name}), got {text!r}")
    return Parameter(name, start, end)


def number(name: str, text: str) -> float | int:
    """The number that the text is, an int where the parameter is one."""
    integer = KINDS[name].integer
    try:
        value = int(text) if integer else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SpaceError(f"{name}: expected {'ints' if integer else 'finite numbers'}, got {text!r}")
    return value
