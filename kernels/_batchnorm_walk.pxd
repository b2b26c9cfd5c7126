# How a batch-normalised array is walked: the order of every sum, and the loops over it.
#
# The array is outer × channels × inner, C-contiguous: (N, C) and channels-last have inner = 1, (N, C, H, W) has
# inner = H·W. It is read as *rows* of adjacent elements, every lane of a row has accumulators of its own, and a lane
# belongs to one channel:
#
#   inner ≤ LONG   a row is `period` consecutive outer indices with all their channels; period is 1 unless
#                  channels · inner is less than WIDE / 2. A *tile* is some whole channels of all the rows.
#   inner > LONG   a row is WIDE consecutive elements of one channel's run. A tile is one channel.
#
# The last row may be shorter (`tail`). A *block* is a bounded stretch of a tile's rows, at most PART values a channel.
# In a block, lanes add their rows in order; lanes of one channel are added period by period, then folded in eights
# (`fold`); blocks are merged in order. All of this follows from the three sizes alone; how many channels a tile has,
# and which thread takes which tile or block, changes no bit. fastopt/reference/_batchnorm.py says the same in NumPy.

cdef extern from *:
    """
    #ifdef _MSC_VER
        #define FASTOPT_ALIGNED __declspec(align(64))
    #else
        #define FASTOPT_ALIGNED __attribute__((aligned(64)))
    #endif
    typedef FASTOPT_ALIGNED struct { double v[1024 + 8]; } fastopt_lanes;    /* LONG, and room to overrun */
    typedef const double* __restrict fastopt_in_double;
    typedef double* __restrict fastopt_inout_double;
    """
    ctypedef struct Lanes "fastopt_lanes":
        double v[1032]
    ctypedef const double* IN_DOUBLE "fastopt_in_double"
    ctypedef double* INOUT_DOUBLE "fastopt_inout_double"

cdef enum:
    WIDE = 64           # lanes of a row inside a run, and about the fewest of any row
    LONG = 1024         # the longest run that is part of a row; also the most lanes
    PART = 16384        # values of one channel in a block
    TALL = 256          # most rows of a block
    SHORT = 64          # and so many, or an eighth of all if that is more
    TILE = 512          # lanes of a tile, about: their sums and constants stay in the first-level cache
    BROAD = 2048        # the same where elements are only written
    EVEN = 2            # more blocks than one are a multiple of this, about, so that threads share them evenly
    STRETCH = 16384     # elements of a block that are only written, about

cdef struct Walk:
    Py_ssize_t outer
    Py_ssize_t channels
    Py_ssize_t inner
    bint runs                       # inner > LONG
    Py_ssize_t period
    Py_ssize_t rows                 # complete rows
    Py_ssize_t tail                 # elements of the incomplete last row
    Py_ssize_t block_rows           # a multiple of 4
    Py_ssize_t parts                # blocks of a run
    Py_ssize_t blocks               # of a tile
    Py_ssize_t tile_channels
    Py_ssize_t tiles
    bint by_tile                    # a tile's blocks follow each other; else a block's tiles do

cdef struct Block:
    Py_ssize_t start                # offset of the first element
    Py_ssize_t rows
    Py_ssize_t stride               # from row to row
    Py_ssize_t tail
    Py_ssize_t channel              # first channel
    Py_ssize_t channels
    Py_ssize_t period
    Py_ssize_t inner                # adjacent lanes of one channel
    Py_ssize_t lanes                # period · channels · inner
    double count                    # values of each channel
    Py_ssize_t images               # outer indices: rows · period and those of the tail,
    Py_ssize_t image                # and from one to the next
    Py_ssize_t jump                 # from the end of the last row to the next block


