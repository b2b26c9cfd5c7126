"""Arguments of optimizers: lr by position, other libraries' names, misspellings, and the repr that shows them."""

import functools
import inspect
import re
import threading

import numpy as np
import pytest
from optimizer_cases import ROWS, SETTINGS, make, taken_by

import fastopt
from fastopt import schedules
from fastopt._names import _OTHERS, suggestion

MODULES = pytest.mark.parametrize("module", [fastopt, fastopt.reference], ids=["fastopt", "reference"])
EVERY = sorted({other for others in _OTHERS.values() for other in others.split()})


@MODULES
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_lr_by_position(row, module):
    cls = getattr(module, row.name)
    assert cls(0.25).lr == 0.25
    assert cls(schedules.constant(0.25)).lr == schedules.constant(0.25)
    with pytest.raises(TypeError, match=rf"^{row.name}\.__init__\(\) takes (2|from 1 to 2) positional arguments but 3"):
        cls(0.25, 0.9)
    with pytest.raises(TypeError, match=rf"^{row.name}\.__init__\(\) got multiple values for argument 'lr'"):
        cls([np.ones(2, np.float32)], lr=0.25)


@MODULES
@pytest.mark.parametrize(("name", "options", "message"), [
    ("Adam", {"beta1": 0.9}, "'beta1', expected betas=(beta1, beta2)"),
    ("AdamW", {"beta_2": 0.9}, "'beta_2', expected betas=(beta1, beta2)"),
    ("Lion", {"b1": 0.9}, "'b1', expected betas=(beta1, beta2)"),
    ("Adan", {"beta1": 0.9}, "'beta1', expected betas=(beta1, beta2, beta3)"),
    ("SGDM", {"beta1": 0.9}, "'beta1', expected beta"),
    ("Adam", {"learning_rate": 0.1}, "'learning_rate', expected lr"),
    ("SGD", {"lr": 0.1, "learning_rate_init": 0.1}, "'learning_rate_init', expected lr"),
    ("Adam", {"alpha": 0.1}, "'alpha', expected lr"),
    ("Adam", {"lr_schedule": abs}, "'lr_schedule', expected lr, which may be a function of the step"),
    ("NAdam", {"epsilon": 0.1}, "'epsilon', expected eps"),
    ("RMSprop", {"rho": 0.9}, "'rho', expected alpha"),
    ("RMSprop", {"decay_rate": 0.9}, "'decay_rate', expected alpha"),
    ("Adadelta", {"decay": 0.9}, "'decay', expected rho"),
    ("Adagrad", {"decay": 0.9}, "'decay', expected lr_decay"),
    ("SGD", {"mu": 0.9}, "'mu', expected momentum"),
    ("SGDM", {"mu": 0.9}, "'mu', expected beta"),
    ("SGD", {"mass": 0.9}, "'mass', expected momentum"),
    ("SGD", {"momentum_beta": 0.9}, "'momentum_beta', expected momentum"),
    ("Momentum", {"nesterovs_momentum": True}, "'nesterovs_momentum', expected nesterov"),
    ("SGD", {"use_nesterov": True}, "'use_nesterov', expected nesterov"),
    ("Adam", {"clipnorm": 1.0}, "'clipnorm', expected clip_norm_per_param"),
    ("Adam", {"clipvalue": 1.0}, "'clipvalue', expected clip_value"),
    ("Adam", {"global_clipnorm": 1.0}, "'global_clipnorm', expected clip_norm"),
    ("Adam", {"use_ema": True}, "'use_ema', expected average_decay, a number"),
    ("Adam", {"ema_momentum": 0.9}, "'ema_momentum', expected average_decay"),
    ("SGD", {"reg": 0.9}, "'reg', expected weight_decay"), ("SGD", {"L2": 0.9}, "'L2', expected weight_decay"),
    ("SGD", {"weight_decouple": True},
     "'weight_decouple', expected decoupled_weight_decay, a number, in place of weight_decay"),
    ("Adam", {"AMSGrad": True}, "'AMSGrad', expected amsgrad"),
    ("Adam", {"correct_bias": False}, "'correct_bias', expected bias_correction"),
    ("Rprop", {"eta_minus": 0.5}, "'eta_minus', expected etas=(eta_minus, eta_plus)"),
    ("Rprop", {"min_step_size": 0.5}, "'min_step_size', expected step_sizes=(smallest, largest)"),
    ("Adam", {"weight_decy": 0.5}, "'weight_decy', expected weight_decay"),
    ("Adam", {"etas": (0.9, 0.9)}, "'etas', expected betas=(beta1, beta2)"),
    ("RMSprop", {"beta_1": 0.5}, "'beta_1', expected momentum"),
])
def test_other_libraries_names_and_misspellings(module, name, options, message):
    with pytest.raises(TypeError, match=f"^{name}: unknown option {re.escape(message)}$"):
        getattr(module, name)(**options)


