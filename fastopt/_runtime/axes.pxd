# One axis of an array: which ints name it, and the sizes around it.
#
# A C-contiguous array with one axis of interest is (outer, n, inner) in memory: element (i, j, k) is at
# (i · n + j) · inner + k.
from cpython.long cimport PyLong_AsLongAndOverflow

from fastopt._runtime.hyper cimport integer

cdef struct Sizes:
    Py_ssize_t outer        # product of the lengths before the axis
    Py_ssize_t n            # length of the axis
    Py_ssize_t inner        # product of the lengths behind it


cdef inline int axis_index(object axis, object name, int ndim) except -1:
    """The index in [0, ndim) of the axis that an int in [−ndim, ndim) names. ndim must be at least 1."""
    cdef int overflow = 0
    cdef long index = ndim
    if type(axis) is int:                   # an int in range needs no comparison of Python objects, which takes 35 ns
        index = PyLong_AsLongAndOverflow(axis, &overflow)
    if overflow != 0 or not -ndim <= index < ndim:
        index = integer(axis, name, -ndim, ndim)
    return <int> (index + ndim if index < 0 else index)


cdef inline Sizes sizes_around(const Py_buffer* view, int axis) noexcept:
    cdef Sizes sizes = Sizes(1, view.shape[axis], 1)
    cdef int i
    for i in range(axis):
        sizes.outer *= view.shape[i]
    for i in range(axis + 1, view.ndim):
        sizes.inner *= view.shape[i]
    return sizes
