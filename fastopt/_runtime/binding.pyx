# A rule applied to a whole model, bound once and updated many times.
#
# Everything is validated before the first element is written. A Binding also counts the steps of its tensors, in the
# same native call that runs them and replaces the optimizer's snapshot: neither an exception nor another thread comes
# in between.
from cpython.list cimport PyList_GetItem
from cpython.object cimport PyObject
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from fastopt._runtime.arrays cimport label
from fastopt._runtime.containers cimport node_of
from fastopt._runtime.driver cimport (
    GRAD, STATE, STREAMS, SUMS, Compiled, Plan, Rule, compiled, cut, discard, run_plan,
)
from fastopt._runtime.model cimport Model
from fastopt._runtime.progress cimport Progress

import numpy

cdef object ndarray = numpy.ndarray
cdef Py_ssize_t HELD = 65536            # gradients of at most this many elements stay bound between steps


cdef enum:
    FEW = 4             # rules of a model, for which no memory is allocated
    UNKNOWN = 2         # whether a group has gradients


cdef class Binding(Model):
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
    def __cinit__(self, list keys, list arrays, tuple states, list members, unsigned reads=0, list taken=None,
                  list makers=None, list groups=None, object source="grads"):
        cdef Py_ssize_t i
        if not (len(keys) == len(members) == len(arrays) and STATE + len(states) <= STREAMS):
            raise ValueError("keys, arrays, members: expected the same length")
        if any([len(streams) != STATE + len(states) for streams in arrays]):
            raise ValueError("arrays: expected (param, None, average) and one for each of states")
        self.members, self.makers, self.groups, self.source = members, makers, groups, source
        self.hold(keys, arrays, states, reads)
        self.steps = <Taken*> calloc(max(self.count, 1), sizeof(Taken))
        self.first = <Py_ssize_t*> calloc(max(self.count, 1), sizeof(Py_ssize_t))
        self.present = <char*> calloc(max(self.count, 1), 1)
        if self.steps == NULL or self.first == NULL or self.present == NULL:
            raise MemoryError
        for i in range(self.count):
            self.tensors[i].rule = members[i]
            if not 0 <= self.tensors[i].rule <= self.rules:
                raise ValueError(f"members: expected indices in the order of the first members, got {members}")
            if self.tensors[i].rule == self.rules:
                self.first[self.rules] = i
                self.rules += 1
            if taken is not None:
                self.steps[i].own, self.steps[i].last = taken[i]
            self.large = self.large or self.tensors[i].size > HELD
        cut(&self.table, self.tensors, self.count)
        self.root = node_of(keys, 0, 0, self.count)

    def __dealloc__(self):
        free(self.steps)
        free(self.first)
        free(self.present)
        discard(&self.table)

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
        if self.root.matches(params, grads, ordered, None, self.params):
            return ordered
        if not replaces:
            return None
        ordered = []
        return ordered if self.root.matches(params, grads, ordered, arrays, NULL) and self.replace(arrays) else None

    def taken(self):
        """For each tensor (its steps, the last step of the optimizer that it took part in)."""
        return [(self.steps[i].own, self.steps[i].last) for i in range(self.count)]

    @property
    def last(self):
        """The last step of the optimizer that the first tensor took part in."""
        return self.steps[0].last

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
