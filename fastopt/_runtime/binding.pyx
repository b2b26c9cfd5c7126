# A model's arrays, bound once and updated many times.
#
# A Binding holds the exported buffers of parameters and state and the driver's tables: acquiring four buffers per
# parameter at each step would be most of the cost of a small model. An export does not pin an array, so a step first
# compares every array with what it was when it was bound (arrays.h), and asks to be bound anew if one differs.
# Everything is validated before the first element is written.
#
# A Binding also counts the steps of its tensors, in the same native call that runs them and replaces the optimizer's
# snapshot: neither an exception nor another thread comes in between.
from cpython.buffer cimport PyBuffer_Release, PyObject_GetBuffer
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next
from cpython.list cimport PyList_GetItem
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GetItem
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memcpy, memset

from fastopt._runtime.arrays cimport (
    DESCRIBED, Known, acquire, clear, elements, forget, held, is_masked, know, label, overlap_error, same_buffer,
    same_head, same_shape, shape_of, usable,
)
from fastopt._runtime.driver cimport (
    GRAD, PARAM, STATE, STREAMS, SUMS, Compiled, Plan, Rule, Table, Tensor, compiled, cut, discard, run_plan,
    stream_name,
)
from fastopt._runtime.progress cimport Progress

import numpy

from fastopt._runtime.paths import Path, named, params_beside
from fastopt._runtime.strided import contiguous

cdef object ndarray = numpy.ndarray
cdef object tuple_iter = tuple.__iter__
cdef tuple ARRAYS = (numpy.ndarray, numpy.floating)

cdef double FLOAT_MAX = 2.0**128 - 2.0**104     # of float32
cdef long long MOST_STEPS = 2**62
cdef Py_ssize_t HELD = 65536            # gradients of at most this many elements stay bound between steps


cdef enum:
    FEW = 4             # rules of a model, for which no memory is allocated
    UNKNOWN = 2         # whether a group has gradients


cdef struct Interval:
    size_t start
    size_t stop
    Py_ssize_t tensor
    Py_ssize_t stream


cdef struct Taken:
    long long own       # steps in which the tensor had a gradient
    long long last      # number of the optimizer's last step in which it took part, with a gradient or without


cdef class Node:
    """A container of bound arrays: the keys of its entries, and for each a Node, or None for an array."""
    cdef list keys
    cdef list nodes
    cdef bint numbered                  # whether keys are 0, 1, …


cdef Node node_of(list keys, Py_ssize_t depth, Py_ssize_t start, Py_ssize_t stop):
    """The container whose arrays have keys[start:stop], of which the first `depth` parts are its own path."""
    cdef Node node = Node.__new__(Node)
    cdef Py_ssize_t i = start, end
    node.keys, node.nodes, node.numbered = [], [], True
    while i < stop:
        head, end = keys[i], i + 1
        if type(keys[i]) is Path and len(keys[i]) > depth + 1:
            head = keys[i][depth]
            while end < stop and type(keys[end]) is Path and len(keys[end]) > depth + 1 and keys[end][depth] is head:
                end += 1
            node.nodes.append(node_of(keys, depth + 1, i, end))
        else:
            head = keys[i][depth] if depth else keys[i]
            node.nodes.append(None)
        # The type first: a user's key may define == in any way, even to return an array.
        node.numbered = node.numbered and type(head) is int and head == len(node.keys)
        node.keys.append(head)
        i = end
    return node


cdef Py_ssize_t length(object container) except -2:
    """Of a list or tuple whose items are those it iterates over; -1 for any other object."""
    if type(container) is list:
        return len(<list> container)
    if type(container) is tuple or (isinstance(container, tuple) and type(container).__iter__ is tuple_iter):
        return len(<tuple> container)
    return -1


cdef int by_start(const void* a, const void* b) noexcept nogil:
    cdef size_t x = (<const Interval*> a).start, y = (<const Interval*> b).start
    return -1 if x < y else x > y


