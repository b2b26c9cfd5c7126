"""The base of the optimizer classes: hyper-parameters, state, and one native call for a whole model."""

import math
import reprlib
from collections.abc import Mapping
from typing import Any, ClassVar

from fastopt._bound_models import BoundModels
from fastopt._makers import step_ranges
from fastopt._models import checked_state, read_only
from fastopt._options import (
    DEFAULTS,
    MODEL_DEFAULTS,
    ModelOptions,
    UpdateInfo,
    call_text,
    grad_scale_range,
    refuse_unknown,
)
from fastopt._runtime import dispatch, driver, updates
from fastopt._runtime.binding import Binding
from fastopt._runtime.hyper import Ranges, number
from fastopt._runtime.progress import Progress
from fastopt._runtime.updates import lr_at
from fastopt._snapshot import Snapshot, at_rest, taken_of
from fastopt._typing import Float32Array as Array
from fastopt._typing import FloatArray, Grads, Params, State
from fastopt._typing import LearningRate as Rate

_new_tuple = tuple.__new__
_switch_ranges = Ranges(average_warmup="bool", skip_nonfinite="bool")


apply = driver.apply        # of a kernel's rule to one parameter: every optimizer function ends here


def _require_hashable(key: Any) -> None:
    try:
        hash(key)
    except TypeError:
        raise TypeError(f"key: expected a hashable key, got {type(key).__name__}") from None


def _clipped(grad_scale: float, norm: float, limit: float) -> float:
    """The grad_scale with which gradients, whose norm with this grad_scale is `norm`, are clipped by it."""
    return grad_scale * (limit / (norm + 1e-6)) if limit < norm + 1e-6 else grad_scale


