"""Networks that measure_epoch.py trains: layers in NumPy with chosen kernels, and the same layers as torch modules.

    mlp         dense → BatchNorm → ReLU, twice; dense: the demo's network
    dropout     dense with bias → ReLU → dropout, twice; dense
    conv        convolution → BatchNorm → ReLU, twice; mean over the image; dense
    language    embeddings of a few tokens → dense → BatchNorm → ReLU; dense: logits of the next token

Each ends in softmax cross-entropy. A layer has `params` and `grads` with the same keys, `forward(x)`,
`backward(d, needs_dx)`, which writes `grads` and returns the gradient of x (None unless it is needed), and
`modules(t)`: torch modules that start from the same weights. Images are channels last, (N, height, width, channels).
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

import fastopt
from fastopt import init
from fastopt.bench.optimizers import numpy_adam
from fastopt.demo.plain import functions as plain

WINDOW = 3
"""Height and width of a convolution's kernel."""


# What layers are made of. Products and copies are NumPy's in both sets of kernels.

def im2col(x, stride):
    """(N, height, width, C) → (N, rows, columns, WINDOW² C): the inputs of each position's window, no padding."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (WINDOW, WINDOW), axis=(1, 2))[:, ::stride, ::stride]
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(*windows.shape[:3], -1)


def col2im(d, shape, stride):
    """The gradient of im2col's x, which has this shape."""
    dx = np.zeros(shape, d.dtype)
    d = d.reshape(*d.shape[:3], WINDOW, WINDOW, -1)
    rows, columns = (stride * (n - 1) + 1 for n in d.shape[1:3])
    for i in range(WINDOW):
        for j in range(WINDOW):
            dx[:, i : i + rows : stride, j : j + columns : stride] += d[:, :, :, i, j]
    return dx


class NumpyAdam:
    """The loop over parameters that a NumPy user writes."""

    def __init__(self):
        self.t, self.state = 0, {}

    def update(self, params, grads):
        self.t += 1
        for key, p in params.items():
            m, v = self.state.setdefault(key, (np.zeros_like(p), np.zeros_like(p)))
            numpy_adam(p, grads[key], m, v, self.t)


def numpy_backward(dy, cache, out):
    dx, out[1][...], out[2][...] = plain.batch_norm_backward(dy, cache)
    return dx


def numpy_activation_forward(x, bias, p, rng):
    """ReLU of x + bias and dropout with the probability p, in x's memory."""
    x += bias
    np.maximum(x, 0, out=x)
    positive = x > 0
    mask = None
    if p:
        mask = plain.dropout_mask(x.shape, p, rng)
        x *= mask
    return x, (positive, mask)


def numpy_activation_backward(d, cache, dbias):
    """In d's memory."""
    positive, mask = cache
    if mask is not None:
        d *= mask
    d *= positive
    np.sum(d, axis=0, out=dbias)
    return d


def relu_then_dropout_forward(x, bias, p, rng):
    """As in NumPy, but for the dropout."""
    y, (positive, _) = numpy_activation_forward(x, bias, 0.0, None)
    y, mask = fastopt.dropout_forward(y, p, rng, out=y)
    return y, (positive, mask)


def relu_then_dropout_backward(d, cache, dbias):
    positive, mask = cache
    return numpy_activation_backward(fastopt.dropout_backward(d, mask, out=d), (positive, None), dbias)


PRODUCTS = {"matmul": np.matmul, "im2col": im2col, "col2im": col2im}
NUMPY = SimpleNamespace(
    **PRODUCTS, Adam=NumpyAdam, cross_entropy=plain.softmax_cross_entropy,
    batch_norm_forward=partial(plain.batch_norm_forward, relu=True), batch_norm_backward=numpy_backward,
    activation_forward=numpy_activation_forward, activation_backward=numpy_activation_backward)
FASTOPT = SimpleNamespace(
    **PRODUCTS, Adam=fastopt.Adam,
    cross_entropy=lambda logits, labels: fastopt.softmax_cross_entropy(logits, labels, out=logits),
    batch_norm_forward=partial(fastopt.batch_norm_forward, relu=True),
    batch_norm_backward=lambda dy, cache, out: fastopt.batch_norm_backward(dy, cache, out=out)[0],
    activation_forward=lambda x, bias, p, rng: fastopt.activation_forward(x, "relu", bias, dropout=p, rng=rng, out=x),
    activation_backward=lambda d, cache, dbias: fastopt.activation_backward(d, cache, out=(d, dbias))[0])


def instead(**kernels):
    """fastopt's kernels but for these."""
    return SimpleNamespace(**{**vars(FASTOPT), **kernels})


WITHOUT = {
    "fastopt, ReLU and dropout NumPy's": instead(
        activation_forward=numpy_activation_forward, activation_backward=numpy_activation_backward),
    "fastopt, ReLU NumPy's": instead(
        activation_forward=relu_then_dropout_forward, activation_backward=relu_then_dropout_backward),
}
"""What bias, ReLU and dropout cost without the function that does the three in one pass: all in NumPy, or but for
fastopt's dropout."""


