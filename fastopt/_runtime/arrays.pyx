# The one place where a user's array becomes a pointer.
#
# Design
# ------
# An array is used as it is or refused: it must be C-contiguous, aligned, in native byte order, of the exact element
# type, and writable if it is an output. The held Py_buffer keeps its memory alive. The buffer protocol needs no NumPy
# headers; a check costs about 80 ns.
#
# An error names the argument, what was expected and what was given: TypeError if it is not an array or has another
# element type, ValueError otherwise. Where a conversion of the user's is the answer, it says which (`advice`).
#
# A buffer that is held from one call to the next is compared with its array before it is used again, because
# a.resize(n, refcheck=False), a.shape = … and a.dtype = … are possible while it is held: Known is what the array was
# then, same_head compares in about 2 ns, and same_buffer acquires the buffer again where NumPy's head cannot be read.
#
# Two arrays of one call may share memory only if both are read, or where a function documents that an output may be
# exactly one of its inputs: require_disjoint and require_disjoint_or_same.
from cpython.buffer cimport PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

import sys

import numpy

cdef extern from "arrays.h":
    enum:
        C_CONTIGUOUS "FASTOPT_C_CONTIGUOUS"
        ALIGNED "FASTOPT_ALIGNED"
    bint is_usable_head "fastopt_usable_head"(const Head* head, const PyObject* descr, size_t itemsize,
                                              bint writable) noexcept
    void set_known "fastopt_know"(Known* known, object source, const Py_buffer* view, const Py_buffer* like,
                                  bint writable, bint direct) noexcept

cdef extern from "Python.h":
    int get_buffer "PyObject_GetBuffer"(object source, Py_buffer* view, int flags)  # -1 for an error, which is set
    int PyErr_ExceptionMatches(object error)
    void PyErr_Clear()

cdef object ndarray = numpy.ndarray
cdef object float32 = numpy.dtype(numpy.float32)
cdef object float64 = numpy.dtype(numpy.float64)
cdef object int64 = numpy.dtype(numpy.int64)
cdef object modules = sys.modules
cdef object may_share_memory = numpy.may_share_memory

cdef dict ELEMENT = {"f": "float32", "d": "float64", "q": "int64"}


cpdef bint is_masked(object source) except -1:
    """Whether it is a MaskedArray. Importing numpy.ma takes 10 ms: there are none before somebody else did."""
    if type(source) is ndarray:
        return False
    return isinstance(source, getattr(modules.get("numpy.ma"), "MaskedArray", ()))


cdef object label(object name):
    """The name of an argument in an error: a string, or container[key] for a pair (container, key)."""
    if isinstance(name, tuple):
        return f"{name[0]}[{name[1]!r:.200}]"
    return name


cdef str describe(object source):
    """A description of what was given, for an error message."""
    if is_masked(source):
        return f"masked array {source.dtype} {source.shape} (its filled() is an array without a mask)"
    if not isinstance(source, ndarray):
        if isinstance(source, numpy.generic):
            return f"NumPy scalar {type(source).__name__}"
        return "None" if source is None else type(source).__name__
    faults = ""
    if not source.flags.c_contiguous:
        faults += ", not C-contiguous"
    if not source.flags.aligned:
        faults += ", not aligned"
    if not source.flags.writeable:
        faults += ", read-only"
    name = source.dtype.name if source.dtype.isnative else source.dtype.str
    return f"{name} {source.shape}{faults}"


def advice(source, bint fits=True, bint writable=False):
    """The end of an error message about `source`, which should have been float32: what the user can do, or "".

    `fits` says whether its shape is the expected one: a copy in another layout helps only then. What is written to a
    copy is lost unless the copy takes the array's place.
    """
    kept = ", to be kept in its place" if writable else ""
    package = type(source).__module__.partition(".")[0]
    if package == "torch":
        return "; its detach().numpy() is a NumPy array on the same memory"
    if package in ("jax", "jaxlib"):
        return "; numpy.array makes a copy that can be written, and jitted functions take NumPy arrays"
    if not isinstance(source, ndarray) or is_masked(source):
        return ""
    if source.dtype == float32:
        if not source.flags.c_contiguous and fits:
            return f"; numpy.ascontiguousarray makes a contiguous copy{kept}"
        return "" if source.flags.aligned or not fits else f"; its copy() is aligned{kept}"
    if source.dtype.kind == "f":
        return "; cast the data and the parameters once, with fastopt.cast"
    return f"; its astype(numpy.float32) is a float32 copy{kept}" if source.dtype.kind in "iub" else ""


