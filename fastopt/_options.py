"""What all optimizers share: their options, with types, defaults, ranges and documentation, and what a step returns."""

import functools
import inspect
import math
import reprlib
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypedDict, cast

from fastopt._names import suggestion, text
from fastopt._runtime.hyper import Ranges
from fastopt._typing import Float32Array, PerParam

Checked = tuple[float, bool, float, float, float, float, float, bool]
Arguments = tuple[Any, ...]
"""What a kernel makes a rule from: step, lr, the optimizer's own numbers, the shared options; all of them checked."""


class _Shared(TypedDict, total=False):
    l1: float
    maximize: bool
    clip_value: float | None
    average_decay: float | None


class OptionsWithoutDecay(_Shared, total=False):
    """`Options` without weight_decay and decoupled_weight_decay, for a function that defines its own weight_decay."""

    grad_scale: float
    average: Float32Array | None


class Options(OptionsWithoutDecay, total=False):
    """Keyword arguments that all optimizer functions share: ``fastopt.adam(…, weight_decay=0.01)``.

    Before the gradient g reaches an optimizer's formula, it is scaled, clipped and regularised, in this order::

        g ← grad_scale · g                                  −grad_scale · g with maximize
        g ← min(max(g, −clip_value), clip_value)
        g ← g + weight_decay · p + l1 · sign(p)

    Parameters
    ----------
    weight_decay, l1 : float
        L2 and L1 regularisation, added to the gradient: ≥ 0, default 0.
    decoupled_weight_decay : float
        The parameter shrinks by the factor 1 − lr · decoupled_weight_decay before the step, as in AdamW: ≥ 0,
        default 0.
    maximize : bool
        Follow the gradient uphill; default False.
    grad_scale : float
        Multiplies the gradient first (1 / loss scale, 1 / number of accumulated batches): finite, default 1.
    clip_value : float, optional
        Largest magnitude of a gradient's element: > 0, default None (no clipping).
    average : float32 array of the parameter's shape, optional
        Exponential moving average of the parameter, updated in place after the step:
        a ← average_decay · a + (1 − average_decay) · p. Needs average_decay.
    average_decay : float, optional
        In [0, 1]. Needs average.

    Notes
    -----
    A function whose own signature has weight_decay gives it its own meaning and takes no decoupled_weight_decay.

    Numbers, of whatever type, are used as Python floats; what an element needs is rounded to float32 once. A number
    that float32 rounds to inf is out of a range that excludes inf, one that it rounds to 0 out of a range that excludes
    0.
    """

    weight_decay: float
    decoupled_weight_decay: float


class ModelOptionsWithoutDecay(_Shared, total=False):
    """What the constructor of an optimizer class takes that defines its own weight_decay: see `fastopt.Optimizer`."""

    average_warmup: bool
    clip_norm: float | None
    clip_norm_per_param: float | None
    skip_nonfinite: bool
    per_param: PerParam | None


class ModelOptions(ModelOptionsWithoutDecay, total=False):
    """What the constructor of every other optimizer class takes in addition to its own: see `fastopt.Optimizer`."""

    weight_decay: float
    decoupled_weight_decay: float


class UpdateInfo(NamedTuple):
    """What a call of an optimizer's `update` did."""

    step: int
    """The step's number, from 1; if the step was skipped, that of the previous step."""
    lr: float
    """The learning rate it used."""
    grad_norm: float | None
    """Euclidean norm of all gradients after grad_scale and before clipping; None unless an option needed it."""
    skipped: bool
    """Whether nothing was changed because a gradient held an inf or NaN."""


STEP = "int [1, 9e18]"
"""The interval of an optimizer's step, 1 at the first update."""
LR = "[0, inf)"
"""The interval of a learning rate."""
EPS = "0 or [2**-126, inf)"
"""The interval of an optimizer's eps: 0, or so large that eps · √(1 − β₂ᵗ) is not 0 as float32 for any β₂ below
1 − 2⁻⁴⁸. The step of an element whose gradients were 0 would be 0 / 0."""

grad_scale_range = Ranges(grad_scale="(-inf, inf)")
_decay_range = Ranges(weight_decay="[0, inf)")
_ranges = Ranges(
    grad_scale="(-inf, inf)",
    maximize="bool",
    clip_value="None or (0, inf]",
    weight_decay="[0, inf)",
    l1="[0, inf)",
    decoupled_weight_decay="[0, inf)",
    average_decay="None or [0, 1]",
)