class Layer:
    def __init__(self, kernels, **params):
        self.kernels, self.params = kernels, params
        self.grads = {key: np.zeros_like(param) for key, param in params.items()}


class Dense(Layer):
    """x weight + bias; without a bias ahead of BatchNorm, which would subtract it again."""

    def __init__(self, kernels, rng, inputs, outputs, bias=False):
        super().__init__(kernels, weight=init.he_normal((inputs, outputs), rng),
                         **({"bias": np.zeros(outputs, np.float32)} if bias else {}))

    def forward(self, x):
        self.x = x
        y = self.kernels.matmul(x, self.params["weight"])
        if "bias" in self.params:
            y += self.params["bias"]
        return y

    def backward(self, d, needs_dx):
        if "bias" in self.params:
            np.sum(d, axis=0, out=self.grads["bias"])
        return self.products(d, needs_dx)

    def products(self, d, needs_dx):
        self.kernels.matmul(self.x.T, d, out=self.grads["weight"])
        return self.kernels.matmul(d, self.params["weight"].T) if needs_dx else None

    def modules(self, t):
        inputs, outputs = self.params["weight"].shape
        linear = t.nn.Linear(inputs, outputs, bias="bias" in self.params)
        linear.weight = t.nn.Parameter(t.tensor(self.params["weight"]).t().contiguous())
        if "bias" in self.params:
            linear.bias = t.nn.Parameter(t.tensor(self.params["bias"]))
        return [linear]


class DenseReLUDropout(Dense):
    """ReLU of x weight + bias, and dropout with the probability p."""

    def __init__(self, kernels, rng, inputs, outputs, p):
        super().__init__(kernels, rng, inputs, outputs, bias=True)
        self.p, (self.rng,) = p, rng.spawn(1)

    def forward(self, x):
        self.x = x
        y = self.kernels.matmul(x, self.params["weight"])
        y, self.cache = self.kernels.activation_forward(y, self.params["bias"], self.p, self.rng)
        return y

    def backward(self, d, needs_dx):
        return self.products(self.kernels.activation_backward(d, self.cache, self.grads["bias"]), needs_dx)

    def modules(self, t):
        return [*super().modules(t), t.nn.ReLU(inplace=True), t.nn.Dropout(self.p)]


class Convolution(Layer):
    """A matrix product of im2col's windows; no bias, no padding."""

    def __init__(self, kernels, rng, inputs, outputs, stride=1):
        super().__init__(kernels, weight=init.he_normal((WINDOW * WINDOW * inputs, outputs), rng))
        self.stride = stride

    def forward(self, x):
        self.shape = x.shape
        windows = self.kernels.im2col(x, self.stride)
        self.positions, self.windows = windows.shape[:3], windows.reshape(-1, windows.shape[-1])
        return self.kernels.matmul(self.windows, self.params["weight"]).reshape(*self.positions, -1)

    def backward(self, d, needs_dx):
        d = d.reshape(len(self.windows), -1)
        self.kernels.matmul(self.windows.T, d, out=self.grads["weight"])
        if not needs_dx:
            return None
        d = self.kernels.matmul(d, self.params["weight"].T)
        return self.kernels.col2im(d.reshape(*self.positions, -1), self.shape, self.stride)

    def modules(self, t):
        weight = self.params["weight"].reshape(WINDOW, WINDOW, -1, self.params["weight"].shape[1]).transpose(3, 2, 0, 1)
        convolution = t.nn.Conv2d(weight.shape[1], weight.shape[0], WINDOW, self.stride, bias=False)
        convolution.weight = t.nn.Parameter(t.tensor(weight.copy()))
        return [convolution]


class NormReLU(Layer):
    """BatchNorm over all axes but the last, and ReLU."""

    def __init__(self, kernels, channels, image=False):
        super().__init__(kernels, gamma=np.ones(channels, np.float32), beta=np.zeros(channels, np.float32))
        self.running = np.zeros(channels, np.float32), np.ones(channels, np.float32)
        self.image = image

    def forward(self, x):
        y, self.cache = self.kernels.batch_norm_forward(
            x.reshape(-1, x.shape[-1]), self.params["gamma"], self.params["beta"], *self.running)
        return y.reshape(x.shape)

    def backward(self, d, needs_dx):
        flat = d.reshape(-1, d.shape[-1])
        return self.kernels.batch_norm_backward(
            flat, self.cache, (flat, self.grads["gamma"], self.grads["beta"])).reshape(d.shape)

    def modules(self, t):
        norm = t.nn.BatchNorm2d if self.image else t.nn.BatchNorm1d
        return [norm(len(self.params["gamma"])), t.nn.ReLU(inplace=True)]