cdef class Maker:
    """Makes a group's rule at each step: by function(self, the group's own step, the optimizer's, lr, grad_scale)."""
    cdef object function
    cdef object kernel                  # None: none to be called directly
    cdef list arguments                 # its own step, lr, then what is the same at each step
    cdef list options                   # the last argument: grad_scale, then what is the same at each step

    def __init__(self, function):
        self.function = function

    def remember(self, kernel, tuple numbers not None, tuple options not None):
        """From now on the rule is kernel(its own step, lr, *numbers, options) with grad_scale as options[0]."""
        self.kernel, self.arguments, self.options = kernel, [None, None, *numbers, options], [*options]

    def __call__(self, long long own_step, long long step, lr, grad_scale):
        return self.rule(own_step, step, lr, grad_scale)

    cdef object rule(self, long long own_step, long long step, object lr, object grad_scale):
        if (self.kernel is None or own_step > MOST_STEPS or type(lr) is not float or not 0.0 <= <double> lr < FLOAT_MAX
                or type(grad_scale) is not float or not -FLOAT_MAX < <double> grad_scale < FLOAT_MAX):
            return self.function(self, own_step, step, lr, grad_scale)      # which checks the numbers
        self.arguments[0], self.arguments[1] = own_step, lr
        if grad_scale is not self.options[0]:       # not ==, which takes -0.0 for 0.0
            self.options[0] = grad_scale
            self.arguments[len(self.arguments) - 1] = tuple(self.options)
        return self.kernel(*self.arguments)


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
    members : list of int
        For each tensor the index of its group, whose rule is the one at this index among those given to `apply`.
    reads : int
        Bit k: stream k is only read; its array need not be writable.
    taken : list of (int, int), optional
        For each tensor its steps so far and the last step of the optimizer that it took part in. Those of a group have
        the same number of steps. Default: none.
    makers : list, optional
        For each group its `Maker`, or None if it has no state.
    groups : list, optional
        For each group whatever the caller keeps of it.
    source : str
        What the user calls the gradients.
    """
    cdef readonly list keys
    cdef readonly list members
    cdef readonly list makers
    cdef readonly list groups
    cdef Node root                      # the containers in which the user has the arrays
    cdef tuple states
    cdef unsigned reads
    cdef Py_ssize_t count, rules
    cdef Py_buffer* views               # count x STREAMS; the gradient's slot is bound again when a step needs it
    cdef Tensor* tensors
    cdef Table table
    cdef Interval* written              # memory that is written, sorted by start
    cdef Py_ssize_t intervals
    cdef PyObject** params              # borrowed
    cdef Known* known                   # of every array bound
    cdef Py_ssize_t exports             # how many
    cdef Py_ssize_t indirect            # how many of them are not compared by their heads
    cdef Known* slopes                  # of each gradient that is bound
    cdef bint large                     # whether a gradient has more than HELD elements
    cdef list arrays                    # holds references to all of them
    cdef Taken* steps                   # of each tensor
    cdef Py_ssize_t* first              # of each group the first tensor
    cdef char* present                  # of each group whether its tensors have gradients in this call
    cdef bint given                     # whether any has
    cdef public object source           # what the user calls the gradients of this call: grads, grad, hessians

    def __cinit__(self, list keys, list arrays, tuple states, list members, unsigned reads=0, list taken=None,
                  list makers=None, list groups=None, object source="grads"):
        cdef Py_ssize_t i, k
        cdef Py_buffer* row
        self.keys, self.states, self.count, self.reads = keys, states, len(arrays), reads | 1 << GRAD
        self.members, self.makers, self.groups, self.source = members, makers, groups, source
        if not (len(keys) == len(members) == self.count and STATE + len(states) <= STREAMS):
            raise ValueError("keys, arrays, members: expected the same length")
        if any([len(streams) != STATE + len(states) for streams in arrays]):
            raise ValueError("arrays: expected (param, None, average) and one for each of states")
        self.views = <Py_buffer*> calloc(max(self.count, 1) * STREAMS, sizeof(Py_buffer))
        self.tensors = <Tensor*> calloc(max(self.count, 1), sizeof(Tensor))
        self.written = <Interval*> malloc(max(self.count, 1) * STREAMS * sizeof(Interval))
        self.params = <PyObject**> calloc(max(self.count, 1), sizeof(PyObject*))
        self.known = <Known*> calloc(max(self.count, 1) * STREAMS, sizeof(Known))
        self.slopes = <Known*> calloc(max(self.count, 1), sizeof(Known))
        self.steps = <Taken*> calloc(max(self.count, 1), sizeof(Taken))
        self.first = <Py_ssize_t*> calloc(max(self.count, 1), sizeof(Py_ssize_t))
        self.present = <char*> calloc(max(self.count, 1), 1)
        self.arrays = arrays
        if (self.views == NULL or self.tensors == NULL or self.written == NULL or self.params == NULL
                or self.known == NULL or self.slopes == NULL or self.steps == NULL or self.first == NULL
                or self.present == NULL):
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
            self.tensors[i].rule = members[i]
            if not 0 <= self.tensors[i].rule <= self.rules:
                raise ValueError(f"members: expected indices in the order of the first members, got {members}")
            if self.tensors[i].rule == self.rules:
                self.first[self.rules] = i
                self.rules += 1
            if taken is not None:
                self.steps[i].own, self.steps[i].last = taken[i]
            self.large = self.large or self.tensors[i].size > HELD
        self.know_all()
        qsort(self.written, self.intervals, sizeof(Interval), by_start)
        for i in range(1, self.intervals):
            if self.written[i].start < self.written[i - 1].stop:
                raise overlap_error(self.where(i), self.where(i - 1))
        for i in range(self.count):
            for k in range(STATE, STREAMS):
                if self.reads & self.tensors[i].given & 1u << k:
                    self.require_unwritten(i, k)
        cut(&self.table, self.tensors, self.count)
        self.root = node_of(keys, 0, 0, self.count)

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.views != NULL:
            for i in range(self.count * STREAMS):
                PyBuffer_Release(&self.views[i])
        for i in range(self.exports):
            forget(&self.known[i])
        for i in range(self.count if self.slopes != NULL else 0):
            forget(&self.slopes[i])
        free(self.steps)
        free(self.first)
        free(self.present)
        free(self.params)
        free(self.known)
        free(self.slopes)
        free(self.views)
        free(self.tensors)
        discard(&self.table)
        free(self.written)

    cpdef bint holds(self, list params):
        """Whether these very arrays, in this order, are the ones bound."""
        cdef Py_ssize_t i
        if len(params) != self.count:
            return False
        for i in range(self.count):
            if PyList_GetItem(params, i) != self.params[i]:
                return False
        return True

    cdef list gradients_of(self, object params, object grads, bint replaces):
        """The gradients in the order bound, if params and grads are containers like those bound, of exactly these
        arrays, or `replaces` and of others that `replace` takes; otherwise None."""
        cdef list ordered = [], arrays = []
        if grads is None:
            return None
        if type(params) is ndarray:
            if self.count != 1 or not self.root.numbered or self.root.nodes[0] is not None:
                return None
            if <PyObject*> params == self.params[0] or (replaces and self.replace([params])):
                return [grads]
            return None
        if self.matches(self.root, params, grads, ordered, None):
            return ordered
        if not replaces:
            return None
        ordered = []
        return ordered if self.matches(self.root, params, grads, ordered, arrays) and self.replace(arrays) else None

    cdef bint matches(self, Node node, object params, object grads, list ordered, list arrays) except -1:
        """Add a container's gradients to `ordered`, None for each if it has none; return False if it is another.

        Its parameters are added to `arrays`, or have to be those bound if that is None.
        """
        cdef Py_ssize_t i, size = len(node.keys)
        cdef bint keyed = type(params) is dict
        cdef PyObject* found
        cdef object param, grad = None      # hold them: == of the next key may run code that empties the dicts
        if keyed:
            if len(<dict> params) != size or not (
                    grads is None or (type(grads) is dict and len(<dict> grads) == size)):
                return False
        elif not (node.numbered and length(params) == size and (grads is None or length(grads) == size)):
            return False
        for i in range(size):
            if keyed:
                found = PyDict_GetItemWithError(<dict> params, node.keys[i])
                if found == NULL:
                    return False
                param = <object> found
                if grads is not None:
                    found = PyDict_GetItemWithError(<dict> grads, node.keys[i])
                    if found == NULL:
                        return False
                    grad = <object> found
            else:
                param = <object> item(params, i)
                if grads is not None:
                    grad = <object> item(grads, i)
            if node.nodes[i] is not None:
                if not self.matches(node.nodes[i], param, grad, ordered, arrays):
                    return False
                continue
            if arrays is not None:
                arrays.append(param)
            elif <PyObject*> param != self.params[len(ordered)]:
                return False
            ordered.append(grad)
        return True

    cpdef bint replace(self, list params) except -1:
        """Bind these arrays in place of those bound, if each is an ndarray like the one that it replaces, and all can
        be updated together: otherwise return False, and nothing has changed.

        What is not accepted here is to be bound anew, which raises the error if there is one.
        """
        cdef Py_buffer* views
        cdef Interval* written
        cdef Py_ssize_t i, k
        cdef bint same = len(params) == self.count and self.reads == 1 << GRAD
        if not same:
            return False
        views = <Py_buffer*> calloc(max(self.count, 1), sizeof(Py_buffer))
        written = <Interval*> malloc(max(self.intervals, 1) * sizeof(Interval))
        try:
            if views == NULL or written == NULL:
                raise MemoryError
            for i in range(self.count):
                same = same and (PyList_GetItem(params, i) == self.params[i]
                                 or taken(&views[i], params[i], &self.views[i * STREAMS], True))
            memcpy(written, self.written, self.intervals * sizeof(Interval))
            for i in range(self.intervals):
                k = written[i].tensor
                if written[i].stream == PARAM and held(&views[k]):
                    written[i].start = <size_t> views[k].buf
                    written[i].stop = written[i].start + <size_t> views[k].len
            qsort(written, self.intervals, sizeof(Interval), by_start)
            for i in range(1, self.intervals):
                same = same and written[i].start >= written[i - 1].stop
            if same:
                self.written, written = written, self.written
                self.swap(views, params)
        finally:                        # releases the arrays that are no longer bound: that may run code of the user's
            free(written)
            for i in range(self.count if views != NULL else 0):
                if held(&views[i]):
                    PyBuffer_Release(&views[i])
            free(views)
        return same

    cdef int swap(self, Py_buffer* views, list params) except -1:
        """Exchange the parameters' buffers for those of `views` that are held."""
        cdef Py_ssize_t i, k
        cdef Py_buffer* row
        before = self.arrays            # is released last
        self.arrays = before[:]
        for i in range(self.count):
            self.release_gradient(i)    # of each tensor: it may overlap another one's new parameter
            if held(&views[i]):
                self.arrays[i] = (params[i], *before[i][1:])
                row = &self.views[i * STREAMS]
                row[PARAM], views[i] = views[i], row[PARAM]
                for k in range(STREAMS):
                    if k == PARAM or not self.tensors[i].given >> k & 1:
                        self.tensors[i].x[k] = <float*> row[PARAM].buf
        self.know_all()
        return 0

    cdef int know_all(self) except -1:
        """Remember every array bound as it is now."""
        cdef Py_ssize_t i, k
        cdef Py_buffer* row
        for i in range(self.exports):
            forget(&self.known[i])
        self.exports = self.indirect = 0
        for i in range(self.count):
            row = &self.views[i * STREAMS]
            self.params[i] = <PyObject*> self.arrays[i][PARAM]
            for k in range(STREAMS):
                if self.tensors[i].given >> k & 1:
                    know(&self.known[self.exports], self.arrays[i][k], &row[k], &row[PARAM], not self.reads >> k & 1)
                    self.indirect += self.known[self.exports].descr == NULL
                    self.exports += 1
        return 0

    def params_bound(self):
        return [streams[PARAM] for streams in self.arrays]

    def taken(self):
        """For each tensor (its steps, the last step of the optimizer that it took part in)."""
        return [(self.steps[i].own, self.steps[i].last) for i in range(self.count)]

    @property
    def last(self):
        """The last step of the optimizer that the first tensor took part in."""
        return self.steps[0].last

    cpdef list rules_of(self, list grads, long long step, object lr, object grad_scale, list scales=None):
        """For each group the rule from its `Maker`, or None for one without gradients. `scales`, if given, has a
        grad_scale for each group.

        None instead of a list if the model is to be bound anew: only some of a group's tensors have a gradient, or a
        group has gradients for which there is no maker.
        """
        cdef Py_ssize_t i
        cdef list rules = []
        if not self.ready(grads):
            return None
        for i in range(self.rules):
            if self.present[i]:
                rules.append((<Maker?> self.makers[i]).rule(self.steps[self.first[i]].own + 1, step, lr,
                                                            grad_scale if scales is None else scales[i]))
            else:
                rules.append(None)
        return rules

    cdef bint ready(self, list grads) except -1:
        """Whether each group has all of its gradients or none, and in the first case a maker."""
        cdef Py_ssize_t i
        if not self.sort(grads):
            return False
        for i in range(self.rules):
            if self.present[i] and self.makers[i] is None:
                return False
        return True

    cdef bint sort(self, list grads) except -1:
        """Find out which groups have gradients; False: some group has gradients for some of its tensors only."""
        cdef Py_ssize_t i
        cdef char given
        cdef char* present
        if len(grads) != self.count:
            raise ValueError(f"{self.source}: expected {self.count} arrays, got {len(grads)}")
        memset(self.present, UNKNOWN, self.rules)
        self.given = False
        for i in range(self.count):
            given = PyList_GetItem(grads, i) != <PyObject*> None
            present = &self.present[self.tensors[i].rule]
            if present[0] != UNKNOWN and present[0] != given:
                return False
            present[0] = given
            self.given = self.given or given
        return True

    cdef tuple name(self, Py_ssize_t tensor, Py_ssize_t stream):
        if stream == PARAM:
            return named(params_beside(self.source), self.keys[tensor])
        return named(self.source if stream == GRAD else f"state {stream_name(self.states, stream)}", self.keys[tensor])

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
        self.release_gradient(i)
        if not taken(slot, grad, param, False):
            grad = as_gradient(grad, param)
            acquire(slot, grad, self.name(i, GRAD), c"f", False, param)
            if <PyObject*> grad != <PyObject*> slot.obj:    # an exporter that cannot be asked for the same buffer again
                copy = numpy.array(memoryview(grad))
                PyBuffer_Release(slot)
                acquire(slot, copy, self.name(i, GRAD), c"f", False, param)
        know(&self.slopes[i], <object> slot.obj, slot, param, False)
        try:
            self.require_unwritten(i, GRAD)
        except BaseException:
            self.release_gradient(i)
            raise
        self.tensors[i].x[GRAD] = <float*> slot.buf
        return 0

    cdef void release_gradient(self, Py_ssize_t i) noexcept:
        forget(&self.slopes[i])
        PyBuffer_Release(&self.views[i * STREAMS + GRAD])

    cdef bint unchanged(self) except -1:
        """Whether all arrays bound are as they were then.

        Those whose own code may run, and change another array, come first.
        """
        cdef Py_ssize_t i
        if self.indirect > 0:
            for i in range(self.exports):
                if self.known[i].descr == NULL and not same_buffer(&self.known[i]):
                    return False
        for i in range(self.exports):
            if self.known[i].descr != NULL and not same_head(&self.known[i]):
                return False
        return True

    cdef bint same_gradient(self, Py_ssize_t i) except -1:
        """Whether the gradient bound to tensor i is as it was then."""
        return same_head(&self.slopes[i]) if self.slopes[i].descr != NULL else same_buffer(&self.slopes[i])

    def apply(self, list rules not None, list grads not None, Progress progress=None, object snapshot=None,
              long long step=0):
        """Apply rules[members[i]] to tensor i for every i, with gradient grads[i]. All or nothing.

        A tensor whose gradient is None stays as it is, as do all others of its group. Then `progress`, if given, holds
        `snapshot`. Unless `step` is 0, it is the number of the optimizer's step: `progress` gets it, too, and all
        tensors that have a gradient count a step of their own.

        Returns
        -------
        bool
            False if the model is to be bound anew, and nothing has been done: an array has changed since it was bound,
            in its memory, type, shape or flags, or only some of a group's tensors have a gradient.
        """
        return self.step(rules, grads, progress, snapshot, step, NULL)

    def measure(self, Rule rule not None, list grads not None, list each=None):
        """Return the first of rule's sums over all gradients, added in order, or None where `apply` returns False.
        The sums over each gradient are appended to `each`. No array is written."""
        cdef double total = 0.0
        rules = [rule] * max(self.rules, 1)
        return total if self.step(rules, grads, None, None, 0, &total, each) else None

    cdef bint step(self, list rules, list grads, Progress progress, object snapshot, long long step,
                   double* total, list each=None) except -1:
        """Run the rules; add what they measure to `total`, unless that is NULL, and append each tensor's to `each`."""
        cdef Compiled few[FEW]
        cdef Compiled* many = NULL
        cdef Compiled* code = few
        cdef double* sums = NULL
        cdef Plan plan
        cdef Rule rule
        cdef Py_ssize_t i, size = 0, count = len(rules)
        cdef double cost = 0.0
        cdef bint measures = False, applies = False, bound = False
        cdef PyObject* grad
        if count < self.rules:
            raise ValueError(f"rules: expected {self.rules}, got {count}")
        if not self.sort(grads):
            return False
        try:
            if count > FEW:
                code = many = <Compiled*> malloc(count * sizeof(Compiled))
                if many == NULL:
                    raise MemoryError
            for i in range(self.rules):
                if not self.present[i]:
                    memset(&code[i], 0, sizeof(Compiled))
                    continue
                rule = <Rule?> rules[i]
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
            if not self.unchanged():
                return False
            for i in range(self.count):
                if not self.present[self.tensors[i].rule]:
                    if self.slopes[i].array != NULL:
                        bound = True
                        self.release_gradient(i)
                    continue
                if not (self.slopes[i].array == PyList_GetItem(grads, i) and self.same_gradient(i)):
                    bound = True
                    self.bind_gradient(i, grads[i])
                if code[self.tensors[i].rule].needs & ~self.tensors[i].given & ~(1u << GRAD):
                    raise self.missing(i, &code[self.tensors[i].rule])
                size += self.tensors[i].size
            if bound:                   # code of the user's may have run, and may in unchanged(): gradients come last
                if not self.unchanged():
                    return False
                for i in range(self.count):
                    if self.present[self.tensors[i].rule] and not self.same_gradient(i):
                        return False
            plan = Plan(self.tensors, self.table, code, sums, applies)
            run_plan(&plan, cost * <double> size)
            if step != 0:
                for i in range(self.count):
                    self.steps[i].own += self.present[self.tensors[i].rule]
                    self.steps[i].last = step
            if progress is not None:
                progress.replace(step if step != 0 else progress.step_count, snapshot)
            if total != NULL and measures:
                for i in range(self.table.first[self.table.chunks]):
                    total[0] += sums[SUMS * i]
            if each is not None:
                self.add_each(sums, each)
        finally:
            # Only small gradients stay bound: for them rebinding is a noticeable cost; the memory of large ones should
            # be free when the user drops them.
            if bound or self.large:
                for i in range(self.count):
                    grad = self.slopes[i].array
                    if grad != NULL and (self.tensors[i].size > HELD or grad != <PyObject*> grads[i]):
                        self.release_gradient(i)
            free(many)
            free(sums)
        return True

    cdef int add_each(self, const double* sums, list each) except -1:
        """Append each tensor's sum over its segments, in order; 0 for all if `sums` is NULL."""
        cdef Py_ssize_t i, s = 0
        cdef double total
        for i in range(self.count):
            total = 0.0
            while sums != NULL and s < self.table.first[self.table.chunks] and self.table.segments[s].tensor == i:
                total += sums[SUMS * s]
                s += 1
            each.append(total)
        return 0

    cdef object missing(self, Py_ssize_t i, const Compiled* code):
        """The error for a stream of tensor i that the rule needs and that is not bound."""
        cdef Py_ssize_t k = 0
        while not (code.needs & ~self.tensors[i].given & ~(1u << GRAD)) >> k & 1:
            k += 1
        return TypeError(f"{label(self.name(i, k))}: expected an array, got None when the model was bound: "
                         "hyper-parameters have changed since")