cdef object refusal(object error, object source, object name, char kind, bint writable, const Py_buffer* like):
    """The error for `source`; expected is the shape of `like`, or any if that is NULL."""
    return wrong_shape(error, source, name, kind, writable, None if like == NULL else shape_of(like))


cdef object wrong_shape(object error, object source, object name, char kind, bint writable, object shape):
    expected = f"{'writable ' if writable else ''}C-contiguous {ELEMENT[chr(kind)]}"
    expected += " array" if shape is None else f" of shape {shape}"
    fits = shape is None or getattr(source, "shape", None) == shape
    hint = advice(source, fits, writable) if kind == c"f" else ""
    return error(f"{label(name)}: expected {expected}, got {describe(source)}{hint}")


cdef bint is_kind(const Py_buffer* view, char kind) noexcept:
    cdef const char* form = view.format
    if form == NULL:
        return False
    if form[0] == c"=" or form[0] == c"@":      # native order; NumPy writes "=" for misaligned arrays
        form += 1
    if form[0] == 0 or form[1] != 0:
        return False
    if kind == c"q":     # NumPy's int64 is C's long on most systems, long long on the others
        return form[0] == c"q" or (form[0] == c"l" and view.itemsize == 8)
    return form[0] == kind


cdef bint usable(const Py_buffer* view, char kind, bint writable) noexcept:
    """Whether a kernel can use this buffer."""
    return (is_kind(view, kind) and PyBuffer_IsContiguous(<Py_buffer*> view, c"C")
            and <size_t> view.buf % <size_t> view.itemsize == 0 and not (writable and view.readonly))


cdef tuple shape_of(const Py_buffer* view):
    if view.ndim == 2:
        return (view.shape[0], view.shape[1])       # a third of the time
    if view.ndim == 1:
        return (view.shape[0],)
    return tuple([view.shape[i] for i in range(view.ndim)])


cdef int acquire(Py_buffer* view, object source, object name, char kind, bint writable,
                 const Py_buffer* like) except -1:
    """Fill `view` with the validated buffer of `source`, which the caller releases.

    Its shape must be that of `like`, unless that is NULL. On error `view` is empty.
    """
    clear(view)
    if type(source) is not ndarray and is_masked(source):
        raise refusal(TypeError, source, name, kind, writable, like)
    if get_buffer(source, view, DESCRIBED) < 0:     # a `try` statement takes 30 ns
        clear(view)
        require_no_other_error()
        raise refusal(TypeError, source, name, kind, writable, like)
    if usable(view, kind, writable) and (like == NULL or same_shape(view, like)):
        return 0
    error = ValueError if is_kind(view, kind) else TypeError
    PyBuffer_Release(view)
    raise refusal(error, source, name, kind, writable, like)


cdef int require_no_other_error() except -1:
    """Clear the error that an exporter has set, if it says that there is no such buffer; otherwise raise it."""
    if not PyErr_ExceptionMatches((TypeError, ValueError, BufferError)):
        return -1
    PyErr_Clear()
    return 0


cdef const Head* usable_head(object source, char kind, bint writable) noexcept:
    """The head of an ndarray that a kernel can use; NULL for other sources, and perhaps for some that it can use."""
    cdef const Head* head = <const Head*> <PyObject*> source
    cdef object descr = float32 if kind == c"f" else float64 if kind == c"d" else int64
    if not reads_heads or type(source) is not ndarray:
        return NULL
    return head if is_usable_head(head, <PyObject*> descr, 4 if kind == c"f" else 8, writable) else NULL


cdef bint same_shape(const Py_buffer* a, const Py_buffer* b) noexcept:
    cdef int i
    if a.ndim != b.ndim:
        return False
    for i in range(a.ndim):
        if a.shape[i] != b.shape[i]:
            return False
    return True


cdef bint head_agrees(object array):
    """Whether what `Head` reads is what NumPy says of the array."""
    cdef const Head* head = <const Head*> <PyObject*> array
    cdef Py_ssize_t i
    flags = array.flags
    if not (<size_t> head.data == array.__array_interface__["data"][0] and head.nd == array.ndim
            and head.descr == <PyObject*> array.dtype
            and head.base == (NULL if array.base is None else <PyObject*> array.base)
            and bool(head.flags & C_CONTIGUOUS) == flags.c_contiguous
            and bool(head.flags & ALIGNED) == flags.aligned and bool(head.flags & WRITEABLE) == flags.writeable):
        return False
    for i in range(head.nd):    # the pointers to them stand between fields that agree
        if head.dimensions[i] != array.shape[i] or head.strides[i] != array.strides[i]:
            return False
    return True


