"""Contenders of measure_epoch.py: a network with its optimizer, trained one epoch at a time, each in its own process.

A process of its own, because contenders share more than cores: glibc's heap gives memory back to the system, or keeps
it, depending on every allocation before, and threads of one library spin while the next one begins.
"""

import itertools
import multiprocessing
import os
import statistics
import time
from contextlib import contextmanager
from typing import NamedTuple

import networks
import numpy as np

import fastopt
from fastopt.bench.contenders import UnavailableError, torch

try:
    import resource
except ImportError:         # Windows
    resource = None

KERNELS = {"numpy": networks.NUMPY, "fastopt": networks.FASTOPT, "fastopt, 1 thread": networks.FASTOPT,
           **networks.WITHOUT}
CONTENDERS = (*KERNELS, "torch")
PARTS = ("products", "layers", "loss", "update")
CALLS = {"matmul": "products", "im2col": "products", "col2im": "products", "batch_norm_forward": "layers",
         "batch_norm_backward": "layers", "activation_forward": "layers", "activation_backward": "layers",
         "cross_entropy": "loss"}
"""What a network calls → the part that it is."""
OPERATORS = {"conv": "products", "mm": "products", **dict.fromkeys(
    ("batch_norm", "relu", "threshold", "bernoulli", "mul.", "div_.", "sum."), "layers"),
    "log_softmax": "loss", "nll_loss": "loss"}
"""What the name of torch's operator contains → the part that it is."""
SEED = 0
WARM = 0.05
"""Seconds of training before an epoch that is timed: a core that slept is slow for some milliseconds."""


class Epoch(NamedTuple):
    loss: float
    """The mean over the steps."""
    seconds: float
    parts: dict[str, float]
    """Seconds in each of PARTS; the rest is the copying of batches, embeddings, other biases, means."""
    faults: float | None
    """Page faults a step; None where the system does not count them."""


def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt if resource else None


class Trainer:
    """Weights, data and batches are the same for all contenders. `step(batch)` trains on a batch and returns its loss;
    what it calls by way of `timed` is added to `seconds`."""

    def __init__(self, task, kernels, examples, batch):
        rng = np.random.default_rng(SEED)
        self.x, self.labels = task.data(rng, examples)
        self.batches = rng.permutation(examples).reshape(-1, batch)
        self.seconds = dict.fromkeys(PARTS, 0.0)
        timed = {name: self.timed(part, getattr(kernels, name)) for name, part in CALLS.items()}
        kernels = type(kernels)(**timed)
        self.network = networks.Network(kernels, task.layers(kernels, rng))

    def timed(self, part, function):
        def call(*args, **options):
            start = time.perf_counter()
            result = function(*args, **options)
            self.seconds[part] += time.perf_counter() - start
            return result
        return call

    def epoch(self):
        self.seconds |= dict.fromkeys(PARTS, 0.0)
        faults, start = page_faults(), time.perf_counter()
        losses = [self.step(batch) for batch in self.batches]
        seconds = time.perf_counter() - start
        return Epoch(statistics.fmean(losses), seconds, dict(self.seconds),
                     None if faults is None else (page_faults() - faults) / len(self.batches))

    def warm(self):
        end = time.perf_counter() + WARM
        for batch in itertools.cycle(self.batches):
            self.step(batch)
            if time.perf_counter() > end:
                break


class NumpyTrainer(Trainer):
    def __init__(self, task, kernels, examples, batch):
        super().__init__(task, kernels, examples, batch)
        self.update = self.timed("update", kernels.Adam().update)

    def step(self, batch):
        loss = self.network.loss_and_gradients(self.x[batch], self.labels[batch])
        self.update(self.network.params, self.network.grads)
        return loss


class TorchTrainer(Trainer):
    """The same network of torch's modules. Its operators are timed by a hook that makes an epoch slower: the parts are
    shares of a second epoch, with the hook, times the seconds of the first, without it."""

    def __init__(self, task, examples, batch):
        self.t = t = torch()
        t.manual_seed(SEED)
        super().__init__(task, networks.NUMPY, examples, batch)
        self.x, self.labels, self.batches = map(t.from_numpy, (self.x, self.labels, self.batches))
        self.model = self.network.module(t)
        if self.x.ndim == 4:        # channels last is the faster of torch's layouts here
            self.x = self.x.movedim(-1, 1)
            self.model = self.model.to(memory_format=t.channels_last)
        self.opt = t.optim.Adam(self.model.parameters(), fused=True)
        self.update = self.timed("update", self.opt.step)

    def step(self, batch):
        loss = self.t.nn.functional.cross_entropy(self.model(self.x[batch]), self.labels[batch])
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        self.update()
        return loss.item()

    def epoch(self):
        plain = super().epoch()
        with self.operators():
            hooked = super().epoch()
        scale = plain.seconds / hooked.seconds
        return plain._replace(parts={part: seconds * scale for part, seconds in hooked.parts.items()})

    def operators(self):
        """Within it each operator's time is added to its part."""
        trainer = self

        class Operators(self.t.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
                part = next((part for name, part in OPERATORS.items() if name in str(operator)), None)
                call = trainer.timed(part, operator) if part else operator
                return call(*args, **(kwargs or {}))

        return Operators()


def trainer(contender, task, examples, batch):
    """UnavailableError where the contender's library is missing."""
    if contender == "torch":
        return TorchTrainer(task, examples, batch)
    return NumpyTrainer(task, KERNELS[contender], examples, batch)


def serve(connection, keep_heap, contender, *arguments):
    """Send the first epoch, or why there is none; then an epoch for each True that comes."""
    if keep_heap:
        fastopt.keep_heap()
    if contender.endswith("1 thread"):
        fastopt.set_num_threads(1)
    try:
        made = trainer(contender, *arguments)
    except UnavailableError as reason:
        connection.send(str(reason))
        return
    connection.send(made.epoch())
    while connection.recv():
        made.warm()
        connection.send(made.epoch())


class Worker:
    """A contender in a process of its own, with these changes of the environment. `first` is its first epoch."""

    def __init__(self, environment, *arguments):
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(theirs, *arguments), daemon=True)
        with changed(environment):
            self.process.start()
        theirs.close()
        self.first = self.connection.recv()
        if isinstance(self.first, str):
            self.process.join()
            raise UnavailableError(self.first)

    def epoch(self):
        self.connection.send(True)
        return self.connection.recv()

    def close(self):
        self.connection.send(False)
        self.process.join()


@contextmanager
def changed(environment):
    """os.environ with these changes."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
