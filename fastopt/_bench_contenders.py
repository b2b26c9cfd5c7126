"""What `fastopt bench` times: the kernels, NumPy as one writes it, and the same in torch and numba where installed.

A maker takes nothing and returns a function to time and the array that its first call leaves its result in: made anew,
so that no two contenders share memory. All of them take the same step from the same numbers.
"""

import numpy as np

import fastopt


def noise(*shape, seed=0):
    """float32, standard normal; large ones repeat themselves."""
    block = np.random.default_rng(seed).standard_normal(min(int(np.prod(shape)), 100_003), dtype=np.float32)
    return np.resize(block, shape)


# NumPy as one writes it. bench/ uses these, too.

def numpy_sgd(p, g, buf):
    buf[...] = 0.9 * buf + g
    p -= 1e-3 * buf


def numpy_adam(p, g, m, v, t):
    m[...] = 0.9 * m + 0.1 * g
    v[...] = 0.999 * v + 0.001 * g**2
    p -= 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def per_channel(values, x):
    """One value a channel, in a shape that goes with x."""
    return values.reshape(-1, *[1] * (x.ndim - 2))


def numpy_batch_norm_forward(x, gamma, beta, running_mean=None, running_var=None, relu=False):
    axes = (0, *range(2, x.ndim))
    mean, var = x.mean(axis=axes), x.var(axis=axes)
    invstd = 1 / np.sqrt(var + 1e-5)
    normalised = (x - per_channel(mean, x)) * per_channel(invstd, x)
    y = per_channel(gamma, x) * normalised + per_channel(beta, x)
    if running_mean is not None:
        n = x.size // len(mean)
        running_mean += 0.1 * (mean - running_mean)
        running_var += 0.1 * (var * (n / (n - 1)) - running_var)
    return np.maximum(y, 0) if relu else y, (normalised, gamma * invstd, y > 0 if relu else None)


def numpy_batch_norm_backward(dy, cache):
    normalised, slope, positive = cache
    axes = (0, *range(2, dy.ndim))
    if positive is not None:
        dy = dy * positive
    dgamma, dbeta = (dy * normalised).sum(axis=axes), dy.sum(axis=axes)
    n = dy.size // len(dbeta)
    dx = per_channel(slope, dy) * (dy - per_channel(dbeta / n, dy) - normalised * per_channel(dgamma / n, dy))
    return dx, dgamma, dbeta


def numpy_batch_norm_inference(x, gamma, beta, mean, var):
    scale = gamma / np.sqrt(var + 1e-5)
    return x * per_channel(scale, x) + per_channel(beta - mean * scale, x)


def numpy_log_softmax(x):
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def numpy_softmax_cross_entropy(logits, labels, out=None):
    """(loss, gradient); a NumPy user makes a new array of it, out or not."""
    rows = np.arange(len(logits))
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[rows, labels]).mean()
    p[rows, labels] -= 1
    return float(loss), p / np.float32(len(p))


# Optimizers. Parameters are 0 at first, so that what is compared is the step.

def sgd(n):
    def arrays():
        return np.zeros(n, np.float32), noise(n, seed=1), np.zeros(n, np.float32)

    def ours():
        p, g, buf = arrays()
        return lambda: fastopt.sgd(p, g, buf, lr=1e-3, momentum=0.9), p

    def plain():
        p, g, buf = arrays()
        return lambda: numpy_sgd(p, g, buf), p

    def by_torch():
        p, g, _ = arrays()
        return torch_step("SGD", [p], [g], lr=1e-3, momentum=0.9), p

    return {"fastopt": ours, "numpy": plain, "torch": by_torch}


