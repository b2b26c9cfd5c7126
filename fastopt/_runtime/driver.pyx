# The chunk driver: a rule applied to a whole model in one native call.
#
# Design
# ------
# A Rule is a C function with its scalars: what one optimizer does to consecutive elements at one step. Kernels make
# rules (`adam(step, lr, …) -> Rule`), and only this module applies them to memory:
#
#   segments   each tensor is cut every CHUNK elements from its start: (tensor, offset, length)
#   chunks     consecutive segments with at least CHUNK elements in total, so that many small tensors share a chunk
#
# A segment's bounds depend only on the size of its own tensor, so the sums over a tensor do not depend on the other
# tensors of the model.
#
# Each element is computed independently, so neither chunks nor threads can change a bit of the result. Where a rule
# needs a tensor's norms, the segments' sums are stored and added in order.
#
# Everything is validated before the first element is written: here for one tensor, in model.pyx for a model.
cimport cython
from cpython.buffer cimport PyBuffer_Release
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from fastopt._runtime.arrays cimport Head, acquire, elements, held, overlap, overlap_error, usable_head
from fastopt._runtime.parallel cimport parallel_for, threads_for

cdef Py_ssize_t CHUNK = 8192            # elements; docs/threads.md has the measurement
cdef double SHORT = 500.0               # nanoseconds of work for which the GIL is kept: giving it back takes 40


@cython.no_gc           # it holds strings
cdef class Rule:
    """A C function with its scalars: see driver.pxd. Made by the kernels, not by users."""


cdef object stream_name(tuple states, Py_ssize_t stream):
    """The name of a stream of a rule that has these states."""
    if stream >= STATE:
        return states[stream - STATE]
    if stream == PARAM:
        return "param"
    return "grad" if stream == GRAD else "average"


cdef int cut(Table* table, const Tensor* tensors, Py_ssize_t count) except -1:
    """Cut each tensor into segments and group the segments into chunks."""
    cdef Py_ssize_t i, offset, length, s = 0, room = 0, most = 0
    for i in range(count):
        most += (tensors[i].size + CHUNK - 1) // CHUNK
    table.segments = <Segment*> malloc(max(most, 1) * sizeof(Segment))
    table.first = <Py_ssize_t*> malloc((most + 1) * sizeof(Py_ssize_t))
    table.chunks = 0
    if table.segments == NULL or table.first == NULL:
        raise MemoryError
    for i in range(count):
        offset = 0
        while offset < tensors[i].size:
            if room <= 0:
                table.first[table.chunks] = s
                table.chunks += 1
                room = CHUNK
            length = min(CHUNK, tensors[i].size - offset)
            table.segments[s] = Segment(i, offset, length)
            s += 1
            offset += length
            room -= length
    table.first[table.chunks] = s
    return 0


cdef void discard(Table* table) noexcept:
    free(table.segments)
    free(table.first)


cdef inline void locate(Tensor* tensor, Py_ssize_t offset, float** x) noexcept nogil:
    """Set x to the streams of one tensor at `offset`."""
    cdef Py_ssize_t k
    for k in range(STREAMS):
        x[k] = tensor.x[k] + offset
    x[OUTCOME] = &tensor.outcome


cdef void measure_chunk(void* context, Py_ssize_t chunk) noexcept nogil:
    cdef Plan* plan = <Plan*> context
    cdef const Segment* segment
    cdef const Compiled* rule
    cdef float* x[STREAMS + 1]
    cdef Py_ssize_t s
    for s in range(plan.table.first[chunk], plan.table.first[chunk + 1]):
        segment = &plan.table.segments[s]
        rule = &plan.rules[plan.tensors[segment.tensor].rule]
        if rule.measure != NULL:
            locate(&plan.tensors[segment.tensor], segment.offset, x)
            rule.measure(rule.scalars, x, segment.length, plan.sums + SUMS * s)


cdef void run_chunk(void* context, Py_ssize_t chunk) noexcept nogil:
    cdef Plan* plan = <Plan*> context
    cdef const Segment* segment
    cdef const Compiled* rule
    cdef float* x[STREAMS + 1]
    cdef Py_ssize_t s
    for s in range(plan.table.first[chunk], plan.table.first[chunk + 1]):
        segment = &plan.table.segments[s]
        rule = &plan.rules[plan.tensors[segment.tensor].rule]
        if rule.fn != NULL:
            locate(&plan.tensors[segment.tensor], segment.offset, x)
            rule.fn(rule.scalars, x, segment.length)


cdef void settle_all(Plan* plan) noexcept nogil:
    """Add each tensor's sums in the order of its segments."""
    cdef Py_ssize_t s = 0, tensor
    cdef const Compiled* rule
    cdef double total[SUMS]
    cdef int k
    while s < plan.table.first[plan.table.chunks]:
        tensor = plan.table.segments[s].tensor
        for k in range(SUMS):
            total[k] = 0.0
        while s < plan.table.first[plan.table.chunks] and plan.table.segments[s].tensor == tensor:
            for k in range(SUMS):
                total[k] += plan.sums[SUMS * s + k]
            s += 1
        rule = &plan.rules[plan.tensors[tensor].rule]
        if rule.settle != NULL:
            plan.tensors[tensor].outcome = rule.settle(rule.scalars, total)


