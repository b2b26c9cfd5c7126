"""What an optimizer has bound and counted, as one value."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fastopt._models import read_only
from fastopt._runtime.binding import Binding
from fastopt._typing import State


class Group(NamedTuple):
    """Parameters that share one rule: they have taken as many steps, and have gradients at the same steps."""

    own: dict[str, Any]
    """The hyper-parameters that `per_param` returned for them."""
    steps: int
    """How many steps each had taken when it was bound."""
    rests: bool
    """Whether they have no state, because none has had a gradient."""
    pattern: tuple[int | None, bool]
    """The group in the model that was bound before, and whether they had gradients then."""


class Snapshot(NamedTuple):
    """What changes as a whole, and together with the step count: see `Progress`. Each `Binding` counts its steps."""

    bounds: dict[Any, Binding]
    """The models that are bound, by each of their keys; those of one model follow each other."""
    heads: dict[Any, Binding]
    """Those with nested containers, by the keys of the outermost one: the last that has the key."""
    taken: dict[Any, tuple[int, int]]
    """For keys that are not bound, and perhaps for others: the steps of the parameter, and the last step of the
    optimizer that it took part in."""
    state: State


def at_rest(count: int, steps: Mapping[Any, int], state: State) -> tuple[int, Snapshot]:
    """A step count and a snapshot with nothing bound; every parameter counts as having taken part in the last step."""
    return count, Snapshot({}, {}, {key: (own, count) for key, own in steps.items()}, read_only(state))


def taken_of(snapshot: Snapshot, keys: list[Any]) -> dict[Any, tuple[int, int]]:
    """`snapshot.taken` with what the models that have one of the keys have counted."""
    bounds = {id(bound): bound for bound in map(snapshot.bounds.get, keys) if bound is not None}
    if not bounds:
        return snapshot.taken
    taken = {**snapshot.taken}
    for bound in bounds.values():
        taken.update(zip(bound.keys, bound.taken(), strict=True))
    return taken
