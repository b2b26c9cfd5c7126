# Elements of activation.pyx: one function of x + bias, and its gradient, with or without dropout.
#
# relu, leaky_relu, sigmoid and tanh get the derivative from y, the others from x: `saved` is what backward has.

from _activation_functions cimport (
    gelu32,
    gelu_slope32,
    gelu_tanh32,
    gelu_tanh_slope32,
    sigmoid32,
    sigmoid_slope_of,
    silu32,
    silu_slope32,
    tanh32,
    tanh_slope_of,
)
from _dropout cimport kept
from _math cimport as_bits, as_float, uint32_t
from _memory cimport IN, INOUT, INOUT64

cdef enum:                      # in the order of KINDS in fastopt/_activation.py
    IDENTITY
    RELU
    LEAKY_RELU
    SIGMOID
    TANH
    GELU
    GELU_TANH
    SILU

cdef enum:
    IN_PLACE = 1                # y is x, or dx is dy: read through the pointer that is written
    DROP = 2
    SCALED = 4                  # y was divided by 1 − p, which may be 1


cdef inline bint keeps_x(int kind) noexcept nogil:
    return kind >= GELU


cdef inline float value(float z, float negative_slope, int kind) noexcept nogil:
    if kind == RELU:
        return <float> 0.0 if z < <float> 0.0 else z
    if kind == LEAKY_RELU:
        return negative_slope * z if z < <float> 0.0 else z
    if kind == SIGMOID:
        return sigmoid32(z)
    if kind == TANH:
        return tanh32(z)
    if kind == GELU:
        return gelu32(z)
    if kind == GELU_TANH:
        return gelu_tanh32(z)
    if kind == SILU:
        return silu32(z)
    return z


cdef inline float gradient(float dy, float saved, float bias, float negative_slope, float keep, int kind,
                           int flags) noexcept nogil:
    """dy times the derivative. sigmoid and tanh get it from y before dropout: what it is now, times 1 − p."""
    cdef float h = saved
    if kind == RELU:            # by a mask, which is +0 even for an infinite dy
        return as_float(as_bits(dy) & (<uint32_t> 0 - <uint32_t> (not saved <= <float> 0.0)))
    if kind == LEAKY_RELU:
        return negative_slope * dy if saved <= <float> 0.0 else dy
    if kind == SIGMOID or kind == TANH:
        if flags & SCALED:
            h = saved * keep
            h = <float> 1.0 if h > <float> 1.0 else h       # what two roundings made of a y near ±1
            h = <float> -1.0 if h < <float> -1.0 else h
        return dy * (sigmoid_slope_of(h) if kind == SIGMOID else tanh_slope_of(h))
    if kind == GELU:
        return dy * gelu_slope32(saved + bias)
    if kind == GELU_TANH:
        return dy * gelu_tanh_slope32(saved + bias)
    if kind == SILU:
        return dy * silu_slope32(saved + bias)
    return dy


cdef inline void forward_loop(IN x, INOUT y, IN bias, const uint32_t* words, Py_ssize_t n, float negative_slope,
                              uint32_t t, float s, int kind, int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float h
    for i in range(n):
        h = value((y[i] if flags & IN_PLACE else x[i]) + bias[i], negative_slope, kind)
        y[i] = kept(h, words[i], t, s) if flags & DROP else h


cdef inline void backward_loop(IN dy, INOUT dx, IN saved, IN bias, const uint32_t* words, Py_ssize_t n,
                               float negative_slope, uint32_t t, float s, float keep, int kind,
                               int flags) noexcept nogil:
    cdef Py_ssize_t i
    cdef float g
    for i in range(n):
        g = gradient(dx[i] if flags & IN_PLACE else dy[i], saved[i], bias[i], negative_slope, keep, kind, flags)
        if kind == RELU and flags & DROP:       # y is 0 where it was dropped
            g = g * s
        elif flags & DROP:
            g = kept(g, words[i], t, s)
        dx[i] = g


cdef inline void drop_loop(INOUT y, const uint32_t* words, Py_ssize_t n, uint32_t t, float s) noexcept nogil:
    """DROP of the loops above, for the functions whose own loop takes longer and is large."""
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = kept(y[i], words[i], t, s)


cdef inline void backward_add_loop(IN dy, IN dy1, INOUT dx, INOUT dx1, IN saved, IN saved1, INOUT64 sums, Py_ssize_t n,
                                   float negative_slope, float s, int kind, int flags) noexcept nogil:
    """backward_loop for two rows, which are added to the sums of their columns in order.

    For functions that need y alone. DROP for relu alone: y is 0 where it was dropped.
    """
    cdef Py_ssize_t i
    cdef float g, g1
    for i in range(n):
        g = gradient(dx[i] if flags & IN_PLACE else dy[i], saved[i], 0.0, negative_slope, 1.0, kind, flags)
        g1 = gradient(dx1[i] if flags & IN_PLACE else dy1[i], saved1[i], 0.0, negative_slope, 1.0, kind, flags)
        if flags & DROP:
            g = g * s
            g1 = g1 * s
        dx[i] = g
        dx1[i] = g1
        sums[i] = (sums[i] + <double> g) + <double> g1