@MODULES
@pytest.mark.parametrize(("name", "options", "message"), [
    ("adam", {"beta1": 0.9}, "'beta1', expected betas=(beta1, beta2)"),
    ("adam", {"amsgrad": True}, "'amsgrad', expected vmax, an array like v"),
    ("adam", {"t": 3}, "'t', expected step"),
    ("adam", {"loss_scale": 128.0}, "'loss_scale', expected grad_scale=1 / loss_scale"),
    ("rmsprop", {"decay_rate": 0.9}, "'decay_rate', expected alpha"),
    ("lars", {"trust_coeff": 0.9}, "'trust_coeff', expected trust_coefficient"),
    ("lion", {"reg": 0.9}, "'reg', expected weight_decay"),
])
def test_other_names_given_to_functions(module, name, options, message):
    row = next(row for row in ROWS if row.function == name)
    arrays = {key: np.ones(3, np.float32) for key in ("param", "grad", *row.states)}
    needed = {**({"step": 1} if "step" in row.taken else {}), **row.valid}
    with pytest.raises(TypeError, match=f"^{name}: unknown option {re.escape(message)}$"):
        getattr(module, name)(**arrays, **needed, **options)
    assert all((array == 1.0).all() for array in arrays.values())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_only_what_is_taken_is_suggested(row):
    """For every name in the table: one of the class's own arguments, or all of them."""
    taken = taken_by(getattr(fastopt, row.name))
    for name in EVERY:
        if name in taken:
            continue
        with pytest.raises(TypeError, match=f"^{row.name}: unknown option '{name}', expected ") as caught:
            getattr(fastopt, row.name)(0.1, **{name: 0.1})
        shown = str(caught.value).partition("expected ")[2]
        assert re.split("[,= ]", shown)[0] in taken
        assert len(shown) < 80 or set(shown.split(", ")) == taken


def test_every_name_in_the_table_is_somewhere_suggested():
    """As one of ours that some class or function takes: a row of the table that nobody takes would be dead."""
    takers = [taken_by(getattr(fastopt, name)) for row in ROWS for name in (row.name, row.function)]
    for ours, others in _OTHERS.items():
        for other in others.split():
            assert any(ours in taken and other not in taken for taken in takers), f"{ours}: {other}"


def test_what_is_far_from_any_name_gets_the_list():
    assert suggestion("nonsense", ["lr", "betas"]) is None
    assert suggestion("decoupled_weight_decay", ["lr", "weight_decay"]) is None


def rate(step):
    return 0.1


def no_decay(key, param):
    return {}


