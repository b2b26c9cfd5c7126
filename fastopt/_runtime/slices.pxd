# The arguments of the softmax functions. See slices.pyx.
from fastopt._runtime.arrays cimport Array
from fastopt._runtime.axes cimport Sizes

cdef class Slices:
    cdef Sizes sizes
    cdef Array x
    cdef Array y
    cdef Array out
    cdef object result
    cdef int set_axis(self, object axis) except -1
    cdef int set_out(self, object out) except -1

cdef Slices forward(object x, object axis, object out)
cdef Slices backward(object dy, object y, object axis, object out)
