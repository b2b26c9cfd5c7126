"""What an optimizer has bound and counted, as one value."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fastopt._models import ReadOnly, read_only
from fastopt._runtime.binding import Binding
from fastopt._runtime.paths import Path
from fastopt._typing import State


def _hash(value: Any) -> int:
    """The same for values that are equal, among which lists of numbers may be."""
    try:
        return hash(tuple(value) if isinstance(value, list) else value)
    except TypeError:
        return 0


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

    def __hash__(self) -> int:
        own = frozenset((name, _hash(value)) for name, value in self.own.items()) if self.own else None
        return hash((own, self.steps, self.rests, self.pattern))


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


def with_model(snapshot: Snapshot, bound: Binding, taken: dict[Any, tuple[int, int]], new: State) -> Snapshot:
    """`snapshot` with a model in place of those that share a key with it, with `taken`, and with `new` state."""
    bounds, heads = {**snapshot.bounds}, {**snapshot.heads}     # loops over all keys would take ten times as long
    for key in bound.keys:
        dropped = bounds.get(key)
        for other in () if dropped is None else dropped.keys:
            del bounds[other]
            if type(other) is Path and heads.get(other[0]) is dropped:
                del heads[other[0]]
    bounds.update(dict.fromkeys(bound.keys, bound))
    heads.update((key[0], bound) for key in bound.keys if type(key) is Path)
    state = ReadOnly({**snapshot.state, **read_only(new)}) if new else snapshot.state
    return Snapshot(bounds, heads, taken, state)
