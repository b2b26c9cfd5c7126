"""A good call of everything public, made from a seed; test_bad_calls.py spoils its arguments.

`public()` finds by introspection what is public; `CALLS` has one entry for each. The functions in tests/arguments.py
and the optimizers in tests/optimizer_cases.py get theirs from their rows there.
"""

import inspect
import shutil
import tempfile
import typing
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from arguments import FUNCTIONS, f32, positive
from optimizer_cases import ROWS, SETTINGS, make, taken_by

import fastopt
from fastopt._batchnorm import BatchNormCache

RETURNED = (BatchNormCache,)
"""Classes that users get from public functions, though their names are not public."""

WITHOUT_CHECKS = {
    "Optimizer": "users call the classes derived from it",
    "Options": "a TypedDict: names and types of keyword arguments",
    "UpdateInfo": "a plain named tuple",
    "BatchGradientSums": "a plain named tuple: the functions that take one check it",
    "BatchStatistics": "a plain named tuple: the functions that take one check it",
    "reference": "the definition of results, which checks nothing",
}


@dataclass
class Case:
    """One good call with fresh arrays."""

    call: Callable[..., Any]
    arguments: dict[str, Any]
    """In the signature's order. Those of ``*parts`` are named parts[0], parts[1], …"""
    watch: tuple[Any, ...] = ()
    """Besides the arguments, what a refused call must leave as it is."""
    use: Callable[[Any], Any] = field(default=lambda result: result)
    """From what the call returned to something comparable: what an object that was made does next."""


Maker = Callable[[np.random.Generator, ModuleType], Case]
"""From random numbers and a module, fastopt or fastopt.reference, to a case."""


def is_record(kind):
    return typing.is_typeddict(kind) or issubclass(kind, tuple)


def methods(kind, name):
    """Public methods that fastopt defines, `__call__` included, and properties that can be assigned (`Adam.lr=`)."""
    for attribute, value in inspect.getmembers(kind):
        if attribute.startswith("_") and attribute != "__call__":
            continue
        if inspect.isfunction(value) and value.__module__.startswith("fastopt"):
            yield f"{name}.{attribute}", value
        elif isinstance(value, property) and value.fset is not None:
            yield f"{name}.{attribute}=", value.fset


def public():
    """Everything public that can be called, by name."""
    found = {kind.__name__ + name.removeprefix(kind.__name__): function for kind in RETURNED
             for name, function in methods(kind, kind.__name__)}
    for name in fastopt.__all__:
        if name in WITHOUT_CHECKS:
            continue
        value = getattr(fastopt, name)
        inside = {f"{name}.{n}": getattr(value, n) for n in value.__all__} if inspect.ismodule(value) else {name: value}
        for where, function in inside.items():
            found[where] = function
            if isinstance(function, type):
                found.update(methods(function, where))
    return found


GOOD = {
    "weight_decay": 0.01, "decoupled_weight_decay": 0.01, "l1": 0.001, "maximize": False, "grad_scale": 0.5,
    "clip_value": 1.0, "average_decay": 0.9, "average": None, "clip_norm": 10.0, "skip_nonfinite": False,
    "per_param": None,
}
"""Valid values of what ``**options`` may hold."""


def completed(function, arguments):
    """`arguments` with every other argument that the function takes, in the signature's order."""
    full = dict(arguments)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            for name in sorted(taken_by(function) - set(full) - {"average", "average_decay"}):
                full[name] = GOOD[name]
        elif parameter.kind is not parameter.VAR_POSITIONAL and parameter.default is not parameter.empty:
            full.setdefault(parameter.name, parameter.default)
    return full


def call_by_position(function, count):
    """`function` for arguments of which the first `count` are passed by position: those named parts[i]."""
    def call(**arguments):
        values = list(arguments.values())
        return function(*values[:count], **dict(list(arguments.items())[count:]))
    return call


CALLS: dict[str, list[Maker]] = {}


def case(name):
    """Decorator: a maker of good calls of `name`."""
    def add(maker):
        CALLS.setdefault(name, []).append(maker)
        return maker
    return add


# Functions with a row in tests/arguments.py.

def of_function(function):
    def maker(rng, module):
        arrays = function.arrays(rng)
        if "cache" in function.options:
            options = {"cache": batch_norm_cache(module)} if module is fastopt.reference else function.options
        else:
            options = function.options
        called = getattr(module, function.name)
        return Case(called, completed(called, {**arrays, **options}))
    return maker