def adam(n):
    def arrays():
        return np.zeros(n, np.float32), noise(n, seed=1), np.zeros(n, np.float32), np.zeros(n, np.float32)

    def ours():
        given = arrays()
        return lambda: fastopt.adam(*given, step=1), given[0]

    def plain():
        given = arrays()
        return lambda: numpy_adam(*given, t=1), given[0]

    def by_torch():
        p, g, _, _ = arrays()
        return torch_step("Adam", [p], [g]), p

    def by_numba():
        import numba

        @numba.njit(parallel=True, fastmath=True)
        def loop(p, g, m, v, lr, beta1, beta2, rest1, rest2, eps):
            for i in numba.prange(p.size):
                m[i] = beta1 * m[i] + rest1 * g[i]
                v[i] = beta2 * v[i] + rest2 * g[i] * g[i]
                p[i] -= lr * m[i] / (np.sqrt(v[i]) + eps)

        numba.set_num_threads(min(fastopt.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
        given, root = arrays(), (1 - 0.999) ** 0.5
        scalars = [np.float32(x) for x in (1e-3 * root / (1 - 0.9), 0.9, 0.999, 0.1, 0.001, 1e-8 * root)]
        loop(*(array[:1].copy() for array in given), *scalars)     # compiles
        return lambda: loop(*given, *scalars), given[0]

    return {"fastopt": ours, "numpy": plain, "torch": by_torch, "numba": by_numba}


def model_adam(*shapes):
    def arrays():
        return [np.zeros(shape, np.float32) for shape in shapes], [noise(*shape, seed=1) for shape in shapes]

    def ours():
        params, grads = arrays()
        opt = fastopt.Adam()
        return lambda: opt.update(params, grads), params[0]

    def plain():
        params, grads = arrays()
        state = [(np.zeros_like(p), np.zeros_like(p)) for p in params]

        def step():
            for p, g, (m, v) in zip(params, grads, state, strict=True):
                numpy_adam(p, g, m, v, 1)

        return step, params[0]

    def by_torch():
        params, grads = arrays()
        return torch_step("Adam", params, grads), params[0]

    return {"fastopt": ours, "numpy": plain, "torch": by_torch}


def import_torch():
    import torch
    torch.set_num_threads(fastopt.get_num_threads())
    return torch


def torch_step(name, params, grads, **options):
    """The step of torch's fused optimizer on these arrays."""
    t = import_torch()
    tensors = [t.nn.Parameter(t.from_numpy(p)) for p in params]
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = t.from_numpy(g)
    return getattr(t.optim, name)(tensors, fused=True, **options).step


# Layers. Ours write into a given array, as a training loop can; torch's too, where it has a form that does: not in
# BatchNorm's backward and in cross-entropy.

def batch_norm(shape, which):
    def arrays():
        channels = shape[1]
        return (noise(*shape), noise(*shape, seed=1), 1 + 0.1 * noise(channels, seed=2), noise(channels, seed=3),
                np.empty(shape, np.float32))

    def ours():
        x, dy, gamma, beta, out = arrays()
        if which == "inference":
            return lambda: fastopt.batch_norm_inference(x, gamma, beta, beta, gamma, out=out), out
        if which == "forward":
            return lambda: fastopt.batch_norm_forward(x, gamma, beta, out=out), out
        _, cache = fastopt.batch_norm_forward(x, gamma, beta)
        return lambda: fastopt.batch_norm_backward(dy, cache, out=out), out

    def plain():
        x, dy, gamma, beta, out = arrays()
        if which == "inference":
            def call():
                return numpy_batch_norm_inference(x, gamma, beta, beta, gamma)
        elif which == "forward":
            def call():
                return numpy_batch_norm_forward(x, gamma, beta)[0]
        else:
            _, cache = numpy_batch_norm_forward(x, gamma, beta)

            def call():
                return numpy_batch_norm_backward(dy, cache)[0]
        out[...] = call()
        return call, out

    def by_torch():
        t = import_torch()
        x, dy, gamma, beta, out = map(t.from_numpy, arrays())
        native = t.ops.aten
        if which == "inference":
            nothing = t.empty(0), t.empty(0)
            return lambda: native.native_batch_norm.out(x, gamma, beta, beta, gamma, False, 0.1, 1e-5, out=out,
                                                        save_mean=nothing[0], save_invstd=nothing[1]), out.numpy()
        _, mean, invstd = native.native_batch_norm(x, gamma, beta, None, None, True, 0.1, 1e-5)
        if which == "forward":
            return lambda: native.native_batch_norm.out(x, gamma, beta, None, None, True, 0.1, 1e-5, out=out,
                                                        save_mean=mean, save_invstd=invstd), out.numpy()

        def call():
            return native.native_batch_norm_backward(dy, x, gamma, None, None, mean, invstd, True, 1e-5,
                                                     [True, True, True])[0]

        out[...] = call()
        return call, out.numpy()

    return {"fastopt": ours, "numpy": plain, "torch": by_torch}


def log_softmax(shape):
    def ours():
        x, out = noise(*shape), np.empty(shape, np.float32)
        return lambda: fastopt.log_softmax(x, out=out), out

    def plain():
        x = noise(*shape)
        return lambda: numpy_log_softmax(x), numpy_log_softmax(x)

    def by_torch():
        t = import_torch()
        x, out = t.from_numpy(noise(*shape)), t.empty(shape)
        return lambda: t.log_softmax(x, -1, out=out), out.numpy()

    return {"fastopt": ours, "numpy": plain, "torch": by_torch}


def cross_entropy(shape):
    labels = np.arange(shape[0]) * 7 % shape[1]

    def ours():
        x, out = noise(*shape), np.empty(shape, np.float32)
        return lambda: fastopt.softmax_cross_entropy(x, labels, out=out), out

    def plain():
        x = noise(*shape)
        return lambda: numpy_softmax_cross_entropy(x, labels), numpy_softmax_cross_entropy(x, labels)[1]

    def by_torch():
        t = import_torch()
        x, classes = t.from_numpy(noise(*shape)).requires_grad_(), t.from_numpy(labels)

        def call():
            x.grad = None
            t.nn.functional.cross_entropy(x, classes).backward()

        call()
        return call, x.grad.numpy().copy()

    return {"fastopt": ours, "numpy": plain, "torch": by_torch}