cdef PyObject* item(object container, Py_ssize_t i) except NULL:
    """An item of a list or tuple, which holds the reference."""
    if isinstance(container, list):
        return PyList_GetItem(container, i)
    return PyTuple_GetItem(container, i)


def lookup(object snapshot, object params, object grads, bint replaces):
    """Return (the Binding, its gradients in order) if these are exactly its arrays, or `replaces` and others that can
    be bound in place of them; otherwise None.

    `snapshot.bounds` are the bindings by each of their keys, `snapshot.heads` those with nested containers by the keys
    of the outermost.
    """
    cdef Py_ssize_t position = 0
    cdef PyObject* key
    cdef PyObject* found
    cdef Binding bound
    cdef list ordered
    if type(params) is dict:
        if not PyDict_Next(params, &position, &key, NULL):
            return None
        first = <object> key
    else:
        first = 0
    found = PyDict_GetItemWithError(<dict?> snapshot.bounds, first)
    if found == NULL:
        found = PyDict_GetItemWithError(<dict?> snapshot.heads, first)
    if found == NULL:
        return None
    bound = <Binding?> <object> found
    ordered = bound.gradients_of(params, grads, replaces)
    return None if ordered is None else (bound, ordered)


def update(Progress progress not None, object params, object grads, object lr, object grad_scale, bint replaces):
    """Take a step of a model that is bound; return (step, lr, None, False), as in an UpdateInfo. None if nothing has
    been done because the model is not bound, or not as it is now, or because there is no gradient at all."""
    progress.take("update", True)
    try:
        found = lookup(progress.snapshot, params, grads, replaces)
        if found is None:
            return None
        return advance(progress, found[0], "grads", found[1], progress.step_count + 1, lr, grad_scale)
    finally:
        progress.running = None


