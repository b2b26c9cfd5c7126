# The dicts, lists and tuples in which a user has a model's arrays: the same ones are recognised at each step.
from cpython.dict cimport PyDict_GetItemWithError
from cpython.list cimport PyList_GetItem
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GetItem

from fastopt._runtime.paths import Path

cdef object tuple_iter = tuple.__iter__


cdef class Node:
    """A container of arrays: the keys of its entries, and for each a Node, or None for an array."""

    cdef bint matches(self, object params, object grads, list ordered, list arrays, PyObject** expected) except -1:
        """Add the gradients in `grads` to `ordered`, None for each if `grads` is None. Return False if `params` or
        `grads` is not such a container.

        The arrays in `params` are added to `arrays`, or have to be the `expected` ones if that is None.
        """
        cdef Node inner
        cdef Py_ssize_t i, size = len(self.keys)
        cdef bint keyed = type(params) is dict
        cdef PyObject* found
        cdef object param, grad = None      # hold them: == of the next key may run code that empties the dicts
        if keyed:
            if len(<dict> params) != size or not (
                    grads is None or (type(grads) is dict and len(<dict> grads) == size)):
                return False
        elif not (self.numbered and length(params) == size and (grads is None or length(grads) == size)):
            return False
        for i in range(size):
            if keyed:
                found = PyDict_GetItemWithError(<dict> params, self.keys[i])
                if found == NULL:
                    return False
                param = <object> found
                if grads is not None:
                    found = PyDict_GetItemWithError(<dict> grads, self.keys[i])
                    if found == NULL:
                        return False
                    grad = <object> found
            else:
                param = <object> item(params, i)
                if grads is not None:
                    grad = <object> item(grads, i)
            inner = self.nodes[i]
            if inner is not None:
                if not inner.matches(param, grad, ordered, arrays, expected):
                    return False
                continue
            if arrays is not None:
                arrays.append(param)
            elif <PyObject*> param != expected[len(ordered)]:
                return False
            ordered.append(grad)
        return True


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


cdef PyObject* item(object container, Py_ssize_t i) except NULL:
    """An item of a list or tuple, which holds the reference."""
    if isinstance(container, list):
        return PyList_GetItem(container, i)
    return PyTuple_GetItem(container, i)
