"""`keep_heap`: memory that a training step frees stays with the process for the next one."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3      # of glibc's malloc.h
_MOST = 2**30
_MOST_OF_OLDER_RELEASES = 2**25     # HEAP_MAX_SIZE / 2: a larger M_MMAP_THRESHOLD is refused by some releases of glibc


def keep_heap() -> bool:
    """Let glibc keep freed memory for the next step, instead of returning it to the system.

    A training loop in NumPy allocates and frees the same temporary arrays at every step. glibc returns memory at the
    top of the heap when more than 128 KiB there are free (at most twice the size of the largest block freed so far),
    and maps arrays of more than 32 MiB, at first of more than 128 KiB, one by one. Memory that is taken again comes
    page by page, with a page fault each, which can cost more than the arithmetic. With this call

    - up to 2 GiB at the top of the heap stay with the process (``M_TRIM_THRESHOLD``), and
    - arrays of up to 1 GiB come from the heap (``M_MMAP_THRESHOLD``), with releases of glibc that refuse so much, of
      up to 32 MiB: larger arrays are mapped and unmapped as before.

    Returns
    -------
    bool
        Whether both are set now; False where there is no glibc (macOS, Windows, musl), where nothing is changed.

    Notes
    -----
    It applies to the whole process until its end and cannot be undone: the process may keep as much memory as it has
    used at most. Call it once, before the first large array. The environment variables ``MALLOC_TRIM_THRESHOLD_`` and
    ``MALLOC_MMAP_THRESHOLD_`` do the same from outside. See mallopt(3).
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool((libc.mallopt(_M_MMAP_THRESHOLD, _MOST) or libc.mallopt(_M_MMAP_THRESHOLD, _MOST_OF_OLDER_RELEASES))
                and libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
