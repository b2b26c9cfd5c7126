# Arrays seen along an axis. See slices.pyx.
from fastopt._runtime.arrays cimport Array

cdef class Slices:
    cdef readonly Py_ssize_t outer
    cdef readonly Py_ssize_t n
    cdef readonly Py_ssize_t inner
    cdef readonly Array x
    cdef readonly Array y
    cdef readonly Array out
    cdef readonly object result
    cdef int see(self, object axis) except -1
    cdef int write(self, object out) except -1
    cdef int keep_apart(self, Array read) except -1
