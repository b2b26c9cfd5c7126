"""Optimizers: a case names a function and its options; its workloads, contenders and checks follow from that.

Two steps are taken: a contender's maker takes the first, its call is the second, and where the two lead is compared
with the reference in float64.
"""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

import fastopt
from fastopt.bench.contenders import CONTENDERS, Contender, Maker, Workload, contender, noise, numba, torch

BLOCK = 50_000
"""Larger tensors repeat this many elements."""
CHECKED = 150_000
"""Of each tensor of a model, this many leading elements are checked."""
TORCH_FUSED = {"SGD", "Adam", "AdamW", "Adagrad"}

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Case:
    """One optimizer function of fastopt with one choice of options."""

    name: str
    numpy: Callable[..., None]
    """(param, grad, *states): the second step as a NumPy user writes it, in place. A state that is optional in fastopt
    is part of the case if this function has a parameter of that name."""
    options: dict[str, Any] = field(default_factory=dict)
    passes: tuple[str, ...] = ()
    """Over (param, grad, *states), see `fastopt.bench.roof`; by default one pass that updates all but grad."""
    torch: tuple[str, dict[str, Any]] | None = None
    """torch.optim's class and its arguments; fastopt's class of that name takes the same ones."""
    note: str = ""
    initial: dict[str, float] = field(default_factory=dict)
    """What states hold before the first step, where that is not 0."""

    def __post_init__(self) -> None:
        if not self.passes:
            object.__setattr__(self, "passes", ("ur" + "u" * len(self.states),))

    def __str__(self) -> str:
        return self.name + (f" {self.note}" if self.note else "")

    @functools.cached_property
    def states(self) -> tuple[str, ...]:
        """Names of the states: what fastopt's function takes after param and grad."""
        used = list(inspect.signature(self.numpy).parameters)[2:]
        parameters = list(inspect.signature(getattr(fastopt, self.name)).parameters.values())[2:]
        return tuple(parameter.name for parameter in parameters if parameter.name in used or (
            parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty))

    @functools.cached_property
    def stepped(self) -> bool:
        """Whether fastopt's function takes the number of the step."""
        return "step" in inspect.signature(getattr(fastopt, self.name)).parameters

    def step(self, module: ModuleType, arrays: Sequence[np.ndarray], t: int) -> Callable[[], None]:
        """A function of no arguments that takes step t on (param, grad, *states)."""
        states = dict(zip(self.states, arrays[2:], strict=True))
        number = {"step": t} if self.stepped else {}
        return functools.partial(getattr(module, self.name), *arrays[:2], **states, **self.options, **number)

    def fill(self, states: Sequence[np.ndarray]) -> None:
        """Make the states what they are before the first step."""
        for name, array in zip(self.states, states, strict=True):
            array.fill(self.initial.get(name, 0.0))

    def exact(self, param: np.ndarray, grad: np.ndarray) -> np.ndarray:
        """Where two steps lead in float64."""
        arrays = [param.astype(np.float64), grad.astype(np.float64), *(np.empty(param.shape) for _ in self.states)]
        self.fill(arrays[2:])
        for t in (1, 2):
            self.step(fastopt.reference, arrays, t)()
        return arrays[0]


def compare(before: np.ndarray, after: np.ndarray, exact: np.ndarray, tolerance: float) -> tuple[float, bool]:
    """The largest error of `after`, and whether each is a small part of the steps from `before` to `exact`."""
    allowed = 4 * np.spacing(np.abs(exact).astype(np.float32)) + tolerance * np.abs(exact - before).max(initial=0.0)
    error = np.abs(after - exact)
    return float(error.max(initial=0.0)), bool((error <= allowed).all())


@functools.cache
def block(n: int) -> np.ndarray:
    """A parameter and its gradient, or the part of them that is repeated."""
    return np.random.default_rng(0).standard_normal((2, min(n, BLOCK)), dtype=np.float32)


@functools.cache
def exact_block(case: Case, n: int) -> np.ndarray:
    """(Repetitions change no trust ratio: both norms grow alike.)"""
    return case.exact(*block(n))


def blocks(array: np.ndarray, n: int) -> Sequence[np.ndarray]:
    """Views of an array: its whole blocks of n elements as rows of a matrix, and its remainder."""
    whole = array.size // max(n, 1) * n
    return array[:whole].reshape(-1, max(n, 1)), array[whole:]


def empty(k: int, n: int) -> np.ndarray:
    return np.empty(n, np.float32)


