# Validated buffers. See arrays.pyx.

# PyBUF_STRIDES | PyBUF_FORMAT: the exporter describes itself, and we judge (so that the message can say what came).
cdef enum:
    DESCRIBED = 0x0018 | 0x0004

cdef extern from *:
    """
    #define fastopt_clear(view) ((view)->obj = NULL)
    #define fastopt_held(view) ((view)->obj != NULL)
    #define fastopt_holds(view, object) ((view)->obj == (object))
    """
    void clear "fastopt_clear"(Py_buffer* view) noexcept nogil           # before the first acquire
    bint held "fastopt_held"(const Py_buffer* view) noexcept nogil
    bint holds "fastopt_holds"(const Py_buffer* view, object source) noexcept

cdef int acquire(Py_buffer* view, object source, object name, char kind, bint writable, const Py_buffer* like) except -1
cdef bint usable(const Py_buffer* view, char kind, bint writable) noexcept
cdef bint same_shape(const Py_buffer* a, const Py_buffer* b) noexcept
cdef bint overlap(const Py_buffer* a, const Py_buffer* b) noexcept
cdef Py_ssize_t elements(const Py_buffer* view) noexcept
cdef object label(object name)
cdef tuple shape_of(const Py_buffer* view)

cdef class Array:
    cdef Py_buffer view
    cdef readonly object name
    cdef readonly bint writable
    cdef readonly Py_ssize_t size
    cdef void* data
    cdef int fill(self, object source, object name, char kind, bint writable, const Py_buffer* like) except -1

cdef Array array_of(object source, object name, char kind, bint writable, const Py_buffer* like)
cdef Array vector_of(object source, object name, char kind, bint writable, Py_ssize_t size)
