"""Libraries that only the benchmarks of bench/ use, each through the fastest interface that its users have.

torch and numba are in fastopt.bench: `fastopt bench` times them, too. Rows of a library that is not installed are
skipped, by name. Each gets as many threads as fastopt has when it is first used, by its own means; thinc has one only.
Results are written to the caller's memory wherever a library allows it.
"""

import functools
import os
import warnings

import numpy as np

import fastopt
from fastopt.bench.batchnorm import Torch, batch_norm
from fastopt.bench.contenders import Contender, UnavailableError, contender, load, torch
from fastopt.bench.dropout import P
from fastopt.bench.layernorm import layer_norm
from fastopt.bench.optimizers import torch_parameter

f32 = np.float32


@functools.cache
def tensorflow():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    module = load("tensorflow")
    module.config.threading.set_intra_op_parallelism_threads(fastopt.get_num_threads())
    module.config.threading.set_inter_op_parallelism_threads(1)
    return module


@functools.cache
def jax():
    """The size of its thread pool is read from NPROC when the pool is created."""
    before = os.environ.get("NPROC")
    os.environ["NPROC"] = str(fastopt.get_num_threads())
    try:
        module = load("jax")
        module.numpy.zeros(1)
    finally:
        del os.environ["NPROC"]
        if before is not None:
            os.environ["NPROC"] = before
    return module


# Adam


@contender("deepspeed", "adam")
def deepspeed_adam(problem):
    """Its kernel is compiled when it is first used. It shares torch's OpenMP, and so its threads."""
    load("deepspeed")
    torch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make = load("deepspeed.ops.adam").DeepSpeedCPUAdam
        try:
            opt = make([torch_parameter(*problem.streams[:2])], lr=1e-3, weight_decay=0.0, adamw_mode=False)
        except RuntimeError as error:
            raise UnavailableError(f"deepspeed cannot compile its kernel here: {error}") from error
    opt.step()
    return Contender(opt.step, lambda _: problem.params)


@contender("tensorflow", "adam")
def tensorflow_adam(problem):
    tf = tensorflow()
    param, grad, *moments = problem.streams
    param, m, v = (tf.Variable(array) for array in (param, *moments))
    grad, t = tf.constant(grad), 0
    fixed = {name: tf.constant(value) for name, value in dict(lr=1e-3, beta1=0.9, beta2=0.999).items()}

    def step():
        nonlocal t
        t += 1
        tf.raw_ops.ResourceApplyAdam(var=param.handle, m=m.handle, v=v.handle, beta1_power=0.9**t,
                                     beta2_power=0.999**t, grad=grad, **fixed,
                                     epsilon=1e-8 * (1 - 0.999**t) ** 0.5)    # which is on √v itself

    step()
    return Contender(step, lambda _: [param.numpy()])


@contender("jax", "adam")
def jax_adam(problem):
    """Compiled, with the parameter and the moments donated: their memory is the result's."""
    jnp = jax().numpy

    @functools.partial(jax().jit, donate_argnums=(0, 1, 2))
    def update(p, m, v, g, t):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        return p - 1e-3 / (1 - 0.9**t) * m / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8), m, v

    param, grad, *moments = (jnp.array(array) for array in problem.streams)
    state, t = [param, *moments], 0

    def step():
        nonlocal t
        t += 1
        state[:] = update(*state, grad, f32(t))
        state[0].block_until_ready()

    step()
    return Contender(step, lambda _: [np.asarray(state[0])])


@contender("thinc", "adam")
def thinc_adam(problem):
    """Its kernel takes the corrected learning rate, and clears the gradient: so each step has a copy."""
    load("thinc")
    ops, t = load("thinc.backends").NumpyOps(), 0
    param, grad, m, v = problem.streams
    given = np.empty_like(grad)

    def step():
        nonlocal t
        t += 1
        root = (1 - 0.999**t) ** 0.5
        np.copyto(given, grad)
        ops.adam(param, given, m, v, 0.9, 0.999, 1e-8 * root, 1e-3 * root / (1 - 0.9**t))

    step()
    return Contender(step, lambda _: problem.params, one_thread=True)


