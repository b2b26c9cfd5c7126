"""What the optimizers' benchmarks share: data, contenders, models, the check before the timing."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from probe import same_streams

import fastopt

SIZES = {"1k": 1000, "100k": 100_000, "1M": 1_000_000, "50M": 50_000_000}
CONTENDERS = ("fastopt", "torch", "numpy", "reference", "same streams")
TORCH_FUSED = {"SGD", "Adam", "AdamW", "Adagrad"}


@dataclass(frozen=True)
class Case:
    """One function of fastopt with one choice of options."""

    name: str
    states: tuple
    numpy: Callable
    """(param, grad, *states): a step at t = 2 as a NumPy user writes it, in place."""
    options: dict = field(default_factory=dict)
    stepped: bool = True
    passes: tuple = ()
    """(arrays read, arrays written) of each pass over memory; without it one pass that reads all and writes all but
    grad. What is only written counts as read, too: the cache loads it first."""
    torch: tuple | None = None
    """torch.optim's class and its arguments."""
    note: str = ""
    initial: dict = field(default_factory=dict)
    """What states hold before the first step, where that is not 0."""

    def __str__(self):
        return self.name + (f" {self.note}" if self.note else "")

    @property
    def streams(self):
        arrays = 2 + len(self.states)
        return self.passes or ((arrays, arrays - 1),)

    @property
    def bytes(self):
        """Moved for each element."""
        return 4 * sum(reads + writes for reads, writes in self.streams)

    def call(self, module, arrays, step):
        """A function of no arguments that takes this step on these arrays."""
        states = dict(zip(self.states, arrays[2:], strict=True))
        step = {"step": step} if self.stepped else {}
        return functools.partial(getattr(module, self.name), *arrays[:2], **states, **self.options, **step)

    def before(self, param, grad):
        """param, a copy, grad, and the states before the first step."""
        states = (np.full_like(param, self.initial.get(state, 0.0)) for state in self.states)
        return [param.copy(), grad, *states]


@functools.cache
def torch():
    module = pytest.importorskip("torch", reason="torch is not installed")
    module.set_num_threads(fastopt.get_num_threads())
    return module


def torch_optimizer(name, tensors, options):
    """torch's fused optimizer where it has one on the CPU; its other forms are slower there."""
    return getattr(torch().optim, name)(tensors, **options, **({"fused": True} if name in TORCH_FUSED else {}))


def block(n, count, seed=0):
    """`count` arrays of which larger ones are repetitions."""
    return np.random.default_rng(seed).standard_normal((count, min(n, 50_000)), dtype=np.float32)


