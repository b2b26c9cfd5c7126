"""Whole models: the parameters' shapes, the contenders, the check before the timing."""

import itertools

import numpy as np
import peers
import pytest
from optimizers import check
from record import record, require_memory

import fastopt


def perceptron():
    """10 tensors of 110 k elements."""
    widths = (784, 128, 64, 16, 16, 10)
    return [shape for a, b in itertools.pairwise(widths) for shape in ((a, b), (b,))]


def resnet50():
    """161 tensors of 25.6 M elements."""
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


def gpt2():
    """148 tensors of 124 M elements."""
    width = 768
    norm = [(width,), (width,)]
    block = [*norm, (width, 3 * width), (3 * width,), (width, width), (width,),
             *norm, (width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return [(50257, width), (1024, width), *(12 * block), *norm]


MODELS = {"10 tensors, 110 k": perceptron, "ResNet-50, 161 tensors": resnet50, "GPT-2, 148 tensors": gpt2}
CONTENDERS = {
    "10 tensors, 110 k": ("fastopt", "torch", "numpy", "reference"),
    "ResNet-50, 161 tensors": ("fastopt", "torch", "numpy"),
    "GPT-2, 148 tensors": ("fastopt", "torch"),
}
CLIP = 1.0


def draw(shapes, seed):
    """Arrays of these shapes; large ones are repetitions."""
    noise = np.random.default_rng(seed).standard_normal(50_021, dtype=np.float32)
    return [np.resize(noise, shape) for shape in shapes]


def norm64(arrays):
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays)))


def steps(kind, case, name, params, grads, clip):
    """A function that takes a step of the whole model; `kind`: the class, whose arguments are the case's."""
    options = case.torch[1]
    if name in ("fastopt", "reference"):
        module = fastopt if name == "fastopt" else fastopt.reference
        opt = getattr(module, kind)(**options, clip_norm=clip)
        return lambda: opt.update(params, grads)
    if name == "torch":
        return peers.torch_model(kind, params, grads, options, clip)
    states = [[np.zeros_like(param) for _ in case.states] for param in params]

    def numpy():
        scale = None
        if clip is not None:
            scale = np.float32(min(1.0, clip / (np.sqrt(sum(float((grad * grad).sum()) for grad in grads)) + 1e-6)))
        for param, grad, state in zip(params, grads, states, strict=True):
            case.numpy(param, grad if scale is None else grad * scale, *state)

    return numpy


def exact_steps(case, param, grad, scale, first, last):
    """Where the steps from `first` to `last` lead in float64."""
    param, grad = param.astype(np.float64), grad * np.float64(scale)
    arrays = case.start([np.empty(param.size) for _ in range(2 + len(case.states))], param.ravel(), grad.ravel())
    for step in range(first, last + 1):
        case.call(fastopt.reference, arrays, step)()
    return arrays[0].reshape(param.shape)


def contender(kind, case, name, model, clip):
    """The function to time, checked on the tensors that are not large, the largest error found, and the number of
    elements."""
    shapes = MODELS[model]()
    elements = sum(int(np.prod(shape)) for shape in shapes)
    require_memory(4 * elements * (2 + len(case.states)))
    params, grads = draw(shapes, 0), draw(shapes, 1)
    small = [i for i, param in enumerate(params) if param.size <= 150_000]
    before = {i: (params[i].copy(), grads[i].copy()) for i in small}
    scale = 1.0 if clip is None else min(1.0, clip / (norm64(grads) + 1e-6))
    # NumPy's step is written down for t = 2: one of it, from states of 0.
    first = 2 if name == "numpy" else 1
    run = steps(kind, case, name, params, grads, clip)
    for _ in range(first, 3):
        run()
    # torch's norm is computed in float32: 0.3 % too small for GPT-2's 38.6 M embeddings.
    tolerance = 5e-3 if clip and name == "torch" else 1e-4
    error = max(check(before[i][0], params[i], exact_steps(case, *before[i], scale, first, 2), tolerance)
                for i in small)
    return run, error, elements


def rows(test):
    """Parametrise a test (benchmark, model, clip, name)."""
    return pytest.mark.parametrize(("model", "clip", "name"), [
        pytest.param(model, clip, name, id=f"{model}-{'clipped-' if clip else ''}{name}")
        for model in MODELS for clip in (None, CLIP) for name in CONTENDERS[model]])(test)


def bench_model(benchmark, kind, case, model, clip, name):
    if benchmark.disabled and (model.startswith("GPT") or (model.startswith("ResNet") and name != "fastopt")):
        pytest.skip("a large model: only timed")
    run, error, elements = contender(kind, case, name, model, clip)
    record(benchmark, run, kernel=kind + (", clipped by norm" if clip else ""), shape=model, elements=elements,
           contender=name, error=error, moved=case.bytes + (4 if clip else 0))
