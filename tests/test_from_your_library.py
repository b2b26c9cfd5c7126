"""docs/from_your_library.md: both columns of every table do the same, where the library is installed."""

import importlib
import re
import warnings

import numpy as np
import pages
import pytest
from other_libraries import RESULTS, STEPS

import fastopt

PAGE = pages.text("docs/from_your_library.md")
SHAPES = ((7, 5), (33, 3), (3,))
SCALES = (1.0, 1e-3, 1e-6)      # of the gradients: the last shows eps, and where it is added


def tables():
    """The rows whose head names a module and fastopt: (module, their expression, ours)."""
    for module, body in re.findall(r"^\| `([\w.]+)` \| `fastopt` \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.M):
        for row in body.splitlines():
            theirs, ours = re.match(r"\| `(.+?)` \| `(.+?)` \|", row).groups()
            yield module, theirs, ours


ROWS = list(tables())
UPDATES = [row for row in ROWS if row[0] in STEPS]
LAYERS = [row for row in ROWS if row[0] in RESULTS]


def installed(name):
    """The module. The warnings of its import are the library's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            pytest.skip(f"{error.name} is not installed")


def test_every_row_is_compared():
    assert {module for module, _, _ in ROWS} == STEPS.keys() | RESULTS.keys()
    assert len(ROWS) == len(set(ROWS)) == len(UPDATES) + len(LAYERS)
    assert len(ROWS) == len(re.findall(r"^\| `[^`]+` \| `", PAGE, re.M)) - len(STEPS) - len(RESULTS)


@pytest.mark.parametrize(("module", "theirs", "ours"), UPDATES)
def test_updates(module, theirs, ours, rng):
    """Twenty steps: equal up to rounding, measured against the way that the parameters went."""
    opt = eval(ours, vars(fastopt))
    before = [0.01 * rng.standard_normal(shape, dtype=np.float32) for shape in SHAPES]
    steps = [[scale * rng.standard_normal(shape, dtype=np.float32) for shape, scale in zip(SHAPES, SCALES, strict=True)]
             for _ in range(20)]
    params = [param.copy() for param in before]
    for grads in steps:
        opt.update(params, grads)
    library = installed(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = STEPS[module](library, theirs, [param.copy() for param in before], steps)
    for param, start, expected in zip(params, before, given, strict=True):
        moved = np.abs(expected - start).max()
        assert moved > 0.0
        assert np.abs(param - expected).max() <= 1e-5 * moved + 20 * np.spacing(np.abs(param).max())


@pytest.mark.parametrize("wrong", ["Adam(lr=0.001)", "Adam(lr=0.001, eps=1e-7, eps_hat=True)", "AdamW(eps_hat=True)"])
def test_a_wrong_argument_is_seen(wrong, rng):
    with pytest.raises(AssertionError):
        test_updates("sklearn.neural_network", 'MLPClassifier(solver="adam")', wrong, rng)


@pytest.mark.parametrize(("module", "theirs", "ours"), LAYERS)
def test_layers(module, theirs, ours, rng):
    """In training and in the inference after it, which shows running statistics; the loss of an output layer."""
    x = 2.0 + 3.0 * rng.standard_normal((64, 20), dtype=np.float32)
    labels = rng.integers(0, 20, 64)
    layer = eval(ours, vars(fastopt) | {"x": x, "labels": labels})
    is_layer = isinstance(layer, fastopt.Layer)
    result = [layer.forward(x, training) for training in (True, False)] if is_layer else layer[:1]
    library = installed(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = RESULTS[module](library, theirs, x, labels)
    for actual, expected in zip(result, given, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_names_of_other_tables_are_ours():
    """The rows of the table of other libraries, which are not compared here, are calls that fastopt takes."""
    section = PAGE.split("\n## Others\n")[1]
    calls = [call for row in section.splitlines() if row.startswith("|") and row.count("|") == 4
             for call in re.findall(r"`(\w+\(.*?\))`", row.split("|")[3])]
    assert len(calls) == 12
    for call in calls:
        assert isinstance(eval(call, vars(fastopt)), fastopt.Optimizer)
