"""A good call of everything public, made from a seed; test_bad_calls.py spoils its arguments.

The functions in tests/arguments.py, the optimizers in tests/optimizer_cases.py and the layers in tests/layer_cases.py
get theirs from their rows there.
"""

from collections import namedtuple

import numpy as np
from arguments import (
    CACHES,
    FUNCTIONS,
    activation_cache,
    batch_norm_cache,
    f32,
    layer_norm_cache,
    positive,
    rms_norm_cache,
)
from layer_cases import LAYERS
from optimizer_cases import ROWS, SETTINGS, make
from slow.cases import CALLS, Case, Folder, Threads, call_by_position, case, completed

import fastopt

__all__ = ["CALLS"]


# Functions with a row in tests/arguments.py.

def of_function(function):
    def maker(rng, module):
        arrays = function.arrays(rng)
        if "cache" in function.options:
            options = {"cache": CACHES[function.name](module)} if module is fastopt.reference else function.options
        else:
            options = function.options
        called = getattr(module, function.name)
        return Case(called, completed(called, {**arrays, **options}))
    return maker


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


@case("dropout_forward")
def dropout_from_a_generator(rng, module):
    generator = np.random.default_rng(rng.integers(2**32))
    return Case(module.dropout_forward, completed(module.dropout_forward, {
        "x": f32(rng, 5, 13), "p": rng.random(), "rng": generator, "out": f32(rng, 5, 13)}))


@case("dropout_forward")
def dropout_without_training(rng, module):
    return Case(module.dropout_forward, completed(module.dropout_forward, {
        "x": f32(rng, 5, 13), "p": 0.5, "rng": 3, "training": False}))


@case("activation_forward")
def activation_without_dropout(rng, module):
    return Case(module.activation_forward, completed(module.activation_forward, {
        "x": f32(rng, 5, 2, 13), "activation": "leaky_relu", "bias": f32(rng, 2), "rng": np.random.default_rng(1),
        "channel_axis": 1, "negative_slope": 0.2}))


@case("activation_backward")
def activation_backward_from_x(rng, module):
    x = f32(rng, 5, 13)
    cache = module.activation_forward(x, "leaky_relu", f32(rng, 13))[1]
    return Case(module.activation_backward, completed(module.activation_backward, {
        "dy": f32(rng, 5, 13), "cache": cache, "out": (f32(rng, 5, 13), f32(rng, 13))}))


# Layers.

def layer_cases(row):
    def used(made):
        rng = np.random.default_rng(1)
        return made.forward(row.x(rng)), made.backward(row.dy(rng)), made

    def after_forward(rng, module):
        made = row.make(module, int(rng.integers(2**32)))
        made.forward(row.x(rng))
        return made

    @case(row.name)
    def new(rng, module):
        kind = getattr(module, row.name)
        extra = {"rng": np.random.default_rng(rng.integers(2**32))} if row.takes_rng else {}
        return Case(kind, completed(kind, {**row.options, **extra}), use=used)

    @case(f"{row.name}.forward")
    def forward(rng, module):
        made = after_forward(rng, module)
        return Case(made.forward, {row.argument: row.x(rng), "training": True, "out": row.dy(rng)}, (made,))

    @case(f"{row.name}.backward")
    def backward(rng, module):
        made, dy = after_forward(rng, module), row.dy(rng)
        out = None if row.name == "Embedding" else np.zeros_like(row.x(rng))
        return Case(made.backward, {"dy": dy, "out": out}, (made,))

    stateful(row.name, after_forward)


def stateful(name, make):
    @case(f"{name}.state_dict")
    def state_dict(rng, module):
        made = make(rng, module)
        return Case(made.state_dict, {}, (made,))

    @case(f"{name}.load_state_dict")
    def load_state_dict(rng, module):
        made, state = make(rng, module), make(rng, module).state_dict()
        return Case(made.load_state_dict, {"state": state}, (made,))


for row in LAYERS:
    layer_cases(row)


def layer_of_arrays(rng, module):
    return module.Layer({"weight": f32(rng, 3, 4)}, {"passes": f32(rng, 1)})


@case("Layer")
def new_layer(rng, module):
    return Case(module.Layer, {"params": {"weight": f32(rng, 3, 4)}, "buffers": {"passes": f32(rng, 1)}})


stateful("Layer", layer_of_arrays)


def release_case(name, make):
    @case(f"{name}.release")
    def release(rng, module):
        cache = make(module)
        return Case(cache.release, {}, (cache,))


