# A step of an optimizer over a model that is bound: its rules are made, then applied.
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next
from cpython.object cimport PyObject

from fastopt._runtime.binding cimport Binding
from fastopt._runtime.progress cimport Progress

cdef double FLOAT_MAX = 2.0**128 - 2.0**104     # of float32
cdef long long MOST_STEPS = 2**62


cdef inline bint is_schedule(object lr):
    return type(lr) is not float and callable(lr)


cpdef object lr_at(object lr, long long step):
    """The learning rate at one step, out of a number or a function of the step."""
    return lr(step) if is_schedule(lr) else lr


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


cpdef list rules_of(Binding bound, list grads, long long step, object lr, object grad_scale, list scales=None):
    """For each group the rule from its `Maker`, or None for one without gradients. `scales`, if given, has a grad_scale
    for each group.

    None instead of a list if the model is to be bound anew: only some of a group's tensors have a gradient, or a group
    has gradients for which there is no maker.
    """
    cdef Py_ssize_t i
    cdef list rules = []
    if not bound.ready(grads):
        return None
    for i in range(bound.rules):
        if bound.present[i]:
            rules.append((<Maker?> bound.makers[i]).rule(bound.steps[bound.first[i]].own + 1, step, lr,
                                                         grad_scale if scales is None else scales[i]))
        else:
            rules.append(None)
    return rules


cpdef object lookup(object snapshot, object params, object grads, bint replaces):
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
    if is_schedule(lr):
        if not (bound.ready(grads) and bound.given and bound.unchanged()):
            return None
        lr = lr(step)
    rules = rules_of(bound, grads, step, lr, grad_scale)
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
