"""The models that an optimizer has bound: each parameter with its hyper-parameters, its state and its rule."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from fastopt._makers import maker_for
from fastopt._models import listed, paired
from fastopt._options import Arguments
from fastopt._runtime import updates
from fastopt._runtime.arrays import Array as Validated
from fastopt._runtime.binding import Binding
from fastopt._runtime.paths import named, params_beside
from fastopt._runtime.progress import Progress
from fastopt._runtime.updates import Maker, lr_at
from fastopt._snapshot import Group, Snapshot, taken_of, with_model
from fastopt._typing import Float32Array as Array
from fastopt._typing import Grads, Params


class BoundModels:
    """Base of `fastopt.Optimizer`, whose constructor sets what is declared here."""

    _rule: ClassVar[tuple[str, Callable[..., Arguments]]]
    """The name in `dispatch.active` of the kernel that makes the rule, and the function that makes its arguments from
    (step, lr, the class's own hyper-parameters, options), of which the shared ones are checked."""
    _varies: ClassVar[bool] = False
    """Whether the own numbers among these arguments depend on the step."""
    _state_names: ClassVar[tuple[str, ...]] = ()
    """Every state array that the optimizer can have, in the rule's order."""
    _decay: ClassVar[str] = "weight_decay"
    """The shared option that the class's weight_decay sets."""

    _hyper: dict[str, Any]
    """The hyper-parameters of all parameters for which per_param returns no others."""
    _shared: tuple[str, ...]
    """The names of those among them that `Options` has."""
    _per_param: Callable[..., Any] | None
    _average_warmup: bool
    _clip_norm_per_param: float | None
    _replaces: bool
    """Whether other arrays may take the place of those bound without a new binding."""
    _progress: Progress
    _plain: Maker | None
    """The maker of all rules of parameters without hyper-parameters of their own."""

    def _with_bound(self, params: Params, grads: Grads, source: str, act: Callable[..., Any], *arguments: Any) -> Any:
        """Return act(snapshot, model, gradients in its order, step, lr, *arguments) for these arrays, bound."""
        progress = self._progress
        snapshot, step = progress.snapshot, progress.step_count + 1
        found = updates.lookup(snapshot, params, grads, self._replaces)
        if found is not None:
            bound, ordered = found
        else:
            keys, arrays, ordered = paired(params, grads, source)
        lr = self._hyper["lr"]
        if type(lr) is not float:       # a schedule is called once per step
            lr = lr_at(lr, step)
        if found is None:
            bound = snapshot.bounds.get(keys[0]) if keys else None
            if bound is None or keys != bound.keys or not bound.takes(arrays, self._replaces):
                snapshot, bound = self._bind(snapshot, keys, arrays, ordered, step, lr, source)
        bound.source = source
        result = act(snapshot, bound, ordered, step, lr, *arguments)
        return result if result is not None else self._act_again(snapshot, bound, ordered, step, lr, act, *arguments)

    def _act_again(self, snapshot: Snapshot, bound: Binding, ordered: list[Any], step: int, lr: float,
                   act: Callable[..., Any], *arguments: Any) -> Any:
        """What `act` returns once the model is bound anew: an array has changed in place, or other gradients are None
        than before."""
        snapshot, bound = self._bind(snapshot, bound.keys, bound.params_bound(), ordered, step, lr, bound.source, bound)
        result = act(snapshot, bound, ordered, step, lr, *arguments)
        if result is None:
            raise RuntimeError("params: expected arrays that keep their memory, type and shape during the call, got "
                               "some that per_param, a schedule or another thread changes")
        return result

    def _bind(self, snapshot: Snapshot, keys: list[Any], params: list[Array], grads: list[Any], step: int, lr: float,
              source: str, before: Binding | None = None) -> tuple[Snapshot, Binding]:
        """Bind these arrays, with the state they have or new state. The optimizer itself is not changed.

        `source` is what the user calls the gradients; `before` is the same model as it was bound, whose groups are
        divided further.
        """
        for key, param in zip(keys, params, strict=True):
            Validated(param, named(params_beside(source), key), writable=True)  # before it reaches per_param and NumPy
        alone = self._clip_norm_per_param is not None           # each parameter has a scale of its own
        streams = ("average", *self._state_names)
        taken = taken_of(snapshot, keys)
        counts = [taken.get(key, (0, 0)) for key in keys]
        numbers: dict[Group, int] = {}
        groups: list[Group] = []
        members, arrays, new = [], [], {}
        for i, (key, param, grad, (own_steps, _)) in enumerate(zip(keys, params, grads, counts, strict=True)):
            kept = snapshot.state.get(key)
            rests = grad is None and not own_steps and not kept
            group = Group(self._own(key, param), own_steps, rests, (before and before.members[i], grad is not None))
            members.append(len(groups) if alone else numbers.setdefault(group, len(groups)))
            if members[i] == len(groups):
                groups.append(group)
            entry = self._state_of(param, group, kept, step, lr)
            if entry is not kept:
                new[key] = entry
            arrays.append((param, None, *map(entry.get, streams)))
        bound = Binding(keys, arrays, self._state_names, members, taken=counts,
                        makers=[self._maker_of(group) for group in groups], groups=groups, source=source)
        return with_model(snapshot, bound, taken, new), bound

    def _state_of(self, param: Array, group: Group, kept: dict[str, Array] | None, step: int,
                  lr: float) -> dict[str, Array]:
        """The state of one parameter: `kept` if it has the arrays that are needed, otherwise a dict of those among them
        and of new ones."""
        hyper = self._hyper_at(step, group.own, lr)
        names = [] if group.rests else [name for name in self._states(hyper) if name]
        if not group.rests and hyper["average_decay"] is not None:
            names.append("average")
        if kept is not None and kept.keys() == set(names):
            return kept
        return {name: kept[name] if kept and name in kept else self._new_state(name, param, hyper) for name in names}

    def _new_state(self, name: str, param: Array, hyper: Mapping[str, Any]) -> Array:
        if name == "average":
            return np.array(param, np.float32)
        return np.full(np.shape(param), self._initial(name, hyper), np.float32)

    def _own(self, key: Any, param: Array) -> dict[str, Any]:
        """The hyper-parameters that differ for this parameter."""
        if self._per_param is None:
            return {}
        own = self._per_param(key, param)
        if not isinstance(own, Mapping):
            raise TypeError(f"per_param({key!r}, …): expected a dict, got {type(own).__name__}")
        allowed = [name for name in self._hyper if name != "average_decay"]
        unknown = [name for name in own if name not in allowed]
        if unknown:
            raise ValueError(f"per_param({key!r}, …): expected hyper-parameters among {', '.join(allowed)}, "
                             f"got {listed(unknown)}")
        return {name: value.tolist() if isinstance(value, np.ndarray) and value.ndim else value     # can be compared
                for name, value in own.items()}

    def _hyper_at(self, step: int, own: Mapping[str, Any], lr: float | None = None) -> dict[str, Any]:
        """The hyper-parameters of one group at one step; `lr` is the optimizer's learning rate there, if known."""
        hyper = {**self._hyper, **own}
        hyper["lr"] = lr_at(hyper["lr"], step) if lr is None or "lr" in own else lr
        return hyper

    def _maker_of(self, group: Group) -> Maker | None:
        """The group's maker, which all without hyper-parameters of their own share; None if the group rests."""
        if group.rests:
            return None
        if group.own:
            return self._maker(group.own)
        if self._plain is None:
            self._plain = self._maker({})
        return self._plain

    def _maker(self, own: Mapping[str, Any]) -> Maker:
        return maker_for(type(self), self._hyper, own, self._shared, bool(self._average_warmup))

    @classmethod
    def _states(cls, hyper: Mapping[str, Any]) -> tuple[str | None, ...]:
        """Names of the state arrays that these hyper-parameters need, in the rule's order; None for one not needed."""
        return cls._state_names

    @staticmethod
    def _initial(name: str, hyper: Mapping[str, Any]) -> float:
        """The value of every element of a state array before the first step."""
        return 0.0
