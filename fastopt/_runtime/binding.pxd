# A model, bound: binding.pyx.
from fastopt._runtime.containers cimport Node
from fastopt._runtime.driver cimport Compiled, Table
from fastopt._runtime.model cimport Model
from fastopt._runtime.progress cimport Progress

cdef struct Taken:
    long long own       # steps in which the tensor had a gradient
    long long last      # number of the optimizer's last step in which it took part, with a gradient or without


cdef class Binding(Model):
    cdef readonly list members
    cdef readonly list makers
    cdef readonly list groups
    cdef Node root                      # the containers in which the user has the arrays
    cdef Py_ssize_t rules
    cdef Table table
    cdef bint large                     # whether a gradient has more than HELD elements
    cdef Taken* steps                   # of each tensor
    cdef Py_ssize_t* first              # of each group the first tensor
    cdef char* present                  # of each group whether its tensors have gradients in this call
    cdef bint given                     # whether any has

    cdef list gradients_of(self, object params, object grads, bint replaces)
    cdef bint ready(self, list grads) except -1
    cdef bint sort(self, list grads) except -1
    cdef bint step(self, list rules, list grads, Progress progress, object snapshot, long long step, double* total,
                   list each=*) except -1
    cdef int add_each(self, const double* sums, list each) except -1
    cdef object missing(self, Py_ssize_t i, const Compiled* code)
