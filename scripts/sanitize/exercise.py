"""Every kernel on several threads, from one Python thread and from three: what ThreadSanitizer watches."""

import threading

import numpy as np

import fastopt
from fastopt._runtime import parallel

OPTIMIZERS = [name for name in fastopt.__all__
              if isinstance(getattr(fastopt, name), type) and issubclass(getattr(fastopt, name), fastopt.Optimizer)
              and name != "Optimizer"]


def exercise(seed):
    rng = np.random.default_rng(seed)
    for threads in (2, 3, 4, 2):
        with fastopt.num_threads(threads):
            for name in OPTIMIZERS:
                opt = getattr(fastopt, name)(lr=1e-3, average_decay=0.9, clip_norm=1.0)
                params = [rng.standard_normal(n, dtype=np.float32) for n in (30_000, 17, 8193)]
                for _ in range(3):
                    opt.update(params, [param * 0.1 for param in params])
            for shape in ((256, 64), (8, 512, 7, 7), (4, 16, 40, 40), (3000, 8)):
                x = rng.standard_normal(shape, dtype=np.float32)
                gamma, mean = np.ones(shape[1], np.float32), np.zeros(shape[1], np.float32)
                y, cache = fastopt.batch_norm_forward(x, gamma, mean.copy(), mean, gamma.copy(), relu=True)
                fastopt.batch_norm_backward(y, cache)
                fastopt.batch_norm_inference(x, gamma, mean, mean, gamma, out=x)
            for shape in ((500, 100), (40, 3000), (3000, 5)):
                x, one = rng.standard_normal(shape, dtype=np.float32), np.ones(shape[1], np.float32)
                y, cache = fastopt.layer_norm_forward(x, one, one)
                fastopt.layer_norm_backward(y, cache)
                y, cache = fastopt.rms_norm_forward(x, one, out=y)
                fastopt.rms_norm_backward(y, cache, out=y)
            for shape, axis in (((500, 100), -1), ((40, 3000), 1), ((64, 10, 33), 1)):
                x = rng.standard_normal(shape, dtype=np.float32)
                fastopt.log_softmax_backward(x, fastopt.log_softmax(x, axis), axis)
                fastopt.softmax_backward(x, fastopt.softmax(x, axis), axis)
            y, cache = fastopt.dropout_forward(rng.standard_normal(70_001, dtype=np.float32), 0.5, rng)
            fastopt.dropout_backward(y, cache, out=y)
            for name, p, shape, axis in (("relu", 0.3, (700, 130), 1), ("gelu", 0.3, (9, 1500), 1),
                                         ("tanh", 0.0, (3, 5, 9000), 1), ("silu", 0.0, (40_000, 2), 1)):
                z, bias = rng.standard_normal(shape, dtype=np.float32), np.ones(shape[axis], np.float32)
                y, cache = fastopt.activation_forward(z, name, bias, dropout=p, rng=rng, channel_axis=axis)
                fastopt.activation_backward(y.copy(), cache)
            fastopt.softmax_cross_entropy(x.reshape(-1, 33), rng.integers(0, 33, 640))
            words = rng.integers(0, 500, 3000)
            words[::2] = 7
            fastopt.embedding_backward(fastopt.embedding_forward(x.reshape(640, 33), words), words, 640)


parallel.swap_serial_below(0.0)
parallel.swap_back_off(False)
exercise(0)
threads = [threading.Thread(target=exercise, args=(seed,)) for seed in (1, 2, 3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
