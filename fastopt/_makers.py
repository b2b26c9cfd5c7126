"""What makes the rule of an optimizer's parameters at each step: all is checked once, then only what changes."""

import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fastopt._options import (
    LR,
    STEP,
    Arguments,
    as_numbers,
    check_options,
    check_own_decay,
    with_average_decay,
    with_grad_scale,
)
from fastopt._runtime import dispatch
from fastopt._runtime.hyper import Ranges
from fastopt._runtime.updates import Maker, lr_at

if TYPE_CHECKING:
    from fastopt._bound_models import BoundModels

step_ranges = Ranges(step=STEP, lr=LR)


@functools.cache
def _own_names(arguments: Callable[..., Any]) -> list[str]:
    """The names of its parameters between (step, lr) and (options, …): a class's own hyper-parameters."""
    names = list(inspect.signature(arguments).parameters)
    return names[2 : names.index("options")]


def _constant(*values: Any) -> bool:
    """Whether none of the numbers, and of the tuples that hold some of them, can be changed in place."""
    return {float, int, bool, tuple}.issuperset(map(type, values))


def maker_for(kind: "type[BoundModels]", hyper: Mapping[str, Any], own: Mapping[str, Any], shared: tuple[str, ...],
              warmup: bool) -> Maker:
    """What makes the rule of parameters from their own step, the optimizer's step and lr, and grad_scale.

    `hyper` are the hyper-parameters of an optimizer of class `kind`, `own` those that differ for these parameters,
    `shared` the names of those that `Options` has. `warmup`: their averages warm up. It holds no reference to the
    optimizer: a cycle would keep the arrays until the next garbage collection.
    """
    hyper = {**hyper, **own}
    own_lr, has_lr = hyper.pop("lr"), "lr" in own
    options = {name: hyper.pop(name) for name in shared}
    if options["average_decay"] is not None:
        options["average"] = True
    if kind._decay != "weight_decay":
        checked = check_own_decay(kind, options, options.pop("weight_decay"), kind._decay)
    else:
        checked = check_options(kind, options)
    checked = as_numbers(checked)
    scale = checked[0]
    average_decay = float(options["average_decay"]) if warmup else None
    name, arguments = kind._rule
    kernel, varies = operator.attrgetter(name)(dispatch.active), kind._varies
    values = tuple(hyper[name] for name in _own_names(arguments))   # by position, which takes half as long
    numbers: Arguments | None = None    # constants, once checked: further steps check step and lr only

    def make(maker: Maker, own_step: int, step: int, lr: float, grad_scale: float) -> Any:
        nonlocal numbers
        if has_lr:
            lr = lr_at(own_lr, step)
        same = type(grad_scale) is float and grad_scale == scale
        options = checked if same else with_grad_scale(checked, grad_scale)
        if average_decay is not None:
            options = with_average_decay(options, min(average_decay, (1 + own_step) / (10 + own_step)))
        if numbers is not None:
            step_ranges(own_step, lr)
            return kernel(own_step, lr, *numbers, options)
        made = arguments(own_step, lr, *values, options)
        if not varies and _constant(*values, *made[2:-1]):
            numbers = made[2:-1]
            if not has_lr and average_decay is None:
                maker.remember(kernel, numbers, checked)
        return kernel(*made)

    return Maker(make)
