"""The memory roof: what moving a workload's arrays costs with next to no arithmetic. For benchmarks, not for users.

The loops are a kernel like the others (kernels/probe.pyx): same levels, chunks, threads and alignment.
"""

from fastopt._runtime import dispatch
from fastopt._runtime.arrays import Array, require_disjoint


def same_streams(arrays, passes):
    """A function of no arguments that goes over `arrays` as a workload does.

    Parameters
    ----------
    arrays : sequence of float32 arrays, C-contiguous, of one size
        Those that a pass updates or writes are overwritten.
    passes : sequence of str
        For each pass over memory one letter an array: "u" it is updated (loaded and stored), "r" read, "w" written
        without being loaded, "-" left alone. Adam on (param, grad, m, v) is ["uruu"]; log_softmax of x into y, (x, y),
        is ["rw"]; BatchNorm's forward, which reads x twice, ["r-", "rw"]; its backward on (x, dy, dx) ["rr-", "rrw"].

    Returns
    -------
    callable
        Does all passes once, at the level and with the threads in use when it is called, and returns the sums that
        its passes without a store have made (0.0 for the others), in a list. Updated and written arrays become the
        mean of what was loaded, element by element.

    Raises
    ------
    TypeError, ValueError
        An array that is not as described, arrays that overlap, a pass that there is no loop for.
    """
    held = [Array(array, f"arrays[{k}]", writable=any(letters[k] in "uw" for letters in passes))
            for k, array in enumerate(arrays)]
    if len({array.size for array in held}) != 1:
        raise ValueError(f"arrays: expected one size, got {[array.size for array in held]}")
    if any(len(letters) != len(held) or set(letters) - set("urw-") for letters in passes):
        raise ValueError(f"passes: expected one of u, r, w, - for each of {len(held)} arrays, got {passes}")
    require_disjoint(*held)
    calls = [[tuple(array for array, letter in zip(held, letters, strict=True) if letter == wanted) for wanted in "urw"]
             for letters in passes]

    def run():
        streams = dispatch.active.probe.streams
        return [streams(*call) for call in calls]

    return run


def bytes_per_element(passes):
    """Bytes that these passes move for each element: an updated array counts twice, for its load and its store."""
    return 4 * sum(2 if letter == "u" else letter != "-" for letters in passes for letter in letters)