class Optimizer(BoundModels):
    """Base of the optimizer classes; the keyword arguments below are those that all classes share.

    Parameters
    ----------
    own : dict
        The hyper-parameters that the class defines, by name. Only subclasses pass it.
    options : dict
        The keyword arguments that follow. Only subclasses pass it as a dict.
    weight_decay, decoupled_weight_decay, l1, maximize, clip_value
        As in `fastopt.Options`.
    clip_norm : float, optional
        Largest Euclidean norm of all gradients together, > 0: where clip_norm / (norm + 1e-6) is below 1, the
        gradients are multiplied by it, before clip_value applies. It costs one more pass over the gradients; the norm
        is a sum in double precision, in the order in which the arrays were first given. A norm of NaN clips nothing.
    clip_norm_per_param : float, optional
        The same for each gradient by its own norm, in place of clip_norm. Keras' clipnorm, thinc's grad_clip and
        numpy-ml's clip_norm do so, without the 1e-6.
    skip_nonfinite : bool
        Change nothing, the step count included, when a gradient holds an inf or NaN.
    average_decay : float, optional
        Keep an exponential moving average of every parameter in `averages`, updated after each step as in
        `fastopt.Options`; it starts as the parameter before its first step.
    average_warmup : bool
        At a parameter's own step t its average's decay is min(average_decay, (1 + t) / (10 + t)), so that the average
        soon forgets the initial parameter: the form of TensorFlow's ExponentialMovingAverage with num_updates = t, and
        of thinc, whose averages start as 0. Needs average_decay.
    per_param : callable, optional
        ``per_param(key, array)`` returns a dict of the hyper-parameters that differ for that parameter ({} for
        none). Weight decay on matrices only: ``lambda key, p: {} if p.ndim > 1 else {"weight_decay": 0.0}``. It is
        called when arrays are bound, not at every step.

    Attributes
    ----------
    lr : float or callable
        The learning rate of all parameters for which `per_param` returns no other. It can be assigned; a callable
        gets the step's number (1-based).
    step_count : int
        Steps taken.
    steps : dict
        For each key the number of steps that its parameter took part in.
    state : dict
        The state arrays by key and name. An array can be written to; the entries are read-only, because steps use the
        arrays that are bound: `load_state_dict` replaces them.

    Notes
    -----
    One call at a time: while `update`, `update_one`, `state_dict`, `load_state_dict` or a copy (by copy or pickle)
    runs, another of them from a second thread raises a RuntimeError and changes nothing; so does one that changes the
    optimizer from within a schedule or `per_param`. In a process that was forked by one thread while another updated,
    every call does, until `load_state_dict` restores the optimizer.
    """

    _not_decoupled: ClassVar[str] = ""
    """Why the class takes no decoupled_weight_decay; empty if it takes it."""

    def __init__(self, own: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        if self._not_decoupled and "decoupled_weight_decay" in options:
            raise TypeError(f"{type(self).__name__} takes no decoupled_weight_decay ({self._not_decoupled}), got "
                            f"{reprlib.repr(options['decoupled_weight_decay'])}")
        if not options.keys() <= ModelOptions.__annotations__.keys():
            refuse_unknown(type(self), options)
        per_param = options.get("per_param")
        if per_param is not None and not callable(per_param):
            raise TypeError(f"per_param: expected a function (key, array) -> dict, got {type(per_param).__name__}")
        left_out = {*own, *(["decoupled_weight_decay"] if self._not_decoupled else [])}
        self._shared = tuple(name for name in DEFAULTS if name in ModelOptions.__annotations__.keys() - left_out)
        self._hyper = {**own, **{name: options.get(name, DEFAULTS[name]) for name in self._shared}}
        given = {**MODEL_DEFAULTS, **options}
        self._clip_norm, self._clip_norm_per_param = (
            None if given[name] is None else number(given[name], name, "(0, inf]")
            for name in ("clip_norm", "clip_norm_per_param"))
        if self._clip_norm is not None and self._clip_norm_per_param is not None:
            raise ValueError("clip_norm_per_param: expected None together with clip_norm, got "
                             f"{self._clip_norm_per_param}")
        self._skip_nonfinite, self._average_warmup = given["skip_nonfinite"], given["average_warmup"]
        _switch_ranges(self._average_warmup, self._skip_nonfinite)
        if self._average_warmup and self._hyper["average_decay"] is None:
            raise ValueError("average_warmup: expected average_decay with it, got None")
        self._measures = (self._clip_norm is not None or self._clip_norm_per_param is not None
                          or bool(self._skip_nonfinite))
        self._per_param = per_param
        self._replaces = per_param is None      # which looks at every array that is bound
        self._progress = Progress(0, Snapshot({}, {}, {}, read_only({})))
        self._plain = None
        self._check(1, self._hyper["lr"])

    def __repr__(self) -> str:
        return call_text(type(self), {
            **self._hyper, "average_warmup": self._average_warmup, "clip_norm": self._clip_norm,
            "clip_norm_per_param": self._clip_norm_per_param, "skip_nonfinite": self._skip_nonfinite,
            "per_param": self._per_param})

    @property
    def step_count(self) -> int:
        return self._progress.step_count

    @property
    def lr(self) -> Rate:
        return self._hyper["lr"]

    @lr.setter
    def lr(self, lr: Rate) -> None:
        self._check(self.step_count + 1, lr)
        self._hyper["lr"] = lr

    @property
    def state(self) -> State:
        return self._progress.snapshot.state

    @property
    def steps(self) -> dict[Any, int]:
        """For each key the number of its own steps: a parameter that joins later starts with its own step 1."""
        snapshot, counts = updates.counted(self._progress)
        steps = {key: own for key, (own, _) in snapshot.taken.items()}
        for keys, own in counts:
            steps.update(zip(keys, own, strict=True))
        return steps

    @property
    def averages(self) -> dict[Any, Array]:
        """The averaged parameters by key; empty before the first step and without average_decay."""
        return {key: state["average"] for key, state in self.state.items() if "average" in state}

    def update(self, params: Params, grads: Grads, *, grad_scale: float = 1.0) -> UpdateInfo:
        """Take one step: update every parameter in place, in one native call.

        Parameters
        ----------
        params : dict, sequence or array
            float32 C-contiguous arrays. Dicts, lists and tuples may hold further ones to any depth up to 64. State is
            kept under the dict's keys or the positions; under the path of an array in an inner container, a tuple of
            them: ``("layer1", "W")``, ``(0, 1)``. They may be other parameters than in the last step: each has its own
            step count, on which bias corrections depend, as in PyTorch; a schedule gets the optimizer's.
        grads : dict, sequence or array
            One gradient for each parameter, in the same containers under the same keys or in the same order; never
            written. A gradient of another float type or memory layout is converted into a temporary array; a number
            beyond float32's range becomes inf there, with NumPy's warning, and `skip_nonfinite` skips the step. Where
            it is None, for a parameter or a whole inner container, nothing changes: not the parameter, its state, its
            average or its own step count. The step counts.
        grad_scale : float
            Multiplies every gradient first (1 / loss scale, 1 / number of accumulated batches).

        Returns
        -------
        UpdateInfo
            (step, lr, grad_norm, skipped).

        Raises
        ------
        TypeError, ValueError
            An array or number that is not as described. Nothing has changed then, neither a parameter nor the step.
        RuntimeError
            Another call of this optimizer runs; nothing has changed.

        Notes
        -----
        Arrays are bound when they are given for the first time, which takes some 5 µs for each; and again when others
        are given (as fast again, or, without per_param and for the same keys and shapes, in 0.5 µs), or one has been
        resized, reshaped or retyped in place, which no other thread may do during the call. Models stay bound, so that
        several, or one in parts, can be updated in turn; another set of keys takes the place of those that share a key
        with it. The optimizer holds a reference to the arrays last given under each key until `load_state_dict`.
        """
        if not self._measures:
            taken = updates.update(self._progress, params, grads, self._hyper["lr"], grad_scale, self._replaces)
            if taken is not None:
                return _new_tuple(UpdateInfo, taken)    # as UpdateInfo(…), in half the time
        return self._progress.run("update", self._with_bound, params, grads, "grads", self._step, grad_scale)

    def update_one(self, key: Any, param: Array, grad: FloatArray | None, *, grad_scale: float = 1.0) -> UpdateInfo:
        """Update one parameter in place, for programs that go through a model parameter by parameter.

        One pass over the model counts as one step. A parameter that took part in the last step begins the next one; any
        other, a new one too, joins the last step (or the first, before which there is none).

        Parameters
        ----------
        key : hashable
            State is kept under it. The path of an array in nested containers (see `update`) is the key of that array.
        param : float32 array
            C-contiguous. It is bound, as in `update`.
        grad : array or None
            As in `update`. With None nothing changes except the optimizer's step count: the parameter has taken part.
        grad_scale : float
            Multiplies the gradient first.

        Returns
        -------
        UpdateInfo
            As from `update`; the step is the one that the parameter took part in, which is also what a schedule gets
            and what `step_count` becomes.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As in `update`; nothing has changed then.

        Notes
        -----
        clip_norm and skip_nonfinite look at this gradient only. After `load_state_dict` every parameter that has state
        counts as having taken part in the last step. A parameter that is bound together with others by `update` is
        bound anew by `update_one`, and the other way round: the two are for different programs.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> params = {"W": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float32)}
        >>> opt = fastopt.SGD(lr=0.5)
        >>> [opt.update_one(key, p, np.ones_like(p)).step for _ in range(2) for key, p in params.items()]
        [1, 1, 2, 2]
        """
        if not self._measures:
            try:
                taken = updates.update_one(self._progress, key, param, grad, self._hyper["lr"], grad_scale,
                                           self._replaces)
            except TypeError:
                _require_hashable(key)
                raise
            if taken is not None:
                return _new_tuple(UpdateInfo, taken)
        return self._progress.run("update_one", self._update_one, key, param, grad, grad_scale)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: copies of the state, and nothing bound: the next update binds the arrays again."""
        saved = self._progress.read("copy", self._state_dict)
        progress = saved["step_count"], saved["steps"], saved["state"]
        return {**self.__dict__, "_hyper": dict(self._hyper), "_plain": None, "_progress": progress}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _progress=Progress(*at_rest(*state["_progress"])))

    def state_dict(self) -> dict[str, Any]:
        """Return {"step_count": int, "steps": {key: int}, "state": {key: {name: array}}}; the arrays are copies.

        It does not hold the hyper-parameters, which are the constructor's. `fastopt.save_state` writes it to a file.
        """
        return self._progress.read("state_dict", self._state_dict)

    def _state_dict(self) -> dict[str, Any]:
        state = {key: {name: array.copy() for name, array in entry.items()} for key, entry in self.state.items()}
        return {"step_count": self.step_count, "steps": self.steps, "state": state}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned. The arrays are copied; the parameters are the caller's to restore.

        Raises
        ------
        TypeError, ValueError
            Anything but such a dict with this optimizer's state arrays. Nothing has changed then.
        """
        self._progress.load("load_state_dict", self._loaded, state_dict)

    def _loaded(self, state_dict: Mapping[str, Any]) -> tuple[int, Snapshot]:
        """The step count and the snapshot out of a state dict."""
        needed = () if self._per_param else tuple(filter(None, self._states(self._hyper)))
        count, steps, state = checked_state(state_dict, needed, (*self._state_names, "average"))
        return at_rest(count, steps, state)

    def _update_one(self, key: Any, param: Array, grad: Any, grad_scale: float) -> UpdateInfo:
        snapshot, step = self._progress.snapshot, self._progress.step_count
        _require_hashable(key)
        bound = snapshot.bounds.get(key)
        if bound is not None and len(bound.keys) == 1:
            step += bound.last == step
        else:
            step += taken_of(snapshot, [key]).get(key, (0, 0))[1] == step
            bound = None
        lr, ordered = lr_at(self._hyper["lr"], step), [grad]
        if bound is None or not bound.takes([param], self._replaces):
            snapshot, bound = self._bind(snapshot, [key], [param], ordered, step, lr, "grad")
        bound.source = "grad"
        result = self._step(snapshot, bound, ordered, step, lr, grad_scale)
        return result or self._act_again(snapshot, bound, ordered, step, lr, self._step, grad_scale)

    def _step(self, snapshot: Snapshot, bound: Binding, ordered: list[Any], step: int, lr: float,
              grad_scale: float) -> UpdateInfo | None:
        """Take a step, or return None if the model is to be bound anew."""
        norm = scales = None
        if self._measures:
            grad_scale_range(grad_scale)
            grad_scale = float(grad_scale)      # a NumPy scalar would give products of its own precision
            each: Any = None if self._clip_norm_per_param is None else []
            squares = bound.measure(dispatch.active.layerwise.squares(), ordered, each)
            if squares is None:
                return None
            norm = math.sqrt(squares) * abs(grad_scale)     # not finite if a gradient is not
            if self._skip_nonfinite and not math.isfinite(norm):
                return UpdateInfo(self._progress.step_count, lr, norm, True)
            if self._clip_norm_per_param is not None:
                norms = [math.sqrt(squares) * abs(grad_scale) for squares in each]
                scales = [_clipped(grad_scale, own, self._clip_norm_per_param) for own in norms]
            elif self._clip_norm is not None:
                grad_scale = _clipped(grad_scale, norm, self._clip_norm)
        rules = updates.rules_of(bound, ordered, step, lr, grad_scale, scales)
        if rules is None:
            return None
        if not any(rules):                      # none of which checks the numbers
            grad_scale_range(grad_scale)
            step_ranges(step, lr)
        if not bound.apply(rules, ordered, self._progress, snapshot, step):
            return None
        return _new_tuple(UpdateInfo, (step, lr, norm, False))      # as UpdateInfo(…), in half the time

    def _check(self, step: int, lr: Rate) -> None:
        """Raise an error for hyper-parameters that are not valid at this step, with this learning rate."""
        self._maker({})(step, step, lr_at(lr, step), 1.0)
