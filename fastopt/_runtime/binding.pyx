# A model's arrays, bound once and updated many times.
#
# A Binding holds the exported buffers of parameters and state (so NumPy refuses to resize them) and the driver's
# tables. A step checks only whether each gradient is still the same object: acquiring four buffers per parameter again
# would be most of the cost of a small model. Everything is validated before the first element is written.
from cpython.buffer cimport PyBuffer_Release, PyObject_GetBuffer
from libc.stdlib cimport calloc, free, malloc, qsort

from fastopt._runtime.arrays cimport (
    DESCRIBED, acquire, clear, elements, held, holds, is_masked, label, overlap_error, same_shape, shape_of, usable,
)
from fastopt._runtime.driver cimport (
    GRAD, PARAM, STATE, STREAMS, SUMS, Compiled, Plan, Rule, Table, Tensor, compiled, cut, discard, run, stream_name,
)

import numpy

cdef object ndarray = numpy.ndarray
cdef tuple ARRAYS = (numpy.ndarray, numpy.floating)

cdef Py_ssize_t HELD = 65536            # gradients of at most this many elements stay bound between steps


cdef struct Interval:
    size_t start
    size_t stop
    Py_ssize_t tensor
    Py_ssize_t stream


cdef int by_start(const void* a, const void* b) noexcept nogil:
    cdef size_t x = (<const Interval*> a).start, y = (<const Interval*> b).start
    return -1 if x < y else x > y


cdef class Counter:
    """Steps taken. The native call increments it, so that no interrupt can come between a step and its count."""
    cdef public long long value