class OneTensor:
    """One tensor of n elements. `make(k, n)` gives the memory of the k-th array."""

    clip = None
    scale = 1.0

    def __init__(self, case: Case, n: int, make: Callable[[int, int], np.ndarray] = empty) -> None:
        self.case, self.n = case, n
        self.streams = [make(k, n) for k in range(2 + len(case.states))]
        for array, part in zip(self.streams, block(n), strict=False):
            for repeated in blocks(array, part.size):
                repeated[...] = part[: repeated.shape[-1]]
        case.fill(self.streams[2:])
        self.params, self.grads, self.states = self.streams[:1], self.streams[1:2], [self.streams[2:]]

    def clear(self) -> None:
        """The parameter is the output."""

    def check(self, name: str, result: Sequence[np.ndarray]) -> tuple[float, bool]:
        before, after = block(self.n)[0], result[0]
        first = after[: before.size]
        error, right = compare(before, first, exact_block(self.case, before.size), 1e-5)
        return error, right and all((part == first[: part.shape[-1]]).all() for part in blocks(after, before.size))


class Model:
    """Tensors of these shapes, updated by one call; with `clip` their gradients are clipped by norm."""

    def __init__(self, case: Case, shapes: Sequence[Shape], clip: float | None = None) -> None:
        self.case, self.clip = case, clip
        self.params, self.grads = ([noise(*shape, seed=seed, period=50_021) for shape in shapes] for seed in (0, 1))
        self.before = [(param.ravel()[:CHECKED].copy(), grad.ravel()[:CHECKED].copy())
                       for param, grad in zip(self.params, self.grads, strict=True)]
        self.scale = 1.0
        if clip is not None:
            norm = math.sqrt(sum(float(np.square(grad, dtype=np.float64).sum()) for grad in self.grads))
            self.scale = min(1.0, clip / (norm + 1e-6))

    @functools.cached_property
    def states(self) -> list[list[np.ndarray]]:
        """Of the contenders that do not keep them themselves."""
        states = [[np.empty_like(param) for _ in self.case.states] for param in self.params]
        for arrays in states:
            self.case.fill(arrays)
        return states

    @property
    def streams(self) -> list[np.ndarray]:
        elements = sum(param.size for param in self.params)
        return [noise(elements) for _ in range(2 + len(self.case.states))]

    def clear(self) -> None:
        """The parameters are the output."""

    def check(self, name: str, result: Sequence[np.ndarray]) -> tuple[float, bool]:
        # torch computes the norm in float32: for the 38.6 M elements of GPT-2's embedding it is 0.3 % too small.
        tolerance = 5e-3 if self.clip and name == "torch" else 1e-4
        found = [compare(param, after.ravel()[:CHECKED], self.case.exact(param, grad * np.float64(self.scale)),
                         tolerance)
                 for (param, grad), after in zip(self.before, result, strict=True)]
        return max(error for error, _ in found), all(right for _, right in found)


def one_tensor(case: Case, size: str, n: int, make: Callable[[int, int], np.ndarray] = empty) -> Workload:
    return Workload(str(case), size, n, case.passes, functools.partial(OneTensor, case, n, make))


def model(case: Case, name: str, shapes: Sequence[Shape], clip: float | None = None) -> Workload:
    """A whole model, updated by the class that is called as torch's; its elements do not depend on one another."""
    assert case.torch is not None
    norm = () if clip is None else ("-r" + "-" * len(case.states),)
    return Workload(case.torch[0], name, sum(map(math.prod, shapes)), (*norm, *case.passes),
                    functools.partial(Model, case, shapes, clip), "" if clip is None else ", clipped by norm")


def layers(*widths: int) -> list[Shape]:
    """Shapes of the weights and biases of a fully connected network."""
    return [shape for inputs, outputs in itertools.pairwise(widths) for shape in ((inputs, outputs), (outputs,))]


# Contenders that every case has. `by_function` and its variants serve one tensor, `by_class` a whole model.

def by_function(module: ModuleType, one_thread: bool = False) -> Maker:
    def make(problem: OneTensor) -> Contender:
        problem.case.step(module, problem.streams, 1)()
        second = problem.case.step(module, problem.streams, 2)
        return Contender(second, lambda _: problem.params, one_thread=one_thread)
    return make


def by_class(module: ModuleType, one_thread: bool = False) -> Maker:
    def make(problem: Model) -> Contender:
        kind, options = problem.case.torch      # type: ignore[misc]
        opt = getattr(module, kind)(**options, clip_norm=problem.clip)

        def step() -> None:
            opt.update(problem.params, problem.grads)

        step()
        return Contender(step, lambda _: problem.params, one_thread=one_thread)
    return make


