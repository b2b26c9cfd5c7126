"""Other libraries' optimizers, BatchNorm, softmax and cross-entropy, each by the fastest way that its users have.

A library that is not installed skips its rows by name. Every one gets as many threads as fastopt has when it is first
used, by its own means; thinc knows one only. Where a result can be written to memory of the caller's, it is.
"""

import functools
import importlib
import os
import warnings

import numpy as np
import pytest

import fastopt

f32 = np.float32
TORCH_FUSED = {"SGD", "Adam", "AdamW", "Adagrad"}


def load(name):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"{name} is not installed")


@functools.cache
def torch():
    module = load("torch")
    module.set_num_threads(fastopt.get_num_threads())
    return module


@functools.cache
def tensorflow():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    module = load("tensorflow")
    module.config.threading.set_intra_op_parallelism_threads(fastopt.get_num_threads())
    module.config.threading.set_inter_op_parallelism_threads(1)
    return module


@functools.cache
def jax():
    """Its thread pool is as large as NPROC says when it is made."""
    before = os.environ.get("NPROC")
    os.environ["NPROC"] = str(fastopt.get_num_threads())
    module = load("jax")
    module.numpy.zeros(1)
    if before is None:
        del os.environ["NPROC"]
    else:
        os.environ["NPROC"] = before
    return module


@functools.cache
def numba():
    module = load("numba")
    module.set_num_threads(min(fastopt.get_num_threads(), module.config.NUMBA_NUM_THREADS))
    return module


# Optimizers: (case, arrays) → a function that takes a step, and one that returns the parameter.


def torch_class(kind, tensors, options):
    """torch's fused optimizer where it has one on the CPU; its other forms are slower there."""
    return getattr(torch().optim, kind)(tensors, **options, **({"fused": True} if kind in TORCH_FUSED else {}))


def torch_parameter(param, grad):
    tensor = torch().nn.Parameter(torch().from_numpy(param))
    tensor.grad = torch().from_numpy(grad)
    return tensor


def torch_optimizer(case, arrays):
    return torch_class(case.torch[0], [torch_parameter(*arrays[:2])], case.torch[1]).step, lambda: arrays[0]


def torch_model(kind, params, grads, options, clip):
    """A function that takes a step of the whole model."""
    tensors = [torch_parameter(*pair) for pair in zip(params, grads, strict=True)]
    opt = torch_class(kind, tensors, options)
    if clip is None:
        return opt.step

    def clipped():  # it scales the gradients themselves, so later calls find them clipped: as much work
        torch().nn.utils.clip_grad_norm_(tensors, clip)
        opt.step()

    return clipped


def deepspeed_adam(case, arrays):
    """Its kernel is compiled when it is first used. It shares torch's OpenMP, and so its threads."""
    load("deepspeed")
    torch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make = load("deepspeed.ops.adam").DeepSpeedCPUAdam
        try:
            opt = make([torch_parameter(*arrays[:2])], lr=1e-3, weight_decay=0.0, adamw_mode=False)
        except RuntimeError as error:
            pytest.skip(f"deepspeed cannot compile its kernel here: {error}")
    return opt.step, lambda: arrays[0]


def tensorflow_adam(case, arrays):
    tf = tensorflow()
    param, m, v = (tf.Variable(array) for array in (arrays[0], *arrays[2:]))
    grad, t = tf.constant(arrays[1]), 0
    fixed = {name: tf.constant(value) for name, value in dict(lr=1e-3, beta1=0.9, beta2=0.999).items()}

    def step():
        nonlocal t
        t += 1
        tf.raw_ops.ResourceApplyAdam(var=param.handle, m=m.handle, v=v.handle, beta1_power=0.9**t,
                                     beta2_power=0.999**t, grad=grad, **fixed,
                                     epsilon=1e-8 * (1 - 0.999**t) ** 0.5)    # which is on √v itself

    return step, param.numpy