def update_one(Progress progress not None, object key, object param, object grad, object lr, object grad_scale,
               bint replaces):
    """What `update` does, for one parameter that is bound alone."""
    cdef PyObject* found
    cdef Binding bound
    progress.take("update_one", True)
    try:
        found = PyDict_GetItemWithError(<dict?> progress.snapshot.bounds, key)
        if found == NULL:
            return None
        bound = <Binding?> <object> found
        if bound.count != 1:
            return None
        if bound.params[0] != <PyObject*> param and not (replaces and bound.replace([param])):
            return None
        return advance(progress, bound, "grad", [grad],
                       progress.step_count + (bound.steps[0].last == progress.step_count), lr, grad_scale)
    finally:
        progress.running = None


cdef object advance(Progress progress, Binding bound, str source, list grads, long long step, object lr,
                    object grad_scale):
    cdef list rules
    bound.source = source
    if type(lr) is not float and callable(lr):
        if not (bound.ready(grads) and bound.given and bound.unchanged()):
            return None
        lr = lr(step)
    rules = bound.rules_of(grads, step, lr, grad_scale)
    if rules is None or not bound.given:
        return None
    if not bound.step(rules, grads, progress, progress.snapshot, step, NULL):
        return None
    return step, lr, None, False


def counted(Progress progress not None):
    """Return (the snapshot, [(keys, steps of each)] of the models it has bound), both of one moment.

    No Python code runs in between, so that no other thread does.
    """
    cdef list counts = []
    cdef Binding bound = None
    cdef Py_ssize_t i
    snapshot = progress.snapshot
    for found in (<dict?> snapshot.bounds).values():
        if found is not bound:          # a model's keys follow each other
            bound = found
            counts.append((bound.keys, [bound.steps[i].own for i in range(bound.count)]))
    return snapshot, counts


cdef bint taken(Py_buffer* view, object array, const Py_buffer* param, bint writable) except -1:
    """Bind an ndarray that can be used as it is; return False, with nothing bound, for any other object."""
    if type(array) is not ndarray:
        return False
    try:
        PyObject_GetBuffer(array, view, DESCRIBED)
    except (TypeError, ValueError, BufferError):
        clear(view)
        return False
    if usable(view, c"f", writable) and same_shape(view, param):
        return True
    PyBuffer_Release(view)
    return False


cdef object as_gradient(object grad, const Py_buffer* param):
    """A C-contiguous float32 array of the elements of an array or NumPy scalar of floats, copied if it is not one;
    anything else unchanged."""
    if not isinstance(grad, ARRAYS) or is_masked(grad):
        return grad                     # acquire accepts it or raises an error
    array = numpy.asarray(grad)
    if array.dtype.kind != "f" or array.shape != shape_of(param):
        return grad
    copy = None if array.flags.c_contiguous else contiguous(array)
    return numpy.require(array, numpy.float32, ["C_CONTIGUOUS", "ALIGNED"]) if copy is None else copy
