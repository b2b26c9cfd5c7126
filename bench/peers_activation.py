"""Other libraries' forms of bias, activation function and dropout; those of all other kernels are in peers.py."""

import numpy as np
from peers import jax, tensorflow

from fastopt.bench.activation import FUNCTIONS, OF_Y, SLOPE, kernels
from fastopt.bench.contenders import Contender, contender


def jax_value(name, z):
    nn = jax().nn
    if name == "leaky_relu":
        return nn.leaky_relu(z, SLOPE)
    if name.startswith("gelu"):
        return nn.gelu(z, approximate=name == "gelu_tanh")
    return z if name == "identity" else getattr(nn, name)(z)


def jax_backward(name, dy, z, y):
    """From y by the formula where that is enough, which saves computing the function again, else by vjp."""
    where = jax().numpy.where
    if name in OF_Y:
        return {"identity": lambda: dy, "relu": lambda: where(y > 0, dy, 0),
                "leaky_relu": lambda: where(y > 0, dy, SLOPE * dy), "sigmoid": lambda: dy * y * (1 - y),
                "tanh": lambda: dy * (1 - y * y)}[name]()
    return jax().vjp(lambda z: jax_value(name, z), z)[1](dy)[0]


@contender("jax", *kernels())
def jax_activation(problem):
    """Compiled, so fused. Dropout as flax has it: a new key from a counter in each call, a stored mask for backward."""
    d, random, jnp, t = problem.data, jax().random, jax().numpy, 0
    x, dy, bias = map(jnp.array, (d.x, d.dy, d.bias))

    def mask(step):
        return random.bernoulli(random.fold_in(random.key(0), step), 1 - d.p, d.x.shape)

    if problem.forward:
        @jax().jit
        def function(x, bias, step):
            y = jax_value(d.activation, x + bias)
            return jnp.where(mask(step), y / (1 - d.p), 0) if d.p else y

        def forward():
            nonlocal t
            t += 1
            return function(x, bias, t).block_until_ready()

        return Contender(forward, allocates=True)

    @jax().jit
    def gradients(dy, saved, kept):
        given = jnp.where(kept, dy / (1 - d.p), 0) if d.p else dy
        dx = jax_backward(d.activation, given, saved, saved)
        return dx, dx.sum(0)

    z = x + bias
    saved, kept = jax_value(d.activation, z) if d.activation in OF_Y else z, mask(0) if d.p else None
    return Contender(lambda: jax().block_until_ready(gradients(dy, saved, kept)), allocates=True)


TENSORFLOW = {"relu": "Relu", "leaky_relu": "LeakyRelu", "sigmoid": "Sigmoid", "tanh": "Tanh"}
"""The functions that TensorFlow has an operator for, with one for the gradient."""


@contender("tensorflow", *kernels(TENSORFLOW))
def tensorflow_activation(problem):
    """Its raw operators, and its dropout, whose backward is the product with a stored mask."""
    tf, d = tensorflow(), problem.data
    ops, name = tf.raw_ops, d.activation
    options = {"alpha": SLOPE} if name == "leaky_relu" else {}
    function, gradient = (getattr(ops, TENSORFLOW[name] + ending) for ending in ("", "Grad"))
    x, dy, bias = map(tf.constant, (d.x, d.dy, d.bias))
    if problem.forward:
        def forward():
            given = {"x" if name in ("sigmoid", "tanh") else "features": ops.BiasAdd(value=x, bias=bias)}
            y = function(**given, **options)
            return tf.nn.dropout(y, d.p) if d.p else y

        return Contender(forward, allocates=True)
    z = d.x + d.bias
    y = tf.constant(FUNCTIONS[name][0](z) if name in ("sigmoid", "tanh") else z)
    mask = tf.constant(d.mask(np.random.default_rng(0)))

    def backward():
        given = dy * mask if d.p else dy
        dx = (gradient(y=y, dy=given) if name in ("sigmoid", "tanh")
              else gradient(gradients=given, features=y, **options))
        return dx, ops.BiasAddGrad(out_backprop=dx)

    return Contender(backward, allocates=True)
