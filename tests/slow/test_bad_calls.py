"""Random bad calls of everything public: a documented error and nothing changed, or the result that is defined.

Each trial makes a good call (good_calls.py), spoils one or two of its arguments (spoiled.py) and calls. If it is
refused, the message names an argument, and every array and state is as before; then the good call gives what it gives a
twin that never saw the bad one. If it is accepted, the result is that of fastopt.reference, or finite where there is
none.
"""

import decimal
import fractions
import inspect
import math
import re
import warnings

import numpy as np
import pytest
from optimizer_cases import taken_by
from slow.cases import WITHOUT_CHECKS, has_reference, is_record, public
from slow.digest import contents, digest, parts
from slow.good_calls import CALLS
from slow.spoiled import LyingArray, LyingBuffer, OtherBuffer, Planted, all_arrays, spoil

import fastopt
from fastopt._activation import ActivationCache
from fastopt._batchnorm import BatchNormCache
from fastopt._dropout import DropoutCache
from fastopt._layernorm import LayerNormCache, RMSNormCache
from fastopt.reference import _layernorm as reference_layernorm
from fastopt.reference._activation import ActivationCache as ReferenceActivationCache
from fastopt.reference._batchnorm import BatchNormCache as ReferenceCache
from fastopt.reference._optimizer import Optimizer as ReferenceOptimizer

# What CPython reports when it clears cyclic garbage that holds both a memoryview and a buffer of it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in tp_clear of:pytest.PytestUnraisableExceptionWarning")

NAMES = sorted(public())
TRIALS = 100
"""Bad calls of each public callable."""

LONGEST = 1000
"""Characters of a message."""

ERRORS = {"load_state": (TypeError, ValueError, OSError), "save_state": (TypeError, ValueError, OSError)}
"""Documented errors other than (TypeError, ValueError)."""

CALLED_OTHERWISE = {
    "state_dict": ("state", "steps", "step_count"), "state": ("state",), "cache": ("cache", "dy"),
    "out": ("dgamma", "dbeta", "dbias", "out"), "average": ("average_decay",), "path": ("path",),
}
"""What a message may call an argument, or the part of it that is wrong."""

TAKE_FUNCTIONS = {"lr", "per_param"}

APPROXIMATE = ("softmax", "log_softmax", "softmax_backward", "log_softmax_backward", "softmax_cross_entropy",
               "softmax_cross_entropy_loss", "linear_cross_entropy", "activation_forward", "activation_backward",
               "Dense", "Dense.forward", "Dense.backward")
"""Functions whose bits may differ from the reference's: their own tests bound the errors."""


def test_everything_public_has_a_good_call():
    assert set(public()) <= set(CALLS), f"tests/slow/good_calls.py: no good call of {set(public()) - set(CALLS)}"
    assert set(CALLS) <= set(public()), f"tests/slow/good_calls.py: {set(CALLS) - set(public())} is not public"
    for name in WITHOUT_CHECKS:
        value = getattr(fastopt, name)
        assert value in (fastopt.Optimizer, fastopt.reference) or is_record(value)


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_is_in_a_good_call(name, rng):
    function = public()[name]
    taken = {p.name for p in inspect.signature(function).parameters.values()
             if p.name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()):
        taken |= taken_by(function) - {"decoupled_weight_decay"}
    given = {argument for maker in CALLS[name] for argument in maker(rng, fastopt).arguments}
    assert taken <= given | {"average", "average_decay"}, f"tests/slow/good_calls.py: {name} gets no {taken - given}"


@pytest.mark.parametrize("name", NAMES)
def test_bad_calls(name, seed, trials, figures):
    refused = accepted = 0
    for trial in range(trials(TRIALS)):
        was_refused = attempt(name, [seed, trial, *name.encode()])
        refused += was_refused
        accepted += not was_refused
    figures(bad_calls=refused + accepted, refused=refused, legal_after_all=accepted)
    assert refused


