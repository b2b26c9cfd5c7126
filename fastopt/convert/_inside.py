"""What the conversions read of an optimizer beyond its public API."""

from collections.abc import Hashable, Mapping
from typing import Any

from fastopt._models import listed
from fastopt._optimizer import Optimizer


def hyper_of(optimizer: Optimizer, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The hyper-parameters of the next step; `own` are those that differ for one group."""
    return optimizer._hyper_at(optimizer.step_count + 1, own or {})


def state_names(optimizer: Optimizer) -> tuple[str, ...]:
    """The state arrays that each parameter has with the optimizer's own hyper-parameters."""
    return tuple(filter(None, optimizer._states(optimizer._hyper)))


def has_overrides(optimizer: Optimizer) -> bool:
    """Whether parameters may have hyper-parameters, and with them state arrays, of their own."""
    return optimizer._per_param is not None


def decoupled_name(optimizer: Optimizer) -> str:
    """The hyper-parameter that is the optimizer's decoupled weight decay."""
    return "weight_decay" if optimizer._decay == "decoupled_weight_decay" else "decoupled_weight_decay"


def groups(optimizer: Optimizer, keys: list[Hashable]) -> list[tuple[dict[str, Any], list[int]]]:
    """Each distinct set of overrides that per_param returned, with the positions in `keys` of its parameters."""
    if not has_overrides(optimizer):
        return [({}, list(range(len(keys))))]
    if not keys or any(_own(optimizer, key) is None for key in keys):
        raise ValueError("optimizer: with per_param, expected one whose updates included all of keys since its state "
                         f"was loaded, got keys {listed(keys)}")
    members: list[tuple[dict[str, Any], list[int]]] = []
    for i, key in enumerate(keys):
        own = _own(optimizer, key) or {}
        for others, positions in members:
            if others == own:
                positions.append(i)
                break
        else:
            members.append((own, [i]))
    return members


def _own(optimizer: Optimizer, key: Hashable) -> dict[str, Any] | None:
    """The hyper-parameters that differ for a parameter that is bound."""
    bound = optimizer._progress.snapshot.bounds.get(key)
    if bound is None:
        return None
    return bound.groups[bound.members[bound.keys.index(key)]].own