def jax_adam(case, arrays):
    """Compiled, with the parameter and the moments donated: their memory is the result's."""
    jnp = jax().numpy

    @functools.partial(jax().jit, donate_argnums=(0, 1, 2))
    def update(p, m, v, g, t):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        return p - 1e-3 / (1 - 0.9**t) * m / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8), m, v

    state, grad, t = [jnp.array(array) for array in (arrays[0], *arrays[2:])], jnp.array(arrays[1]), 0

    def step():
        nonlocal t
        t += 1
        state[:] = update(*state, grad, f32(t))
        state[0].block_until_ready()

    return step, lambda: np.asarray(state[0])


def numba_adam(case, arrays):
    """The parallel loop with relaxed arithmetic that a numba user writes."""
    nb, t = numba(), 0
    loop = numba_adam_loop(nb)

    def step():
        nonlocal t
        t += 1
        root = (1 - 0.999**t) ** 0.5
        loop(*arrays, *map(f32, (1e-3 * root / (1 - 0.9**t), 0.9, 0.999, 0.1, 0.001, 1e-8 * root)))

    return step, lambda: arrays[0]


@functools.cache
def numba_adam_loop(nb):
    @nb.njit(parallel=True, fastmath=True)
    def loop(p, g, m, v, lr, beta1, beta2, rest1, rest2, eps):
        for i in nb.prange(p.size):
            m[i] = beta1 * m[i] + rest1 * g[i]
            v[i] = beta2 * v[i] + rest2 * g[i] * g[i]
            p[i] -= lr * m[i] / (np.sqrt(v[i]) + eps)

    return loop


def thinc_adam(case, arrays):
    """Its kernel takes the corrected learning rate, and clears the gradient: so each step has a copy."""
    load("thinc")
    ops, t = load("thinc.backends").NumpyOps(), 0
    param, grad, m, v = arrays
    given = np.empty_like(grad)

    def step():
        nonlocal t
        t += 1
        root = (1 - 0.999**t) ** 0.5
        np.copyto(given, grad)
        ops.adam(param, given, m, v, 0.9, 0.999, 1e-8 * root, 1e-3 * root / (1 - 0.9**t))

    return step, lambda: arrays[0]


OPTIMIZERS = {"torch": torch_optimizer, "deepspeed": deepspeed_adam, "numba": numba_adam, "jax": jax_adam,
              "tensorflow": tensorflow_adam, "thinc": thinc_adam}


# BatchNorm: a class over the data of bench_batchnorm; each method returns what is to be checked.


class TorchBatchNorm:
    """The operators without autograd's bookkeeping. Channels-last data as torch.channels_last tensors."""

    def __init__(self, d):
        self.d, self.ops = d, torch().ops.aten
        self.x, self.dy, self.out = (self.tensor(array) for array in (d.x, d.dy, d.out))
        self.gamma, self.beta, self.mean, self.var = map(torch().from_numpy, (d.gamma, d.beta, d.mean, d.var))
        self.running = self.mean.clone(), self.var.clone()
        self.saved = self.train()[1:]

    def tensor(self, array):
        t = torch().from_numpy(array)
        return t.movedim(-1, 1) if self.d.last else t

    def array(self, tensor):
        return tensor.movedim(1, -1) if self.d.last and tensor.ndim > 1 else tensor

    def train(self):
        return self.ops.native_batch_norm(self.x, self.gamma, self.beta, *self.running, True, 0.1, self.d.eps)

    def forward(self):
        return [self.array(self.train()[0])]

    def backward(self):
        return [self.array(t) for t in self.ops.native_batch_norm_backward(
            self.dy, self.x, self.gamma, *self.running, *self.saved, True, self.d.eps, [True] * 3)]

    def inference(self):
        return [self.array(self.ops.native_batch_norm(
            self.x, self.gamma, self.beta, self.mean, self.var, False, 0.1, self.d.eps)[0])]


class TorchBatchNormOut(TorchBatchNorm):
    """Into memory of the caller's; the backward has no such form."""

    def __init__(self, d):
        super().__init__(d)
        self.nothing = torch().empty(0), torch().empty(0)

    def forward(self):
        self.ops.native_batch_norm.out(self.x, self.gamma, self.beta, *self.running, True, 0.1, self.d.eps,
                                       out=self.out, save_mean=self.saved[0], save_invstd=self.saved[1])
        return [self.array(self.out)]

    def backward(self):
        pytest.skip("torch has no out= for BatchNorm's backward")

    def inference(self):
        self.ops.native_batch_norm.out(self.x, self.gamma, self.beta, self.mean, self.var, False, 0.1, self.d.eps,
                                       out=self.out, save_mean=self.nothing[0], save_invstd=self.nothing[1])
        return [self.array(self.out)]


