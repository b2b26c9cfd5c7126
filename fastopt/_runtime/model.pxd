# A model's arrays: model.pyx.
from cpython.object cimport PyObject

from fastopt._runtime.arrays cimport Known
from fastopt._runtime.driver cimport Tensor
from fastopt._runtime.intervals cimport Interval

cdef class Model:
    cdef readonly list keys
    cdef tuple states
    cdef unsigned reads
    cdef Py_ssize_t count
    cdef Py_buffer* views               # count x STREAMS; the gradient's slot is bound again when a step needs it
    cdef Tensor* tensors
    cdef Interval* written              # memory that is written, sorted by start
    cdef Py_ssize_t intervals
    cdef PyObject** params              # borrowed
    cdef Known* known                   # of every array bound
    cdef Py_ssize_t exports             # how many
    cdef Py_ssize_t indirect            # how many of them are not compared by their heads
    cdef Known* slopes                  # of each gradient that is bound
    cdef list arrays                    # holds references to all of them
    cdef public object source           # what the user calls the gradients of this call: grads, grad, hessians

    cdef int hold(self, list keys, list arrays, tuple states, unsigned reads) except -1
    cdef bint holds(self, list params) noexcept
    cdef bint replace(self, list params) except -1
    cdef int swap(self, Py_buffer* views, list params) except -1
    cdef int know_all(self) except -1
    cdef tuple name(self, Py_ssize_t tensor, Py_ssize_t stream)
    cdef object where(self, Py_ssize_t interval)
    cdef int require_unwritten(self, Py_ssize_t i, Py_ssize_t k) except -1
    cdef int bind_gradient(self, Py_ssize_t i, object grad) except -1
    cdef void release_gradient(self, Py_ssize_t i) noexcept
    cdef bint unchanged(self) except -1
    cdef bint same_gradient(self, Py_ssize_t i) except -1
