# BatchNorm's order: how an array is cut into work, and with that the order of every sum.
#
# The array is outer × channels × inner, C-contiguous: (N, C) and channels-last have inner = 1, (N, C, H, W) has
# inner = H·W. These words have one meaning in all files of BatchNorm:
#
#   run     the `inner` adjacent elements of one channel at one outer index
#   row     adjacent elements that are read together
#   lane    a position in a row: it belongs to one channel and has accumulators of its own
#   tile    some of the channels with all their values; tiles are independent of each other
#   block   a bounded number of rows of a tile
#   strip   the elements of a row that one pass of an innermost loop covers, a cache line or more
#   task    what a thread takes at a time: a tile or a block
#
#   inner ≤ MAX_LANES   A row is `row_outer` consecutive outer indices with all their channels. row_outer is 1 unless
#                       channels · inner is at most MIN_LANES / 2. A tile takes whole channels of every row.
#   inner > MAX_LANES   "Long runs": a row is MIN_LANES consecutive elements of a run. A tile is one channel, a
#                       block is a run or BLOCK_VALUES elements of it.
#
# The last row may be incomplete (`tail`). Within a block every lane adds its values row by row. The lanes of one
# channel are then added: first those of different outer indices in order, then adjacent ones by `fold`
# (_batchnorm.h). The sums of blocks are merged in order. All of this follows from outer, channels and inner alone:
# neither the number of channels in a tile nor the assignment of tasks to threads changes a bit.
# fastopt/reference/_batchnorm.py has the same order in NumPy.

from _memory cimport IN64, INOUT64

cdef extern from "_batchnorm.h":
    ctypedef struct Lanes "fastopt_lanes":
        double v[1032]
    ctypedef struct Lanes32 "fastopt_lanes32":
        float v[1040]
    double fold "fastopt_fold"(const double* lane, Py_ssize_t n) noexcept nogil

ctypedef fused Number:
    float
    double

cdef enum:
    MIN_LANES = 64          # lanes of a row of a long run, and about the fewest of any row
    MAX_LANES = 1024        # of any row of a tile; a longer run is a "long run"
    MIN_ROWS = 64           # a block has at most this many rows or an eighth of all, whichever is more,
    MAX_ROWS = 256          # but at most this many,
    BLOCK_VALUES = 16384    # and at most this many values of one channel
    BLOCKS_MULTIPLE = 2     # more blocks than one are about a multiple of this, so that two threads share them evenly
    TILE_LANES = 512        # about: the sums and constants of the lanes stay in the first-level cache
    WRITE_LANES = 2048      # the same where elements are written without sums,
    WRITE_ELEMENTS = 16384  # and the elements of such a block, about
    FEW_ROWS = 8            # up to this many rows (backward: half of it) of runs of at least
    MIN_RUN = 16            # this many elements are summed one channel at a time, not one row after the other
    LARGE = 131072          # elements from which an array is prefetched,
    AHEAD = 4096            # at least this many elements before they are used

cdef struct Tiling:
    Py_ssize_t outer
    Py_ssize_t channels
    Py_ssize_t inner
    Py_ssize_t padded               # channels in whole cache lines of doubles
    bint long_runs
    Py_ssize_t row_outer            # outer indices in a row
    Py_ssize_t rows                 # complete rows
    Py_ssize_t tail                 # elements of the incomplete last row
    Py_ssize_t block_rows           # a multiple of 4
    Py_ssize_t run_blocks           # blocks of a long run
    Py_ssize_t blocks               # blocks of a tile
    Py_ssize_t tile_channels
    Py_ssize_t tiles
    int stages                      # of a task
    Py_ssize_t task_blocks          # blocks in a task: all of a tile, or 1, and then tile follows tile

cdef struct Block:
    Py_ssize_t start                # offset of the first element
    Py_ssize_t rows                 # complete rows
    Py_ssize_t stride               # from one row to the next
    Py_ssize_t tail                 # elements of the incomplete last row
    Py_ssize_t length               # from `start` to the end of the tail
    Py_ssize_t channel              # the first one
    Py_ssize_t channels
    Py_ssize_t row_outer            # outer indices in a row
    Py_ssize_t channel_lanes        # adjacent lanes of one channel
    Py_ssize_t lanes                # row_outer · channels · channel_lanes
    bint few_rows                   # see FEW_ROWS
    double count                    # values of each channel
    Py_ssize_t sums                 # offset of the first channel's sum in the arrays of sums, two for each block
    Py_ssize_t outer                # outer indices, those of the tail included; a long run is written in two pieces:
    Py_ssize_t outer_stride         # from one to the next
    Py_ssize_t first_run            # adjacent elements of a channel at the first outer index
    Py_ssize_t run                  # and at the others
    Py_ssize_t ahead                # elements from a prefetch to the use, 0 in small arrays
    Py_ssize_t jump                 # from the end of this block to the one that is likely next