def batch_norm_cache(module):
    x = np.linspace(-3, 4, 24, dtype=np.float32).reshape(8, 3)
    return module.batch_norm_forward(x, np.ones(3, np.float32), np.zeros(3, np.float32))[1]


for function in FUNCTIONS:
    case(function.name)(of_function(function))


# Functions whose arguments have other forms, too.

def integers(rng, *shape):
    return rng.integers(0, 5, shape)


for name in ("softmax_cross_entropy", "softmax_cross_entropy_loss"):
    @case(name)
    def with_classes(rng, module, name=name):
        arguments = {"logits": f32(rng, 7, 5), "labels": integers(rng, 7), "count_correct": True,
                     "class_weight": positive(rng, 5)}
        if name == "softmax_cross_entropy":
            arguments["out"] = f32(rng, 7, 5)
        return Case(getattr(module, name), completed(getattr(module, name), arguments))


@case("linear_cross_entropy")
def linear_with_out(rng, module):
    out = f32(rng, 6, 8), f32(rng, 5, 8), f32(rng, 5)
    return Case(module.linear_cross_entropy, completed(module.linear_cross_entropy, {
        "x": f32(rng, 6, 8), "weight": f32(rng, 5, 8), "labels": integers(rng, 6), "bias": f32(rng, 5), "chunk": 2,
        "count_correct": True, "out": out}))


@case("batch_norm_forward")
def forward_with_statistics(rng, module):
    statistics = module.batch_norm_statistics(f32(rng, 20, 3, 5))
    return Case(module.batch_norm_forward, completed(module.batch_norm_forward, {
        "x": f32(rng, 4, 3, 5), "gamma": f32(rng, 3), "beta": f32(rng, 3), "running_mean": f32(rng, 3),
        "running_var": positive(rng, 3), "out": f32(rng, 4, 3, 5), "statistics": tuple(statistics)}))


@case("batch_norm_forward")
def forward_without_training(rng, module):
    return Case(module.batch_norm_forward, completed(module.batch_norm_forward, {
        "x": f32(rng, 4, 3, 5), "gamma": f32(rng, 3), "beta": f32(rng, 3), "running_mean": f32(rng, 3),
        "running_var": positive(rng, 3), "training": False, "relu": True}))


@case("batch_norm_backward")
def backward_with_out(rng, module):
    _, cache = module.batch_norm_forward(f32(rng, 4, 3, 5), f32(rng, 3), f32(rng, 3), relu=True)
    return Case(module.batch_norm_backward, {
        "dy": f32(rng, 4, 3, 5), "cache": cache, "out": (f32(rng, 4, 3, 5), f32(rng, 3), f32(rng, 3)),
        "sums": tuple(rng.standard_normal((2, 3)))})


def fold_into(given):
    """`given(rng, weight, bias)` makes `out`."""
    @case("batch_norm_fold")
    def fold(rng, module):
        weight, bias = f32(rng, 4, 6, 2), f32(rng, 4)
        return Case(module.batch_norm_fold, completed(module.batch_norm_fold, {
            "weight": weight, "bias": bias, "gamma": f32(rng, 4), "beta": f32(rng, 4), "mean": f32(rng, 4),
            "var": positive(rng, 4), "out": given(rng, weight, bias)}))


fold_into(lambda rng, weight, bias: None)
fold_into(lambda rng, weight, bias: (f32(rng, 4, 6, 2), f32(rng, 4)))
fold_into(lambda rng, weight, bias: (weight, bias))


@case("batch_norm_merge")
def merge(rng, module):
    parts = {f"parts[{i}]": (int(rng.integers(0, 9)), rng.standard_normal(4), rng.random(4)) for i in range(3)}
    return Case(call_by_position(module.batch_norm_merge, 3), parts)


@case("batch_norm_merge_sums")
def merge_sums(rng, module):
    parts = {f"parts[{i}]": tuple(rng.standard_normal((2, 4))) for i in range(3)}
    return Case(call_by_position(module.batch_norm_merge_sums, 3), parts)


# The layer.

def layer(rng, module):
    made = module.BatchNorm(3, relu=True)
    made.forward(f32(rng, 8, 3))
    return made


def used_layer(made):
    x = np.linspace(-3, 4, 24, dtype=np.float32).reshape(8, 3)
    return made.forward(x), made.backward(x), made


@case("BatchNorm")
def new_layer(rng, module):
    return Case(module.BatchNorm, completed(module.BatchNorm, {"num_features": 3}), use=used_layer)