DEFAULTS: dict[str, Any] = dict(grad_scale=1.0, maximize=False, clip_value=None, weight_decay=0.0, l1=0.0,
                                decoupled_weight_decay=0.0, average_decay=None, average=None)
MODEL_DEFAULTS: dict[str, Any] = dict(average_warmup=False, clip_norm=None, clip_norm_per_param=None,
                                      skip_nonfinite=False, per_param=None)
"""Of the options that only classes have."""
_POSITIONS = {name: position for position, name in enumerate(DEFAULTS)}
_absent: dict[str, Any] = dict(clip_value=math.inf, average_decay=0.0, average=False)
"""What kernels get for None."""
_default = cast(Checked, tuple(_absent.get(name, value) for name, value in DEFAULTS.items()))
"""The shared options in the order in which kernels unpack them; the last one is whether there is an average."""


def check_options(function: Callable[..., Any], options: Mapping[str, Any]) -> Checked:
    """Return the shared options that were given to `function`, checked, and the defaults of the others."""
    if not options:
        return _default
    checked: Any = _ranges.replaced(_default, options, "average")
    if checked is None:
        refuse_unknown(function, options)
    if "average" in options or "average_decay" in options:
        decay, average = options.get("average_decay"), options.get("average")
        if (decay is None) != (average is None):
            raise ValueError("average_decay: expected a number in [0, 1] together with average, got "
                             + ("average alone" if decay is None else "average_decay alone"))
        checked = _replaced(checked, "average", average is not None)
    return checked


def check_own_decay(function: Callable[..., Any], options: Mapping[str, Any], weight_decay: float = 0.0,
                    meaning: str = "weight_decay") -> Checked:
    """`check_options` for a function with its own weight_decay, which becomes the shared option named `meaning`."""
    if not options and type(weight_decay) is float and weight_decay == 0.0:
        return _default
    _decay_range(weight_decay)
    if "decoupled_weight_decay" in options:
        refuse_unknown(function, options)
    return _replaced(check_options(function, options), meaning, weight_decay)


def as_numbers(options: Checked) -> Checked:
    """Checked options as Python's own numbers, which nobody can change later as an array of no dimensions."""
    return tuple(value if type(value) is bool else float(value) for value in options)   # type: ignore[return-value]


def with_grad_scale(options: Checked, grad_scale: float) -> Checked:
    """Checked options with another grad_scale."""
    grad_scale_range(grad_scale)
    return _replaced(options, "grad_scale", grad_scale)


def with_average_decay(options: Checked, average_decay: float) -> Checked:
    """Checked options with another average_decay."""
    return _replaced(options, "average_decay", average_decay)


def _replaced(options: Checked, name: str, value: float) -> Checked:
    i = _POSITIONS[name]
    return (*options[:i], value, *options[i + 1 :])     # type: ignore[return-value]


@functools.cache
def options_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the arguments of a function or class that are no arrays, its ``**options`` included."""
    names: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY or parameter.name == "lr":
            names.append(parameter.name)
        elif parameter.kind is parameter.VAR_KEYWORD:
            names += [name for options in typing.get_args(parameter.annotation) for name in options.__annotations__]
    return tuple(names)


def _ours(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function or class; of a user's class the one of fastopt that it is derived from, whose options it passes."""
    bases = function.__mro__ if isinstance(function, type) else [function]
    return next(base for base in bases if base.__module__.partition(".")[0] == "fastopt")


def refuse_unknown(function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise a TypeError if there is an option that `function` does not take."""
    ours = _ours(function)
    taken = options_of(ours)
    for name in options:
        if name not in taken:
            betas = inspect.signature(ours).parameters.get("betas")
            meant = suggestion(name, taken, 0 if betas is None else len(betas.default))
            raise TypeError(f"{function.__name__}: unknown option {name!r}, expected {meant or ', '.join(taken)}")


def call_text(cls: type, arguments: Mapping[str, Any]) -> str:
    """An optimizer's repr: the call with lr and those of the other arguments that differ from their defaults."""
    ours = _ours(cls)
    signature = inspect.signature(ours).parameters
    shown = []
    for name in options_of(ours):
        default = signature[name].default if name in signature else {**DEFAULTS, **MODEL_DEFAULTS}[name]
        value = text(arguments[name])
        if name == "lr" or value != text(default):
            shown.append(f"{name}={value}")
    return f"{cls.__name__}({', '.join(shown)})"


def triple(name: str, values: Any) -> tuple[float, float, float]:
    """Return the three members of a triple of numbers, as `pair` does for two."""
    try:
        first, second, third = values
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected three numbers, got {reprlib.repr(values)}") from None
    return first, second, third
