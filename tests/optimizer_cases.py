"""Every optimizer and what its tests need to know, one row each.

States, optional arrays, `step` and the options that a function takes are read from its signature. The rows are used by
test_bits.py (kernels against the reference), arguments.py (bad input), test_optimizer_*.py and test_properties.py (the
classes), test_golden.py (torch's trajectories), test_vectorised.py (the operations of each loop) and
test_completeness.py (no row may be missing).
"""

import inspect
import typing
from dataclasses import dataclass, field

import numpy as np

import fastopt


def taken_by(function):
    """The names of all arguments of a function or class that are no arrays, those of its ``**options`` included."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY or p.name == "lr"]
    (options,) = [typing.get_args(p.annotation)[0] for p in parameters if p.kind is p.VAR_KEYWORD]
    return {*names, *options.__annotations__}


@dataclass(frozen=True)
class Row:
    """One optimizer class with its function."""

    name: str
    """The class."""
    function: str
    settings: tuple
    """Arguments of the class with which the tests of whole models run."""
    calls: tuple = ()
    """Arguments of the function with which it is compared with the reference bit by bit: see `call`."""
    valid: dict = field(default_factory=dict)
    """Arguments with which the function takes all of its arrays, and those that have no default."""
    refused: dict = field(default_factory=dict)
    """Values that the function must refuse, by argument: those that REFUSED does not have."""
    read: tuple = ()
    """Optional arrays that are not state: the function only reads them."""
    loops: tuple = ()
    """(multiplications, divisions, square roots) of one element, for each set of the function's own flags and with no
    shared option. Those by grad_scale and by the factor of decoupled weight decay count."""
    layerwise: bool = False
    """Whether the step depends on norms of the whole tensor."""
    torch: bool = True
    """Whether torch.optim has it, and tests/golden its trajectories."""

    def parameters(self):
        return inspect.signature(getattr(fastopt, self.function)).parameters.values()

    @property
    def family(self):
        """The name of its module, of the kernels' too."""
        return getattr(fastopt, self.function).__module__.removeprefix("fastopt._")

    @property
    def taken(self):
        return taken_by(getattr(fastopt, self.function))

    @property
    def states(self):
        """The state arrays that the function requires."""
        return [p.name for p in self.parameters() if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty][2:]

    @property
    def optional_states(self):
        return [p.name for p in self.parameters() if p.default is None]


@dataclass(frozen=True)
class Call:
    """One way to call a row's function: its own arguments, and which of its optional arrays it gets."""

    row: Row
    optional: tuple
    options: dict

    def __str__(self):
        return "-".join([self.row.function, *self.optional, *(f"{key}={value}" for key, value in self.options.items())])

    @property
    def states(self):
        return [*self.row.states, *self.optional]


def call(*optional, **options):
    return optional, options


REFUSED = {
    "lr": (-0.1, float("nan"), float("inf"), "fast", None, True, 1e39, 10**400, np.array([0.1])),
    "step": (0, -1, 1.5, True, "1", 2**63, 10**400, np.array(1.5), np.array([1])),
    "betas": ((1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), 0.9, (0.9,), ("a", 0.9)),
    "eps": (-1e-8, float("nan"), 1e-50, 1e39, 10**400),
    "momentum": (-0.1, float("inf"), "heavy", 1e39),
    "weight_decay": (-1e-3, 1e39),
    "decoupled_weight_decay": (-1e-3, 1e39),
    "l1": (-1.0, [0.1], 1e39),
    "maximize": (1, None),
    "grad_scale": (float("nan"), float("inf"), 1e39, -1e39, 10**400),
    "clip_value": (0.0, -1.0, 1e-50),
    "average_decay": (1.5, -0.1, None),
}
"""Values that every function refuses that has such an argument."""

