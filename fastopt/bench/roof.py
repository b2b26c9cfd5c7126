"""The memory roof: the time it takes to move a workload's arrays with next to no arithmetic.

The loops are a kernel like the others (kernels/roof.pyx): same levels, chunks, threads and alignment.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fastopt._runtime import dispatch
from fastopt._runtime.arrays import Array, require_disjoint


def roof(arrays: Sequence[np.ndarray], passes: Sequence[str]) -> Callable[[], list[float]]:
    """A function of no arguments that loads and stores `arrays` as a workload does.

    Parameters
    ----------
    arrays : sequence of float32 arrays, C-contiguous, of one size
        Those that a pass updates or writes are overwritten.
    passes : sequence of str
        For each pass over memory one letter per array: "u" it is updated (loaded and stored), "r" read, "w" written
        without being read, "-" left alone. Adam on (param, grad, m, v) is ["uruu"], log_softmax of x into y, (x, y),
        ["rw"]. Passes in one string, separated by a space, are done chunk by chunk, and all but the first find their
        arrays in the cache: BatchNorm's forward, which goes over one channel twice before it comes to the next, is
        ["r- rw"], its backward on (x, dy, dx) ["rr- rrw"]. LAMB, which needs a whole tensor's norm first, is
        ["rruu", "u-rr"].

    Returns
    -------
    callable
        Does all passes once, at the level and with the threads in use when it is called. Updated and written arrays
        become the mean of what was loaded, element by element. It returns one sum for each string: of all that was
        read in those of its passes that write nothing.

    Raises
    ------
    TypeError, ValueError
        An array that is not as described, arrays that overlap, a pass for which there is no loop.
    """
    groups = [letters.split() for letters in passes]
    for letters in (letters for group in groups for letters in group):
        if len(letters) != len(arrays) or set(letters) - set("urw-"):
            raise ValueError(f"passes: expected one of u, r, w, - for each of {len(arrays)} arrays, got {letters!r}")
    held = [Array(array, f"arrays[{k}]", writable=any(letters[k] in "uw" for group in groups for letters in group))
            for k, array in enumerate(arrays)]
    if len({array.size for array in held}) != 1:
        raise ValueError(f"arrays: expected one size, got {[array.size for array in held]}")
    require_disjoint(*held)
    calls = [tuple(tuple(tuple(array for array, letter in zip(held, letters, strict=True) if letter == kind)
                         for kind in "urw") for letters in group) for group in groups]

    def run() -> list[float]:
        streams = dispatch.active.roof.streams
        return [streams(held[0].size, call) for call in calls]

    return run


def bytes_per_element(passes: Sequence[str]) -> int:
    """Bytes that these passes load from memory and store to it for each element; passes that are done chunk by chunk
    load an array once and store it once."""
    loads = stores = 0
    for group in passes:
        for letters in zip(*group.split(), strict=True):
            loads += any(letter in "ur" for letter in letters)
            stores += any(letter in "uw" for letter in letters)
    return 4 * (loads + stores)