cdef void run(Plan* plan, double nanoseconds) noexcept nogil:
    cdef int threads = threads_for(nanoseconds)
    if plan.sums != NULL:
        parallel_for(measure_chunk, plan, plan.table.chunks, threads)
        settle_all(plan)
    if plan.applies:
        parallel_for(run_chunk, plan, plan.table.chunks, threads)


cdef void run_plan(Plan* plan, double nanoseconds) noexcept:
    """Run the plan without the GIL, unless that takes longer than the work."""
    if nanoseconds < SHORT:
        run(plan, nanoseconds)
    else:
        with nogil:
            run(plan, nanoseconds)


cdef Compiled compiled(Rule rule):
    return Compiled(rule.fn, rule.measure, rule.settle, <const void*> &rule.block[0],
                    rule.uses | 1 << PARAM | 1 << GRAD, rule.reads | 1 << GRAD)


cdef bint located(Tensor* tensor, tuple arrays, const Compiled* code) noexcept:
    """Whether the arrays are usable by their heads alone: then `tensor` is set. Otherwise `acquire` looks at them."""
    cdef const Head* first = NULL
    cdef const Head* head
    cdef Py_ssize_t k, j
    cdef int i
    for k in range(<Py_ssize_t> len(arrays)):
        array = arrays[k]
        if array is None and not code.needs >> k & 1:
            continue
        head = usable_head(array, c"f", not code.reads >> k & 1)
        if head == NULL:
            return False
        if k == PARAM:
            first, tensor.size = head, 1
        elif head.nd != first.nd:
            return False
        for i in range(head.nd):
            if head.dimensions[i] != first.dimensions[i]:
                return False
            if k == PARAM:
                tensor.size *= head.dimensions[i]
        tensor.x[k] = <float*> head.data
        for j in range(k):
            if (tensor.x[j] != NULL and not (code.reads >> k & code.reads >> j & 1)
                    and tensor.x[k] < tensor.x[j] + tensor.size and tensor.x[j] < tensor.x[k] + tensor.size):
                return False
    return True


cdef int bind(Tensor* tensor, Py_buffer* views, tuple arrays, const Compiled* code, tuple states) except -1:
    """Acquire the arrays' buffers and set `tensor`, or raise the error for the first that is not usable."""
    cdef Py_ssize_t k, j
    for k in range(<Py_ssize_t> len(arrays)):
        if arrays[k] is None and not code.needs >> k & 1:
            continue
        acquire(&views[k], arrays[k], stream_name(states, k), c"f", not code.reads >> k & 1,
                &views[PARAM] if k != PARAM else NULL)
        tensor.x[k] = <float*> views[k].buf
        for j in range(k):
            if held(&views[j]) and not (code.reads >> k & code.reads >> j & 1) and overlap(&views[k], &views[j]):
                raise overlap_error(stream_name(states, k), stream_name(states, j))
    tensor.size = elements(&views[PARAM])
    return 0


def apply(Rule rule not None, *arrays):
    """Apply `rule` to one tensor.

    `arrays` are (param, grad, average, state…), with None for those that the rule does not use.
    """
    cdef Py_buffer views[STREAMS]
    cdef Tensor tensor
    cdef Table table
    cdef Segment segment
    cdef Py_ssize_t first[2]
    cdef double few[SUMS]
    cdef Compiled code = compiled(rule)
    cdef Plan plan
    cdef double* sums = NULL
    cdef double cost
    cdef Py_ssize_t k, count = len(arrays)
    cdef bint by_heads
    if count > STREAMS or code.needs >> count:
        raise ValueError(f"arrays: expected {STATE + len(rule.states)}, got {count}")
    memset(&tensor, 0, sizeof(tensor))
    by_heads = located(&tensor, arrays, &code)
    if not by_heads:
        memset(&tensor, 0, sizeof(tensor))
        memset(views, 0, sizeof(views))
    memset(&table, 0, sizeof(table))
    try:
        if not by_heads:
            bind(&tensor, views, arrays, &code, rule.states)
        for k in range(STREAMS):
            if tensor.x[k] == NULL:
                tensor.x[k] = tensor.x[PARAM]
        if tensor.size <= CHUNK:        # one segment, for which nothing is allocated
            segment, first[0], first[1] = Segment(0, 0, tensor.size), 0, 1
            plan = Plan(&tensor, Table(&segment, &first[0], tensor.size > 0), &code, NULL, True)
            if rule.measure != NULL:
                plan.sums = &few[0]
        else:
            cut(&table, &tensor, 1)
            if rule.measure != NULL:
                sums = <double*> calloc(table.first[table.chunks] * SUMS, sizeof(double))
                if sums == NULL:
                    raise MemoryError
            plan = Plan(&tensor, table, &code, sums, True)
        cost = rule.cost * <double> tensor.size
        run_plan(&plan, cost)
    finally:
        free(sums)
        discard(&table)
        for k in range(0 if by_heads else count):
            if held(&views[k]):
                PyBuffer_Release(&views[k])


def swap_chunk(Py_ssize_t chunk):
    """Set the chunk size of later calls and bindings, for tests, and return the previous one."""
    global CHUNK
    cdef Py_ssize_t before = CHUNK
    if chunk < 16 or chunk % 16:
        raise ValueError(f"chunk: expected a positive multiple of 16, got {chunk}")
    CHUNK = chunk
    return before