class ImageMean(Layer):
    """(N, height, width, C) → (N, C)"""

    def forward(self, x):
        self.shape = x.shape
        return x.mean(axis=(1, 2))

    def backward(self, d, needs_dx):
        pixels = self.shape[1] * self.shape[2]
        return np.repeat(d / d.dtype.type(pixels), pixels, axis=0).reshape(self.shape)

    def modules(self, t):
        return [t.nn.AdaptiveAvgPool2d(1), t.nn.Flatten()]


class Embedding(Layer):
    """(N, tokens) → (N, tokens · width): a row of the weight for each token."""

    def __init__(self, kernels, rng, vocabulary, width):
        super().__init__(kernels, weight=init.normal((vocabulary, width), rng))

    def forward(self, tokens):
        self.tokens = tokens.ravel()
        return self.params["weight"][self.tokens].reshape(len(tokens), -1)

    def backward(self, d, needs_dx):
        plain.embedding_backward(d, self.tokens, self.grads["weight"])

    def modules(self, t):
        embedding = t.nn.Embedding(*self.params["weight"].shape)
        embedding.weight = t.nn.Parameter(t.tensor(self.params["weight"]))
        return [embedding, t.nn.Flatten()]


class Network:
    """Layers one after the other, then softmax cross-entropy."""

    def __init__(self, kernels, layers):
        self.kernels, self.layers = kernels, layers
        self.params, self.grads = ({f"{key}{i}": array for i, layer in enumerate(layers)
                                    for key, array in getattr(layer, name).items()} for name in ("params", "grads"))

    def loss_and_gradients(self, x, labels):
        """Return the mean loss of a batch and write its gradients into `grads`."""
        for layer in self.layers:
            x = layer.forward(x)
        loss, d = self.kernels.cross_entropy(x, labels)
        for i in reversed(range(len(self.layers))):
            d = self.layers[i].backward(d, i > 0)
        return loss

    def module(self, t):
        return t.nn.Sequential(*(module for layer in self.layers for module in layer.modules(t)))


# The three networks, and data that they can learn something from.

class Task(NamedTuple):
    layers: Callable
    """(kernels, rng) → list of layers"""
    data: Callable
    """(rng, examples) → x, labels"""
    dropout: bool = False
    """Whether elements are dropped, by every contender others."""


def mlp(kernels, rng, width, inputs=784, classes=10):
    return [Dense(kernels, rng, inputs, width), NormReLU(kernels, width),
            Dense(kernels, rng, width, width), NormReLU(kernels, width),
            Dense(kernels, rng, width, classes, bias=True)]


def dropping(kernels, rng, width, inputs=784, classes=10, p=0.3):
    return [DenseReLUDropout(kernels, rng, inputs, width, p), DenseReLUDropout(kernels, rng, width, width, p),
            Dense(kernels, rng, width, classes, bias=True)]


def vectors(rng, examples, inputs=784, classes=10):
    """Classes that a linear function of x tells apart."""
    x = rng.standard_normal((examples, inputs), dtype=np.float32)
    return x, (x @ rng.standard_normal((inputs, classes), dtype=np.float32)).argmax(axis=1)


def conv(kernels, rng, channels=(1, 16, 32), classes=10):
    colours, first, second = channels
    return [Convolution(kernels, rng, colours, first), NormReLU(kernels, first, image=True),
            Convolution(kernels, rng, first, second, stride=2), NormReLU(kernels, second, image=True),
            ImageMean(kernels), Dense(kernels, rng, second, classes, bias=True)]


def images(rng, examples, side=28, classes=10):
    """A pattern of each class, and noise."""
    labels = rng.integers(classes, size=examples)
    patterns = rng.standard_normal((classes, side, side, 1), dtype=np.float32)
    return patterns[labels] + rng.standard_normal((examples, side, side, 1), dtype=np.float32), labels


def language(kernels, rng, vocabulary=5000, context=4, width=64, hidden=256):
    return [Embedding(kernels, rng, vocabulary, width),
            Dense(kernels, rng, context * width, hidden), NormReLU(kernels, hidden),
            Dense(kernels, rng, hidden, vocabulary, bias=True)]


def tokens(rng, examples, vocabulary=5000, context=4):
    """Frequencies like those of words (Zipf's law); the next token depends on the last one."""
    frequency = 1 / np.arange(1, vocabulary + 1)
    x = rng.choice(vocabulary, (examples, context), p=frequency / frequency.sum())
    return x, rng.permutation(vocabulary)[x[:, -1]]


def tasks(names, widths):
    """{title: Task} of the networks of these names, mlp and dropout once for each width."""
    groups = {"mlp": {f"mlp {width}": Task(partial(mlp, width=width), vectors) for width in widths},
              "dropout": {f"dropout {width}": Task(partial(dropping, width=width), vectors, True) for width in widths},
              "conv": {"conv": Task(conv, images)}, "language": {"language": Task(language, tokens)}}
    return {title: task for name in names for title, task in groups[name].items()}
