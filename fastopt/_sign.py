"""Lion, Rprop and Sophia: functions on one parameter and classes for a whole model."""

from collections.abc import Mapping
from typing import Any, Unpack

from fastopt._optimizer import Optimizer, apply
from fastopt._options import LR, Arguments, Checked, ModelOptionsWithoutDecay, OptionsWithoutDecay, check_own_decay
from fastopt._runtime import dispatch, updates
from fastopt._runtime.binding import Binding
from fastopt._runtime.hyper import Ranges, pair
from fastopt._snapshot import Snapshot
from fastopt._typing import Float32Array as Array
from fastopt._typing import Grads, Params
from fastopt._typing import LearningRate as Rate

_lion_ranges = Ranges(lr=LR, **{"betas[0]": "[0, 1)", "betas[1]": "[0, 1)"})
_rprop_ranges = Ranges(lr=LR, **{"etas[0]": "(0, 1)", "etas[1]": "(1, inf)", "step_sizes[0]": "[0, inf)",
                                 "step_sizes[1]": "[0, inf)"})
_sophia_ranges = Ranges(lr=LR, **{"betas[0]": "[0, 1)", "betas[1]": "[0, 1)"}, rho="[0, inf)", eps="(0, inf)")


def _lion_arguments(step: int, lr: float, betas: tuple[float, float], options: Checked) -> Arguments:
    beta1, beta2 = pair("betas", betas)
    _lion_ranges(lr, beta1, beta2)
    return step, lr, beta1, beta2, options


def lion(param: Array, grad: Array, m: Array, *, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99),
         weight_decay: float = 0.0, **options: Unpack[OptionsWithoutDecay]) -> None:
    """Update one parameter in place by Lion.

    With the gradient g (scaled, clipped and regularised by l1: `fastopt.Options`)::

        c = β₁ · m + (1 − β₁) · g
        m ← β₂ · m + (1 − β₂) · g
        p ← p · (1 − lr · weight_decay) − lr · sign(c)

    Parameters
    ----------
    param, m : float32 arrays of one shape
        The parameter and its momentum (zeros before the first step), C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    lr, betas : float, (float, float)
        Learning rate ≥ 0 (a third to a tenth of Adam's), β₁ and β₂ in [0, 1).
    weight_decay : float
        Decoupled, as in the paper.
    **options
        L1 regularisation, clipping and averaging: see `fastopt.Options`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Chen et al. 2023, arXiv:2302.06675. Same bits as ``fastopt.reference.lion``.
    """
    arguments = _lion_arguments(1, lr, betas, check_own_decay(lion, options, weight_decay, "decoupled_weight_decay"))
    apply(dispatch.active.sign.lion(*arguments), param, grad, options.get("average"), m)


class Lion(Optimizer):
    """Lion for a whole model: ``Lion(lr=1e-4).update(params, grads)``.

    Parameters
    ----------
    lr, betas, weight_decay
        As in `fastopt.lion`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **options
        Those of every optimizer class (see `fastopt.Optimizer`), except decoupled_weight_decay: weight_decay is
        decoupled here.

    Notes
    -----
    State: m. The formula is `fastopt.lion`'s.
    """

    _rule = ("sign.lion", _lion_arguments)
    _state_names = ("m",)
    _decay = "decoupled_weight_decay"
    _not_decoupled = "its weight_decay is decoupled"

    def __init__(self, lr: Rate = 1e-4, *, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0,
                 **options: Unpack[ModelOptionsWithoutDecay]) -> None:
        super().__init__(dict(lr=lr, betas=betas), dict(options, weight_decay=weight_decay))


def _rprop_arguments(step: int, lr: float, etas: tuple[float, float], step_sizes: tuple[float, float],
                     options: Checked) -> Arguments:
    eta_minus, eta_plus = pair("etas", etas)
    least, most = pair("step_sizes", step_sizes)
    _rprop_ranges(lr, eta_minus, eta_plus, least, most)
    if least > most:
        raise ValueError(f"step_sizes: expected the smaller one first, got {step_sizes!r}")
    return step, lr, eta_minus, eta_plus, least, most, options


