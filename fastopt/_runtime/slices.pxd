# The arguments of the softmax functions. See slices.pyx.
from fastopt._runtime.arrays cimport Array
from fastopt._runtime.axes cimport Sizes

cdef class Slices:
    cdef Sizes sizes
    cdef readonly Array x
    cdef readonly Array y
    cdef readonly Array out
    cdef readonly object result
    cdef int set_axis(self, object axis) except -1
    cdef int set_out(self, object out) except -1
