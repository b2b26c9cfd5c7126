"""Hyper-parameters that every optimizer has, checked in one place."""

import math

from fastopt._runtime.hyper import Ranges

_ranges = Ranges(
    lr="[0, inf)",
    grad_scale="(-inf, inf)",
    clip_value="(0, inf]",
    weight_decay="[0, inf)",
    l1="[0, inf)",
    decoupled_weight_decay="[0, inf)",
    average_decay="[0, 1]",
    maximize="bool",
)


def check_common(lr, grad_scale, maximize, clip_value, weight_decay, l1, decoupled_weight_decay, average_decay,
                 average):
    """Return, checked, the arguments that end every optimizer kernel's signature; `average`: is there one?"""
    if (average_decay is not None) != average:
        raise ValueError(
            "average_decay: expected a number in [0, 1] together with average, got "
            + ("average alone" if average else "average_decay alone")
        )
    if clip_value is None:
        clip_value = math.inf
    if average_decay is None:
        average_decay = 0.0
    _ranges(lr, grad_scale, clip_value, weight_decay, l1, decoupled_weight_decay, average_decay, maximize)
    return grad_scale, maximize, clip_value, weight_decay, l1, decoupled_weight_decay, average_decay, average


check_lr = Ranges(lr="[0, inf)")
"""For an optimizer that does not hand its learning rate to its kernel."""


def check_pair(name, pair):
    """Return the two members of a pair of numbers; their ranges are the caller's to check."""
    try:
        first, second = pair
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected two numbers, got {pair!r}") from None
    return first, second
