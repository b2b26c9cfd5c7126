# Blocks of activation.pyx: what consecutive elements need beside x and y, and which loop they are for.
#
# A call is one `Activation`. Elements are numbered as they stand in memory. A block has at most BLOCK of them, so that
# their biases and random words stay in the first-level cache.
#
# Without a bias the biases are −0: x + −0 is x, bit for bit, for every x.

from libc.string cimport memcpy

from _activation_elements cimport (
    DROP,
    GELU,
    GELU_TANH,
    IDENTITY,
    IN_PLACE,
    LEAKY_RELU,
    RELU,
    SCALED,
    SIGMOID,
    SILU,
    TANH,
    backward_add_loop,
    backward_loop,
    drop_loop,
    forward_loop,
    keeps_x,
)
from _math cimport uint32_t, uint64_t
from _philox cimport GROUP, PhiloxWords, philox

cdef enum:
    BLOCK = 1024                # a multiple of GROUP
    WORDS = BLOCK // GROUP + 2  # groups that a block touches
    LINE = 16                   # elements of a cache line

cdef struct Activation:
    const float* x              # dy in backward
    float* y                    # dx
    const float* saved          # in backward: y of the forward pass; its x for GELU, GELU_TANH and SILU
    const float* bias           # of `channels` elements; NULL: none
    Py_ssize_t size
    Py_ssize_t channels
    Py_ssize_t inner            # consecutive elements with the same bias
    float* table                # channels + BLOCK elements: the biases repeated; NULL if inner > 1 or channels > BLOCK
    int kind
    float negative_slope
    bint drop
    uint64_t key
    uint32_t t                  # words below it are dropped,
    float s                     # 1 / (1 − p) multiplies the others
    float keep                  # 1 − p


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


cdef inline void forward_smooth(const Activation* job, Py_ssize_t start, Py_ssize_t n, const float* bias,
                                const uint32_t* words, int kind) noexcept nogil:
    """The same in fewer loops. Functions that keep x are never in place."""
    cdef const float* x = job.x + start
    cdef float* y = job.y + start
    if not keeps_x(kind) and x == y:
        forward_loop(x, y, bias, words, n, job.negative_slope, job.t, job.s, kind, IN_PLACE)
    else:
        forward_loop(x, y, bias, words, n, job.negative_slope, job.t, job.s, kind, 0)
    if job.drop:
        drop_loop(y, words, n, job.t, job.s)


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


cdef inline void backward_smooth(const Activation* job, Py_ssize_t start, Py_ssize_t n, const float* bias,
                                 const uint32_t* words, int kind) noexcept nogil:
    cdef const float* dy = job.x + start
    cdef const float* saved = job.saved + start
    cdef float* dx = job.y + start
    if dx == dy:
        backward_loop(dy, dx, saved, bias, words, n, job.negative_slope, job.t, job.s, job.keep, kind,
                      IN_PLACE | SCALED)
    else:
        backward_loop(dy, dx, saved, bias, words, n, job.negative_slope, job.t, job.s, job.keep, kind, SCALED)
    if job.drop:
        drop_loop(dx, words, n, job.t, job.s)


cdef inline void prepare(float* no_bias) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(BLOCK):
        no_bias[i] = <float> -0.0


cdef inline void forward_block(const Activation* job, Py_ssize_t start, Py_ssize_t n, float* buffer,
                               PhiloxWords* words) noexcept nogil:
    cdef const float* bias = biases(job, start, n, buffer)
    cdef const uint32_t* w = words[0].v
    cdef int kind = job.kind
    if job.drop:
        w = random_words(job.key, start, n, words)
    if kind == RELU:
        forward_flags(job, start, n, bias, w, RELU)
    elif kind == LEAKY_RELU:
        forward_flags(job, start, n, bias, w, LEAKY_RELU)
    elif kind == SIGMOID:
        forward_smooth(job, start, n, bias, w, SIGMOID)
    elif kind == TANH:
        forward_smooth(job, start, n, bias, w, TANH)
    elif kind == GELU:
        forward_smooth(job, start, n, bias, w, GELU)
    elif kind == GELU_TANH:
        forward_smooth(job, start, n, bias, w, GELU_TANH)
    elif kind == SILU:
        forward_smooth(job, start, n, bias, w, SILU)
    else:
        forward_flags(job, start, n, bias, w, IDENTITY)


