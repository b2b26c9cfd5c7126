# What is done to one block of BatchNorm: its sums and its results, by the loops of _batchnorm_pieces.pxd.

from _batchnorm_pieces cimport (FIXED, RELU, RUN, add_backward, add_forward, ahead_of, turn_of,
                                write_backward, write_forward)
from _batchnorm_walk cimport IN_DOUBLE, INOUT_DOUBLE, Block, Lanes, Walk, fold_lanes, spread

cdef struct Job:
    Walk walk                       # of the sums, and of the elements where they are written tile by tile
    Walk wide                       # of the elements where they are written in a stage of their own
    bint backward
    int stages
    int flags
    const float* x
    const float* dy
    float* out
    void* memory                    # of the arrays of doubles
    Py_ssize_t room                 # from one to the next
    double* mean                    # of each channel, as the others here
    double* invstd
    double* scale                   # γ · invstd
    double* beta
    double* shift                   # forward: what is subtracted from x, and its factor;
    double* slope                   # backward: what is added to γ · invstd · dy, beside x times this factor
    double* first                   # forward: mean; backward: Σ dy
    double* second                  # forward: m2; backward: Σ dy · (x − mean)
    double* parts                   # the two of each block but the first
    double count
    double eps
    double momentum
    bint unbiased
    const float* gamma
    const float* beta_in
    float* running_mean
    float* running_var
    float* dgamma
    float* dbeta


# One block. Constants of the channels become those of the lanes; where lanes are channels they are used as they stand.

cdef inline const double* of_lanes(const Block* b, const double* channel, Lanes* room) noexcept nogil:
    if b.lanes == b.channels:
        return channel
    spread(b, channel, room.v)
    return room.v


cdef inline void finish_block(INOUT_DOUBLE mean, INOUT_DOUBLE m2, IN_DOUBLE s, IN_DOUBLE q, double inverse,
                              Py_ssize_t channels) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(channels):
        mean[c] = mean[c] + s[c] * inverse
        m2[c] = q[c] - s[c] * (s[c] * inverse)


