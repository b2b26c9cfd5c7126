"""The training loop, and the same training with fastopt.reference for comparison."""

import math
import time
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import fastopt
import fastopt.reference
from fastopt import schedules
from fastopt.demo.network import Network

HIDDEN = (128, 64)

# name: (class, highest learning rate, weight decay). Over 20 seeds of 20 epochs the worst best accuracy was 98.1 %
# (adam), 98.1 % (momentum) and 98.3 % (sgd), the mean 99.0 % for each; a third of the rate was worse for all three.
OPTIMIZERS = {
    "adam": ("Adam", 3e-3, 1e-4),
    "momentum": ("Momentum", 0.05, 1e-3),
    "sgd": ("SGD", 0.3, 1e-3),
}


class Diverged(Exception):
    """The loss is no longer finite."""


class Result(NamedTuple):
    """One training: what was reached, how long it took, and the network with its best weights."""

    network: Network
    losses: list            # mean training loss of each epoch
    accuracies: list        # validation accuracy after each epoch
    seconds: float

    @property
    def best_epoch(self):
        """The first epoch, from 1, with the highest accuracy."""
        return 1 + int(np.argmax(self.accuracies))

    @property
    def best_accuracy(self):
        return max(self.accuracies)


def decay_matrices_only(key, param):
    """Overrides for one parameter: biases and BatchNorm's gamma and beta are not decayed."""
    return {} if param.ndim == 2 else {"weight_decay": 0.0}


def batches(count, batch_size, rng):
    """Cut a random order of `count` images into batches of batch_size or a little more, none smaller."""
    return np.array_split(rng.permutation(count), count // batch_size)


def train(kernels, data, *, optimizer, epochs, batch_size, seed, lr=None, report=None, label="training"):
    """Train with `kernels` (fastopt or fastopt.reference).

    The same seed gives the same first weights and the same batches. lr is the highest learning rate, None for
    the optimizer's own: reached after a twentieth of the updates, it falls to a hundredth of itself. The weights
    kept are those of the epoch with the best validation accuracy.
    Learning that no longer gives finite numbers raises Diverged.
    """
    rng = np.random.default_rng(seed)
    classes = int(data.train_labels.max()) + 1
    network = Network(kernels, (data.train_x.shape[1], *HIDDEN, classes), rng)
    steps = epochs * (len(data.train_x) // batch_size)
    warmup = max(1, steps // 20)
    name, usual_lr, weight_decay = OPTIMIZERS[optimizer]
    lr = usual_lr if lr is None else lr
    schedule = schedules.join([schedules.linear_warmup(lr, warmup, initial=lr / warmup),
                               schedules.cosine(lr, max(1, steps - warmup), alpha=0.01)], [warmup])
    opt = getattr(kernels, name)(lr=schedule, weight_decay=weight_decay, per_param=decay_matrices_only)

    losses, accuracies, best = [], [], None
    start = time.perf_counter()
    with (tqdm(total=steps, desc=label, unit="batch", leave=False, disable=None) as bar,
          np.errstate(over="ignore", invalid="ignore")):        # a loss that is not finite says it better
        for epoch in range(1, epochs + 1):
            total = 0.0
            for batch in batches(len(data.train_x), batch_size, rng):
                loss = network.loss_and_gradients(data.train_x[batch], data.train_labels[batch])
                opt.update(network.params, network.grads)
                total += loss * len(batch)
                bar.update()
            losses.append(total / len(data.train_x))
            if not math.isfinite(losses[-1]):
                raise Diverged(f"the loss is {losses[-1]} in epoch {epoch}: try a smaller --lr than {lr:g}")
            accuracies.append(network.accuracy(data.validation_x, data.validation_labels))
            if accuracies[-1] > max(accuracies[:-1], default=-1.0):
                best = network.snapshot()
            if report is not None:
                report(epoch, losses[-1], accuracies[-1])
    seconds = time.perf_counter() - start
    network.restore(best)
    return Result(network, losses, accuracies, seconds)


def difference(a, b):
    """(numbers whose bits differ, numbers, largest difference) of all that two networks learnt."""
    a, b = (np.concatenate([array.ravel() for array in network.snapshot().values()]) for network in (a, b))
    return int(np.sum(a.view(np.uint32) != b.view(np.uint32))), a.size, float(np.abs(a - b).max())


def compare(data, *, epochs, **settings):
    """Train with the kernels, then in the same way with the reference; print both. Return the two results."""
    def report(epoch, loss, accuracy):
        tqdm.write(f"epoch {epoch:{len(str(epochs))}}/{epochs}   loss {loss:.4f}   "
                   f"validation accuracy {accuracy:.2%}")

    count = len(data.validation_labels)
    kernels = train(fastopt, data, epochs=epochs, **settings, report=report, label="fastopt")
    reference = train(fastopt.reference, data, epochs=epochs, **settings, label="fastopt.reference")
    print()
    for name, result in (("fastopt", kernels), ("fastopt.reference", reference)):
        right = round(result.best_accuracy * count)
        print(f"{name:18}{result.best_accuracy:8.2%} ({right} of {count} images, epoch {result.best_epoch})"
              f"   {result.seconds:.2f} s")
    print(f"\nWith the kernels the same training is {reference.seconds / kernels.seconds:.2f} times as fast.")
    images = round(abs(kernels.best_accuracy - reference.best_accuracy) * count)
    print("Both reach the same accuracy." if images == 0 else
          f"Their accuracies differ by {images} of {count} images.")
    different, numbers, largest = difference(kernels.network, reference.network)
    print(f"All {numbers} numbers learnt have the same bits." if different == 0 else
          f"{different} of the {numbers} numbers learnt differ in some bit, by {largest:.1g} at most:\n"
          "softmax's exp and log do not round as NumPy's do, and training amplifies that.")
    return kernels, reference