cdef inline void backward_block(const Activation* job, Py_ssize_t start, Py_ssize_t n, float* buffer,
                                PhiloxWords* words) noexcept nogil:
    cdef int kind = job.kind
    cdef const float* bias = biases(job, start, n, buffer) if keeps_x(kind) else buffer
    cdef const uint32_t* w = words[0].v
    if job.drop and kind != RELU:
        w = random_words(job.key, start, n, words)
    if kind == RELU:
        backward_flags(job, start, n, bias, w, RELU)
    elif kind == LEAKY_RELU:
        backward_flags(job, start, n, bias, w, LEAKY_RELU)
    elif kind == SIGMOID:
        backward_smooth(job, start, n, bias, w, SIGMOID)
    elif kind == TANH:
        backward_smooth(job, start, n, bias, w, TANH)
    elif kind == GELU:
        backward_smooth(job, start, n, bias, w, GELU)
    elif kind == GELU_TANH:
        backward_smooth(job, start, n, bias, w, GELU_TANH)
    elif kind == SILU:
        backward_smooth(job, start, n, bias, w, SILU)
    else:
        backward_flags(job, start, n, bias, w, IDENTITY)


cdef inline Py_ssize_t first_block(const float* y, Py_ssize_t n) noexcept nogil:
    """Elements of a first block, so that the next begins at a cache line: large arrays of NumPy's begin 16 bytes behind
    one, and 512-bit stores across two lines take longer ((128, 512), relu: 0.22 to 0.17 ns an element)."""
    cdef Py_ssize_t before = (LINE - (<size_t> y // sizeof(float)) % LINE) % LINE
    return before if before and n >= 16 * LINE else min(<Py_ssize_t> BLOCK, n)


cdef inline void forward_range(const Activation* job, Py_ssize_t start, Py_ssize_t end, float* buffer,
                               PhiloxWords* words) noexcept nogil:
    cdef Py_ssize_t n = first_block(job.y + start, end - start)
    while start < end:
        forward_block(job, start, n, buffer, words)
        start += n
        n = min(<Py_ssize_t> BLOCK, end - start)


cdef inline void backward_range(const Activation* job, Py_ssize_t start, Py_ssize_t end, float* buffer,
                                PhiloxWords* words) noexcept nogil:
    cdef Py_ssize_t n = first_block(job.y + start, end - start)
    while start < end:
        backward_block(job, start, n, buffer, words)
        start += n
        n = min(<Py_ssize_t> BLOCK, end - start)


cdef inline bint adds_at_once(const Activation* job) noexcept nogil:
    """Whether backward_add is for this call: arithmetic that takes less time than the loads and stores."""
    return job.kind == RELU or (job.kind <= TANH and not job.drop)


cdef inline void backward_add_flags(const Activation* job, Py_ssize_t start, Py_ssize_t stride, Py_ssize_t n,
                                    double* sums, int kind) noexcept nogil:
    cdef const float* dy = job.x + start
    cdef const float* saved = job.saved + start
    cdef float* dx = job.y + start
    if dx == dy and job.drop and kind == RELU:
        backward_add_loop(dy, dy + stride, dx, dx + stride, saved, saved + stride, sums, n, job.negative_slope, job.s,
                          kind, IN_PLACE | DROP)
    elif dx == dy:
        backward_add_loop(dy, dy + stride, dx, dx + stride, saved, saved + stride, sums, n, job.negative_slope, job.s,
                          kind, IN_PLACE)
    elif job.drop and kind == RELU:
        backward_add_loop(dy, dy + stride, dx, dx + stride, saved, saved + stride, sums, n, job.negative_slope, job.s,
                          kind, DROP)
    else:
        backward_add_loop(dy, dy + stride, dx, dx + stride, saved, saved + stride, sums, n, job.negative_slope, job.s,
                          kind, 0)


cdef inline void backward_add(const Activation* job, Py_ssize_t start, Py_ssize_t stride, Py_ssize_t n,
                              double* sums) noexcept nogil:
    """dx of n columns of two rows, which are added to `sums`."""
    if job.kind == RELU:
        backward_add_flags(job, start, stride, n, sums, RELU)
    elif job.kind == LEAKY_RELU:
        backward_add_flags(job, start, stride, n, sums, LEAKY_RELU)
    elif job.kind == SIGMOID:
        backward_add_flags(job, start, stride, n, sums, SIGMOID)
    elif job.kind == TANH:
        backward_add_flags(job, start, stride, n, sums, TANH)
    else:
        backward_add_flags(job, start, stride, n, sums, IDENTITY)