@case("BatchNorm.forward")
def layer_forward(rng, module):
    made = layer(rng, module)
    return Case(made.forward, {"x": f32(rng, 8, 3), "training": True, "out": f32(rng, 8, 3)}, (made,))


@case("BatchNorm.backward")
def layer_backward(rng, module):
    made = layer(rng, module)
    return Case(made.backward, {"dy": f32(rng, 8, 3), "out": f32(rng, 8, 3)}, (made,))


@case("BatchNorm.state_dict")
def layer_state(rng, module):
    made = layer(rng, module)
    return Case(made.state_dict, {}, (made,))


@case("BatchNorm.load_state_dict")
def layer_load(rng, module):
    made, state = layer(rng, module), layer(rng, module).state_dict()
    return Case(made.load_state_dict, {"state": state}, (made,))


@case("BatchNormCache.release")
def release(rng, module):
    cache = batch_norm_cache(module)
    return Case(cache.release, {}, (cache,))


# The optimizer classes.

OPTIONS = ({}, {"average_decay": 0.9}, {"clip_norm": 1.0, "l1": 0.01}, {"skip_nonfinite": True, "clip_value": 0.5})


def arrays(rng, key):
    return {key: f32(rng, 5, 13), "b": f32(rng, 13), "empty": f32(rng, 0, 2)}


def trained(rng, module, name):
    """An optimizer after up to two steps on a dict, a list or one array, and that model with its gradients."""
    setting = rng.choice([setting for setting, (of, _) in SETTINGS.items() if of == name])
    opt = make(setting, module, **OPTIONS[rng.integers(len(OPTIONS))])
    params, grads = arrays(rng, "W"), arrays(rng, "W")
    form = rng.integers(3)
    if form == 1:
        params, grads = list(params.values()), list(grads.values())
    elif form == 2:
        params, grads = params["W"], grads["W"]
    for _ in range(rng.integers(3)):
        opt.update(params, grads)
    return opt, params, grads


def used_optimizer(opt):
    rng = np.random.default_rng(1)
    params = arrays(rng, "W")
    opt.update(params, arrays(rng, "W"))
    return params, opt


def optimizer_cases(name, settings):
    @case(name)
    def construct(rng, module):
        arguments = completed(getattr(module, name), settings[rng.integers(len(settings))])
        if "decoupled_weight_decay" in arguments:
            arguments["weight_decay"] = 0.0
        return Case(getattr(module, name), arguments, use=used_optimizer)

    @case(f"{name}.update")
    def update(rng, module):
        opt, params, grads = trained(rng, module, name)
        return Case(opt.update, {"params": params, "grads": grads, "grad_scale": 0.5}, (opt,))

    @case(f"{name}.lr=")
    def assign_lr(rng, module):
        opt, _, _ = trained(rng, module, name)
        return Case(lambda lr: setattr(opt, "lr", lr), {"lr": 0.125}, (opt,), use=lambda _: used_optimizer(opt))

    @case(f"{name}.state_dict")
    def state_dict(rng, module):
        opt, _, _ = trained(rng, module, name)
        return Case(opt.state_dict, {}, (opt,))

    @case(f"{name}.load_state_dict")
    def load_state_dict(rng, module):
        setting = rng.choice([setting for setting, (of, _) in SETTINGS.items() if of == name])
        opt, other = make(setting, module), make(setting, module)
        for one, key in ((opt, "W"), (other, "V"), (other, "W")):
            one.update(arrays(rng, key), arrays(rng, key))
        return Case(opt.load_state_dict, {"state_dict": other.state_dict()}, (opt,))


for row in ROWS:
    optimizer_cases(row.name, row.settings)


@case("Sophia.update_hessian")
def update_hessian(rng, module):
    opt, params, grads = trained(rng, module, "Sophia")
    return Case(opt.update_hessian, {"params": params, "hessians": grads}, (opt,))


# Schedules, initial values, conversion, files, threads, configuration.

SCHEDULES = {
    "constant": {"value": 0.1}, "piecewise_constant": {"boundaries": [3, 6], "values": [0.1, 0.2, 0.3]},
    "exponential_decay": {"initial": 0.1, "decay_steps": 4, "decay_rate": 0.5},
    "inverse_time_decay": {"initial": 0.1, "decay_steps": 4, "decay_rate": 0.5},
    "cosine": {"initial": 0.1, "decay_steps": 4}, "linear_warmup": {"peak": 0.1, "warmup_steps": 4},
    "join": {"schedules": [fastopt.schedules.constant(0.1), fastopt.schedules.cosine(0.1, 5)], "boundaries": [3]},
}