cdef inline void copy(INOUT_DOUBLE to, IN_DOUBLE values, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        to[i] = values[i]


cdef inline void sum_forward(const Job* job, const Block* b, double* mean, double* m2) noexcept nogil:
    cdef Lanes shift, s, q
    cdef const float* x = job.x + b.start
    cdef double inverse = 1.0 / b.count
    cdef const double* k
    cdef const double* sums
    cdef const double* squares
    cdef Py_ssize_t c, i, groups = b.rows // 4
    cdef Py_ssize_t ahead = ahead_of(4 * b.stride), turn = turn_of(groups, 4 * b.stride)
    for c in range(b.channels):
        mean[c] = x[c * b.inner]
    k = of_lanes(b, mean, &shift)
    for i in range(b.lanes):
        s.v[i] = q.v[i] = 0.0
    for i in range(groups):
        if i == turn:
            ahead += b.jump
        add_forward(x + 4 * i * b.stride, b.stride, 4, b.lanes, k, s.v, q.v, ahead)
    for i in range(4 * groups, b.rows):
        add_forward(x + i * b.stride, b.stride, 1, b.lanes, k, s.v, q.v, ahead)
    add_forward(x + b.rows * b.stride, b.stride, 1, b.tail, k, s.v, q.v, ahead)
    sums = fold_lanes(b, s.v)
    squares = fold_lanes(b, q.v)
    finish_block(mean, m2, sums, squares, inverse, b.channels)


cdef inline void block_sums(const Job* job, const Block* b, Lanes* s, Lanes* q, int flags) noexcept nogil:
    cdef Lanes rooms[3]
    cdef const double* mean = of_lanes(b, job.mean + b.channel, &rooms[0])
    cdef const double* scale = of_lanes(b, job.scale + b.channel, &rooms[1]) if flags & RELU else mean
    cdef const double* beta = of_lanes(b, job.beta + b.channel, &rooms[2]) if flags & RELU else mean
    cdef const float* x = job.x + b.start
    cdef const float* dy = job.dy + b.start
    cdef Py_ssize_t i, at, groups = b.rows // 4
    cdef Py_ssize_t ahead = ahead_of(4 * b.stride), turn = turn_of(groups, 4 * b.stride)
    for i in range(b.lanes):
        s.v[i] = q.v[i] = 0.0
    for i in range(groups):
        if i == turn:
            ahead += b.jump
        at = 4 * i * b.stride
        add_backward(x + at, dy + at, b.stride, 4, b.lanes, mean, scale, beta, s.v, q.v, flags, ahead)
    for i in range(4 * groups, b.rows):
        at = i * b.stride
        add_backward(x + at, dy + at, b.stride, 1, b.lanes, mean, scale, beta, s.v, q.v, flags, ahead)
    at = b.rows * b.stride
    add_backward(x + at, dy + at, b.stride, 1, b.tail, mean, scale, beta, s.v, q.v, flags, ahead)


cdef inline void sum_backward(const Job* job, const Block* b, double* sum_dy, double* product) noexcept nogil:
    cdef Lanes s, q
    if job.flags & RELU and job.flags & FIXED:
        block_sums(job, b, &s, &q, RELU | FIXED)
    elif job.flags & RELU:
        block_sums(job, b, &s, &q, RELU)
    else:
        block_sums(job, b, &s, &q, 0)
    copy(sum_dy, fold_lanes(b, s.v), b.channels)
    copy(product, fold_lanes(b, q.v), b.channels)


cdef inline void block_forward(const Job* job, const Block* b, int flags) noexcept nogil:
    cdef Lanes rooms[3]
    cdef const float* x = job.x + b.start
    cdef float* y = job.out + b.start
    cdef const double* mean = job.shift + b.channel
    cdef const double* scale = job.slope + b.channel
    cdef const double* beta = job.beta + b.channel
    cdef Py_ssize_t i, c, at, length = b.rows * b.stride + b.tail
    cdef Py_ssize_t ahead = ahead_of(b.stride), turn = turn_of(b.rows, b.stride)
    if job.walk.runs:
        at = min(turn * b.stride, length)
        write_forward(x, y, at, mean, scale, beta, 0, flags, ahead)
        write_forward(x + at, y + at, length - at, mean, scale, beta, 0, flags, ahead + b.jump)
        return
    if b.inner >= RUN:
        turn, ahead = turn_of(b.images, b.image), ahead_of(b.image)
        for i in range(b.images):
            if i == turn:
                ahead += b.jump
            for c in range(b.channels):
                at = i * b.image + c * b.inner
                write_forward(x + at, y + at, b.inner, mean + c, scale + c, beta + c, 0, flags, ahead)
        return
    mean, scale, beta = of_lanes(b, mean, &rooms[0]), of_lanes(b, scale, &rooms[1]), of_lanes(b, beta, &rooms[2])
    for i in range(b.rows):
        if i == turn:
            ahead += b.jump
        at = i * b.stride
        write_forward(x + at, y + at, b.lanes, mean, scale, beta, 1, flags, ahead)
    at = b.rows * b.stride
    write_forward(x + at, y + at, b.tail, mean, scale, beta, 1, flags, ahead)


cdef inline void write_forward_block(const Job* job, const Block* b) noexcept nogil:
    if job.flags == 0: block_forward(job, b, 0)
    else: block_forward(job, b, RELU)


cdef inline void block_backward(const Job* job, const Block* b, int flags) noexcept nogil:
    cdef Lanes rooms[5]
    cdef const float* x = job.x + b.start
    cdef const float* dy = job.dy + b.start
    cdef float* dx = job.out + b.start
    cdef const double* mean = job.mean + b.channel
    cdef const double* scale = job.scale + b.channel
    cdef const double* beta = job.beta + b.channel
    cdef const double* shift = job.shift + b.channel
    cdef const double* slope = job.slope + b.channel
    cdef Py_ssize_t i, c, at, length = b.rows * b.stride + b.tail
    cdef Py_ssize_t ahead = ahead_of(b.stride), turn = turn_of(b.rows, b.stride)
    if job.walk.runs:
        at = min(turn * b.stride, length)
        write_backward(x, dy, dx, at, mean, scale, beta, shift, slope, 0, flags, ahead)
        write_backward(x + at, dy + at, dx + at, length - at, mean, scale, beta, shift, slope, 0, flags,
                       ahead + b.jump)
        return
    if b.inner >= RUN:
        turn, ahead = turn_of(b.images, b.image), ahead_of(b.image)
        for i in range(b.images):
            if i == turn:
                ahead += b.jump
            for c in range(b.channels):
                at = i * b.image + c * b.inner
                write_backward(x + at, dy + at, dx + at, b.inner, mean + c, scale + c, beta + c, shift + c, slope + c,
                               0, flags, ahead)
        return
    scale = of_lanes(b, scale, &rooms[1])
    mean = of_lanes(b, mean, &rooms[0]) if flags & RELU else scale
    beta = of_lanes(b, beta, &rooms[2]) if flags & RELU else scale
    shift = scale if flags & FIXED else of_lanes(b, shift, &rooms[3])
    slope = scale if flags & FIXED else of_lanes(b, slope, &rooms[4])
    for i in range(b.rows):
        if i == turn:
            ahead += b.jump
        at = i * b.stride
        write_backward(x + at, dy + at, dx + at, b.lanes, mean, scale, beta, shift, slope, 1, flags, ahead)
    at = b.rows * b.stride
    write_backward(x + at, dy + at, dx + at, b.tail, mean, scale, beta, shift, slope, 1, flags, ahead)


cdef inline void write_backward_block(const Job* job, const Block* b) noexcept nogil:
    if job.flags == 0: block_backward(job, b, 0)
    elif job.flags == 1: block_backward(job, b, 1)
    elif job.flags == 2: block_backward(job, b, 2)
    elif job.flags == 3: block_backward(job, b, 3)
    elif job.flags == 4: block_backward(job, b, 4)
    elif job.flags == 5: block_backward(job, b, 5)
    elif job.flags == 6: block_backward(job, b, 6)
    else: block_backward(job, b, 7)
