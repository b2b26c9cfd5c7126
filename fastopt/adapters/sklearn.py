"""scikit-learn's MLPClassifier and MLPRegressor, trained by an optimizer of fastopt: `use`."""

import copy
from typing import Any, TypeVar

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.neural_network import MLPClassifier, MLPRegressor

from fastopt._optimizer import Optimizer
from fastopt._typing import Float32Array, FloatArray

__all__ = ["use"]

Network = TypeVar("Network", bound=BaseEstimator)

_OF_THE_OPTIMIZER = frozenset({"learning_rate_init", "momentum", "nesterovs_momentum", "beta_1", "beta_2", "epsilon"})
"""Parameters of the estimator that only scikit-learn's own optimizers read."""
_LEAST_RATE = 1e-6
"""scikit-learn's: learning_rate="adaptive" stops training at it."""


def use(clf: Network, opt: Optimizer) -> Network:
    """Let an estimator train with an optimizer of fastopt, and return it.

    ::

        clf = fastopt.adapters.sklearn.use(MLPClassifier((256, 128)), fastopt.AdamW(lr=1e-3))
        clf.fit(X.astype(numpy.float32), y)

    Parameters
    ----------
    clf : MLPClassifier or MLPRegressor
        Its class becomes a subclass of what it was. Everything but the update stays scikit-learn's: batches, shuffling,
        alpha, early stopping, warm_start, learning_rate and power_t. Its learning_rate_init, momentum,
        nesterovs_momentum, beta_1, beta_2 and epsilon have no effect: the optimizer has its own.
    opt : Optimizer
        Of this estimator alone: its state is kept by the positions of the parameters. Its lr is what
        ``learning_rate="adaptive"`` divides by 5 and ``"invscaling"`` by a power of the number of examples seen,
        whatever the solver; the next fit starts with its value before, or with one that was assigned since.

    Returns
    -------
    MLPClassifier or MLPRegressor
        `clf` itself.

    Raises
    ------
    TypeError, ValueError
        `clf` is another estimator or has ``solver="lbfgs"``; `opt` is no optimizer.

    Notes
    -----
    scikit-learn's networks have parameters of X's type, float64 for lists and integers, and the optimizers update
    float32 arrays: fit and the first partial_fit raise a TypeError unless X is float32. Predictions take X of any type.

    As in scikit-learn, fit starts the optimizer anew, also with warm_start, and partial_fit continues with the state
    that it has. A clone, such as GridSearchCV makes, has an optimizer of its own, with the same hyper-parameters and no
    state; a pickled estimator keeps the optimizer's state. ``set_params`` refuses to change what has no effect.
    make_pipeline names a step by its class: fastoptmlpclassifier, unless `use` comes after it.

    The same steps as scikit-learn's: ``Adam(lr=learning_rate_init, eps_hat=True)`` for solver="adam",
    ``Momentum(lr=learning_rate_init, momentum=0.9, nesterov=True)`` for solver="sgd". Tested with scikit-learn 1.5 and
    1.9.
    """
    if not isinstance(opt, Optimizer):
        raise TypeError(f"opt: expected an optimizer of fastopt, such as fastopt.Adam(), got {type(opt).__name__}")
    if isinstance(clf, type):
        raise TypeError(f"clf: expected an estimator, got the class {clf.__name__}")
    kind = next((ours for theirs, ours in _CLASSES.items() if type(clf) in (theirs, ours)), None)
    if kind is None:
        raise TypeError(f"clf: expected an MLPClassifier or MLPRegressor, got {type(clf).__name__}")
    _require_stochastic(clf.solver)
    clf.__dict__.pop("_optimizer", None)
    clf.__class__ = kind
    clf._fastopt, clf._fastopt_lrs = opt, None
    return clf


def _require_stochastic(solver: str) -> None:
    if solver == "lbfgs":
        raise ValueError("clf: expected solver='adam' or 'sgd', which train step by step, got solver='lbfgs'")