cdef bint heads_agree():
    if ndarray.__basicsize__ < <Py_ssize_t> sizeof(Head):
        return False
    matrix, fixed = numpy.zeros((4, 6), numpy.float32), numpy.zeros(3, numpy.float32)
    fixed.flags.writeable = False
    probes = [matrix, matrix.T, matrix[1:3, ::2], fixed, numpy.zeros((), numpy.float32), numpy.zeros((0, 3)),
              numpy.zeros((1, 2, 1, 2, 1, 2), numpy.int32), numpy.zeros(5, ">f4"),
              numpy.zeros(13, numpy.uint8)[1:].view(numpy.float32)]
    return all([head_agrees(probe) for probe in probes])


cdef bint reads_heads = heads_agree()


def swap_reads_heads(bint on):
    """Whether arrays that are bound from now on are compared by their heads, for tests; return the previous setting."""
    global reads_heads
    cdef bint before = reads_heads
    reads_heads = on
    return before


cdef int know(Known* known, object source, const Py_buffer* view, const Py_buffer* like, bint writable) except -1:
    """Remember `source` as it is now: `view` is its validated buffer and `like` one of the same shape.

    All three must be held as long as they are compared with `known`.
    """
    set_known(known, source, view, like, writable, reads_heads and type(source) is ndarray)
    return 0


cdef bint same_buffer(const Known* known) except -1:
    """What same_head says, for any exporter. Code of the exporter's own may run."""
    cdef Py_buffer view
    cdef bint same
    cdef int i
    clear(&view)
    try:
        PyObject_GetBuffer(<object> known.array, &view, DESCRIBED)
    except (TypeError, ValueError, BufferError):
        return False
    same = (view.buf == known.data and view.ndim == known.ndim
            and usable(&view, c"f", known.flags & WRITEABLE != 0))
    for i in range(view.ndim if same else 0):
        same = same and view.shape[i] == known.shape[i]
    PyBuffer_Release(&view)
    return same


cdef bint overlap(const Py_buffer* a, const Py_buffer* b) noexcept:
    """Whether two contiguous buffers share a byte."""
    cdef size_t start = <size_t> a.buf, other = <size_t> b.buf
    return a.len > 0 and b.len > 0 and start < other + <size_t> b.len and other < start + <size_t> a.len


cdef Py_ssize_t elements(const Py_buffer* view) noexcept:
    return view.len // view.itemsize


cdef class Array:
    """A validated array and a reference to its memory. Kernels take these and validate nothing themselves.

    Array(source, name, *, kind="f", writable=False, shape=None): `kind` is "f", "d" or "q" (float32, float64,
    int64), `shape` a tuple, or None for any shape.
    """

    def __cinit__(self):
        clear(&self.view)

    def __init__(self, source, name, *, str kind="f", bint writable=False, tuple shape=None):
        cdef char code = ord(kind)
        if self.data != NULL:
            raise TypeError("Array: expected one call of __init__, got another")
        self.fill(source, name, code, writable, NULL)
        if shape is not None and shape_of(&self.view) != shape:
            raise wrong_shape(ValueError, source, name, code, writable, shape)

    cdef int fill(self, object source, object name, char kind, bint writable, const Py_buffer* like) except -1:
        cdef const Head* head = usable_head(source, kind, writable)
        self.name = name
        self.writable = writable
        if head == NULL or head.nd > AXES or not self.hold(source, head, 4 if kind == c"f" else 8, like):
            acquire(&self.view, source, name, kind, writable, like)
        self.size = elements(&self.view)
        self.data = self.view.buf
        return 0

    cdef bint hold(self, object source, const Head* head, Py_ssize_t itemsize, const Py_buffer* like) noexcept:
        """What `acquire` does, in a fifth of the time: the buffer as the array's head describes it, and a reference."""
        cdef Py_ssize_t size = itemsize
        cdef int i
        for i in range(head.nd):
            self.lengths[i] = head.dimensions[i]
            size *= head.dimensions[i]
        self.view.buf, self.view.len, self.view.itemsize = head.data, size, itemsize
        self.view.ndim, self.view.shape = head.nd, self.lengths
        if like != NULL and not same_shape(&self.view, like):
            return False
        self.source = source
        return True

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    @property
    def shape(self):
        return shape_of(&self.view)


cdef Array array_of(object source, object name, char kind, bint writable, const Py_buffer* like):
    """Array() for compiled code. The shape must be that of `like`, unless that is NULL."""
    cdef Array made = Array.__new__(Array)
    made.fill(source, name, kind, writable, like)
    return made


def array_like(source, name, bint writable, Array like not None):
    """Array() of float32 and of the shape of `like`."""
    return array_of(source, name, c"f", writable, &like.view)


