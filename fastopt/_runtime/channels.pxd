# An array with a channel axis. See channels.pyx.
from fastopt._runtime.arrays cimport Array, Known

cdef class Layout:
    cdef readonly Py_ssize_t outer
    cdef readonly Py_ssize_t channels
    cdef readonly Py_ssize_t inner
    cdef readonly tuple order
    cdef readonly tuple shape
    cdef readonly object source
    cdef readonly Array x
    cdef Py_ssize_t axis            # of the channels in `shape`
    cdef dict shapes                # of vectors with more than one axis, by name; None if there are none
    cdef Array saved                # of constants
    cdef Known known[2]             # x and saved as they were, if they are plain NumPy arrays
