# How kernels tell the compiler and the processor about memory.

cdef extern from *:
    """
    typedef const float* __restrict fastopt_in;
    typedef float* __restrict fastopt_inout;
    typedef double* __restrict fastopt_inout64;
    typedef const double* __restrict fastopt_in64;
    typedef int* __restrict fastopt_inout_int;

    #ifdef _MSC_VER
        #define FASTOPT_LINE __declspec(align(64))
    #else
        #define FASTOPT_LINE __attribute__((aligned(64)))
    #endif

    /* Memory that is only written is loaded first. Asking for it while there is arithmetic to do takes a third off
       log_softmax of (512, 32000), which is three times the second-level cache. */
    #ifdef __GNUC__
        #define fastopt_prefetch_for_writing(p) __builtin_prefetch(p, 1, 3)
    #else
        #define fastopt_prefetch_for_writing(p) ((void) (p))
    #endif

    /* n, about which the compiler is told nothing. Loops of a known, small bound are unrolled before vectors are looked
       for, and then none are found. */
    static CYTHON_INLINE int fastopt_unknown(int n) {
    #ifdef __GNUC__
        __asm__("" : "+r"(n));
    #endif
        return n;
    }
    """
    ctypedef const float* IN "fastopt_in"               # read; no other argument's memory
    ctypedef float* INOUT "fastopt_inout"               # read and written; no other argument's memory
    ctypedef double* INOUT64 "fastopt_inout64"
    ctypedef const double* IN64 "fastopt_in64"
    ctypedef int* INOUT_INT "fastopt_inout_int"
    void prefetch_for_writing "fastopt_prefetch_for_writing"(const void* p) noexcept nogil
    int unknown "fastopt_unknown"(int n) noexcept nogil
