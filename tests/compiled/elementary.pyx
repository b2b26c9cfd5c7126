# The functions of kernels/_math.pxd and kernels/_activation_functions.pxd applied to arrays, for the tests and
# scripts/elementary_table.py.

from _activation_functions cimport (
    gelu32, gelu_slope32, gelu_tanh32, gelu_tanh_slope32, sigmoid32, silu32, silu_slope32, tanh32)
from _activation_functions cimport sigmoid_slope_of as sigmoid_slope_from_y, tanh_slope_of as tanh_slope_from_y
from _math cimport exp32, expm1_32, log1p32
from _memory cimport IN, INOUT
from fastopt._runtime.arrays cimport Array

ctypedef float (*Function)(float) noexcept nogil


cdef inline void loop(Function f, IN x, INOUT y, Py_ssize_t n) noexcept nogil:
    """y = f(x). The compiler inlines this and f, and vectorises the loop of each function."""
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = f(x[i])


def exp(Array x not None, Array y not None):
    with nogil:
        loop(exp32, <const float*> x.data, <float*> y.data, x.size)


def expm1(Array x not None, Array y not None):
    with nogil:
        loop(expm1_32, <const float*> x.data, <float*> y.data, x.size)


def log1p(Array x not None, Array y not None):
    with nogil:
        loop(log1p32, <const float*> x.data, <float*> y.data, x.size)


def sigmoid(Array x not None, Array y not None):
    with nogil:
        loop(sigmoid32, <const float*> x.data, <float*> y.data, x.size)


def tanh(Array x not None, Array y not None):
    with nogil:
        loop(tanh32, <const float*> x.data, <float*> y.data, x.size)


def silu(Array x not None, Array y not None):
    with nogil:
        loop(silu32, <const float*> x.data, <float*> y.data, x.size)


def gelu(Array x not None, Array y not None):
    with nogil:
        loop(gelu32, <const float*> x.data, <float*> y.data, x.size)


def gelu_tanh(Array x not None, Array y not None):
    with nogil:
        loop(gelu_tanh32, <const float*> x.data, <float*> y.data, x.size)


def silu_slope(Array x not None, Array y not None):
    with nogil:
        loop(silu_slope32, <const float*> x.data, <float*> y.data, x.size)


def gelu_slope(Array x not None, Array y not None):
    with nogil:
        loop(gelu_slope32, <const float*> x.data, <float*> y.data, x.size)


def gelu_tanh_slope(Array x not None, Array y not None):
    with nogil:
        loop(gelu_tanh_slope32, <const float*> x.data, <float*> y.data, x.size)


def sigmoid_slope_of(Array x not None, Array y not None):
    with nogil:
        loop(sigmoid_slope_from_y, <const float*> x.data, <float*> y.data, x.size)


def tanh_slope_of(Array x not None, Array y not None):
    with nogil:
        loop(tanh_slope_from_y, <const float*> x.data, <float*> y.data, x.size)
