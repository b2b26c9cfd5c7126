# exp, expm1 and log1p of kernels/_math.pxd applied to arrays, for the tests and scripts/exp_table.py.

from _memory cimport IN, INOUT
from _math cimport exp32, expm1_32, log1p32
from fastopt._runtime.arrays cimport Array


cdef inline void exp_loop(IN x, INOUT y, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = exp32(x[i])


cdef inline void expm1_loop(IN x, INOUT y, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = expm1_32(x[i])


cdef inline void log1p_loop(IN x, INOUT y, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = log1p32(x[i])


def exp(Array x not None, Array y not None):
    with nogil:
        exp_loop(<const float*> x.data, <float*> y.data, x.size)


def expm1(Array x not None, Array y not None):
    with nogil:
        expm1_loop(<const float*> x.data, <float*> y.data, x.size)


def log1p(Array x not None, Array y not None):
    with nogil:
        log1p_loop(<const float*> x.data, <float*> y.data, x.size)