@MODULES
@pytest.mark.parametrize(("name", "options", "text"), [
    ("Adam", {}, "Adam(lr=0.001)"), ("LARS", {"lr": 1.0}, "LARS(lr=1.0)"), ("Rprop", {}, "Rprop(lr=0.01)"),
    ("Adam", {"clip_norm": 1.0, "weight_decay": 0.1, "amsgrad": True, "betas": (0.9, 0.99)},
     "Adam(lr=0.001, betas=(0.9, 0.99), amsgrad=True, clip_norm=1.0, weight_decay=0.1)"),
    ("AdamW", {"weight_decay": 0.5, "bias_correction": False},
     "AdamW(lr=0.001, weight_decay=0.5, bias_correction=False)"),
    ("AdamW", {"weight_decay": 0.01, "eps": 1e-8, "skip_nonfinite": False}, "AdamW(lr=0.001)"),
    ("Lion", {"weight_decay": 0.5, "l1": 0.1}, "Lion(lr=0.0001, weight_decay=0.5, l1=0.1)"),
    ("SGD", {"lr": schedules.cosine(0.01, 200)}, "SGD(lr=cosine(initial=0.01, decay_steps=200, alpha=0.0))"),
    ("SGD", {"lr": rate, "per_param": no_decay}, "SGD(lr=rate, per_param=no_decay)"),
    ("SGD", {"lr": schedules.join([rate], [])}, "SGD(lr=join(schedules=(<function rate>,), boundaries=()))"),
    ("SGD", {"lr": functools.partial(rate)}, "SGD(lr=functools.partial(<function rate>))"),
    ("SGD", {"average_decay": 0.9, "average_warmup": True, "maximize": True, "clip_norm_per_param": 2.0},
     "SGD(lr=0.001, maximize=True, average_decay=0.9, average_warmup=True, clip_norm_per_param=2.0)"),
])
def test_repr(module, name, options, text):
    opt = getattr(module, name)(**options)
    assert repr(opt) == text
    opt.lr = 0.25
    assert re.sub("lr=.*", "", repr(opt)) == re.sub("lr=.*", "", text)
    assert repr(opt).startswith(f"{name}(lr=0.25")


@MODULES
@pytest.mark.parametrize("setting", SETTINGS)
def test_repr_is_a_call_that_makes_the_same(setting, module):
    opt = make(setting, module, clip_norm=1.5, weight_decay=0.125, average_decay=0.9, l1=0.5)
    assert repr(eval(repr(opt), vars(module))) == repr(opt)
    changed = {**SETTINGS[setting][1], "clip_norm": 1.5, "weight_decay": 0.125, "average_decay": 0.9, "l1": 0.5}
    order = list(re.findall(r"[(,] ?(\w+)=", repr(opt)))
    cls = getattr(module, SETTINGS[setting][0])
    defaults = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
    assert set(order) == {"lr"} | {name for name, value in changed.items() if defaults.get(name) != value}


def test_repr_of_a_users_own_class():
    class Mine(fastopt.AdamW):
        def __init__(self):
            super().__init__(0.5, weight_decay=0.25)

    assert repr(Mine()) == "Mine(lr=0.5, weight_decay=0.25)"


@pytest.mark.parametrize("module", [fastopt, fastopt.reference], ids=["fastopt", "reference"])
def test_a_users_own_class_that_passes_options_on(module):
    class Mine(module.Adam):
        def __init__(self, width=1, **options):
            super().__init__(**options)

    assert repr(Mine(weight_decay=0.1)) == "Mine(lr=0.001, weight_decay=0.1)"
    with pytest.raises(TypeError, match="^Mine: unknown option 'beta1', expected betas=\\(beta1, beta2\\)$"):
        Mine(weight_decay=0.1, beta1=0.9)


@pytest.mark.parametrize("betas", [[0.9, 0.5], np.array([0.9, 0.5])], ids=["list", "array"])
def test_repr_of_betas_that_are_no_tuple(betas):
    """An array has no truth value to compare by."""
    assert repr(fastopt.Adam(betas=betas)) == f"Adam(lr=0.001, betas={betas!r})"


def test_repr_while_another_thread_updates():
    """From within a schedule, while the step is under way."""
    seen = []

    def look(step):
        if opt is not None:
            thread = threading.Thread(target=lambda: seen.append(repr(opt)))
            thread.start()
            thread.join()
        return 0.1

    opt = None
    opt = fastopt.SGD(lr=look)
    opt.update(np.ones(2, np.float32), np.ones(2, np.float32))
    assert seen == ["SGD(lr=test_repr_while_another_thread_updates.<locals>.look)"]
    assert opt.step_count == 1