class OneDNNBatchNorm(TorchBatchNorm):
    """oneDNN through torch, in the layout torch gives it; it takes (N, C, H, W) only."""

    def tensor(self, array):
        if array.ndim != 4 or self.d.last:
            pytest.skip("oneDNN's BatchNorm in torch takes (N, C, H, W) only")
        return torch().from_numpy(array).to_mkldnn()

    def array(self, tensor):
        return tensor


class TensorFlowBatchNorm:
    """The raw operators, channels last; (N, C) as (N, 1, 1, C)."""

    def __init__(self, d):
        tf = tensorflow()
        if d.x.ndim == 4 and not d.last:
            pytest.skip("TensorFlow's BatchNorm takes channels last only on a CPU")
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


BATCH_NORM = {"torch": TorchBatchNorm, "torch out=": TorchBatchNormOut, "onednn": OneDNNBatchNorm,
              "tensorflow": TensorFlowBatchNorm}


# Softmax and cross-entropy: (x, labels, out) → a function that returns the result, or the loss and the gradient.


def torch_softmax(name):
    def make(x, labels, out):
        function, given = getattr(torch(), name), torch().from_numpy(x)
        return lambda: function(given, -1)
    return make


def torch_softmax_out(name):
    def make(x, labels, out):
        function, given, target = getattr(torch(), name), torch().from_numpy(x), torch().from_numpy(out)
        return lambda: function(given, -1, out=target)
    return make


def onednn_softmax(x, labels, out):
    given = torch().from_numpy(x).to_mkldnn()
    return lambda: torch().softmax(given, -1)


def torch_cross_entropy(x, labels, out):
    loss_of, given = torch().nn.functional.cross_entropy, torch().from_numpy(x).requires_grad_()
    classes = torch().from_numpy(labels)

    def run():
        given.grad = None
        loss = loss_of(given, classes)
        loss.backward()
        return loss.item(), given.grad

    return run


def tensorflow_softmax(name):
    def make(x, labels, out):
        op, given = getattr(tensorflow().raw_ops, name), tensorflow().constant(x)
        return lambda: op(logits=given)
    return make


def tensorflow_cross_entropy(x, labels, out):
    """Its operator gives each row's loss and gradient; the mean over the rows is not taken."""
    op = tensorflow().raw_ops.SparseSoftmaxCrossEntropyWithLogits
    given, classes = tensorflow().constant(x), tensorflow().constant(labels)
    return lambda: op(features=given, labels=classes)


def jax_softmax(name):
    def make(x, labels, out):
        function, given = jax().jit(getattr(jax().nn, name)), jax().numpy.array(x)
        return lambda: function(given).block_until_ready()
    return make


def jax_cross_entropy(x, labels, out):
    given, classes = jax().numpy.array(x), jax().numpy.array(labels)

    def loss(logits):
        rows = jax().nn.log_softmax(logits)
        return -jax().numpy.take_along_axis(rows, classes[:, None], 1).mean()

    function = jax().jit(jax().value_and_grad(loss))
    return lambda: jax().block_until_ready(function(given))


SOFTMAX = {
    "log_softmax": {"torch": torch_softmax("log_softmax"), "torch out=": torch_softmax_out("log_softmax"),
                    "tensorflow": tensorflow_softmax("LogSoftmax"), "jax": jax_softmax("log_softmax")},
    "softmax": {"torch": torch_softmax("softmax"), "torch out=": torch_softmax_out("softmax"),
                "onednn": onednn_softmax, "tensorflow": tensorflow_softmax("Softmax"),
                "jax": jax_softmax("softmax")},
    "softmax_cross_entropy": {"torch": torch_cross_entropy, "tensorflow": tensorflow_cross_entropy,
                              "jax": jax_cross_entropy},
}
