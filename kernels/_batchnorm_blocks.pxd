# BatchNorm's passes over one block: sums, and results. The loops are in _batchnorm_loops.pxd.

from libc.math cimport INFINITY

from _batchnorm_elements cimport (FROM_ZERO, IN_PLACE, INFERENCE, RELU, Backward, Forward, all_finite, gradient,
                                  masked_by, shift_of, slope_of)
from _batchnorm_loops cimport (add_backward, add_backward_run, add_forward, add_forward_run, write_backward,
                               write_forward)
from _batchnorm_order cimport Block, Lanes, Lanes32, ahead, block_of, fold_lanes, spread
from _memory cimport INOUT64

cdef enum:
    LONG_RUN = 48       # from this length on, runs are written one by one, with the channel's constants in registers


cdef inline void sum_forward(const Forward* f, Py_ssize_t tile, Py_ssize_t index) noexcept nogil:
    """Mean and m2 of each channel's values in a block. They are shifted by the first one."""
    cdef Lanes first, s, q
    cdef Block b = block_of(&f.tiling, tile, index, 4)
    cdef INOUT64 mean = f.sums + b.sums
    cdef INOUT64 m2 = f.sums + f.tiling.padded + b.sums
    cdef const float* x = f.x + b.start
    cdef const double* shifts
    cdef double inverse = 1.0 / b.count
    cdef Py_ssize_t c, i, at, fours = b.rows // 4
    for c in range(b.channels):
        mean[c] = x[c * b.channel_lanes]
    if b.few_rows:
        for c in range(b.channels):
            at = c * b.run
            add_forward_run(x + at, b.stride, b.rows, b.run, <const double*> mean + c, s.v + at, q.v + at)
    else:
        shifts = spread(&b, <const double*> mean, first.v)
        if b.rows >= 4:
            add_forward(x, b.stride, 4, b.lanes, shifts, s.v, q.v, FROM_ZERO, ahead(&b, 0))
        elif b.rows >= 2:
            add_forward(x, b.stride, 2, b.lanes, shifts, s.v, q.v, FROM_ZERO, ahead(&b, 0))
        else:
            for i in range(b.lanes):
                s.v[i] = q.v[i] = 0.0
        for i in range(1, fours):
            at = 4 * i * b.stride
            add_forward(x + at, b.stride, 4, b.lanes, shifts, s.v, q.v, 0, ahead(&b, at))
        if b.rows & 2 and fours > 0:
            at = 4 * fours * b.stride
            add_forward(x + at, b.stride, 2, b.lanes, shifts, s.v, q.v, 0, ahead(&b, at))
        for i in range(b.rows // 2 * 2, b.rows + 1):
            at = i * b.stride
            add_forward(x + at, b.stride, 1, b.lanes if i < b.rows else b.tail, shifts, s.v, q.v, 0, ahead(&b, at))
    fold_lanes(&b, s.v, s.v)
    fold_lanes(&b, q.v, q.v)
    for c in range(b.channels):
        mean[c] = mean[c] + s.v[c] * inverse
        m2[c] = q.v[c] - s.v[c] * (s.v[c] * inverse)


cdef inline void add_backward_rows(const Backward* g, const Block* b, double* s, double* q, int flags) noexcept nogil:
    cdef Lanes means
    cdef Lanes32 lanes[3]
    cdef const double* mean = g.mean + b.channel
    cdef const float* center = g.y32.center + b.channel
    cdef const float* factor = g.y32.factor + b.channel
    cdef const float* offset = g.y32.shift + b.channel
    cdef const float* x = g.x + b.start
    cdef const float* dy = g.dy + b.start
    cdef Py_ssize_t i, at, fours = b.rows // 4
    if b.few_rows and b.rows <= 4:
        for i in range(b.channels):
            at = i * b.run
            add_backward_run(x + at, dy + at, b.stride, b.rows, b.run, mean + i, center + i, factor + i, offset + i,
                             s + at, q + at, flags)
        return
    mean = spread(b, mean, means.v)
    if flags & RELU:
        center, factor = spread(b, center, lanes[0].v), spread(b, factor, lanes[1].v)
        offset = spread(b, offset, lanes[2].v)
    if b.rows >= 4:
        add_backward(x, dy, b.stride, 4, b.lanes, mean, center, factor, offset, s, q, flags | FROM_ZERO, ahead(b, 0))
    elif b.rows >= 2:
        add_backward(x, dy, b.stride, 2, b.lanes, mean, center, factor, offset, s, q, flags | FROM_ZERO, ahead(b, 0))
    else:
        for i in range(b.lanes):
            s[i] = q[i] = 0.0
    for i in range(1, fours):
        at = 4 * i * b.stride
        add_backward(x + at, dy + at, b.stride, 4, b.lanes, mean, center, factor, offset, s, q, flags, ahead(b, at))
    if b.rows & 2 and fours > 0:
        at = 4 * fours * b.stride
        add_backward(x + at, dy + at, b.stride, 2, b.lanes, mean, center, factor, offset, s, q, flags, ahead(b, at))
    for i in range(b.rows // 2 * 2, b.rows + 1):
        at = i * b.stride
        add_backward(x + at, dy + at, b.stride, 1, b.lanes if i < b.rows else b.tail, mean, center, factor, offset,
                     s, q, flags, ahead(b, at))


cdef inline void add_backward_wide(const Backward* g, const Block* b, double* s, double* q) noexcept nogil:
    """The same sums, again, of the channels whose relu mask is computed in double."""
    cdef Py_ssize_t row, lane, at, c
    cdef double dy
    for lane in range(b.lanes):
        c = b.channel + lane // b.channel_lanes % b.channels
        if g.y32.center[c] != <float> INFINITY:
            continue
        s[lane] = q[lane] = 0.0
        for row in range(b.rows + 1 if lane < b.tail else b.rows):
            at = b.start + row * b.stride + lane
            dy = masked_by(g, c, g.dy[at], g.x[at])
            s[lane] = s[lane] + dy
            q[lane] = q[lane] + dy * (<double> g.x[at] - g.mean[c])


cdef inline void sum_backward(const Backward* g, Py_ssize_t tile, Py_ssize_t index) noexcept nogil:
    """Σ dy and Σ dy · (x − mean) of each channel's values in a block."""
    cdef Lanes sum_lanes, product_lanes
    cdef Block b = block_of(&g.tiling, tile, index, 4)
    cdef double* sums = g.sums + b.sums
    cdef double* products = g.sums + g.tiling.padded + b.sums
    cdef bint lanes_are_channels = b.lanes == b.channels
    cdef double* s = sums if lanes_are_channels else sum_lanes.v
    cdef double* q = products if lanes_are_channels else product_lanes.v
    if not g.flags & RELU:
        add_backward_rows(g, &b, s, q, 0)
    else:
        add_backward_rows(g, &b, s, q, RELU)
        if not (g.flags & INFERENCE or all_finite(g.y32.center + b.channel, b.channels)):
            add_backward_wide(g, &b, s, q)
    if not lanes_are_channels:
        fold_lanes(&b, s, sums)
        fold_lanes(&b, q, products)


cdef inline void write_forward_wide(const Forward* f, const Block* b, Py_ssize_t c, int flags) noexcept nogil:
    """Write y again, of a block's channel c, in double."""
    cdef Py_ssize_t i, at, run, k = b.channel + c
    for i in range(b.outer):
        run = b.run if i > 0 else b.first_run
        at = b.start + i * b.outer_stride + c * run
        write_forward(f.x + at, f.y + at, run, <const double*> f.center + k, <const double*> f.factor + k,
                      <const double*> f.shift + k, 0, flags, 0)


cdef inline void write_forward_block(const Forward* f, Py_ssize_t tile, Py_ssize_t index, int flags) noexcept nogil:
    cdef Lanes32 lanes[3]
    cdef Block b = block_of(&f.tiling, tile, index, 1)
    cdef const float* x = f.x + b.start
    cdef float* y = f.y + b.start
    cdef const float* center = f.y32.center + b.channel
    cdef const float* factor = f.y32.factor + b.channel
    cdef const float* shift = f.y32.shift + b.channel
    cdef Py_ssize_t i, c, at, run
    if b.run >= LONG_RUN:
        for i in range(b.outer):
            run = b.run if i > 0 else b.first_run
            for c in range(b.channels):
                at = i * b.outer_stride + c * run
                write_forward(x + at, y + at, run, center + c, factor + c, shift + c, 0, flags, ahead(&b, at))
    else:
        center, factor = spread(&b, center, lanes[0].v), spread(&b, factor, lanes[1].v)
        shift = spread(&b, shift, lanes[2].v)
        for i in range(b.rows + 1):
            at = i * b.stride
            write_forward(x + at, y + at, b.lanes if i < b.rows else b.tail, center, factor, shift, 1, flags,
                          ahead(&b, at))
    if not all_finite(f.y32.center + b.channel, b.channels):        # y is not x, which is still there
        for c in range(b.channels):
            if f.y32.center[b.channel + c] == <float> INFINITY:
                write_forward_wide(f, &b, c, flags)


cdef inline void write_backward_channel(const Backward* g, const Block* b, Py_ssize_t c) noexcept nogil:
    """Write dx of a block's channel c, element by element, in float32 or in double."""
    cdef Py_ssize_t i, at, run, start, k = b.channel + c
    cdef double slope = slope_of(g.scale[k], g.invstd[k], g.sums[g.tiling.padded + k], g.count)
    cdef double shift = shift_of(g.scale[k], g.sums[k], g.count)
    cdef bint wide = g.slope[k] == <float> INFINITY
    cdef float dy
    for i in range(b.outer):
        run = b.run if i > 0 else b.first_run
        start = b.start + i * b.outer_stride + c * run
        for at in range(start, start + run):
            dy = masked_by(g, k, g.dy[at], g.x[at])
            if wide:
                g.dx[at] = gradient(dy, g.x[at], g.mean[k], g.scale[k], slope, shift, g.flags)
            else:
                g.dx[at] = gradient(dy, g.x[at], g.y32.center[k], g.y32.factor[k], g.slope[k], g.shift[k], g.flags)


cdef inline void write_backward_wide(const Backward* g, const Block* b) noexcept nogil:
    """Write dx again of the channels where it is computed in double."""
    cdef Py_ssize_t c
    for c in range(b.channels):
        if g.slope[b.channel + c] == <float> INFINITY:
            write_backward_channel(g, b, c)


cdef inline void write_backward_block(const Backward* g, Py_ssize_t tile, Py_ssize_t index, int flags) noexcept nogil:
    cdef Lanes32 lanes[5]
    cdef Block b = block_of(&g.tiling, tile, index, 1)
    cdef const float* x = g.x + b.start
    cdef const float* dy = g.dy + b.start
    cdef float* dx = g.dx + b.start
    cdef const float* center = g.y32.center + b.channel
    cdef const float* factor = g.y32.factor + b.channel
    cdef const float* offset = g.y32.shift + b.channel
    cdef const float* slope = g.slope + b.channel
    cdef const float* shift = g.shift + b.channel
    cdef Py_ssize_t i, c, at, run
    cdef bint finite = all_finite(slope, b.channels)
    if flags & IN_PLACE and not finite:
        for c in range(b.channels):
            write_backward_channel(g, &b, c)
        return
    if b.run >= LONG_RUN:
        for i in range(b.outer):
            run = b.run if i > 0 else b.first_run
            for c in range(b.channels):
                at = i * b.outer_stride + c * run
                write_backward(x + at, dy + at, dx + at, run, center + c, factor + c, offset + c, slope + c, shift + c,
                               0, flags, ahead(&b, at))
        if not finite:
            write_backward_wide(g, &b)
        return
    factor = spread(&b, factor, lanes[0].v)
    offset = spread(&b, offset, lanes[1].v) if flags & RELU else factor
    center = factor if flags & INFERENCE and not flags & RELU else spread(&b, center, lanes[2].v)
    slope = factor if flags & INFERENCE else spread(&b, slope, lanes[3].v)
    shift = factor if flags & INFERENCE else spread(&b, shift, lanes[4].v)
    for i in range(b.rows):             # a call of its own for the tail: with one for both, gcc spills pointers at v3
        at = i * b.stride
        write_backward(x + at, dy + at, dx + at, b.lanes, center, factor, offset, slope, shift, 1, flags, ahead(&b, at))
    at = b.rows * b.stride
    write_backward(x + at, dy + at, dx + at, b.tail, center, factor, offset, slope, shift, 1, flags, ahead(&b, at))
    if not finite:
        write_backward_wide(g, &b)


cdef inline void write_backward_by_flags(const Backward* g, Py_ssize_t tile, Py_ssize_t index) noexcept nogil:
    if g.flags == 0: write_backward_block(g, tile, index, 0)
    elif g.flags == RELU: write_backward_block(g, tile, index, RELU)
    elif g.flags == IN_PLACE: write_backward_block(g, tile, index, IN_PLACE)
    elif g.flags == (RELU | IN_PLACE): write_backward_block(g, tile, index, RELU | IN_PLACE)
    elif g.flags == INFERENCE: write_backward_block(g, tile, index, INFERENCE)
    elif g.flags == (RELU | INFERENCE): write_backward_block(g, tile, index, RELU | INFERENCE)
    elif g.flags == (IN_PLACE | INFERENCE): write_backward_block(g, tile, index, IN_PLACE | INFERENCE)
    else: write_backward_block(g, tile, index, RELU | IN_PLACE | INFERENCE)