ROWS = [
    Row("SGD", "sgd",
        settings=({"lr": 0.1}, {"lr": 0.1, "momentum": 0.9}, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        calls=(call(), call("buf", momentum=0.9), call("buf", momentum=0.9, dampening=0.3),
               call("buf", momentum=0.9, nesterov=True)),
        valid={"lr": 0.1, "momentum": 0.9}, refused={"dampening": (float("nan"), -1e39)},
        loops=((3, 0, 0), (5, 0, 0), (6, 0, 0), (3, 0, 0), (4, 0, 0))),
    Row("SGDM", "sgdm", settings=({"lr": 0.1},), calls=(call(),), refused={"beta": (1.0, -0.1)},
        loops=((5, 0, 0),), torch=False),
    Row("Momentum", "momentum", settings=({"lr": 0.1}, {"lr": 0.1, "nesterov": True}),
        calls=(call(), call(momentum=0.5, nesterov=True)), valid={"lr": 0.1},
        loops=((4, 0, 0), (5, 0, 0)), torch=False),
    Row("ASGD", "asgd", settings=({"lr": 0.1, "t0": 4.0},),
        calls=(call(), call(t0=500.0, lambd=0.1, alpha=0.5)),
        refused={"lambd": (-1.0, 1e39), "alpha": (-1.0,), "t0": (-1.0,)},
        loops=((4, 0, 0), (3, 0, 0))),
    Row("Adagrad", "adagrad", settings=({"lr": 0.1, "initial_accumulator_value": 0.1, "lr_decay": 0.01},),
        calls=(call(), call(lr_decay=0.1, eps=1e-3, eps_inside_sqrt=True)), refused={"lr_decay": (-0.1,)},
        loops=((4, 1, 1),)),
    Row("Adadelta", "adadelta", settings=({},), calls=(call(), call(rho=0.5, eps=0.0)), refused={"rho": (1.0, -0.1)},
        loops=((10, 1, 2),)),
    Row("RMSprop", "rmsprop",
        settings=({"lr": 0.01}, {"lr": 0.01, "momentum": 0.5, "centered": True, "eps_inside_sqrt": True}),
        calls=(call(), call(eps=1e-3, eps_inside_sqrt=True), call("grad_avg", alpha=0.9), call("buf", momentum=0.9),
               call("grad_avg", "buf", momentum=0.9, eps=1e-3)),
        valid={"momentum": 0.9}, refused={"alpha": (1.0, -0.1)},
        loops=((6, 1, 1), (9, 1, 1), (7, 1, 1), (10, 1, 1))),
    Row("Adan", "adan",
        settings=({"lr": 0.01, "weight_decay": 0.1}, {"lr": 0.01, "weight_decay": 0.1, "no_prox": True}),
        calls=(call(), call(betas=(0.5, 0.8, 0.95), eps=1e-3, weight_decay=0.1), call(weight_decay=0.1, no_prox=True)),
        refused={"betas": ((1.0, 0.9, 0.9), (0.9, 1.0, 0.9), (0.9, 0.9, -0.1), (0.9, 0.9), 0.9, ("a", 0.9, 0.9))},
        loops=((13, 1, 1), (11, 1, 1)), torch=False),
    Row("Adam", "adam",
        settings=({"lr": 0.01}, {"lr": 0.01, "amsgrad": True, "eps_hat": True}, {"lr": 0.01, "bias_correction": False}),
        calls=(call(), call("vmax", betas=(0.8, 0.95)), call(eps_hat=True, eps=1e-3),
               call(bias_correction=False, eps=1e-3), call("vmax", bias_correction=False, betas=(0.8, 0.95)),
               call(eps=0.0, betas=(0.0, 0.0))),
        loops=((8, 1, 1), (8, 1, 1))),
    Row("AdamW", "adam", settings=({"lr": 0.01, "weight_decay": 0.1},
                                   {"lr": 0.01, "weight_decay": 0.1, "bias_correction": False})),
    Row("Adamax", "adamax", settings=({"lr": 0.01},), calls=(call(),),
        loops=((6, 1, 0),)),
    Row("NAdam", "nadam", settings=({"lr": 0.01},), calls=(call(), call(momentum_decay=0.1, betas=(0.8, 0.99))),
        refused={"momentum_decay": (-0.1,)},
        loops=((9, 1, 1),)),
    Row("RAdam", "radam", settings=({"lr": 0.01},), calls=(call(), call(betas=(0.5, 0.6), eps=1e-3)),
        loops=((8, 0, 0), (8, 1, 1))),
    Row("Lion", "lion", settings=({"lr": 0.01, "weight_decay": 0.1},), calls=(call(), call(betas=(0.0, 0.5))),
        loops=((7, 0, 0),), torch=False),
    Row("Rprop", "rprop", settings=({"lr": 0.01},),
        calls=(call(), call(etas=(0.25, 3.0), step_sizes=(0.01, 1.0))),
        refused={"etas": ((1.0, 1.2), (0.5, 1.0), 0.5, (1e-50, 1.2), (0.5, 1e39)),
                 "step_sizes": ((-1.0, 50.0), (1.0, 0.5), (1.0, 1e39))},
        loops=((5, 0, 0),)),
    Row("Sophia", "sophia", settings=({"lr": 0.01},),
        calls=(call(), call("hessian"), call("hessian", betas=(0.5, 0.9), rho=1.0, eps=1e-3, weight_decay=0.0)),
        read=("hessian",), refused={"rho": (-0.1, 1e39), "eps": (0.0, float("nan"), 1e-50)},
        loops=((6, 1, 0), (8, 1, 0)), torch=False),
    Row("LARS", "lars", settings=({"lr": 1.0},),
        calls=(call(), call(momentum=0.5, trust_coefficient=0.02, eps=0.0)),
        valid={"lr": 0.1}, refused={"trust_coefficient": (0.0, 1e39)},
        loops=((4, 0, 0),), layerwise=True, torch=False),
    Row("LAMB", "lamb", settings=({"lr": 0.01},),
        calls=(call(), call(betas=(0.8, 0.95), eps=1e-3), call(weight_decay=0.0)), layerwise=True, torch=False),
]

CALLS = [Call(row, *arguments) for row in ROWS for arguments in row.calls]

SETTINGS = {
    "-".join([row.name, *(f"{key}={value}" for key, value in options.items())]): (row.name, options)
    for row in ROWS for options in row.settings
}
"""(class, its arguments) by test name."""

SHAPES = {"W1": (64, 130), "b1": (130,), "scalar": (), "empty": (0, 3), "W2": (130, 3), "big": (20011,), "b2": (3,)}


def make(setting, module=fastopt, **options):
    """An optimizer of that setting with those of the options that its class takes."""
    name, own = SETTINGS[setting]
    taken = taken_by(getattr(fastopt, name))
    return getattr(module, name)(**{**own, **{key: value for key, value in options.items() if key in taken}})


def model(rng):
    """Parameters, or their gradients: from empty to several chunks."""
    return {key: rng.standard_normal(shape).astype(np.float32) for key, shape in SHAPES.items()}


def no_decay_on_vectors(key, param):
    return {} if param.ndim > 1 else {"weight_decay": 0.0}