# BatchNorm: classes over fastopt.bench.batchnorm.Data.


@batch_norm("onednn", allocates=True, result=lambda returned: [part.to_dense() for part in returned])
class OneDNNBatchNorm(Torch):
    """oneDNN through torch, in the layout torch gives it; it takes (N, C, H, W) only."""

    def tensor(self, array):
        if array.ndim != 4 or self.d.last:
            raise UnavailableError("oneDNN's BatchNorm in torch takes (N, C, H, W) only")
        return torch().from_numpy(array).to_mkldnn()

    def array(self, tensor):
        return tensor


@batch_norm("tensorflow", allocates=True)
class TensorFlowBatchNorm:
    """The raw operators, channels last; (N, C) as (N, 1, 1, C)."""

    def __init__(self, d):
        tf = tensorflow()
        if d.x.ndim == 4 and not d.last:
            raise UnavailableError("TensorFlow's BatchNorm takes only channels last on a CPU")
        self.d, self.ops = d, tf.raw_ops
        self.x, self.dy = (tf.constant(array.reshape(-1, 1, 1, d.channels) if array.ndim == 2 else array)
                           for array in (d.x, d.dy))
        self.gamma, self.beta, self.mean, self.var = map(tf.constant, (d.gamma, d.beta, d.mean, d.var))
        self.nothing = tf.constant([], tf.float32)
        self.saved = self.train()[3:]

    def train(self):
        return self.ops.FusedBatchNormV3(x=self.x, scale=self.gamma, offset=self.beta, mean=self.nothing,
                                         variance=self.nothing, epsilon=self.d.eps, is_training=True)

    def forward(self):
        return [self.train()[0]]

    def backward(self):
        a, b, c = self.saved
        return self.ops.FusedBatchNormGradV3(y_backprop=self.dy, x=self.x, scale=self.gamma, reserve_space_1=a,
                                             reserve_space_2=b, reserve_space_3=c, epsilon=self.d.eps,
                                             is_training=True)[:3]

    def inference(self):
        return [self.ops.FusedBatchNormV3(x=self.x, scale=self.gamma, offset=self.beta, mean=self.mean,
                                          variance=self.var, epsilon=self.d.eps, is_training=False)[0]]


# Layer and RMS normalisation: a class over fastopt.bench.layernorm.Data.


@layer_norm("jax", allocates=True)
class JaxLayerNorm:
    """Compiled; the backward functions compute the statistics of x again."""

    def __init__(self, d):
        jnp = jax().numpy

        def layer(x, gamma, beta):
            centred = x - x.mean(1, keepdims=True)
            return centred * jax().lax.rsqrt((centred * centred).mean(1, keepdims=True) + d.eps) * gamma + beta

        def rms(x, gamma):
            return x * jax().lax.rsqrt((x * x).mean(1, keepdims=True) + d.eps) * gamma

        self.x, self.dy, self.gamma, self.beta = map(jnp.array, (d.x, d.dy, d.gamma, d.beta))
        self.layer, self.rms = jax().jit(layer), jax().jit(rms)
        self.layer_vjp = jax().jit(lambda dy, *given: jax().vjp(layer, *given)[1](dy))
        self.rms_vjp = jax().jit(lambda dy, *given: jax().vjp(rms, *given)[1](dy))

    def layer_norm_forward(self):
        return [self.layer(self.x, self.gamma, self.beta).block_until_ready()]

    def layer_norm_backward(self):
        return jax().block_until_ready(self.layer_vjp(self.dy, self.x, self.gamma, self.beta))

    def rms_norm_forward(self):
        return [self.rms(self.x, self.gamma).block_until_ready()]

    def rms_norm_backward(self):
        return jax().block_until_ready(self.rms_vjp(self.dy, self.x, self.gamma))


# Softmax and cross-entropy


