"""scikit-learn's networks trained by fastopt: the losses and weights of scikit-learn's own optimizers."""

import copy
import pickle
import warnings

import numpy as np
import pytest
from helpers import assert_same_bits

import fastopt

sklearn = pytest.importorskip("sklearn")
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: E402

from fastopt.adapters.sklearn import use  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

OPTIMIZERS = {
    "adam": (dict(solver="adam"), lambda: fastopt.Adam(lr=1e-3, eps_hat=True)),
    "adam with other arguments": (
        dict(solver="adam", learning_rate_init=0.01, beta_1=0.8, beta_2=0.99, epsilon=1e-6),
        lambda: fastopt.Adam(lr=0.01, betas=(0.8, 0.99), eps=1e-6, eps_hat=True)),
    "sgd": (dict(solver="sgd", learning_rate_init=0.1, momentum=0.0, nesterovs_momentum=False),
            lambda: fastopt.SGD(lr=0.1)),
    "momentum": (dict(solver="sgd", learning_rate_init=0.05, momentum=0.8, nesterovs_momentum=False),
                 lambda: fastopt.Momentum(lr=0.05, momentum=0.8)),
    "Nesterov": (dict(solver="sgd", learning_rate_init=0.05),
                 lambda: fastopt.Momentum(lr=0.05, momentum=0.9, nesterov=True)),
}
"""Arguments of scikit-learn's and the optimizer that takes the same steps."""
NETWORKS = {"classifier": MLPClassifier, "regressor": MLPRegressor}


def data(kind, n=120):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((n, 8)).astype(np.float32)
    y = (X @ rng.standard_normal((8, 3))).argmax(1)
    return X, y if kind == "classifier" else (X[:, 0] + np.sin(X[:, 1])).astype(np.float32)


def pair(kind, name, **arguments):
    """The estimator with scikit-learn's own optimizer and the one with ours."""
    theirs, opt = OPTIMIZERS[name]
    arguments = {"hidden_layer_sizes": (12, 7), "batch_size": 32, "random_state": 0, "max_iter": 15, **arguments}
    return NETWORKS[kind](**theirs, **arguments), use(NETWORKS[kind](**theirs, **arguments), opt())