class _Trained:
    """Mixed into an estimator's class: the optimizer that scikit-learn makes is not taken, and ours is."""

    _fastopt: Optimizer
    _fastopt_lrs: tuple[float, float] | None
    """The optimizer's lr before a rule of scikit-learn's changed it and since; None if none has."""

    @property
    def _optimizer(self) -> "_Steps":
        return _Steps(self)

    @_optimizer.setter
    def _optimizer(self, _theirs: Any) -> None:
        """fit makes a new optimizer; partial_fit does not, as there is one."""
        self._start_anew()

    def _start_anew(self) -> None:
        self._fastopt.load_state_dict({"step_count": 0, "steps": {}, "state": {}})
        self._fastopt.lr, self._fastopt_lrs = self._first_lr(), None

    def _first_lr(self) -> Any:
        """The learning rate that training started with, or that was assigned since."""
        lr = self._fastopt.lr
        return lr if self._fastopt_lrs is None or lr != self._fastopt_lrs[1] else self._fastopt_lrs[0]

    def _initialize(self, y: Any, layer_units: Any, dtype: Any) -> None:
        if dtype != np.float32:
            raise TypeError("X: expected float32, because scikit-learn's networks have parameters of X's type and "
                            f"fastopt updates float32, got {np.dtype(dtype)}: cast it once, X.astype(numpy.float32)")
        super()._initialize(y, layer_units, dtype)      # type: ignore[misc]

    def _fit_lbfgs(self, *_args: Any, **_kwargs: Any) -> None:
        _require_stochastic("lbfgs")

    def set_params(self, **params: Any) -> Any:
        """As scikit-learn's; other values of what has no effect are refused."""
        for name in _OF_THE_OPTIMIZER & params.keys():
            if params[name] != getattr(self, name):
                raise ValueError(f"{name}: expected it to be left out, because the network trains with fastopt's "
                                 f"{type(self._fastopt).__name__}, which has its own, got {params[name]!r}")
        _require_stochastic(params.get("solver", "adam"))
        return super().set_params(**params)             # type: ignore[misc]

    def __sklearn_clone__(self) -> Any:
        (kind,) = (theirs for theirs, ours in _CLASSES.items() if ours is type(self))
        again = use(clone(kind(**self.get_params(deep=False))), copy.copy(self._fastopt))  # type: ignore[attr-defined]
        again._fastopt_lrs = self._fastopt_lrs
        again._start_anew()
        return again


class _Steps:
    """What scikit-learn asks of an optimizer, on behalf of an estimator's own."""

    def __init__(self, clf: Any) -> None:
        self._clf = clf

    def update_params(self, params: list[Float32Array], grads: list[FloatArray]) -> None:
        self._clf._fastopt.update(params, grads)

    def iteration_ends(self, time_step: int) -> None:
        if self._clf.learning_rate == "invscaling":
            self._current_lr()
            self._set_lr(self._clf._first_lr() / (time_step + 1) ** self._clf.power_t)

    def trigger_stopping(self, msg: str, verbose: bool) -> bool:
        if self._clf.learning_rate != "adaptive":
            outcome = "Stopping."
        elif self._current_lr() <= _LEAST_RATE:
            outcome = "Learning rate too small. Stopping."
        else:
            self._set_lr(self._current_lr() / 5.0)
            outcome = f"Setting learning rate to {self._current_lr():f}"
        if verbose:
            print(f"{msg} {outcome}")
        return outcome.endswith("Stopping.")

    def _current_lr(self) -> float:
        lr = self._clf._fastopt.lr
        if callable(lr):
            raise ValueError("learning_rate: expected 'constant' with an optimizer whose lr is a function, got "
                             f"{self._clf.learning_rate!r}")
        return lr

    def _set_lr(self, lr: float) -> None:
        self._clf._fastopt_lrs = self._clf._first_lr(), lr
        self._clf._fastopt.lr = lr


class FastoptMLPClassifier(_Trained, MLPClassifier):    # type: ignore[misc]
    """An MLPClassifier after `use`."""


class FastoptMLPRegressor(_Trained, MLPRegressor):      # type: ignore[misc]
    """An MLPRegressor after `use`."""


_CLASSES: dict[type, type] = {MLPClassifier: FastoptMLPClassifier, MLPRegressor: FastoptMLPRegressor}