def attempt(name, seed):
    """One bad call; whether it was refused."""
    rng = np.random.default_rng(seed)
    maker = CALLS[name][rng.integers(len(CALLS[name]))]
    case_seed = int(rng.integers(2**32))
    subject, twin = (maker(np.random.default_rng(case_seed), fastopt) for _ in range(2))
    arguments, names, how, undo = bad_arguments(subject.arguments, rng)
    what = f"{name}({', '.join(how)}), seed {seed}"
    reference = copied = None
    if has_reference(name):
        reference = maker(np.random.default_rng(case_seed), fastopt.reference)
        copied = copy_for_reference(arguments, subject.arguments, reference.arguments, {})
        if "key" in arguments:
            copied["key"] = arguments["key"]    # any object with a hash
    before = digest((arguments, subject.watch))
    result, error = called(subject, arguments)
    try:
        if error is None:
            check_result(name, subject, result, reference, copied, what)
            return False
        check_error(error, name, names, what, arguments, subject)
        assert digest((arguments, subject.watch)) == before, f"{what}: {error!r} and something has changed"
    finally:
        undo()
    assert outcome(subject) == outcome(twin), f"{what}: {error!r}, and the next good call differs from its twin's"
    return True


def called(subject, arguments):
    """The result and None, or None and the error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # NumPy's, of conversions of the spoiled value
        try:
            return subject.call(**arguments), None
        except (Exception, SystemExit) as error:
            return None, error.with_traceback(None)     # whose frames would keep the arguments


def bad_arguments(good, rng):
    """Arguments of which one or two are spoiled, their names, what was done, and a function that undoes it."""
    arguments, how, undoing, names = dict(good), [], [], []
    if not good or rng.random() < 0.03:
        return {**good, "unknown_argument": 1}, ["unknown_argument"], ["an unknown argument"], lambda: None
    for name in rng.choice(list(good), min(len(good), 1 + (rng.random() < 0.3)), replace=False):
        arguments[name], done, undo = spoil(arguments[name], good, rng)
        names.append(str(name))
        how.append(f"{name}: {done}")
        undoing.insert(0, undo)
    return arguments, names, how, lambda: [undo() for undo in undoing]


def check_error(error, name, spoiled, what, arguments, subject):
    """The type, the message and what it is chained to."""
    if isinstance(error, Planted) or any(callable(arguments.get(one)) for one in TAKE_FUNCTIONS & {*spoiled}):
        return                                      # the user's own, from the user's code
    text = str(error)
    assert isinstance(error, ERRORS.get(name, (TypeError, ValueError))), f"{what}: {error!r}"
    assert type(error).__module__ == "builtins", f"{what}: {type(error)} {error}"
    assert len(text) <= LONGEST, f"{what}: a message of {len(text)} characters: {text[:200]}"
    if isinstance(error, OSError):
        return
    # A fault of one array may be seen in another: the first one says what shape the others must have.
    named = {*spoiled, *(other for one in spoiled for other in CALLED_OTHERWISE.get(one, ())), *arguments}
    if {"params", "key"} & arguments.keys():
        named |= {"state", "per_param"}
    for watched in subject.watch:
        if isinstance(watched, fastopt.Layer):
            named |= watched.params.keys() | watched.buffers.keys()
    assert any(re.search(rf"(?<!\w){re.escape(one.split('[')[0])}(?!\w)", text) for one in named), \
        f"{what}: no argument is named: {error!r}"
    assert "expected" in text or "unexpected keyword" in text, f"{what}: {error!r}"
    assert error.__cause__ is None or name == "load_state", f"{what}: {error!r} from {error.__cause__!r}"
    assert error.__context__ is None or error.__suppress_context__, f"{what}: {error!r} after {error.__context__!r}"


def outcome(subject):
    """What the good call returns and leaves."""
    result = subject.use(subject.call(**subject.arguments))
    return digest((comparable(result), subject.arguments, subject.watch)) if not opaque(result) else None


def opaque(result):
    return inspect.ismethod(result)


def comparable(result):
    """What two calls must have in common: the numbers in objects instead of the objects."""
    if isinstance(result, (BatchNormCache, ReferenceCache)):
        return (result.mean, result.invstd, result.scale, result.beta)
    if isinstance(result, DropoutCache):
        return (result.key, result.p, result.shape, result.training)
    if isinstance(result, ActivationCache):
        return (result.activation, result.negative_slope, result.key, result.dropout, result.shape)
    if isinstance(result, ReferenceActivationCache):
        return (result.activation, result.negative_slope, *result.dropout[:3])
    if isinstance(result, (LayerNormCache, reference_layernorm.LayerNormCache)):
        return (result.gamma, result.mean, result.invstd)
    if isinstance(result, (RMSNormCache, reference_layernorm.RMSNormCache)):
        return (result.gamma, result.invrms)
    if isinstance(result, (fastopt.Optimizer, ReferenceOptimizer)):
        return (result.step_count, dict(result.steps), contents(result.state))
    if isinstance(result, (fastopt.Layer, fastopt.reference.Layer)):
        return comparable(parts(result))
    if isinstance(result, np.random.Generator):
        return digest(result)
    if isinstance(result, tuple):
        return tuple(comparable(entry) for entry in result)
    if isinstance(result, dict):
        return {key: comparable(entry) for key, entry in result.items()}
    return result


# A bad call that was accepted.

def check_result(name, subject, result, reference, copied, what):
    """A spoiled argument that was legal after all: what fastopt.reference says, or finite numbers."""
    result, error = used(subject, result)
    if error is not None:       # a schedule or per_param that only a step can judge
        assert isinstance(error, (TypeError, ValueError, Planted)), f"{what}: accepted, and then {error!r}"
        assert "expected" in str(error) or takes_functions(copied), f"{what}: accepted, and then {error!r}"
        return
    if reference is None:
        assert finite(result), f"{what}: accepted, result {result!r:.200}"
        return
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = reference.use(reference.call(**copied))
        except Exception as error:
            raise AssertionError(f"{what}: accepted, the reference says {error!r}") from error
    same(comparable((result, subject.watch)), comparable((expected, reference.watch)), what,
         exact=name not in APPROXIMATE)


def used(subject, result):
    try:
        return subject.use(result), None
    except Exception as error:
        return None, error.with_traceback(None)


def takes_functions(arguments):
    return arguments is not None and any(callable(value) for value in arguments.values())


def copy_for_reference(value, good, of_reference, seen):
    """Copies of the arguments as the reference takes them: NumPy arrays of the same numbers, Python's numbers.

    What was not spoiled and is no array (a cache) is the reference's own.
    """
    if id(value) in seen:
        return seen[id(value)]
    if value is good and not all_arrays(value):
        made = of_reference
    elif type(value) in (dict, list) or isinstance(value, tuple):
        def inner(key):
            try:
                return good[key], of_reference[key]
            except (TypeError, KeyError, IndexError):
                return None, None
        if isinstance(value, dict):
            made = {key: copy_for_reference(entry, *inner(key), seen) for key, entry in value.items()}
        else:
            items = [copy_for_reference(entry, *inner(i), seen) for i, entry in enumerate(value)]
            made = items if isinstance(value, list) else tuple(items)
    elif isinstance(value, np.ndarray) and value.ndim == 0 and not isinstance(good, np.ndarray):
        made = value.item()
    elif isinstance(value, type):
        def made(*args):
            return copy_for_reference(value(*args), None, None, {})
    elif isinstance(value, (np.ndarray, memoryview)) or type(value).__module__ == "array":
        made = np.array(value, order="K") if not isinstance(value, np.ma.MaskedArray) else value.copy()
    elif isinstance(value, (LyingArray, LyingBuffer, OtherBuffer)):
        made = value
    elif isinstance(value, np.generic):
        made = value.item()
    elif isinstance(value, (fractions.Fraction, decimal.Decimal)):
        made = float(value)
    else:
        made = value
    seen[id(value)] = made
    return made


def finite(value):
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    return not isinstance(value, (list, tuple)) or all(map(finite, value))


def same(actual, expected, what, exact):
    """Equal numbers; of arrays equal bits if `exact`."""
    if isinstance(expected, np.ndarray) or isinstance(actual, np.ndarray):
        actual, expected = np.asarray(actual), np.asarray(expected)
        assert actual.shape == expected.shape, what
        if exact:
            np.testing.assert_array_equal(actual, expected, what)
        else:
            largest = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6 * max(1.0, largest), err_msg=what)
    elif isinstance(expected, dict):
        assert list(map(repr, actual)) == list(map(repr, expected)), what
        for one, other in zip(actual.values(), expected.values(), strict=True):
            same(one, other, what, exact)
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), what
        for one, other in zip(actual, expected, strict=True):
            same(one, other, what, exact)
    elif isinstance(expected, (int, float)) and not isinstance(expected, bool):
        assert float(actual) == pytest.approx(float(expected), rel=1e-5, nan_ok=True), what
    elif expected is None or isinstance(expected, (bool, str)):
        assert actual == expected, what
    else:
        assert type(actual) is type(expected), what