def rprop(param: Array, grad: Array, prev: Array, step_size: Array, *, etas: tuple[float, float] = (0.5, 1.2),
          step_sizes: tuple[float, float] = (1e-6, 50.0), weight_decay: float = 0.0,
          **options: Unpack[OptionsWithoutDecay]) -> None:
    """Update one parameter in place by Rprop (for full batches).

    With the gradient g (scaled, clipped and regularised: `fastopt.Options`) and the previous one, g′::

        η ← η · η₊ where g · g′ > 0, η · η₋ where g · g′ < 0, kept within step_sizes
        g ← 0 where g · g′ < 0
        p ← p − η · sign(g)
        g′ ← g

    Parameters
    ----------
    param, prev, step_size : float32 arrays of one shape
        The parameter, the previous gradient (zeros before the first step) and each element's step size (the learning
        rate before the first step), C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    etas : (float, float)
        η₋ in (0, 1) and η₊ > 1.
    step_sizes : (float, float)
        Smallest and largest step size.
    weight_decay : float
        L2 regularisation, added to the gradient.
    **options
        L1 regularisation, clipping and averaging: see `fastopt.Options`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Riedmiller and Braun 1993 in torch.optim's form. Same bits as ``fastopt.reference.rprop``.
    """
    arguments = _rprop_arguments(1, 0.0, etas, step_sizes, check_own_decay(rprop, options, weight_decay))
    apply(dispatch.active.sign.rprop(*arguments), param, grad, options.get("average"), prev, step_size)


class Rprop(Optimizer):
    """Rprop for a whole model and full batches: ``Rprop(lr=0.01).update(params, grads)``.

    Parameters
    ----------
    lr : float
        Every element's step size before the first step.
    etas, step_sizes, weight_decay
        As in `fastopt.rprop`.
    **options
        Those of every optimizer class (see `fastopt.Optimizer`), except decoupled_weight_decay: no learning rate
        multiplies the step.

    Notes
    -----
    State: prev and step_size. The formula is `fastopt.rprop`'s.
    """

    _rule = ("sign.rprop", _rprop_arguments)
    _state_names = ("prev", "step_size")
    _not_decoupled = "no learning rate multiplies its step"

    def __init__(self, lr: Rate = 0.01, *, etas: tuple[float, float] = (0.5, 1.2),
                 step_sizes: tuple[float, float] = (1e-6, 50.0), weight_decay: float = 0.0,
                 **options: Unpack[ModelOptionsWithoutDecay]) -> None:
        super().__init__(dict(lr=lr, etas=etas, step_sizes=step_sizes), dict(options, weight_decay=weight_decay))

    @classmethod
    def _initial(cls, name: str, hyper: Mapping[str, Any]) -> float:
        return hyper["lr"] if name == "step_size" else 0.0


def _sophia_arguments(step: int, lr: float, betas: tuple[float, float], rho: float, eps: float, options: Checked,
                      estimated: bool = False) -> Arguments:
    beta1, beta2 = pair("betas", betas)
    _sophia_ranges(lr, beta1, beta2, rho, eps)
    return step, lr, beta1, beta2, rho, eps, estimated, options