cdef class Binding:
    """A model's parameters and state, bound: `apply(rules, grads)` is one native call over all of it.

    Parameters
    ----------
    keys : list
        The user's key of each tensor.
    arrays : list of tuple
        For each tensor (param, None, average, state…): a rule's streams without the gradient, and None for those that
        the rule does not use.
    states : tuple of str
        The states' names.
    groups : list of int
        For each tensor the index of its rule among those given to `apply`.
    reads : int
        Bit k: stream k is only read; its array need not be writable.
    """
    cdef list keys
    cdef tuple states
    cdef unsigned reads
    cdef Py_ssize_t count, total, rules
    cdef Py_buffer* views               # count x STREAMS; the gradient's slot is bound again when a step needs it
    cdef Tensor* tensors
    cdef Table table
    cdef Interval* written              # memory that is written, sorted by start
    cdef Py_ssize_t intervals
    cdef bint busy
    cdef list params                    # the arrays bound, in order
    cdef bint numbered                  # whether keys are 0, 1, …
    cdef object source                  # what the user calls the gradients of this call

    def __cinit__(self, list keys, list arrays, tuple states, list groups, unsigned reads=0):
        cdef Py_ssize_t i, k
        cdef Py_buffer* row
        self.keys, self.states, self.count, self.reads = keys, states, len(arrays), reads | 1 << GRAD
        self.source = "grads"
        if not (len(keys) == len(groups) == self.count and STATE + len(states) <= STREAMS):
            raise ValueError("keys, arrays, groups: expected the same length")
        if any([len(streams) != STATE + len(states) for streams in arrays]):
            raise ValueError("arrays: expected (param, None, average) and one for each of states")
        self.views = <Py_buffer*> calloc(max(self.count, 1) * STREAMS, sizeof(Py_buffer))
        self.tensors = <Tensor*> calloc(max(self.count, 1), sizeof(Tensor))
        self.written = <Interval*> malloc(max(self.count, 1) * STREAMS * sizeof(Interval))
        if self.views == NULL or self.tensors == NULL or self.written == NULL:
            raise MemoryError
        for i in range(self.count):
            row = &self.views[i * STREAMS]
            for k in range(STREAMS):
                self.tensors[i].x[k] = <float*> row[PARAM].buf
                if k == GRAD or k >= <Py_ssize_t> len(arrays[i]) or (arrays[i][k] is None and k != PARAM):
                    continue
                acquire(&row[k], arrays[i][k], self.name(i, k), c"f", not self.reads >> k & 1,
                        &row[PARAM] if k != PARAM else NULL)
                self.tensors[i].x[k] = <float*> row[k].buf
                self.tensors[i].given |= 1u << k
                if row[k].len > 0 and not self.reads >> k & 1:
                    self.written[self.intervals] = Interval(
                        <size_t> row[k].buf, <size_t> row[k].buf + <size_t> row[k].len, i, k)
                    self.intervals += 1
            self.tensors[i].size = elements(&row[PARAM])
            self.tensors[i].rule = groups[i]
            self.rules = max(self.rules, self.tensors[i].rule + 1)
            self.total += self.tensors[i].size
        qsort(self.written, self.intervals, sizeof(Interval), by_start)
        for i in range(1, self.intervals):
            if self.written[i].start < self.written[i - 1].stop:
                raise overlap_error(self.where(i), self.where(i - 1))
        for i in range(self.count):
            for k in range(STATE, STREAMS):
                if self.reads & self.tensors[i].given & 1u << k:
                    self.require_unwritten(i, k)
        cut(&self.table, self.tensors, self.count)
        self.params = [entry[0] for entry in arrays]
        self.numbered = True
        for i in range(self.count):     # the type first: a user's key may define == in any way, even to return an array
            if type(keys[i]) is not int or keys[i] != i:
                self.numbered = False
                break

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.views != NULL:
            for i in range(self.count * STREAMS):
                PyBuffer_Release(&self.views[i])
        free(self.views)
        free(self.tensors)
        discard(&self.table)
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

    def gradients_of(self, params, grads):
        """The gradients in the order bound, if params and grads are both dicts or both lists and params holds the bound
        arrays under their keys; otherwise None."""
        cdef Py_ssize_t i
        cdef dict given, slopes
        cdef list found
        if type(params) is list and type(grads) is list:
            return grads[:] if len(grads) == self.count and self.holds(params) and self.numbered else None
        if type(params) is not dict or type(grads) is not dict:
            return None
        given, slopes = params, grads
        if len(given) != self.count or len(slopes) != self.count:
            return None
        found = []
        for i in range(self.count):
            key = self.keys[i]
            grad = slopes.get(key)
            if grad is None or given.get(key) is not self.params[i]:
                return None
            found.append(grad)
        return found

    cdef tuple name(self, Py_ssize_t tensor, Py_ssize_t stream):
        return (("params", self.source)[stream] if stream <= GRAD else f"state {stream_name(self.states, stream)}",
                self.keys[tensor])

    cdef object where(self, Py_ssize_t interval):
        return label(self.name(self.written[interval].tensor, self.written[interval].stream))

    cdef int require_unwritten(self, Py_ssize_t i, Py_ssize_t k) except -1:
        """Refuse an array for stream k of tensor i, which is only read, that overlaps memory that is written."""
        cdef const Py_buffer* slot = &self.views[i * STREAMS + k]
        cdef Py_ssize_t middle, low = 0, high = self.intervals
        # The first interval that ends after the array's start: intervals are sorted and disjoint.
        while low < high:
            middle = (low + high) // 2
            if self.written[middle].stop <= <size_t> slot.buf:
                low = middle + 1
            else:
                high = middle
        if low < self.intervals and slot.len > 0 and self.written[low].start < <size_t> slot.buf + <size_t> slot.len:
            raise overlap_error(self.name(i, k), self.where(low))
        return 0

    cdef int bind_gradient(self, Py_ssize_t i, object grad) except -1:
        """Bind `grad`, converted if necessary, as the gradient of tensor i."""
        cdef Py_buffer* slot = &self.views[i * STREAMS + GRAD]
        cdef const Py_buffer* param = &self.views[i * STREAMS]
        PyBuffer_Release(slot)
        if not taken(slot, grad, param):
            acquire(slot, as_gradient(grad, param), self.name(i, GRAD), c"f", False, param)
        try:
            self.require_unwritten(i, GRAD)
        except BaseException:
            PyBuffer_Release(slot)
            raise
        self.tensors[i].x[GRAD] = <float*> slot.buf
        return 0

    def apply(self, list rules not None, list grads not None, Counter counter not None, object source="grads"):
        """Apply rules[groups[i]] to tensor i for every i, with gradient grads[i]; count the step. All or nothing.

        `source` is what error messages call the gradients.
        """
        self.step(rules, grads, counter, source)

    def measure(self, Rule rule not None, list grads not None):
        """Return the first of rule's sums over all gradients, added in order. Nothing is written."""
        return self.step([rule] * max(self.rules, 1), grads, None, "grads")

    cdef double step(self, list rules, list grads, Counter counter, object source) except? -1.0:
        """Run the rules and increment the counter; without a counter, return the sum of what they measure."""
        cdef Compiled* code = NULL
        cdef double* sums = NULL
        cdef Plan plan
        cdef Rule rule
        cdef Py_ssize_t i, count = len(rules)
        cdef double cost = 0.0, result = 0.0
        cdef bint measures = False, applies = False
        cdef unsigned missing
        cdef Py_ssize_t k
        cdef Py_buffer* slot
        if len(grads) != self.count:
            raise ValueError(f"{source}: expected {self.count} arrays, got {len(grads)}")
        if count < self.rules:
            raise ValueError(f"rules: expected {self.rules}, got {count}")
        if self.busy:
            raise RuntimeError("update: expected one call at a time, got a second one while the first is running")
        self.busy, self.source = True, source
        try:
            code = <Compiled*> malloc(max(count, 1) * sizeof(Compiled))
            if code == NULL:
                raise MemoryError
            for i in range(count):
                rule = rules[i]
                code[i] = compiled(rule)
                cost = max(cost, rule.cost)
                measures = measures or rule.measure != NULL
                applies = applies or rule.fn != NULL
                if rule.fn != NULL and self.reads & ~code[i].reads:
                    raise ValueError("rules: expected rules that only read what was bound as read only")
            if measures:
                sums = <double*> calloc(max(self.table.first[self.table.chunks], 1) * SUMS, sizeof(double))
                if sums == NULL:
                    raise MemoryError
            for i in range(self.count):
                slot = &self.views[i * STREAMS + GRAD]
                if not (held(slot) and holds(slot, grads[i])):
                    self.bind_gradient(i, grads[i])
                missing = code[self.tensors[i].rule].needs & ~self.tensors[i].given & ~(1u << GRAD)
                if missing:
                    k = 0
                    while not missing >> k & 1:
                        k += 1
                    raise TypeError(f"{label(self.name(i, k))}: expected an array, got None when the model was bound: "
                                    "hyper-parameters have changed since")
            plan = Plan(self.tensors, self.table, code, sums, applies)
            with nogil:
                run(&plan, cost * <double> self.total)
            if counter is not None:
                counter.value += 1
            elif measures:
                for i in range(self.table.first[self.table.chunks]):
                    result += sums[SUMS * i]
        finally:
            # Only small gradients stay bound: for them rebinding is a noticeable cost; the memory of large ones should
            # be free when the user drops them.
            for i in range(self.count):
                slot = &self.views[i * STREAMS + GRAD]
                if held(slot) and (self.tensors[i].size > HELD or not holds(slot, grads[i])):
                    PyBuffer_Release(slot)
            self.busy = False
            free(code)
            free(sums)
        return result


cdef bint taken(Py_buffer* view, object grad, const Py_buffer* param) except -1:
    """Bind a gradient that needs no conversion; return False, with nothing bound, for any other."""
    if type(grad) is not ndarray:
        return False
    try:
        PyObject_GetBuffer(grad, view, DESCRIBED)
    except (TypeError, ValueError, BufferError):
        clear(view)
        return False
    if usable(view, c"f", False) and same_shape(view, param):
        return True
    PyBuffer_Release(view)
    return False


cdef object as_gradient(object grad, const Py_buffer* param):
    """A C-contiguous float32 copy (by index) of an array or NumPy scalar of floats; anything else unchanged."""
    if not isinstance(grad, ARRAYS) or is_masked(grad):
        return grad                     # acquire accepts it or raises an error
    array = numpy.asarray(grad)
    if array.dtype.kind != "f" or array.shape != shape_of(param):
        return grad
    return numpy.require(array, numpy.float32, ["C_CONTIGUOUS", "ALIGNED"])
