/* What Cython does not express: whether a Py_buffer holds an object, without counting a reference to it; and whether an
   array is still as it was when its buffer was acquired. */
#ifndef FASTOPT_ARRAYS_H
#define FASTOPT_ARRAYS_H

#define fastopt_clear(view) ((view)->obj = NULL)
#define fastopt_held(view) ((view)->obj != NULL)

/* The head of numpy.ndarray: PyArrayObject_fields of NumPy's ndarraytypes.h, part of its ABI since 1.7. It is declared
   here because no NumPy headers are used, and read only if arrays.pyx finds that the NumPy that is loaded has it. */
typedef struct {
    PyObject_HEAD
    char* data;
    int nd;
    Py_ssize_t* dimensions;
    Py_ssize_t* strides;
    PyObject* base;
    PyObject* descr;
    int flags;
} fastopt_head;

enum { FASTOPT_C_CONTIGUOUS = 0x0001, FASTOPT_ALIGNED = 0x0100, FASTOPT_WRITEABLE = 0x0400 };
#define FASTOPT_WARN_ON_WRITE 0x80000000u

/* Whether an array of this head can be used by a kernel; `descr` is the dtype it must have, which NumPy has once. NumPy
   exports an array that it warns of writing to as read-only. */
static inline int fastopt_usable_head(const fastopt_head* head, const PyObject* descr, size_t itemsize, int writable) {
    const int needed = FASTOPT_C_CONTIGUOUS | FASTOPT_ALIGNED | (writable ? FASTOPT_WRITEABLE : 0);
    return head->descr == descr && (head->flags & needed) == needed && (size_t) head->data % itemsize == 0
        && !(writable && (unsigned) head->flags & FASTOPT_WARN_ON_WRITE);
}

/* An array as it was when its buffer was acquired. A held buffer keeps the array alive, but its owner can still resize
   it, or assign to its shape, dtype, strides or flags. */
typedef struct {
    PyObject* array;            /* borrowed; NULL: none */
    const void* data;
    const Py_ssize_t* shape;    /* of a held buffer */
    int ndim;
    int flags;                  /* those it must have */
    PyObject* descr;            /* owned, so that no other dtype takes its address; NULL: the head is not to be read */
} fastopt_known;

static inline void fastopt_forget(fastopt_known* known) {
    PyObject* descr = known->descr;
    known->array = NULL;
    known->descr = NULL;
    Py_XDECREF(descr);
}

/* `view` is the validated buffer of `array` and `like` one of the same shape; `direct` says that the array has the head
   above. */
static inline void fastopt_know(fastopt_known* known, PyObject* array, const Py_buffer* view, const Py_buffer* like,
                                int writable, int direct) {
    fastopt_forget(known);
    known->array = array;
    known->data = view->buf;
    known->shape = like->shape;
    known->ndim = view->ndim;
    known->flags = FASTOPT_C_CONTIGUOUS | FASTOPT_ALIGNED | (writable ? FASTOPT_WRITEABLE : 0);
    if (direct) {
        known->descr = ((const fastopt_head*) array)->descr;
        Py_INCREF(known->descr);
    }
}

/* Whether the head is still the same in all that matters to a kernel. About 2 ns. */
static inline int fastopt_same_head(const fastopt_known* known) {
    const fastopt_head* head = (const fastopt_head*) known->array;
    if (head->data != (const char*) known->data || head->descr != known->descr || head->nd != known->ndim
            || (head->flags & known->flags) != known->flags) return 0;
    for (int i = 0; i < known->ndim; i++)
        if (head->dimensions[i] != known->shape[i]) return 0;
    return 1;
}

#endif
