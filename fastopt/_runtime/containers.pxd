# Containers of arrays: containers.pyx.
from cpython.object cimport PyObject

cdef class Node:
    cdef list keys
    cdef list nodes
    cdef bint numbered                  # whether keys are 0, 1, …
    cdef bint matches(self, object params, object grads, list ordered, list arrays, PyObject** expected) except -1

cdef Node node_of(list keys, Py_ssize_t depth, Py_ssize_t start, Py_ssize_t stop)
