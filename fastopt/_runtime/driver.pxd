# The chunk driver. See driver.pyx.

cdef enum:
    STREAMS = 7            # arrays a rule can walk: param, grad, then its state
    OUTCOME = 7            # behind them: what `settle` made of this tensor's sums
    SUMS = 2               # sums a rule can take over a tensor
    BLOCK = 24             # doubles of scalars a rule can carry

# A rule applied to `n` consecutive elements of one tensor. x[0] is param, x[1] grad, the rest the rule's state in its
# own order; optional arrays that were not given are NULL. x[OUTCOME] points to one float, the tensor's own.
ctypedef void (*rule_fn)(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil

# For rules that need something of the whole tensor first (norms). `measure` runs over all chunks before any `fn` and
# adds up to SUMS sums over these elements; the driver adds the chunks' in order, and `settle` makes them one float.
ctypedef void (*measure_fn)(const void* scalars, float* const* x, Py_ssize_t n, double* sums) noexcept nogil
ctypedef float (*settle_fn)(const void* scalars, const double* sums) noexcept nogil

cdef class Rule:
    cdef rule_fn fn
    cdef measure_fn measure            # NULL: nothing to measure
    cdef settle_fn settle
    cdef double cost                   # nanoseconds an element, about, on one core: only the thread count depends on it
    cdef tuple names                   # of the streams, as the user knows them
    cdef int required                  # the first so many streams must be given; of those after them the ones in
    cdef unsigned uses                 # `uses` (bit k: stream k), and the others may be None
    cdef double block[BLOCK]           # the scalars, in a struct of the rule's own; doubles for their alignment


cdef struct Tensor:
    float* x[STREAMS]
    float outcome
    Py_ssize_t size
    Py_ssize_t rule                     # which of the plan's
    unsigned given                      # bit k: stream k is bound


cdef struct Segment:
    Py_ssize_t tensor
    Py_ssize_t offset
    Py_ssize_t length


cdef struct Compiled:                   # a Rule without Python
    rule_fn fn
    measure_fn measure
    settle_fn settle
    const void* scalars
    unsigned needs                      # bit k: stream k must be given


cdef struct Table:
    Segment* segments
    Py_ssize_t* first                   # first segment of each chunk, and one past the last chunk's
    Py_ssize_t chunks


cdef struct Plan:
    Tensor* tensors
    Table table
    const Compiled* rules
    double* sums                        # SUMS for each segment; NULL if no rule measures
    bint applies                        # whether a rule has more to do than to measure


cdef int cut(Table* table, const Tensor* tensors, Py_ssize_t count) except -1
cdef void discard(Table* table) noexcept
cdef Compiled compiled(Rule rule)
cdef void run(Plan* plan, double nanoseconds) noexcept nogil