cdef inline Py_ssize_t rows_of_block(Py_ssize_t rows, Py_ssize_t most) noexcept nogil:
    """At most `most`, a multiple of 4; so that blocks, if there are several, are equal and a multiple of EVEN."""
    cdef Py_ssize_t blocks
    most = min(most, max(rows // 32 * 4, SHORT))
    blocks = (rows + most - 1) // most
    if blocks <= 1:
        return most
    blocks = (blocks + EVEN - 1) // EVEN * EVEN
    return (rows + 4 * blocks - 1) // (4 * blocks) * 4


cdef inline Walk walk(Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner) noexcept nogil:
    """The walk of an array that is not empty."""
    cdef Walk w
    w.outer, w.channels, w.inner = outer, channels, inner
    w.runs, w.by_tile = inner > LONG, False
    if w.runs:
        w.period, w.rows, w.tail, w.block_rows = 1, 0, 0, 0
        w.parts = (inner + PART - 1) // PART
        w.blocks = outer * w.parts
        w.tile_channels, w.tiles = 1, channels
    else:
        w.period = max(WIDE // (channels * inner), 1) if channels <= WIDE else 1
        w.rows = outer // w.period
        w.tail = outer % w.period * channels * inner
        w.block_rows = rows_of_block(w.rows, min(TALL, PART // (w.period * inner) // 4 * 4))
        w.parts = 0
        w.blocks = max((w.rows + w.block_rows - 1) // w.block_rows, 1)
        w.tile_channels = channels if w.period > 1 else min(max(TILE // inner, 1), channels)
        w.tiles = (channels + w.tile_channels - 1) // w.tile_channels
    return w


cdef inline Walk wide_walk(const Walk* sums) noexcept nogil:
    """To write the same array's elements alone: longer rows, so that memory is passed over without gaps."""
    cdef Walk w = sums[0]
    cdef Py_ssize_t row = w.channels * w.inner
    if w.runs:
        return w
    w.period = max(TILE // row, 1)
    w.rows = w.outer // w.period
    w.tail = w.outer % w.period * row
    w.tile_channels = w.channels
    if w.period == 1:
        w.tile_channels = min(max((BROAD if w.inner == 1 else TILE) // w.inner, 1), w.channels)
    w.tiles = (w.channels + w.tile_channels - 1) // w.tile_channels
    w.block_rows = rows_of_block(w.rows, max(STRETCH // (w.period * w.tile_channels * w.inner) // 4 * 4, 4))
    w.blocks = max((w.rows + w.block_rows - 1) // w.block_rows, 1)
    return w


cdef inline Py_ssize_t start_of(const Walk* w, Py_ssize_t tile, Py_ssize_t index) noexcept nogil:
    if w.runs:
        return (index // w.parts * w.channels + tile) * w.inner + index % w.parts * PART
    return index * w.block_rows * w.period * w.channels * w.inner + tile * w.tile_channels * w.inner


cdef inline Py_ssize_t start_of_next(const Walk* w, Py_ssize_t tile, Py_ssize_t index) noexcept nogil:
    """Where the block after this one starts, in the order in which they are walked."""
    if w.by_tile:
        return start_of(w, tile, index + 1) if index + 1 < w.blocks else start_of(w, tile + 1, 0)
    return start_of(w, tile + 1, index) if tile + 1 < w.tiles else start_of(w, 0, index + 1)


cdef inline Block block_of(const Walk* w, Py_ssize_t tile, Py_ssize_t index) noexcept nogil:
    cdef Block b
    cdef Py_ssize_t length
    b.start = start_of(w, tile, index)
    b.channel = tile * w.tile_channels
    if w.runs:
        length = min(PART, w.inner - index % w.parts * PART)
        b.rows, b.tail = length // WIDE, length % WIDE
        b.stride = b.inner = b.lanes = WIDE
        b.channels = b.period = 1
        b.count = <double> length
        b.images, b.image = 1, length
    else:
        b.stride = w.period * w.channels * w.inner
        b.rows = min(w.block_rows, w.rows - index * w.block_rows)
        b.tail = w.tail if index == w.blocks - 1 else 0
        b.channels = min(w.tile_channels, w.channels - b.channel)
        b.period, b.inner = w.period, w.inner
        b.lanes = b.period * b.channels * b.inner
        b.image = w.channels * w.inner
        b.images = b.rows * b.period + b.tail // b.image
        b.count = <double> (b.images * b.inner)
    b.jump = start_of_next(w, tile, index) - (b.start + b.rows * b.stride + b.tail)
    return b


cdef inline void spread(const Block* b, IN_DOUBLE channel, INOUT_DOUBLE lane) noexcept nogil:
    """Give every lane its channel's value; `channel` starts at the block's first channel.

    Written in eights: what is too much is the next channel's or, after the last, the room's.
    """
    cdef Py_ssize_t c, i, j, period = b.channels * b.inner
    cdef double value
    if b.inner == 1:
        for c in range(b.channels):
            lane[c] = channel[c]
    else:
        for c in range(b.channels):
            value = channel[c]
            for j in range((b.inner + 7) // 8):
                for i in range(8):
                    lane[c * b.inner + 8 * j + i] = value
    for i in range(b.lanes - period):
        lane[period + i] = lane[i]


cdef inline void add_to(INOUT_DOUBLE total, IN_DOUBLE values, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        total[i] = total[i] + values[i]


cdef inline double fold(IN_DOUBLE lane, Py_ssize_t n) noexcept nogil:
    """Σ lane: eight sums over lanes 8 apart, then halves added to halves. Up to 7 lanes after the last are read."""
    cdef double f[8]
    cdef double v
    cdef Py_ssize_t i, j, full = n // 8, rest = n % 8
    for i in range(8):
        f[i] = 0.0
    for j in range(full):
        for i in range(8):
            f[i] = f[i] + lane[8 * j + i]
    for i in range(8):
        v = lane[8 * full + i]
        f[i] = f[i] + (v if i < rest else 0.0)
    return ((f[0] + f[4]) + (f[2] + f[6])) + ((f[1] + f[5]) + (f[3] + f[7]))


cdef inline const double* fold_lanes(const Block* b, double* lane) noexcept nogil:
    """The sums of each channel's lanes, from the block's first channel on, in `lane`, which is used up."""
    cdef Py_ssize_t c, j, period = b.channels * b.inner
    for j in range(1, b.period):
        add_to(lane, lane + j * period, period)
    if b.inner > 1:
        for c in range(b.channels):
            lane[c] = fold(lane + c * b.inner, b.inner)
    return lane