def schedule_cases(name, arguments):
    kind = getattr(fastopt.schedules, name)

    @case(f"schedules.{name}")
    def construct(rng, module):
        return Case(kind, completed(kind, arguments), use=lambda made: [made(step) for step in range(1, 9)])

    @case(f"schedules.{name}.__call__")
    def call(rng, module):
        return Case(kind(**arguments), {"step": 3})


for name, arguments in SCHEDULES.items():
    schedule_cases(name, arguments)


def init_cases(name):
    function = getattr(fastopt.init, name)

    @case(f"init.{name}")
    def draw(rng, module):
        generator = np.random.default_rng(rng.integers(2**32))
        return Case(function, completed(function, {"shape": (3, 4), "rng": generator}))


for name in fastopt.init.__all__:
    init_cases(name)

CONVERTED = ("SGD", "Adagrad", "RMSprop", "Adadelta", "Adam", "AdamW")


def convertible(rng):
    name = rng.choice(CONVERTED)
    opt = getattr(fastopt, name)(lr=0.1, **({"momentum": 0.9} if name == "SGD" else {}))
    for _ in range(2):
        opt.update({"W": f32(rng, 5, 3), "b": f32(rng, 3)}, {"W": f32(rng, 5, 3), "b": f32(rng, 3)})
    return opt


@case("convert.to_torch")
def to_torch(rng, module):
    opt = convertible(rng)
    return Case(fastopt.convert.to_torch, {"optimizer": opt, "keys": ["b", "W"]}, (opt,))


@case("convert.from_torch")
def from_torch(rng, module):
    opt = convertible(rng)
    state = fastopt.convert.to_torch(opt, ["W", "b"])
    opt.update({"W": f32(rng, 5, 3), "b": f32(rng, 3)}, {"W": f32(rng, 5, 3), "b": f32(rng, 3)})
    return Case(fastopt.convert.from_torch,
                {"optimizer": opt, "state_dict": state, "keys": ["W", "b"], "step_count": None}, (opt,))


class Folder:
    """A folder as something to watch: the names and contents of its files."""

    PREFIX = "fastopt-test-"

    def __init__(self):
        self.path = tempfile.mkdtemp(prefix=self.PREFIX)
        weakref.finalize(self, shutil.rmtree, self.path)

    def contents(self):
        return {path.name: path.read_bytes() for path in sorted(Path(self.path).iterdir())}


def state(rng):
    return {"step_count": 2, "steps": {"W": 2, 3: 1}, "state": {"W": {"m": f32(rng, 3, 4)}, 3: {"m": f32(rng, 2)}},
            "note": "text", "rate": 0.1, "flag": True, "nothing": None}


@case("save_state")
def save(rng, module):
    folder = Folder()
    path = f"{folder.path}/state{rng.choice(['.npz', '.safetensors'])}"
    fastopt.save_state(path, {"before": f32(rng, 3)})
    return Case(fastopt.save_state, {"path": path, "state": state(rng)}, (folder,), lambda _: list(folder.contents()))


@case("load_state")
def load(rng, module):
    folder = Folder()
    path = f"{folder.path}/state{rng.choice(['.npz', '.safetensors'])}"
    fastopt.save_state(path, state(rng))
    return Case(fastopt.load_state, {"path": path}, (folder,))


class Threads:
    """The number of threads, at first the default, as something to watch."""

    def __init__(self):
        fastopt.set_num_threads(None)

    def count(self):
        return fastopt.get_num_threads()


@case("set_num_threads")
def set_threads(rng, module):
    return Case(fastopt.set_num_threads, {"num_threads": 3}, (Threads(),), lambda _: fastopt.get_num_threads())


@case("num_threads")
def with_threads(rng, module):
    def call(num_threads):
        with fastopt.num_threads(num_threads):
            return fastopt.get_num_threads()
    return Case(call, {"num_threads": 5}, (Threads(),))


@case("get_num_threads")
def count_threads(rng, module):
    return Case(fastopt.get_num_threads, {}, (Threads(),))


@case("show_config")
def configuration(rng, module):
    return Case(fastopt.show_config, {"mode": "dicts"}, use=lambda result: None)


def has_reference(name):
    """Whether fastopt.reference defines the result."""
    return name.split(".")[0] in fastopt.reference.__all__