release_case("ActivationCache", activation_cache)
release_case("BatchNormCache", batch_norm_cache)
release_case("LayerNormCache", layer_norm_cache)
release_case("RMSNormCache", rms_norm_cache)


# The optimizer classes.

OPTIONS = ({}, {"average_decay": 0.9, "average_warmup": True}, {"clip_norm": 1.0, "l1": 0.01},
           {"clip_norm_per_param": 1.0, "average_decay": 0.9}, {"skip_nonfinite": True, "clip_value": 0.5})


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

    @case(f"{name}.update_one")
    def update_one(rng, module):
        opt, params, grads = trained(rng, module, name)
        key, param, grad = 0, params, grads
        if not isinstance(params, np.ndarray):
            key = rng.choice([*params]) if isinstance(params, dict) else int(rng.integers(len(params)))
            param, grad = params[key], grads[key]
        return Case(opt.update_one, {"key": key, "param": param, "grad": grad, "grad_scale": 0.5}, (opt,))

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
    "noam": {"d_model": 64, "warmup_steps": 4}, "inverse_sqrt": {"peak": 0.1, "warmup_steps": 4},
    "inv_scaling": {"initial": 0.1, "power": 0.5, "steps_per_epoch": 3, "samples": 20},
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


def convertible_to_keras(rng):
    opt = fastopt.Adam(lr=0.1, eps_hat=True)
    for _ in range(2):
        opt.update({"W": f32(rng, 5, 3), "b": f32(rng, 3)}, {"W": f32(rng, 5, 3), "b": f32(rng, 3)})
    return opt


@case("convert.to_keras")
def to_keras(rng, module):
    opt = convertible_to_keras(rng)
    return Case(fastopt.convert.to_keras, {"optimizer": opt, "keys": ["b", "W"]}, (opt,))


@case("convert.from_keras")
def from_keras(rng, module):
    opt = convertible_to_keras(rng)
    store = fastopt.convert.to_keras(opt, ["W", "b"])
    return Case(fastopt.convert.from_keras, {"optimizer": opt, "store": store, "keys": ["W", "b"]}, (opt,))


TraceState = namedtuple("TraceState", "trace")


def convertible_to_optax(rng):
    opt = fastopt.SGD(lr=0.1, momentum=0.9)
    opt.update({"W": f32(rng, 5, 3), "b": f32(rng, 3)}, {"W": f32(rng, 5, 3), "b": f32(rng, 3)})
    return opt, TraceState({"W": f32(rng, 5, 3), "b": f32(rng, 3)})


@case("convert.to_optax")
def to_optax(rng, module):
    opt, state = convertible_to_optax(rng)
    return Case(fastopt.convert.to_optax, {"optimizer": opt, "opt_state": state, "keys": ["W", "b"]}, (opt,))


@case("convert.from_optax")
def from_optax(rng, module):
    opt, state = convertible_to_optax(rng)
    return Case(fastopt.convert.from_optax,
                {"optimizer": opt, "opt_state": state, "keys": ["W", "b"], "step_count": None}, (opt,))


@case("convert.layer_to_torch")
def layer_to_torch(rng, module):
    layer = fastopt.BatchNorm(3)
    return Case(fastopt.convert.layer_to_torch, {"layer": layer}, (layer,))


@case("convert.layer_from_torch")
def layer_from_torch(rng, module):
    layer = fastopt.Dense(3, 2, rng=np.random.default_rng(0))
    return Case(fastopt.convert.layer_from_torch,
                {"layer": layer, "state_dict": {"weight": f32(rng, 2, 3), "bias": f32(rng, 2)}}, (layer,))


@case("convert.layer_to_keras")
def layer_to_keras(rng, module):
    layer = fastopt.BatchNorm(3)
    return Case(fastopt.convert.layer_to_keras, {"layer": layer}, (layer,))


@case("convert.layer_from_keras")
def layer_from_keras(rng, module):
    layer = fastopt.LayerNorm(3)
    return Case(fastopt.convert.layer_from_keras, {"layer": layer, "weights": [f32(rng, 3), f32(rng, 3)]}, (layer,))


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


@case("cast")
def cast(rng, module):
    tree = {"w": rng.standard_normal((3, 4)), "layers": [(rng.standard_normal(3), 0.5)], "labels": np.arange(3)}
    return Case(fastopt.cast, {"tree": tree, "dtype": np.float32}, use=lambda result: type(result).__name__)


@case("keep_heap")
def heap(rng, module):
    return Case(fastopt.keep_heap, {})


@case("show_config")
def configuration(rng, module):
    return Case(fastopt.show_config, {"mode": "dicts"}, use=lambda result: None)
