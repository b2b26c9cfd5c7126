# Validated arrays: arrays.pyx.
from cpython.object cimport PyObject

# PyBUF_STRIDES | PyBUF_FORMAT: accepts any strides and element type, so that our error can describe the array.
cdef enum:
    DESCRIBED = 0x0018 | 0x0004

cdef extern from "arrays.h":
    void clear "fastopt_clear"(Py_buffer* view) noexcept nogil           # before the first acquire
    bint held "fastopt_held"(const Py_buffer* view) noexcept nogil

    ctypedef struct Head "fastopt_head":
        char* data
        int nd
        Py_ssize_t* dimensions
        Py_ssize_t* strides
        PyObject* base
        PyObject* descr
        int flags

    ctypedef struct Known "fastopt_known":
        PyObject* array
        const void* data
        const Py_ssize_t* shape
        int ndim
        int flags
        PyObject* descr
    enum:
        WRITEABLE "FASTOPT_WRITEABLE"
    void forget "fastopt_forget"(Known* known) noexcept
    bint same_head "fastopt_same_head"(const Known* known) noexcept

cdef const Head* usable_head(object source, char kind, bint writable) noexcept
cdef int acquire(Py_buffer* view, object source, object name, char kind, bint writable, const Py_buffer* like) except -1
cdef int know(Known* known, object source, const Py_buffer* view, const Py_buffer* like, bint writable) except -1
cdef bint same_buffer(const Known* known) except -1
cdef bint is_kind(const Py_buffer* view, char kind) noexcept
cdef bint usable(const Py_buffer* view, char kind, bint writable) noexcept
cdef bint same_shape(const Py_buffer* a, const Py_buffer* b) noexcept
cdef bint overlap(const Py_buffer* a, const Py_buffer* b) noexcept
cdef Py_ssize_t elements(const Py_buffer* view) noexcept
cdef object label(object name)
cpdef bint is_masked(object source) except -1
cdef object overlap_error(object name, object other)
cdef tuple shape_of(const Py_buffer* view)

cdef enum:
    AXES = 4                            # arrays of at most so many are held by their heads

cdef class Array:
    cdef Py_buffer view                 # without its strides
    cdef Py_ssize_t lengths[AXES]
    cdef object source
    cdef readonly object name
    cdef readonly bint writable
    cdef readonly Py_ssize_t size
    cdef void* data
    cdef bint hold(self, object source, const Head* head, Py_ssize_t itemsize, const Py_buffer* like) noexcept
    cdef int fill(self, object source, object name, char kind, bint writable, const Py_buffer* like) except -1

cdef Array array_of(object source, object name, char kind, bint writable, const Py_buffer* like)
cdef Array vector_of(object source, object name, char kind, bint writable, Py_ssize_t size)

cpdef int require_disjoint_or_same(Array written, Array read) except -1
cpdef bint same_memory(Array a, Array b) noexcept