def array_if_like(source, name, Array like not None):
    """What array_like returns for an input; None for a source that it refuses, and perhaps for some others."""
    cdef const Head* head = usable_head(source, c"f", False)
    cdef Array made = Array.__new__(Array)
    if head == NULL or head.nd > AXES or not made.hold(source, head, 4, &like.view):
        return None
    made.name, made.size, made.data = name, elements(&made.view), made.view.buf
    return made


def copied_int64(source, name, Array logits=None):
    """An Array of a copy of an int64 array; with one element for each row of the logits, if they are given.

    None for any other source, and perhaps for some that could be copied. The memory is that of a bytes object, which
    takes a tenth of the time of a new ndarray.
    """
    cdef const Head* head = usable_head(source, c"q", False)
    cdef Array made = Array.__new__(Array)
    cdef Py_ssize_t i
    if head == NULL or head.nd > AXES or (logits is not None and head.nd != logits.view.ndim - 1):
        return None
    for i in range(0 if logits is None else head.nd):
        if head.dimensions[i] != logits.view.shape[i]:
            return None
    made.hold(None, head, 8, NULL)
    made.source = PyBytes_FromStringAndSize(head.data, made.view.len)
    made.data = made.view.buf = PyBytes_AsString(made.source)
    made.name, made.size = name, elements(&made.view)
    return made


cdef bint is_vector(const Py_buffer* view, Py_ssize_t size) noexcept:
    """Whether the buffer has one axis of `size` elements, and else only axes of length 1."""
    cdef int i
    cdef bint found = False
    for i in range(view.ndim):
        if view.shape[i] == 1:
            continue
        if found or view.shape[i] != size:
            return False
        found = True
    return found or (size == 1 and view.ndim > 0)


cdef Array vector_of(object source, object name, char kind, bint writable, Py_ssize_t size):
    """An array of shape (size,), or with more axes of length 1."""
    cdef Array made = array_of(source, name, kind, writable, NULL)
    if made.size != size or (made.view.ndim != 1 and not is_vector(&made.view, size)):
        raise wrong_shape(ValueError, source, name, kind, writable, (size,))
    return made


cdef object overlap_error(object name, object other):
    return ValueError(f"{label(name)}: expected memory of its own, got an array that overlaps {label(other)}")


def require_disjoint(*arrays):
    """Refuse two Arrays that share memory if at least one of them is written. None entries are ignored."""
    cdef Array a, b
    cdef Py_ssize_t i, j
    for i in range(len(arrays)):
        if arrays[i] is None:
            continue
        a = arrays[i]
        for j in range(i):
            if arrays[j] is None:
                continue
            b = arrays[j]
            if (a.writable or b.writable) and overlap(&a.view, &b.view):
                raise overlap_error(a.name, b.name)


cpdef int require_disjoint_or_same(Array written, Array read) except -1:
    """Refuse an output that overlaps an input, unless the two are the same memory: an in-place call."""
    if written.data != read.data and overlap(&written.view, &read.view):
        name = label(read.name)
        raise ValueError(f"{label(written.name)}: expected memory of its own or that of {name}, got an array that "
                         f"overlaps {name} in part")
    return 0


def require_disjoint_from_copied(written, name, source, source_name):
    """Refuse an output that may overlap an ndarray of any type and layout, of which the kernel reads a copy."""
    cdef Array a, b
    if usable_head(source, c"q", False) != NULL:        # contiguous
        a, b = array_of(written, name, c"f", True, NULL), array_of(source, source_name, c"q", False, NULL)
        if overlap(&a.view, &b.view):
            raise overlap_error(name, source_name)
    elif may_share_memory(written, source):
        raise overlap_error(name, source_name)


def copy_arrays(list written, list read):
    """Copy the elements of every Array in `read` to the one at the same place in `written`, of its shape and type.

    An interrupt comes before or after, since no Python code runs in between. Arrays of one list may overlap those of
    the other.
    """
    cdef Array source, target
    cdef Py_ssize_t total = 0
    cdef char* memory
    cdef char* at
    for target, source in zip(written, read, strict=True):
        if not target.writable or not same_shape(&target.view, &source.view) or target.view.len != source.view.len:
            raise ValueError(f"{label(target.name)}: expected an output like {label(source.name)}, got another")
        total += source.view.len
    memory = <char*> malloc(max(total, 1))
    if memory == NULL:
        raise MemoryError
    at = memory
    for source in read:
        memcpy(at, source.data, source.view.len)
        at += source.view.len
    at = memory
    for target in written:
        memcpy(target.data, at, target.view.len)
        at += target.view.len
    free(memory)


cpdef bint same_memory(Array a, Array b) noexcept:
    """Whether two Arrays of the same shape are the same memory."""
    return a.data == b.data
