# The chunk driver: a rule applied to a whole model in one native call.
#
# Design
# ------
# A Rule is a C function with its scalars: what one optimizer does to consecutive elements at one step. Kernels make
# them (`adam(step, lr, …) -> Rule`), and this module alone walks memory with them:
#
#   tensors    the model's arrays laid end to end in one virtual line, each rounded up to 16 elements
#   chunks     that line cut every CHUNK elements: so all chunks but the last hold the same work, whatever the
#              tensors' sizes, and their bounds are a function of the sizes alone
#   segments   the runs of one tensor inside one chunk: (tensor, offset, length)
#
# Each element is computed by itself, so neither chunks nor threads can change a bit of the result.
#
# A Binding holds the exported buffers of parameters and state, which pins them, and the tables. A step looks only at
# whether each gradient is still the same object. Everything is validated before the first element is written.
from cpython.buffer cimport PyBuffer_Release, PyObject_GetBuffer
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memset

from fastopt._runtime.arrays cimport DESCRIBED, acquire, elements, held, holds, label, overlap, same_shape, usable
from fastopt._runtime.parallel cimport parallel_for, threads_for

import numpy

cdef Py_ssize_t CHUNK = 8192            # elements; docs/threads.md has the measurement
cdef Py_ssize_t HELD = 65536            # a gradient of at most so many elements stays bound between steps


cdef class Rule:
    """A C function with its scalars: see driver.pxd. Made by the kernels, not by users."""


cdef struct Tensor:
    float* x[STREAMS]
    Py_ssize_t size
    Py_ssize_t rule


cdef struct Segment:
    Py_ssize_t tensor
    Py_ssize_t offset
    Py_ssize_t length


cdef struct Compiled:
    rule_fn fn
    const void* scalars


cdef struct Plan:
    const Tensor* tensors
    const Segment* segments
    const Py_ssize_t* first             # first segment of each chunk, and one past the last chunk's
    const Compiled* rules


cdef void run_chunk(void* context, Py_ssize_t chunk) noexcept nogil:
    cdef const Plan* plan = <const Plan*> context
    cdef const Segment* segment
    cdef const Tensor* tensor
    cdef const Compiled* rule
    cdef float* x[STREAMS]
    cdef Py_ssize_t s, k
    for s in range(plan.first[chunk], plan.first[chunk + 1]):
        segment = &plan.segments[s]
        tensor = &plan.tensors[segment.tensor]
        rule = &plan.rules[tensor.rule]
        for k in range(STREAMS):
            x[k] = tensor.x[k] + segment.offset if tensor.x[k] != NULL else NULL
        rule.fn(rule.scalars, x, segment.length)


# One tensor, whose chunks need no table.

cdef struct Single:
    Tensor tensor
    Compiled rule
    Py_ssize_t chunk


cdef void run_single(void* context, Py_ssize_t chunk) noexcept nogil:
    cdef const Single* one = <const Single*> context
    cdef Py_ssize_t offset = chunk * one.chunk, k
    cdef float* x[STREAMS]
    for k in range(STREAMS):
        x[k] = one.tensor.x[k] + offset if one.tensor.x[k] != NULL else NULL
    one.rule.fn(one.rule.scalars, x, min(one.chunk, one.tensor.size - offset))


def apply(Rule rule not None, tuple arrays not None):
    """Apply `rule` to one tensor: arrays are (param, grad, state…), None where an optional one was not given."""
    cdef Py_buffer views[STREAMS]
    cdef Single one
    cdef Py_ssize_t k, j, count = len(arrays), chunks
    cdef int threads
    if count > STREAMS:
        raise ValueError(f"arrays: expected at most {STREAMS}, got {count}")
    memset(views, 0, sizeof(views))
    memset(&one.tensor, 0, sizeof(Tensor))
    try:
        for k in range(count):
            if arrays[k] is None and k >= rule.required:
                continue
            acquire(&views[k], arrays[k], rule.names[k], c"f", k != 1, &views[0] if k > 0 else NULL)
            one.tensor.x[k] = <float*> views[k].buf
            for j in range(k):
                if held(&views[j]) and overlap(&views[k], &views[j]):
                    raise ValueError(f"{rule.names[k]}: expected memory of its own, got an array that overlaps "
                                     f"{rule.names[j]}")
        one.tensor.size = elements(&views[0])
        one.rule.fn = rule.fn
        one.rule.scalars = rule.block
        one.chunk = CHUNK
        chunks = (one.tensor.size + CHUNK - 1) // CHUNK
        with nogil:
            threads = threads_for(rule.cost * <double> one.tensor.size)
            parallel_for(run_single, &one, chunks, threads)
    finally:
        for k in range(count):
            PyBuffer_Release(&views[k])