def fresh(case, n):
    """param, grad and states before the first step."""
    return case.before(*(np.tile(part, n // part.size) for part in block(n, 2)))


def steps(case, contender, arrays):
    """A function that takes the first step on `arrays`, one that takes the second, which is the one to time."""
    if contender in ("fastopt", "reference"):
        module = fastopt if contender == "fastopt" else fastopt.reference
        return case.call(module, arrays, 1), case.call(module, arrays, 2)
    if contender == "numpy":
        return case.call(fastopt.reference, arrays, 1), functools.partial(case.numpy, *arrays)
    if contender == "torch":
        if case.torch is None:
            pytest.skip(f"torch has no {case}")
        t = torch()
        tensor = t.nn.Parameter(t.from_numpy(arrays[0]))
        tensor.grad = t.from_numpy(arrays[1])
        step = torch_optimizer(case.torch[0], [tensor], case.torch[1]).step
        return step, step
    raise ValueError(contender)


def check(before, after, exact, tolerance=1e-5):
    """`after` is where the two steps from `before` lead, to a small part of them."""
    allowed = 4 * np.spacing(np.abs(exact).astype(np.float32)) + tolerance * np.abs(exact - before).max()
    error = np.abs(after - exact)
    assert (error <= allowed).all(), f"off by {error.max()}, allowed {allowed.min()}"
    return float(error.max())


def exact_steps(case, n):
    """The block's parameter after two steps in float64 (repetitions change no trust ratio: both norms grow alike)."""
    param, grad = block(n, 2).astype(np.float64)
    arrays = case.before(param, grad)
    for step in (1, 2):
        case.call(fastopt.reference, arrays, step)()
    return param, arrays[0]


def contender(case, name, n):
    """The function to time, checked, and the largest error found."""
    arrays = fresh(case, n)
    if name == "same streams":
        return same_streams([arrays[0], *arrays[2:], arrays[1]], case.streams), 0.0
    first, second = steps(case, name, arrays)
    first()
    second()
    before, exact = exact_steps(case, n)
    error = check(before, arrays[0][: before.size], exact)
    assert (arrays[0].reshape(-1, before.size) == arrays[0][: before.size]).all()
    return second, error


def note(benchmark, run, elements, moved, error):
    """Time `run`, beside what it was found to be right to."""
    benchmark.extra_info["largest error"] = error
    benchmark(run)
    if benchmark.stats is not None:
        median = benchmark.stats.stats.median
        benchmark.extra_info["ns/element"] = median / elements * 1e9
        benchmark.extra_info["bytes/element"] = moved
        benchmark.extra_info["GB/s"] = moved * elements / median / 1e9


def bench_case(benchmark, case, name, size):
    n = SIZES[size]
    if size == "50M" and (benchmark.disabled or name in ("numpy", "reference")):
        pytest.skip("50 M elements: timed, and against torch and the memory alone")
    benchmark.group = f"{case} {size}"
    run, error = contender(case, name, n)
    note(benchmark, run, n, case.bytes, error)


def rows(cases):
    """Parametrise a test (benchmark, case, name, size)."""
    def decorate(test):
        for argument, values in (("name", CONTENDERS), ("size", list(SIZES)), ("case", cases)):
            test = pytest.mark.parametrize(argument, values, ids=str)(test)
        return test
    return decorate


# Whole models.


def resnet50():
    """The shapes of ResNet-50's 161 parameters."""
    shapes = [(64, 3, 7, 7), (64,), (64,)]
    inside = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for i in range(blocks):
            convolutions = [(width, inside, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if i == 0:
                convolutions.append((4 * width, inside, 1, 1))
            for shape in convolutions:
                shapes += [shape, (shape[0],), (shape[0],)]
            inside = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def perceptron():
    """10 tensors of 110 k elements."""
    widths = (784, 128, 64, 16, 16, 10)
    return [shape for a, b in itertools.pairwise(widths) for shape in ((a, b), (b,))]


MODELS = {"10 tensors, 110 k": perceptron, "ResNet-50, 161 tensors": resnet50}
MODEL_CONTENDERS = ("fastopt", "torch", "numpy", "reference")
CLIP = 1.0


def draw(shapes, seed):
    """Arrays of these shapes; large ones are repetitions."""
    noise = np.random.default_rng(seed).standard_normal(50_021, dtype=np.float32)
    return [np.resize(noise, shape) for shape in shapes]


def norm64(arrays):
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays)))


def model_steps(kind, case, name, params, grads, clip):
    """A function that takes a step of the whole model; `kind`: the class, whose arguments are the case's."""
    options = case.torch[1]
    if name in ("fastopt", "reference"):
        module = fastopt if name == "fastopt" else fastopt.reference
        opt = getattr(module, kind)(**options, clip_norm=clip)
        return lambda: opt.update(params, grads)
    if name == "torch":
        t = torch()
        tensors = [t.nn.Parameter(t.from_numpy(param)) for param in params]
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = t.from_numpy(grad)
        opt = torch_optimizer(kind, tensors, options)
        if clip is None:
            return opt.step

        def clipped_torch():  # it scales the gradients themselves, so later calls find them clipped: as much work
            t.nn.utils.clip_grad_norm_(tensors, clip)
            opt.step()

        return clipped_torch
    states = [[np.zeros_like(param) for _ in case.states] for param in params]

    def numpy():
        scale = None
        if clip is not None:
            scale = np.float32(min(1.0, clip / (np.sqrt(sum(float((grad * grad).sum()) for grad in grads)) + 1e-6)))
        for param, grad, state in zip(params, grads, states, strict=True):
            case.numpy(param, grad if scale is None else grad * scale, *state)

    return numpy


def model_contender(kind, case, name, model, clip):
    """The function to time, checked on the tensors that are not large, and the largest error found."""
    shapes = MODELS[model]()
    params, grads = draw(shapes, 0), draw(shapes, 1)
    before = [param.copy() for param in params]
    scale = 1.0 if clip is None else min(1.0, clip / (norm64(grads) + 1e-6))
    small = [i for i, param in enumerate(params) if param.size <= 150_000]
    exact = {}
    for i in small:
        arrays = case.before(before[i].astype(np.float64), grads[i] * np.float64(scale))
        for step in (1, 2):
            case.call(fastopt.reference, arrays, step)()
        exact[i] = arrays[0]
    run = model_steps(kind, case, name, params, grads, clip)
    if name != "numpy":  # which is a step at t = 2
        run()
        run()
        error = max(check(before[i], params[i], exact[i], 1e-4) for i in small)
    else:
        run()
        error = float("nan")
    return run, error, sum(param.size for param in params)


def bench_model(benchmark, kind, case, name, model, clip):
    if benchmark.disabled and model.startswith("ResNet") and name in ("numpy", "reference"):
        pytest.skip("ResNet-50 by NumPy: only timed")
    benchmark.group = f"{kind} {model}" + (", clipped by global norm" if clip else "")
    run, error, elements = model_contender(kind, case, name, model, clip)
    note(benchmark, run, elements, case.bytes + (4 if clip else 0), error)


def model_rows(test):
    """Parametrise a test (benchmark, name, model, clip)."""
    for argument, values in (("name", MODEL_CONTENDERS), ("model", list(MODELS)), ("clip", [None, CLIP])):
        test = pytest.mark.parametrize(argument, values, ids=lambda value: value and str(value))(test)
    return test
