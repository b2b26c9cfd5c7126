"""The optimizers' workloads of one tensor."""

import functools

import numpy as np
from rows import SIZES

from fastopt.bench.optimizers import one_tensor


@functools.cache
def large(k):
    return np.empty(max(SIZES.values()), np.float32)


def shared(k, n):
    """Memory of the k-th array: of a large one a part of what all workloads share, so that its pages are made once."""
    return large(k)[:n] if n > 10_000_000 else np.empty(n, np.float32)


def tensors(case, sizes=("100k", "50M")):
    """A case's workloads, one for each size; only one at a time has the large ones' memory."""
    return [one_tensor(case, size, SIZES[size], shared) for size in sizes]
