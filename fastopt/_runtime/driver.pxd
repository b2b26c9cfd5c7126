# The chunk driver. See driver.pyx.

# The streams of every rule: its arrays, in this order.
cdef enum:
    PARAM = 0
    GRAD = 1
    AVERAGE = 2            # the exponential moving average of the parameter
    STATE = 3              # the first of the rule's states
    STREAMS = 7            # the largest number of streams
    OUTCOME = 7            # index after the streams: the float that `settle` computed from this tensor's sums

cdef enum:
    SUMS = 2               # sums that a rule can take over a tensor
    SCALARS = 24           # size of a rule's scalars, in doubles

# Apply a rule to n consecutive elements of one tensor. x[k] points to stream k; a stream that the rule does not use
# points to param and must not be accessed. x[OUTCOME] points to one float, the tensor's own.
ctypedef void (*rule_fn)(const void* scalars, float* const* x, Py_ssize_t n) noexcept nogil

# For rules that depend on norms of the whole tensor. `measure` runs over all chunks before any `fn` and computes up to
# SUMS sums over its n elements; the driver adds the segments' sums in order, and `settle` turns them into one float.
ctypedef void (*measure_fn)(const void* scalars, float* const* x, Py_ssize_t n, double* sums) noexcept nogil
ctypedef float (*settle_fn)(const void* scalars, const double* sums) noexcept nogil

cdef class Rule:
    cdef rule_fn fn
    cdef measure_fn measure            # NULL: nothing to measure
    cdef settle_fn settle
    cdef double cost                   # approximate nanoseconds per element on one core; decides the thread count only
    cdef tuple states                  # the states' names, as the user knows them
    cdef unsigned uses                 # bit k: stream k must be given (param and grad always must)
    cdef unsigned reads                # bit k: stream k is only read (grad always is)
    cdef double block[SCALARS]         # the scalars, in a struct of the rule's own; doubles for their alignment


cdef struct Tensor:
    float* x[STREAMS]
    float outcome
    Py_ssize_t size
    Py_ssize_t rule                     # index into the plan's rules
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
    unsigned reads                      # bit k: stream k is only read


cdef struct Table:
    Segment* segments
    Py_ssize_t* first                   # index of each chunk's first segment, followed by the number of segments
    Py_ssize_t chunks


cdef struct Plan:
    Tensor* tensors
    Table table
    const Compiled* rules
    double* sums                        # SUMS per segment; NULL if no rule measures
    bint applies                        # whether any rule does more than measure


cdef object stream_name(tuple states, Py_ssize_t stream)
cdef int cut(Table* table, const Tensor* tensors, Py_ssize_t count) except -1
cdef void discard(Table* table) noexcept
cdef Compiled compiled(Rule rule)
cdef void run_plan(Plan* plan, double nanoseconds) noexcept
