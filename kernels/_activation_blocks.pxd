# Blocks of elements of activation.pyx: bias, activation function and dropout of consecutive elements, and their gradients.
#
# A call is one `Activation`. Elements are numbered as they stand in memory. A block has at most BLOCK of them, which
# leaves what it needs beside x and y, the biases and the random words, in the first-level cache.
#
# Without a bias the biases are −0: x + −0 is x, bit for bit, for every x.

from libc.string cimport memcpy

from _activations cimport (
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
from _math cimport as_bits, as_float, uint32_t, uint64_t
from _memory cimport IN, INOUT
from _philox cimport GROUP, PhiloxWords, philox

cdef enum:
    BLOCK = 1024                # a multiple of GROUP
    WORDS = BLOCK // GROUP + 2  # groups that a block touches

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

cdef struct Activation:
    const float* x              # dy in backward
    float* y                    # dx
    const float* saved          # in backward: y of the forward pass; its x for GELU, GELU_TANH and SILU
    const float* bias           # of `channels` elements; NULL: none
    Py_ssize_t size
    Py_ssize_t channels
    Py_ssize_t inner            # consecutive elements with the same bias
    float* table                # where inner is 1 and channels ≤ BLOCK: the biases repeated to channels + BLOCK elements
    int kind
    float negative_slope
    bint drop
    uint64_t key                # of dropout: words below t are dropped, s = 1 / (1 − p) multiplies the rest, keep = 1 − p
    uint32_t t
    float s
    float keep


cdef inline bint keeps_x(int kind) noexcept nogil:
    return kind >= GELU


cdef inline const float* biases(const Activation* job, Py_ssize_t start, Py_ssize_t n, float* buffer) noexcept nogil:
    """The biases of n elements from `start`, perhaps in `buffer`, which holds BLOCK times −0 where there are none."""
    cdef Py_ssize_t channel, left, i, filled = 0
    if job.bias == NULL:
        return buffer
    if job.inner == 1:
        channel = start % job.channels
        if job.table != NULL:
            return job.table + channel
        left = job.channels - channel
        if n <= left:
            return job.bias + channel
        memcpy(buffer, job.bias + channel, left * sizeof(float))
        memcpy(buffer + left, job.bias, (n - left) * sizeof(float))
        return buffer
    channel = start // job.inner % job.channels
    left = min(n, job.inner - start % job.inner)
    while filled < n:
        for i in range(filled, filled + left):
            buffer[i] = job.bias[channel]
        filled += left
        left = min(n - filled, job.inner)
        channel = 0 if channel + 1 == job.channels else channel + 1
    return buffer


cdef inline const uint32_t* random_words(uint64_t key, Py_ssize_t start, Py_ssize_t n,
                                         PhiloxWords* buffer) noexcept nogil:
    """The words of n elements from `start`."""
    cdef Py_ssize_t first = start // GROUP, g
    for g in range((start + n - 1) // GROUP - first + 1):
        philox(key, <uint64_t> (first + g), buffer + g)
    return buffer[0].v + start % GROUP


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
        if flags & DROP:
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


cdef inline void forward_flags(const Activation* job, Py_ssize_t start, Py_ssize_t n, const float* bias,
                               const uint32_t* words, int kind) noexcept nogil:
    cdef const float* x = job.x + start
    cdef float* y = job.y + start
    if x == y and job.drop:
        forward_loop(x, y, bias, words, n, job.negative_slope, job.t, job.s, kind, IN_PLACE | DROP)
    elif x == y:
        forward_loop(x, y, bias, words, n, job.negative_slope, job.t, job.s, kind, IN_PLACE)
    elif job.drop:
        forward_loop(x, y, bias, words, n, job.negative_slope, job.t, job.s, kind, DROP)
    else:
        forward_loop(x, y, bias, words, n, job.negative_slope, job.t, job.s, kind, 0)


cdef inline void backward_flags(const Activation* job, Py_ssize_t start, Py_ssize_t n, const float* bias,
                                const uint32_t* words, int kind) noexcept nogil:
    cdef const float* dy = job.x + start
    cdef const float* saved = job.saved + start
    cdef float* dx = job.y + start
    if dx == dy and job.drop:
        backward_loop(dy, dx, saved, bias, words, n, job.negative_slope, job.t, job.s, job.keep, kind, IN_PLACE | DROP)
    elif dx == dy:
        backward_loop(dy, dx, saved, bias, words, n, job.negative_slope, job.t, job.s, job.keep, kind, IN_PLACE)
    elif job.drop:
        backward_loop(dy, dx, saved, bias, words, n, job.negative_slope, job.t, job.s, job.keep, kind, DROP)
    else:
        backward_loop(dy, dx, saved, bias, words, n, job.negative_slope, job.t, job.s, job.keep, kind, 0)