def sophia(param: Array, grad: Array, m: Array, h: Array, hessian: Array | None = None, *, lr: float = 1e-4,
           betas: tuple[float, float] = (0.965, 0.99), rho: float = 0.04, eps: float = 1e-12, weight_decay: float = 0.1,
           **options: Unpack[OptionsWithoutDecay]) -> None:
    """Update one parameter in place by Sophia: momentum over the Hessian's diagonal, clipped elementwise.

    With the gradient g (scaled, clipped and regularised by l1: `fastopt.Options`)::

        m ← β₁ · m + (1 − β₁) · g
        h ← β₂ · h + (1 − β₂) · hessian      if hessian is given
        p ← p · (1 − lr · weight_decay) − lr · min(max(m / max(rho · h, eps), −1), 1)

    Parameters
    ----------
    param, m, h : float32 arrays of one shape
        The parameter, its momentum and the average of the Hessian's diagonal (zeros before the first step),
        C-contiguous, updated in place.
    grad : float32 array of the same shape
        Read only.
    hessian : float32 array of the same shape, optional
        An estimate of the Hessian's diagonal at the parameter, at the steps that have one (every tenth in the paper);
        read only. Of a loss averaged over B examples Sophia-G's (Gauss–Newton–Bartlett) is B · ĝ², where ĝ is the
        gradient for labels sampled from the model's own predictions. It is not scaled by grad_scale or clipped.
    lr, betas : float, (float, float)
        Learning rate ≥ 0, β₁ and β₂ in [0, 1).
    rho : float
        ≥ 0; the larger, the fewer elements are clipped (the paper's γ).
    eps : float
        > 0.
    weight_decay : float
        Decoupled, as in the paper.
    **options
        L1 regularisation, clipping and averaging: see `fastopt.Options`.

    Raises
    ------
    TypeError, ValueError
        As in `fastopt.adam`; nothing has been written then.

    Notes
    -----
    Liu et al. 2023, arXiv:2305.14342, algorithm 3. The defaults and the name rho are those of the authors' first code
    (github.com/Liuhong99/Sophia), which multiplies h by B at the step instead of the estimate and adds 1e-15 to
    rho · B · h. While h is 0 or negative the step is lr · sign(m) (for ``|m|`` ≥ eps). Same bits as
    ``fastopt.reference.sophia``.
    """
    checked = check_own_decay(sophia, options, weight_decay, "decoupled_weight_decay")
    arguments = _sophia_arguments(1, lr, betas, rho, eps, checked, hessian is not None)
    apply(dispatch.active.sign.sophia(*arguments), param, grad, options.get("average"), m, h, hessian)


class Sophia(Optimizer):
    """Sophia for a whole model: ``Sophia(lr=1e-4).update(params, grads)``.

    At the steps that have an estimate of the Hessian's diagonal, ``update_hessian(params, hessians)`` comes first.

    Parameters
    ----------
    lr, betas, rho, eps, weight_decay
        As in `fastopt.sophia`; lr may be a function of the step (1-based), see `fastopt.schedules`.
    **options
        Those of every optimizer class (see `fastopt.Optimizer`), except decoupled_weight_decay: weight_decay is
        decoupled here.

    Notes
    -----
    State: m and h. The formula is `fastopt.sophia`'s.
    """

    _rule = ("sign.sophia", _sophia_arguments)
    _state_names = ("m", "h")
    _decay = "decoupled_weight_decay"
    _not_decoupled = "its weight_decay is decoupled"

    def __init__(self, lr: Rate = 1e-4, *, betas: tuple[float, float] = (0.965, 0.99), rho: float = 0.04,
                 eps: float = 1e-12, weight_decay: float = 0.1, **options: Unpack[ModelOptionsWithoutDecay]) -> None:
        super().__init__(dict(lr=lr, betas=betas, rho=rho, eps=eps), dict(options, weight_decay=weight_decay))

    def update_hessian(self, params: Params, hessians: Grads) -> None:
        """Take an estimate of the Hessian's diagonal into its average h, in one native call; count no step.

        Parameters
        ----------
        params : dict, sequence or array
            As in `update`. They are not changed.
        hessians : dict, sequence or array
            One estimate for each parameter, as `hessian` of `fastopt.sophia`, in the same containers; never written. h
            stays as it is where it is None. They are neither clipped nor looked at by skip_nonfinite.

        Raises
        ------
        TypeError, ValueError
            An array that is not as described. Nothing has changed then.
        """
        self._progress.run("update_hessian", self._with_bound, params, hessians, "hessians", self._average_hessian)

    def _average_hessian(self, snapshot: Snapshot, bound: Binding, ordered: list[Any], step: int,
                         lr: float) -> bool | None:
        made = updates.rules_of(bound, ordered, step, lr, 1.0)     # checks what per_param returned
        if made is None:
            return None
        rules = []
        for group, rule in zip(bound.groups, made, strict=True):
            _, beta2 = pair("betas", group.own.get("betas", self._hyper["betas"]))
            rules.append(rule and dispatch.active.sign.sophia_hessian(beta2))
        return bound.apply(rules, ordered, self._progress, snapshot) or None
