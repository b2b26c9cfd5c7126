"""Every gradient against central differences of the function in float64, and against torch where it is installed.

A row of the table is one function with its options. y is compared, too: the differences are those of the same function.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from arguments import f32, positive

import fastopt
from fastopt import reference
from fastopt._activation import KINDS

STEP = 2.0**-17
"""Of the differences: an error of 1e-10 from their third derivative, and as much from rounding."""


@dataclass(frozen=True)
class Row:
    name: str
    inputs: Callable
    """(rng, shape) -> the float32 arrays that have a gradient, by name."""
    run: Callable
    """(inputs, dy) -> y and the gradients of Σ dy · y with respect to each input, in their order, all by fastopt."""
    value: Callable
    """float64 inputs -> y in float64."""
    torch: Callable
    """(torch, float64 tensors) -> y."""
    shapes: tuple = ((7, 12), (2, 3, 17))
    tolerance: float = 1e-6
    """Of a gradient, in units of its largest element; 2⁻²⁴ is 6e-8."""


ROWS: list[Row] = []


def row(name, *, value, run, inputs=lambda rng, shape: {"x": f32(rng, *shape)}, **others):
    ROWS.append(Row(name, inputs, run, value, **others))


def float64(function, *arguments, **options):
    """What the reference gives in float64, of those functions that round to float32 unless `out` is given."""
    return function(*arguments, **options, out=np.empty(arguments[0].shape))


# Softmax.

def softmax_rows(name, axis):
    def run(inputs, dy):
        y = getattr(fastopt, name)(inputs["x"], axis)
        return y, [getattr(fastopt, f"{name}_backward")(dy, y, axis)]

    row(f"{name}, axis {axis}", run=run, value=lambda x: float64(getattr(reference, name), x, axis=axis),
        torch=lambda torch, x: getattr(torch, name)(x, axis), shapes=((7, 12), (3, 5, 9)))


for name in ("log_softmax", "softmax"):
    for axis in (-1, 0):
        softmax_rows(name, axis)


# Cross-entropy: y is the loss.

LABELS = np.array([2, 0, 4, 4, 1, 3, 0])
WEIGHT = np.array([0.5, 2, 1, 0.25, 1.5], np.float32)
DISTRIBUTIONS = (lambda x: x / x.sum(1, keepdims=True))(np.arange(1, 36, dtype=np.float32).reshape(7, 5) % 6)
OPTIONS = {
    "labels": (LABELS, {}), "sum": (LABELS, {"reduction": "sum"}), "smoothing": (LABELS, {"label_smoothing": 0.2}),
    "weights": (LABELS, {"class_weight": WEIGHT}), "ignored": (LABELS, {"ignore_index": 4}),
    "all options": (LABELS, {"label_smoothing": 0.2, "class_weight": WEIGHT, "ignore_index": 0}),
    "distributions": (DISTRIBUTIONS, {}),
    "distributions, options": (DISTRIBUTIONS, {"label_smoothing": 0.1, "class_weight": WEIGHT}),
}


def torch_cross_entropy(torch, logits, labels, class_weight=None, **options):
    labels = torch.tensor(labels, dtype=None if labels.dtype.kind == "i" else torch.float64)
    weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float64)
    return torch.nn.functional.cross_entropy(logits, labels, weight, **options)


def cross_entropy_rows(name, labels, options):
    def run(inputs, dy):
        loss, d = fastopt.softmax_cross_entropy(inputs["logits"], labels, **options)
        assert fastopt.softmax_cross_entropy_loss(inputs["logits"], labels, **options) == loss
        return loss, [d]

    def run_linear(inputs, dy):
        x, weight, *bias = inputs.values()
        loss, *gradients = fastopt.linear_cross_entropy(x, weight, labels, *bias, chunk=3, **options)
        return loss, gradients

    def linear_inputs(rng, shape, bias):
        return {"x": f32(rng, *shape), "weight": f32(rng, 5, shape[1]), **({"bias": f32(rng, 5)} if bias else {})}

    row(f"softmax_cross_entropy, {name}", run=run, shapes=((7, 5),),
        inputs=lambda rng, shape: {"logits": 2 * f32(rng, *shape)},
        value=lambda logits: reference.softmax_cross_entropy_loss(logits, labels, **options),
        torch=lambda torch, logits: torch_cross_entropy(torch, logits, labels, **options))
    if labels is LABELS:
        for bias in (False, True):
            row(f"linear_cross_entropy, {name}{', bias' if bias else ''}", run=run_linear, shapes=((7, 6),),
                inputs=functools.partial(linear_inputs, bias=bias),
                value=lambda x, weight, bias=0.0: reference.softmax_cross_entropy_loss(
                    x @ weight.T + bias, labels, **options),
                torch=lambda torch, x, weight, bias=0.0: torch_cross_entropy(
                    torch, x @ weight.T + bias, labels, **options))


for name, (labels, options) in OPTIONS.items():
    cross_entropy_rows(name, labels, options)


# Normalisation.

EPS = 1e-3


def batch_norm_rows(training, relu, axis):
    def statistics(channels):
        rng = np.random.default_rng(3)
        return f32(rng, channels), positive(rng, channels) + np.float32(0.1)

    def inputs(rng, shape):
        channels = shape[axis]
        return {"x": 3 * f32(rng, *shape) + 2, "gamma": f32(rng, channels), "beta": f32(rng, channels)}

    def forward(module, x, gamma, beta):
        return module.batch_norm_forward(x, gamma, beta, *statistics(gamma.size), training=training, eps=EPS,
                                         channel_axis=axis, relu=relu)

    def run(inputs, dy):
        y, cache = forward(fastopt, **inputs)
        return y, fastopt.batch_norm_backward(dy, cache)

    def by_torch(torch, x, gamma, beta):
        mean, var = (torch.tensor(a, dtype=torch.float64) for a in statistics(gamma.numel()))
        y = torch.nn.functional.batch_norm(x.movedim(axis, 1), mean, var, gamma, beta, training, eps=EPS)
        return (torch.relu(y) if relu else y).movedim(1, axis)

    row(f"batch_norm, training={training}, relu={relu}, axis {axis}", inputs=inputs, run=run, torch=by_torch,
        value=lambda **inputs: forward(reference, **inputs)[0], shapes=((17, 3), (4, 3, 5), (2, 3, 4, 3)),
        tolerance=2e-6)


for training in (True, False):
    for relu in (False, True):
        for axis in (1, -1):
            batch_norm_rows(training, relu, axis)


def layer_norm_rows(name, axes):
    def inputs(rng, shape):
        vectors = ("gamma", "beta") if name == "layer_norm" else ("gamma",)
        return {"x": 3 * f32(rng, *shape) + 2, **{vector: f32(rng, *shape[-axes:]) for vector in vectors}}

    def run(inputs, dy):
        y, cache = getattr(fastopt, f"{name}_forward")(*inputs.values(), eps=EPS)
        return y, getattr(fastopt, f"{name}_backward")(dy, cache)

    def by_torch(torch, x, gamma, *beta):
        return getattr(torch.nn.functional, name)(x, gamma.shape, gamma, *beta, eps=EPS)

    row(f"{name}, {axes} axes", inputs=inputs, run=run, shapes=((5, 12), (3, 4, 17)), tolerance=2e-6,
        value=lambda **inputs: getattr(reference, f"{name}_forward")(*inputs.values(), eps=EPS)[0],
        torch=lambda torch, **tensors: by_torch(torch, *tensors.values()))


for name in ("layer_norm", "rms_norm"):
    for axes in (1, 2):
        layer_norm_rows(name, axes)


# Embedding and dropout.

def embedding_rows(padding):
    indices = np.array([[3, 0, 3], [1, 3, 5]])

    def run(inputs, dy):
        weight = inputs["weight"]
        y = fastopt.embedding_forward(weight, indices)
        return y, [fastopt.embedding_backward(dy, indices, len(weight), padding_idx=padding)]

    def value(weight):
        """The padding row is 0 and a constant."""
        return np.where((indices == padding)[..., np.newaxis], 0.0, reference.embedding_forward(weight, indices))

    def by_torch(torch, weight):
        return torch.nn.functional.embedding(torch.tensor(indices), weight, padding_idx=padding)

    row(f"embedding, padding_idx={padding}", run=run, value=value, torch=by_torch, shapes=((6, 4), (6, 17)),
        inputs=lambda rng, shape: {"weight": f32(rng, *shape) * (np.arange(shape[0]) != padding)[:, np.newaxis]})


for padding in (None, 3):
    embedding_rows(padding)

KEY = 2**63 + 5


def kept(p, shape):
    """The factors of dropout, in float64: 0, or 1 / (1 − p) in float32."""
    return reference.dropout_forward(np.ones(shape), p, KEY)[0].astype(np.float64)


def dropout_rows(p):
    def run(inputs, dy):
        y, cache = fastopt.dropout_forward(inputs["x"], p, KEY)
        return y, [fastopt.dropout_backward(dy, cache)]

    row(f"dropout, p={p}", run=run, value=lambda x: float64(reference.dropout_forward, x, p, KEY)[0],
        torch=lambda torch, x: x * torch.tensor(kept(p, tuple(x.shape))))


for p in (0.0, 0.3, 0.5, 1.0):
    dropout_rows(p)


# Activation functions and the Dense layer.

def by_torch(torch, z, name):
    functional = torch.nn.functional
    return {"identity": lambda: z, "leaky_relu": lambda: functional.leaky_relu(z, SLOPE),
            "gelu_tanh": lambda: functional.gelu(z, approximate="tanh")}.get(
                name, lambda: getattr(functional, name)(z))()


def activation_rows(name, bias, p):
    options = {"dropout": p, "rng": KEY, "negative_slope": SLOPE}

    def inputs(rng, shape):
        return {"x": 2 * f32(rng, *shape), **({"bias": f32(rng, shape[1])} if bias else {})}

    def forward(module, x, bias=None):
        return module.activation_forward(x, name, bias, channel_axis=1, **options)

    def run(inputs, dy):
        y, cache = forward(fastopt, **inputs)
        dx, dbias = fastopt.activation_backward(dy, cache)
        return y, [dx, dbias][: len(inputs)]

    def torchs(torch, x, bias=None):
        z = x if bias is None else x + bias.reshape(-1, *[1] * (x.ndim - 2))
        return by_torch(torch, z, name) * torch.tensor(kept(p, tuple(x.shape)))

    row(f"activation, {name}{', bias' if bias else ''}, dropout={p}", inputs=inputs, run=run, torch=torchs,
        value=lambda **inputs: forward(reference, **inputs)[0])


def dense_rows(name, bias):
    """Against NumPy's product in float64."""
    def inputs(rng, shape):
        return {"x": f32(rng, *shape), "weight": f32(rng, shape[-1], 5), **({"bias": f32(rng, 5)} if bias else {})}

    def run(inputs, dy):
        layer = fastopt.Dense(*inputs["weight"].shape, name, bias=bias, negative_slope=SLOPE,
                              rng=np.random.default_rng(1))
        layer.load_state_dict({key: array for key, array in inputs.items() if key != "x"})
        y = layer.forward(inputs["x"])
        return y, [layer.backward(dy), *layer.grads.values()]

    row(f"Dense, {name}{', bias' if bias else ''}", inputs=inputs, run=run,
        value=lambda x, weight, bias=None: reference.activation_forward(
            x @ weight, name, bias, negative_slope=SLOPE)[0],
        torch=lambda torch, x, weight, bias=0.0: by_torch(torch, x @ weight + bias, name))


