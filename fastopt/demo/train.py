"""The training loop, and the comparison of the kernels with fastopt.reference."""

import math
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import fastopt
import fastopt.reference
from fastopt import schedules
from fastopt.demo.data import Split
from fastopt.demo.network import NETWORKS, Network

try:
    import resource
except ImportError:     # Windows
    resource = None     # type: ignore[assignment]

# name: (class, peak learning rate, weight decay). The best accuracy within 20 epochs, over 20 seeds, on average and at
# worst: with adam 99.0 and 98.1 % (pixels), 98.9 and 98.6 % (tokens), with momentum 99.1 and 98.3, 99.1 and 98.6, with
# sgd 99.1 and 98.6, 99.0 and 98.3. For pixels, a third of the rate was worse for all three.
OPTIMIZERS = {
    "adam": ("Adam", 3e-3, 1e-4),
    "momentum": ("Momentum", 0.05, 1e-3),
    "sgd": ("SGD", 0.3, 1e-3),
}


class Diverged(Exception):
    """The loss is no longer finite."""


class Result(NamedTuple):
    """One training run; `network` has the weights of the best epoch."""

    network: Network
    losses: list[float]
    """Mean training loss of each epoch."""
    accuracies: list[float]
    """Validation accuracy after each epoch."""
    seconds: float
    page_faults: float | None
    """Per step; None where the system does not count them."""

    @property
    def best_epoch(self) -> int:
        """The first epoch, counted from 1, with the highest accuracy."""
        return 1 + int(np.argmax(self.accuracies))

    @property
    def best_accuracy(self) -> float:
        return max(self.accuracies)


def page_faults() -> int:
    """How many this process has had so far; 0 where the system does not count them."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt if resource else 0


def decay_matrices_only(key: str, param: NDArray[np.float32]) -> dict[str, float]:
    """Hyper-parameters of one parameter: no weight decay for biases, gammas and betas."""
    return {} if param.ndim == 2 else {"weight_decay": 0.0}


def batches(count: int, batch_size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Split a random permutation of [0, count) into ⌊count / batch_size⌋ batches of at least batch_size."""
    return np.array_split(rng.permutation(count), count // batch_size)


def train(kernels: ModuleType, data: Split, *, network: str, optimizer: str, epochs: int, batch_size: int, seed: int,
          lr: float | None = None, report: Callable[[int, float, float], object] | None = None,
          label: str = "training") -> Result:
    """Train a network and return it with the weights of the epoch with the best validation accuracy.

    Parameters
    ----------
    kernels : module
        fastopt or fastopt.reference.
    data : Split
    network : {"pixels", "tokens"}
        See network.py.
    optimizer : {"adam", "momentum", "sgd"}
    epochs, batch_size : int
    seed : int
        Determines the initial weights, the batches and what is dropped.
    lr : float, optional
        Peak learning rate: reached after 1/20 of the updates, it then falls to 1/100 of itself along a cosine.
        Default: the one in OPTIMIZERS.
    report : callable, optional
        ``report(epoch, loss, accuracy)`` is called after each epoch.
    label : str
        Of the progress bar.

    Raises
    ------
    Diverged
        The loss is inf or NaN.
    """
    rng = np.random.default_rng(seed)
    net = Network(kernels, NETWORKS[network](kernels, rng))
    steps = epochs * (len(data.train_x) // batch_size)
    warmup = max(1, steps // 20)
    name, default_lr, weight_decay = OPTIMIZERS[optimizer]
    lr = default_lr if lr is None else lr
    schedule = schedules.join([schedules.linear_warmup(lr, warmup, initial=lr / warmup),
                               schedules.cosine(lr, max(1, steps - warmup), alpha=0.01)], [warmup])
    opt = getattr(kernels, name)(lr=schedule, weight_decay=weight_decay, per_param=decay_matrices_only)

    losses: list[float] = []
    accuracies: list[float] = []
    best = net.snapshot()
    faults, start = page_faults(), time.perf_counter()
    with (tqdm(total=steps, desc=label, unit="batch", leave=False, disable=None) as bar,
          np.errstate(over="ignore", invalid="ignore")):        # Diverged reports it
        for epoch in range(1, epochs + 1):
            total = 0.0
            for batch in batches(len(data.train_x), batch_size, rng):
                loss = net.loss_and_gradients(data.train_x[batch], data.train_labels[batch])
                opt.update(net.params, net.grads)
                total += loss * len(batch)
                bar.update()
            losses.append(total / len(data.train_x))
            if not math.isfinite(losses[-1]):
                raise Diverged(f"the loss is {losses[-1]} in epoch {epoch}: try a smaller --lr than {lr:g}")
            accuracies.append(net.accuracy(data.validation_x, data.validation_labels))
            if accuracies[-1] > max(accuracies[:-1], default=-1.0):
                best = net.snapshot()
            if report is not None:
                report(epoch, losses[-1], accuracies[-1])
    seconds = time.perf_counter() - start
    per_step = (page_faults() - faults) / steps if resource else None
    net.restore(best)
    return Result(net, losses, accuracies, seconds, per_step)


def difference(first: Network, second: Network) -> tuple[int, int, float]:
    """Of the weights and running statistics of two networks: how many have other bits, how many, largest distance."""
    a, b = (np.concatenate([array.ravel() for state in network.snapshot() for array in state.values()])
            for network in (first, second))
    return int(np.sum(a.view(np.uint32) != b.view(np.uint32))), a.size, float(np.abs(a - b).max())


def compare(data: Split, *, epochs: int, **settings: Any) -> tuple[Result, Result]:
    """Train with the kernels and with the reference, print a comparison and return both results."""
    def report(epoch: int, loss: float, accuracy: float) -> None:
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
    different, values, largest = difference(kernels.network, reference.network)
    print(f"All {values} weights and statistics have the same bits." if different == 0 else
          f"{different} of {values} weights and statistics differ, by at most {largest:.1g}:\n"
          "softmax's exp and log round differently from NumPy's, and training amplifies the difference.")
    if kernels.page_faults is not None and reference.page_faults is not None:
        print(f"Page faults a step: {kernels.page_faults:.1f} and {reference.page_faults:.1f}.")
    return kernels, reference