@contender("onednn", "softmax")
def onednn_softmax(problem):
    t = torch()
    given = t.from_numpy(problem.x).to_mkldnn()
    return Contender(lambda: t.softmax(given, -1), lambda returned: [returned.to_dense()], allocates=True)


@contender("tensorflow", "log_softmax", "softmax")
def tensorflow_softmax(problem):
    name = {"log_softmax": "LogSoftmax", "softmax": "Softmax"}[problem.kernel]
    op, given = getattr(tensorflow().raw_ops, name), tensorflow().constant(problem.x)
    return Contender(lambda: op(logits=given), allocates=True)


@contender("tensorflow", "softmax_cross_entropy")
def tensorflow_cross_entropy(problem):
    """Its operator gives each row's loss and gradient; the mean over the rows is not taken."""
    op = tensorflow().raw_ops.SparseSoftmaxCrossEntropyWithLogits
    given, classes = tensorflow().constant(problem.x), tensorflow().constant(problem.labels)
    return Contender(lambda: op(features=given, labels=classes), allocates=True)


@contender("jax", "log_softmax", "softmax")
def jax_softmax(problem):
    function, given = jax().jit(getattr(jax().nn, problem.kernel)), jax().numpy.array(problem.x)
    return Contender(lambda: function(given).block_until_ready(), allocates=True)


@contender("jax", "softmax_cross_entropy")
def jax_cross_entropy(problem):
    given, classes = jax().numpy.array(problem.x), jax().numpy.array(problem.labels)

    def loss(logits):
        rows = jax().nn.log_softmax(logits)
        return -jax().numpy.take_along_axis(rows, classes[:, None], 1).mean()

    function, wait = jax().jit(jax().value_and_grad(loss)), jax().block_until_ready
    return Contender(lambda: wait(function(given)), allocates=True)


# Dropout


@contender("jax", "dropout_forward")
def jax_dropout(problem):
    """As flax has it: a new key from a counter in each call. Its backward is the multiplication by a stored mask."""
    jax_, jnp = jax(), jax().numpy
    given, t = jnp.array(problem.x), 0

    @jax_.jit
    def function(x, step):
        mask = jax_.random.bernoulli(jax_.random.fold_in(jax_.random.key(0), step), 1.0 - P, x.shape)
        return jnp.where(mask, x / (1.0 - P), 0.0)

    def run():
        nonlocal t
        t += 1
        return function(given, t).block_until_ready()

    return Contender(run, allocates=True)


# Embedding


@contender("jax", "embedding_forward")
def jax_embedding(problem):
    jnp = jax().numpy
    function = jax().jit(lambda weight, indices: jnp.take(weight, indices, axis=0))
    weight, indices = jnp.array(problem.weight), jnp.array(problem.indices)
    return Contender(lambda: function(weight, indices).block_until_ready(), allocates=True)


@contender("jax", "embedding_backward")
def jax_embedding_backward(problem):
    jnp, shape = jax().numpy, problem.weight.shape
    function = jax().jit(lambda dy, indices: jnp.zeros(shape, f32).at[indices].add(dy))
    dy, indices = jnp.array(problem.dy), jnp.array(problem.indices)
    return Contender(lambda: function(dy, indices).block_until_ready(), allocates=True)


@contender("tensorflow", "embedding_forward")
def tensorflow_embedding(problem):
    op = tensorflow().raw_ops.ResourceGather
    table, indices = tensorflow().Variable(problem.weight), tensorflow().constant(problem.indices)
    return Contender(lambda: op(resource=table.handle, indices=indices, dtype=f32), allocates=True)


@contender("tensorflow", "embedding_backward")
def tensorflow_embedding_backward(problem):
    op = tensorflow().raw_ops.UnsortedSegmentSum
    dy, indices = tensorflow().constant(problem.dy), tensorflow().constant(problem.indices)
    return Contender(lambda: op(data=dy, segment_ids=indices, num_segments=problem.rows), allocates=True)