SLOPE = 0.3
for name in KINDS:
    for bias in (False, True):
        for p in (0.0, 0.3):
            activation_rows(name, bias, p)
        dense_rows(name, bias)


# The tests.

ALL = pytest.mark.parametrize(("row", "shape"), [(row, shape) for row in ROWS for shape in row.shapes],
                              ids=lambda value: getattr(value, "name", None))


def results(row, shape, rng):
    """The inputs, dy, and what fastopt gives."""
    inputs = row.inputs(rng, shape)
    wide = {name: array.astype(np.float64) for name, array in inputs.items()}
    y = row.value(**wide)
    dy = f32(rng, *y.shape) if np.ndim(y) else np.float32(1)
    y_of_fastopt, gradients = row.run(inputs, dy)
    assert len(gradients) == len(inputs)
    assert close(y_of_fastopt, y, row.tolerance)
    return wide, dy, dict(zip(inputs, gradients, strict=True))


def close(found, expected, tolerance):
    return np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@ALL
def test_against_central_differences(row, shape, rng):
    wide, dy, gradients = results(row, shape, rng)
    for name, array in wide.items():
        slope = np.empty(array.shape)
        for i in np.ndindex(array.shape):
            high, low = array.copy(), array.copy()
            high[i] += STEP
            low[i] -= STEP
            difference = row.value(**{**wide, name: high}) - row.value(**{**wide, name: low})
            slope[i] = np.sum(dy * difference) / (2 * STEP)
        assert gradients[name].dtype == np.float32
        assert close(gradients[name], slope, row.tolerance), name


@ALL
def test_against_torch(row, shape, rng):
    torch = pytest.importorskip("torch")
    wide, dy, gradients = results(row, shape, rng)
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in wide.items()}
    y = row.torch(torch, **tensors)
    np.testing.assert_allclose(y.detach().numpy(), row.value(**wide), rtol=1e-9, atol=1e-12)
    y.backward(torch.tensor(dy, dtype=torch.float64))
    for name, tensor in tensors.items():
        assert close(gradients[name], tensor.grad.numpy(), row.tolerance), name


def test_every_gradient_is_in_the_table():
    with_gradient = {name.removesuffix("_backward") for name in fastopt.__all__ if name.endswith("_backward")}
    with_gradient |= {name for name in fastopt.__all__ if name.endswith("cross_entropy")}
    assert with_gradient | {"Dense"} == {row.name.partition(",")[0] for row in ROWS}