cdef inline Py_ssize_t rows_of_block(Py_ssize_t rows, Py_ssize_t most) noexcept nogil:
    """At most `most` and a multiple of 4. Several blocks have about equal sizes."""
    cdef Py_ssize_t blocks
    most = min(most, max(rows // 32 * 4, MIN_ROWS))
    blocks = (rows + most - 1) // most
    if blocks <= 1:
        return most
    blocks = (blocks + BLOCKS_MULTIPLE - 1) // BLOCKS_MULTIPLE * BLOCKS_MULTIPLE
    return (rows + 4 * blocks - 1) // (4 * blocks) * 4


cdef inline Tiling tiling_of(Py_ssize_t outer, Py_ssize_t channels, Py_ssize_t inner) noexcept nogil:
    cdef Tiling t
    if outer == 0 or inner == 0:
        outer, inner = 0, 1
    t.outer, t.channels, t.inner = outer, channels, inner
    t.padded, t.long_runs = (channels + 7) // 8 * 8, inner > MAX_LANES
    t.task_blocks, t.stages = 1, 0
    if t.long_runs:
        t.row_outer, t.rows, t.tail, t.block_rows = 1, 0, 0, 0
        t.run_blocks = (inner + BLOCK_VALUES - 1) // BLOCK_VALUES
        t.blocks = outer * t.run_blocks
        t.tile_channels, t.tiles = 1, channels
    else:
        t.row_outer = max(MIN_LANES // (channels * inner), 1) if channels <= MIN_LANES else 1
        t.rows = outer // t.row_outer
        t.tail = outer % t.row_outer * channels * inner
        t.block_rows = rows_of_block(t.rows, min(MAX_ROWS, BLOCK_VALUES // (t.row_outer * inner) // 4 * 4))
        t.run_blocks = 0
        t.blocks = max((t.rows + t.block_rows - 1) // t.block_rows, 1)
        t.tile_channels = channels if t.row_outer > 1 else min(max(TILE_LANES // inner, 1), channels)
        t.tiles = (channels + t.tile_channels - 1) // t.tile_channels
    return t


cdef inline Tiling write_tiling_of(const Tiling* sums) noexcept nogil:
    """The tiling of the same array where elements are written without sums: longer rows, for contiguous writes."""
    cdef Tiling t = sums[0]
    cdef Py_ssize_t row = t.channels * t.inner
    if t.long_runs:
        return t
    t.row_outer = max(TILE_LANES // row, 1)
    t.rows = t.outer // t.row_outer
    t.tail = t.outer % t.row_outer * row
    t.tile_channels = t.channels
    if t.row_outer == 1:
        t.tile_channels = min(max((WRITE_LANES if t.inner == 1 else TILE_LANES) // t.inner, 1), t.channels)
    t.tiles = (t.channels + t.tile_channels - 1) // t.tile_channels
    t.block_rows = rows_of_block(t.rows, max(WRITE_ELEMENTS // (t.row_outer * t.tile_channels * t.inner) // 4 * 4, 4))
    t.blocks = max((t.rows + t.block_rows - 1) // t.block_rows, 1)
    return t


cdef inline Py_ssize_t start_of(const Tiling* t, Py_ssize_t tile, Py_ssize_t index) noexcept nogil:
    if t.long_runs:
        return (index // t.run_blocks * t.channels + tile) * t.inner + index % t.run_blocks * BLOCK_VALUES
    return (index * t.block_rows * t.row_outer * t.channels + tile * t.tile_channels) * t.inner


cdef inline Py_ssize_t start_of_next(const Tiling* t, Py_ssize_t tile, Py_ssize_t index) noexcept nogil:
    if t.task_blocks > 1:
        return start_of(t, tile, index + 1) if index + 1 < t.blocks else start_of(t, tile + 1, 0)
    return start_of(t, tile + 1, index) if tile + 1 < t.tiles else start_of(t, 0, index + 1)


cdef inline Block block_of(const Tiling* t, Py_ssize_t tile, Py_ssize_t index, Py_ssize_t rows) noexcept nogil:
    """A tile's block by its index, for a loop that processes `rows` rows at once."""
    cdef Block b
    b.start = start_of(t, tile, index)
    b.channel = tile * t.tile_channels
    b.channels = min(t.tile_channels, t.channels - b.channel)
    b.sums = 2 * index * t.padded + b.channel
    b.row_outer, b.few_rows = t.row_outer, False
    if t.long_runs:
        b.stride = b.lanes = b.channel_lanes = MIN_LANES
        b.length = min(BLOCK_VALUES, t.inner - index % t.run_blocks * BLOCK_VALUES)
        b.rows, b.tail = b.length // MIN_LANES, b.length % MIN_LANES
        b.count = <double> b.length
        b.outer, b.run = 2, min(b.length, AHEAD)        # the last piece prefetches the next block
        b.first_run = b.outer_stride = b.length - b.run
    else:
        b.first_run = b.run = b.channel_lanes = t.inner
        b.lanes = b.row_outer * b.channels * t.inner
        b.outer_stride = t.channels * t.inner
        b.stride = b.row_outer * b.outer_stride
        b.rows = min(t.block_rows, t.rows - index * t.block_rows)
        b.tail = t.tail if index == t.blocks - 1 else 0
        b.length = b.rows * b.stride + b.tail
        b.outer = b.rows * b.row_outer + b.tail // b.outer_stride
        b.count = <double> b.outer * <double> t.inner
        b.few_rows = b.rows <= FEW_ROWS and t.row_outer == 1 and t.inner >= MIN_RUN
    b.ahead = b.jump = 0                # what is prefetched is used at once: cheaper than a branch in the loops
    if t.outer * t.channels * t.inner >= LARGE:
        b.ahead = (AHEAD + rows * b.lanes - 1) // (rows * b.lanes) * (rows * b.stride)
        b.jump = start_of_next(t, tile, index) - (b.start + b.length)
    return b


cdef inline Py_ssize_t ahead(const Block* b, Py_ssize_t at) noexcept nogil:
    """From the element at offset `at` in the block to the one that is to be prefetched with it."""
    return b.ahead if at + b.ahead < b.length else b.ahead + b.jump


cdef inline void spread_runs(const Number* channel, Number* lane, Py_ssize_t channels, Py_ssize_t run,
                             Py_ssize_t eights) noexcept nogil:
    """`channel`'s values, each to `eights` (a literal, if it is small) times 8 lanes."""
    cdef Py_ssize_t c, i, j
    cdef Number value
    for c in range(channels):
        value = channel[c]
        for j in range(eights):
            for i in range(8):
                lane[c * run + 8 * j + i] = value


cdef inline const Number* spread(const Block* b, const Number* channel, Number* lane) noexcept nogil:
    """The value of each lane's channel: `channel` itself where lanes are channels, else written to `lane`.

    Each run is written in multiples of 8 lanes: what exceeds it is overwritten by the next channel, or is padding.
    """
    cdef Py_ssize_t c, i, n = b.channels * b.channel_lanes
    if b.lanes == b.channels:
        return channel
    if b.channel_lanes == 1:
        for c in range(n):
            lane[c] = channel[c]
    elif b.channel_lanes <= 8:
        spread_runs(channel, lane, b.channels, b.channel_lanes, 1)
    elif b.channel_lanes <= 16:
        spread_runs(channel, lane, b.channels, b.channel_lanes, 2)
    else:
        spread_runs(channel, lane, b.channels, b.channel_lanes, (b.channel_lanes + 7) // 8)
    for i in range(b.lanes - n):
        lane[n + i] = lane[i]
    return lane


cdef inline void add_to(INOUT64 total, IN64 values, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        total[i] = total[i] + values[i]


cdef inline void fold_lanes(const Block* b, double* lane, double* total) noexcept nogil:
    """Write the sum of each channel's lanes to `total`, which may be `lane`. Changes `lane`."""
    cdef Py_ssize_t c, j, lanes = b.channels * b.channel_lanes
    for j in range(1, b.row_outer):
        add_to(lane, lane + j * lanes, lanes)
    if b.channel_lanes > 1:
        for c in range(b.channels):
            total[c] = fold(lane + c * b.channel_lanes, b.channel_lanes)
    elif total != lane:
        for c in range(b.channels):
            total[c] = lane[c]