# A whole model.

cdef struct Interval:
    size_t start
    size_t stop
    Py_ssize_t tensor
    Py_ssize_t stream


cdef int by_start(const void* a, const void* b) noexcept nogil:
    cdef size_t x = (<const Interval*> a).start, y = (<const Interval*> b).start
    return -1 if x < y else x > y


cdef class Binding:
    """A model's parameters and state, bound: `apply(rules, grads)` is one native call over all of it.

    Parameters
    ----------
    keys : list
        What the user calls each tensor; only error messages use it.
    arrays : list of tuple
        For each tensor (param, None, state…): a rule's streams with the gradient left out.
    names : tuple of str
        The streams' names.
    groups : list of int
        For each tensor which of the rules given to `apply` is its own.
    """
    cdef list keys
    cdef tuple names
    cdef Py_ssize_t count, chunks, total, rules
    cdef Py_buffer* views               # count x STREAMS; the gradient's slot is bound anew as steps need it
    cdef Tensor* tensors
    cdef Segment* segments
    cdef Py_ssize_t* first
    cdef Interval* written              # of parameters and state, sorted by start
    cdef Py_ssize_t intervals
    cdef bint busy
    cdef list params                    # the arrays bound, in order

    def __cinit__(self, list keys, list arrays, tuple names, list groups):
        cdef Py_ssize_t i, k
        cdef Py_buffer* row
        self.keys, self.names, self.count = keys, names, len(arrays)
        if not (len(keys) == len(groups) == self.count and len(names) <= STREAMS):
            raise ValueError("keys, arrays, groups: expected the same length")
        self.views = <Py_buffer*> calloc(max(self.count, 1) * STREAMS, sizeof(Py_buffer))
        self.tensors = <Tensor*> calloc(max(self.count, 1), sizeof(Tensor))
        self.written = <Interval*> malloc(max(self.count, 1) * STREAMS * sizeof(Interval))
        if self.views == NULL or self.tensors == NULL or self.written == NULL:
            raise MemoryError
        for i in range(self.count):
            row = &self.views[i * STREAMS]
            for k in range(<Py_ssize_t> len(arrays[i])):
                if k == 1 or (arrays[i][k] is None and k > 0):
                    continue
                acquire(&row[k], arrays[i][k], self.name(i, k), c"f", True, &row[0] if k > 0 else NULL)
                self.tensors[i].x[k] = <float*> row[k].buf
                if row[k].len > 0:
                    self.written[self.intervals] = Interval(
                        <size_t> row[k].buf, <size_t> row[k].buf + <size_t> row[k].len, i, k)
                    self.intervals += 1
            self.tensors[i].size = elements(&row[0])
            self.tensors[i].rule = groups[i]
            self.rules = max(self.rules, self.tensors[i].rule + 1)
            self.total += self.tensors[i].size
        qsort(self.written, self.intervals, sizeof(Interval), by_start)
        for i in range(1, self.intervals):
            if self.written[i].start < self.written[i - 1].stop:
                raise ValueError(f"{self.where(i)}: expected memory of its own, got an array that overlaps "
                                 f"{self.where(i - 1)}")
        self.cut()
        self.params = [entry[0] for entry in arrays]

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.views != NULL:
            for i in range(self.count * STREAMS):
                PyBuffer_Release(&self.views[i])
        free(self.views)
        free(self.tensors)
        free(self.segments)
        free(self.first)
        free(self.written)

    def holds(self, list params not None):
        """Whether these very arrays, in this order, are the ones bound."""
        cdef Py_ssize_t i
        if len(params) != self.count:
            return False
        for i in range(self.count):
            if params[i] is not self.params[i]:
                return False
        return True

    cdef tuple name(self, Py_ssize_t tensor, Py_ssize_t stream):
        return (("params", "grads")[stream] if stream < 2 else f"state {self.names[stream]}", self.keys[tensor])

    cdef object where(self, Py_ssize_t interval):
        return label(self.name(self.written[interval].tensor, self.written[interval].stream))

    cdef int cut(self) except -1:
        """Lay the tensors end to end and cut the line into chunks."""
        cdef Py_ssize_t i, offset, length, s = 0, room = 0, most = 0
        for i in range(self.count):
            most += self.tensors[i].size // CHUNK + 2
        self.segments = <Segment*> malloc(max(most, 1) * sizeof(Segment))
        self.first = <Py_ssize_t*> malloc((most + 1) * sizeof(Py_ssize_t))
        if self.segments == NULL or self.first == NULL:
            raise MemoryError
        for i in range(self.count):
            offset = 0
            while offset < self.tensors[i].size:
                if room <= 0:
                    self.first[self.chunks] = s
                    self.chunks += 1
                    room = CHUNK
                length = min(room, self.tensors[i].size - offset)
                self.segments[s] = Segment(i, offset, length)
                s += 1
                offset += length
                room -= (length + 15) // 16 * 16
        self.first[self.chunks] = s
        return 0

    cdef int bind_gradient(self, Py_ssize_t i, object grad) except -1:
        """Make tensor i's gradient slot hold `grad`, converted if it must be."""
        cdef Py_buffer* slot = &self.views[i * STREAMS + 1]
        cdef const Py_buffer* param = &self.views[i * STREAMS]
        cdef Py_ssize_t low, high, middle
        PyBuffer_Release(slot)
        acquire(slot, as_gradient(grad, self.name(i, 1), param), self.name(i, 1), c"f", False, param)
        # The first written interval that ends behind the gradient's start: intervals are sorted and disjoint.
        low, high = 0, self.intervals
        while low < high:
            middle = (low + high) // 2
            if self.written[middle].stop <= <size_t> slot.buf:
                low = middle + 1
            else:
                high = middle
        if low < self.intervals and slot.len > 0 and self.written[low].start < <size_t> slot.buf + <size_t> slot.len:
            PyBuffer_Release(slot)
            raise ValueError(f"{label(self.name(i, 1))}: expected memory of its own, got an array that overlaps "
                             f"{self.where(low)}")
        self.tensors[i].x[1] = <float*> slot.buf
        return 0

    def apply(self, list rules not None, list grads not None):
        """Apply rules[groups[i]] to tensor i for every i, with gradient grads[i]. All or nothing."""
        cdef Compiled* compiled
        cdef Plan plan
        cdef Rule rule
        cdef Py_ssize_t i
        cdef int threads
        cdef double cost = 0.0
        cdef Py_buffer* slot
        if len(grads) != self.count:
            raise ValueError(f"grads: expected {self.count} arrays, got {len(grads)}")
        if len(rules) < self.rules:
            raise ValueError(f"rules: expected {self.rules}, got {len(rules)}")
        if self.busy:
            raise RuntimeError("update: expected one call at a time, got a second while another thread's is running")
        compiled = <Compiled*> malloc(max(<Py_ssize_t> len(rules), 1) * sizeof(Compiled))
        if compiled == NULL:
            raise MemoryError
        self.busy = True
        try:
            for i in range(<Py_ssize_t> len(rules)):
                rule = rules[i]
                compiled[i].fn, compiled[i].scalars = rule.fn, rule.block
                cost = max(cost, rule.cost)
            for i in range(self.count):
                slot = &self.views[i * STREAMS + 1]
                if not (held(slot) and holds(slot, grads[i])):
                    self.bind_gradient(i, grads[i])
            plan = Plan(self.tensors, self.segments, self.first, compiled)
            with nogil:
                threads = threads_for(cost * <double> self.total)
                parallel_for(run_chunk, &plan, self.chunks, threads)
        finally:
            # Keep only small gradients bound: they are what rebinding costs something for, and large ones are the
            # user's to free.
            for i in range(self.count):
                slot = &self.views[i * STREAMS + 1]
                if held(slot) and (self.tensors[i].size > HELD or not holds(slot, grads[i])):
                    PyBuffer_Release(slot)
            self.busy = False
            free(compiled)


cdef object as_gradient(object grad, object name, const Py_buffer* param):
    """`grad` itself if a kernel can read it, else a C-contiguous float32 copy (by index) of a real float array."""
    cdef Py_buffer view
    if type(grad) is not numpy.ndarray:
        return grad                     # acquire takes it or says why not
    try:
        PyObject_GetBuffer(grad, &view, DESCRIBED)
    except (TypeError, ValueError, BufferError):
        return grad
    try:
        if not same_shape(&view, param) or usable(&view, c"f", False) or grad.dtype.kind != "f":
            return grad
    finally:
        PyBuffer_Release(&view)
    return numpy.require(grad, numpy.float32, ["C_CONTIGUOUS", "ALIGNED"])


def swap_chunk(Py_ssize_t chunk):
    """Set the chunk size of bindings made from now on (tests do) and return the one before."""
    global CHUNK
    cdef Py_ssize_t before = CHUNK
    if chunk < 16 or chunk % 16:
        raise ValueError(f"chunk: expected a positive multiple of 16, got {chunk}")
    CHUNK = chunk
    return before