def by_numpy(problem: OneTensor | Model) -> Contender:
    """Its form is written for the second step; the first is ours."""
    form, grads = problem.case.numpy, problem.grads
    for param, grad, states in zip(problem.params, grads, problem.states, strict=True):
        problem.case.step(fastopt, (param, grad * np.float32(problem.scale), *states), 1)()

    def step() -> None:
        scale = None
        if problem.clip is not None:
            norm = math.sqrt(sum(float((grad * grad).sum()) for grad in grads))
            scale = np.float32(min(1.0, problem.clip / (norm + 1e-6)))
        for param, grad, states in zip(problem.params, grads, problem.states, strict=True):
            form(param, grad if scale is None else grad * scale, *states)

    one = functools.partial(form, *problem.streams) if isinstance(problem, OneTensor) else step
    return Contender(one, lambda _: problem.params, one_thread=True)


def by_numpy_out(form: Callable[..., None]) -> Maker:
    """`form` as Case.numpy, but without temporary arrays: it has a scratch array as last argument."""
    def make(problem: OneTensor) -> Contender:
        problem.case.step(fastopt, problem.streams, 1)()
        second = functools.partial(form, *problem.streams, np.empty_like(problem.params[0]))
        return Contender(second, lambda _: problem.params, one_thread=True)
    return make


def by_torch(problem: OneTensor | Model) -> Contender:
    """The fused optimizer where torch has one on the CPU; its other forms are slower there."""
    t, (kind, options) = torch(), problem.case.torch    # type: ignore[misc]
    tensors = [torch_parameter(*pair) for pair in zip(problem.params, problem.grads, strict=True)]
    opt = getattr(t.optim, kind)(tensors, **options, **({"fused": True} if kind in TORCH_FUSED else {}))

    def clipped() -> None:  # it scales the gradients themselves, so later calls find them clipped: as much work
        t.nn.utils.clip_grad_norm_(tensors, problem.clip)
        opt.step()

    step = opt.step if problem.clip is None else clipped
    step()
    return Contender(step, lambda _: problem.params)


def torch_parameter(param: np.ndarray, grad: np.ndarray) -> Any:
    """A torch parameter in the same memory."""
    tensor = torch().nn.Parameter(torch().from_numpy(param))
    tensor.grad = torch().from_numpy(grad)
    return tensor


def add_case(case: Case) -> Case:
    """Register a case's contenders for one tensor."""
    makers = {"fastopt": by_function(fastopt), "numpy": by_numpy, "reference": by_function(fastopt.reference, True)}
    CONTENDERS.setdefault(str(case), {}).update(makers | ({"torch": by_torch} if case.torch else {}))
    return case


def add_model(case: Case) -> None:
    """Register the contenders for whole models, by the class that is called as torch's."""
    assert case.torch is not None
    CONTENDERS.setdefault(case.torch[0], {}).update({
        "fastopt": by_class(fastopt), "torch": by_torch, "numpy": by_numpy,
        "reference": by_class(fastopt.reference, True)})


# The cases that `fastopt bench` times.

def numpy_heavy_ball(p: np.ndarray, g: np.ndarray, buf: np.ndarray) -> None:
    buf[...] = 0.9 * buf + g
    p -= 0.1 * buf


def numpy_adam(p: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, t: int = 2) -> None:
    m[...] = 0.9 * m + 0.1 * g
    v[...] = 0.999 * v + 0.001 * g**2
    p -= 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


MOMENTUM = add_case(Case("sgd", numpy_heavy_ball, {"lr": 0.1, "momentum": 0.9},
                         torch=("SGD", {"lr": 0.1, "momentum": 0.9}), note="(momentum)"))
ADAM = add_case(Case("adam", numpy_adam, torch=("Adam", {})))
for case in (MOMENTUM, ADAM):
    add_model(case)


@contender("numba", "adam")
def numba_adam(problem: OneTensor) -> Contender:
    """The parallel loop with relaxed arithmetic that a numba user writes."""
    loop, t = numba_adam_loop(numba()), 0

    def step() -> None:
        nonlocal t
        t += 1
        root = (1 - 0.999**t) ** 0.5
        loop(*problem.streams, *map(np.float32, (1e-3 * root / (1 - 0.9**t), 0.9, 0.999, 0.1, 0.001, 1e-8 * root)))

    step()      # compiles, too
    return Contender(step, lambda _: problem.params)


@functools.cache
def numba_adam_loop(nb: Any) -> Callable[..., None]:
    @nb.njit(parallel=True, fastmath=True)
    def loop(p, g, m, v, lr, beta1, beta2, rest1, rest2, eps):  # type: ignore[no-untyped-def]
        for i in nb.prange(p.size):
            m[i] = beta1 * m[i] + rest1 * g[i]
            v[i] = beta2 * v[i] + rest2 * g[i] * g[i]
            p[i] -= lr * m[i] / (np.sqrt(v[i]) + eps)

    return loop