def assert_same_training(own, ours, rtol=2e-6):
    assert ours.n_iter_ == own.n_iter_
    np.testing.assert_allclose(ours.loss_curve_, own.loss_curve_, rtol=rtol)
    for theirs, array in zip(own.coefs_ + own.intercepts_, ours.coefs_ + ours.intercepts_, strict=True):
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, theirs, rtol=0, atol=rtol * np.abs(theirs).max())


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_fit(kind, name, early_stopping):
    X, y = data(kind)
    own, ours = pair(kind, name, early_stopping=early_stopping)
    own.fit(X, y)
    assert ours.fit(X, y) is ours
    assert_same_training(own, ours)
    assert ours._fastopt.step_count == ours.n_iter_ * -(-(108 if early_stopping else 120) // 32)
    if early_stopping:
        np.testing.assert_allclose(ours.validation_scores_, own.validation_scores_, rtol=1e-5)
    first = [array.copy() for array in ours.coefs_]
    ours.fit(X, y)          # anew
    for array, again in zip(first, ours.coefs_, strict=True):
        assert_same_bits(again, array, name)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_partial_fit_continues(kind, name):
    X, y = data(kind)
    own, ours = pair(kind, name)
    for _ in range(10):
        for model in (own, ours):
            model.partial_fit(X, y, **({"classes": range(3)} if kind == "classifier" else {}))
    assert_same_training(own, ours)
    assert ours._fastopt.step_count == 40


@pytest.mark.parametrize("name", ["adam", "Nesterov"])
def test_warm_start(name):
    X, y = data("classifier")
    own, ours = pair("classifier", name, warm_start=True, max_iter=4)
    for _ in range(3):
        own.fit(X, y)
        ours.fit(X, y)
    assert_same_training(own, ours)


@pytest.mark.parametrize("rule", ["adaptive", "invscaling"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_learning_rate_rules(kind, rule, capsys):
    X, y = data(kind)
    own, ours = pair(kind, "Nesterov", learning_rate=rule, max_iter=40, tol=0.02, n_iter_no_change=2, verbose=True)
    own.fit(X, y)
    expected = capsys.readouterr().out
    ours.fit(X, y)
    given = capsys.readouterr().out
    assert_same_training(own, ours)
    assert ours._fastopt.lr == own._optimizer.learning_rate != 0.05
    assert [line for line in given.split("\n") if "loss =" not in line] == [
        line for line in expected.split("\n") if "loss =" not in line]
    rate = ours._fastopt.lr
    ours.fit(X, y)      # with the first learning rate again
    assert ours._fastopt.lr == rate
    assert clone(ours)._fastopt.lr == 0.05


def test_adaptive_stops_at_a_small_learning_rate(capsys):
    X, y = data("classifier")
    own, ours = pair("classifier", "sgd", learning_rate="adaptive", max_iter=200, tol=10.0, n_iter_no_change=1,
                     verbose=True)
    own.fit(X, y)
    ours.fit(X, y)
    assert_same_training(own, ours)
    assert capsys.readouterr().out.count("Learning rate too small. Stopping.") == 2
    zero = use(MLPClassifier(learning_rate="adaptive", tol=10.0, n_iter_no_change=1), fastopt.SGD(lr=0.0))
    assert zero.fit(X, y).n_iter_ < 10


def test_a_schedule_of_the_optimizer():
    X, y = data("classifier")
    clf = use(MLPClassifier(max_iter=3), fastopt.Adam(lr=lambda step: 0.1 / step))
    clf.fit(X, y)
    clf.learning_rate = "invscaling"
    with pytest.raises(ValueError, match="^learning_rate: expected 'constant' with an optimizer whose lr is a"):
        clf.fit(X, y)


@pytest.mark.parametrize("dtype", [np.float64, int])
def test_what_is_not_float32_is_refused_before_anything_changes(dtype):
    X, y = data("classifier")
    clf = use(MLPClassifier(max_iter=3, random_state=0), fastopt.Adam())
    clf.fit(X, y)
    weights, state = [array.copy() for array in clf.coefs_], clf._fastopt.state_dict()
    message = r"^X: expected float32, .* got float64: cast it once, X\.astype\(numpy\.float32\)$"
    with pytest.raises(TypeError, match=message):
        clf.fit(X.astype(dtype), y)
    for array, before in zip(clf.coefs_, weights, strict=True):
        assert_same_bits(array, before, "weights")
    assert clf._fastopt.step_count == state["step_count"]
    with pytest.raises(TypeError, match=message):
        use(MLPRegressor(), fastopt.Adam()).partial_fit(X.astype(dtype), y)
    assert clf.predict(X.astype(np.float64)).shape == y.shape


def test_parameters_that_scikit_learn_trained_in_float64():
    X, y = data("classifier")
    clf = MLPClassifier(max_iter=2, warm_start=True).fit(X.astype(np.float64), y)
    before = [array.copy() for array in clf.coefs_]
    with pytest.raises(TypeError, match=r"^params\[0\]: expected writable C-contiguous float32 array, got float64"):
        use(clf, fastopt.Adam()).fit(X, y)
    for array, weights in zip(clf.coefs_, before, strict=True):
        assert_same_bits(array, weights, "coefs")


def test_clones_have_an_optimizer_of_their_own():
    X, y = data("classifier")
    _, clf = pair("classifier", "adam")
    clf.fit(X, y)
    again = clone(clf)
    assert type(again) is type(clf)
    assert again._fastopt is not clf._fastopt
    assert (again._fastopt.step_count, again._fastopt.state) == (0, {})
    assert not hasattr(again, "coefs_")
    assert again.get_params() == clf.get_params()
    before = clf._fastopt.step_count
    again.fit(X, y)
    assert clf._fastopt.step_count == before
    assert_same_training(clf, again, 0.0)


def test_grid_search():
    X, y = data("classifier")
    clf = use(MLPClassifier(max_iter=30, random_state=0), fastopt.Adam(lr=0.01))
    search = GridSearchCV(clf, {"hidden_layer_sizes": [(2,), (16,)], "alpha": [1e-4, 1e-2]}, cv=2).fit(X, y)
    assert search.best_params_["hidden_layer_sizes"] == (16,)
    assert search.best_score_ > 0.6
    assert clf._fastopt.step_count == 0
    assert search.best_estimator_._fastopt.step_count > 0
    with pytest.raises(ValueError, match="^learning_rate_init: expected it to be left out, .* fastopt's Adam,"):
        GridSearchCV(clf, {"learning_rate_init": [0.1]}, cv=2).fit(X, y)


@pytest.mark.parametrize("copied", [lambda clf: pickle.loads(pickle.dumps(clf)), copy.deepcopy])
def test_pickled_estimators_continue(copied):
    X, y = data("classifier")
    _, clf = pair("classifier", "adam")
    for _ in range(3):
        clf.partial_fit(X, y, classes=range(3))
    again = copied(clf)
    for _ in range(3):
        clf.partial_fit(X, y)
        again.partial_fit(X, y)
    for theirs, ours in zip(clf.coefs_, again.coefs_, strict=True):
        assert_same_bits(ours, theirs, "coefs")
    assert again._fastopt is not clf._fastopt


def test_set_params():
    _, clf = pair("classifier", "adam")
    assert clf.set_params(alpha=0.5, solver="sgd") is clf
    clf.set_params(**clf.get_params())
    assert clf.alpha == 0.5
    for name in ("learning_rate_init", "momentum", "nesterovs_momentum", "beta_1", "beta_2", "epsilon"):
        with pytest.raises(ValueError, match=f"^{name}: expected it to be left out"):
            clf.set_params(alpha=1.0, **{name: 0.25})
    assert clf.alpha == 0.5
    with pytest.raises(ValueError, match="^clf: expected solver='adam' or 'sgd'"):
        clf.set_params(solver="lbfgs")
    clf.solver = "lbfgs"
    with pytest.raises(ValueError, match="^clf: expected solver='adam' or 'sgd'"):
        clf.fit(*data("classifier"))


def test_use_again_and_on_a_trained_estimator():
    X, y = data("classifier")
    own, clf = pair("classifier", "adam")
    own.partial_fit(X, y, classes=range(3))
    opt = fastopt.SGD(lr=0.1)
    assert use(own, opt) is own
    own.partial_fit(X, y)
    assert opt.step_count == 4
    assert isinstance(own, MLPClassifier)
    assert use(clf, opt) is clf
    assert clf._fastopt is opt


def test_partial_fit_with_an_optimizer_that_has_state():
    X, y = data("classifier")
    _, clf = pair("classifier", "adam")
    for _ in range(4):
        clf.partial_fit(X, y, classes=range(3))
    opt = fastopt.Adam(lr=1e-3, eps_hat=True)
    opt.load_state_dict(clf._fastopt.state_dict())
    again = use(pickle.loads(pickle.dumps(clf)), opt)
    clf.partial_fit(X, y)
    again.partial_fit(X, y)
    for theirs, ours in zip(clf.coefs_, again.coefs_, strict=True):
        assert_same_bits(ours, theirs, "coefs")


@pytest.mark.parametrize(("clf", "opt", "error", "message"), [
    (MLPClassifier(), None, TypeError, "^opt: expected an optimizer of fastopt, such as .* got NoneType"),
    (MLPClassifier(), fastopt.Adam, TypeError, "^opt: expected an optimizer of fastopt, such as .* got type"),
    (MLPClassifier, fastopt.Adam(), TypeError, "^clf: expected an estimator, got the class MLPClassifier"),
    (LogisticRegression(), fastopt.Adam(), TypeError, "^clf: expected an MLPClassifier or MLPRegressor, got Logistic"),
    (None, fastopt.Adam(), TypeError, "got NoneType"),
    (MLPRegressor(solver="lbfgs"), fastopt.Adam(), ValueError, "^clf: expected solver='adam' or 'sgd', .*='lbfgs'$"),
])
def test_refused(clf, opt, error, message):
    with pytest.raises(error, match=message):
        use(clf, opt)
    assert not hasattr(clf, "_fastopt")


def test_warnings_are_scikit_learn_s():
    X, y = data("classifier")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        use(MLPClassifier(max_iter=2), fastopt.Adam()).fit(X, y)
    assert [warning.category for warning in caught] == [ConvergenceWarning]


def test_lazily_from_fastopt():
    assert fastopt.adapters.sklearn.use is use


def test_a_rate_that_is_assigned_after_a_fit_is_that_of_the_next():
    X, y = data("classifier")
    ours = use(MLPClassifier((7,), learning_rate="invscaling", max_iter=3, random_state=0), fastopt.SGD(lr=0.1))
    ours.fit(X, y)
    ours._fastopt.lr = 0.3
    own = MLPClassifier((7,), solver="sgd", momentum=0.0, learning_rate="invscaling", learning_rate_init=0.3,
                        max_iter=3, random_state=0)
    assert_same_training(own.fit(X, y), ours.fit(X, y))
    assert_same_training(own.fit(X, y), clone(ours).fit(X, y))
