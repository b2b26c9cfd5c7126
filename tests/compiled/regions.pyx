# Tasks for the parallel region of fastopt/_runtime/parallel.pyx that tell how it runs them.

from libc.stdlib cimport calloc, free

from fastopt._runtime.parallel cimport parallel_for

cdef extern from *:
    """
    #include <time.h>
    #ifdef _MSC_VER
        #include <windows.h>
        #include <intrin.h>
        #define COUNT(counter) _InterlockedIncrement(&(counter))
        #define COUNTED(counter) (*(volatile long*) &(counter))
        static void rest(long milliseconds) { Sleep(milliseconds); }
    #else
        #define COUNT(counter) __atomic_add_fetch(&(counter), 1, __ATOMIC_SEQ_CST)
        #define COUNTED(counter) __atomic_load_n(&(counter), __ATOMIC_SEQ_CST)
        static void rest(long milliseconds) {
            struct timespec length = {milliseconds / 1000, milliseconds % 1000 * 1000000};
            nanosleep(&length, NULL);
        }
    #endif
    typedef struct { long wanted, present, missed, milliseconds; long* times; } census;

    /* Wait in the task until this many are in theirs, or for a minute; then let the last task take its time. */
    static void meet(void* context, Py_ssize_t index) {
        census* c = (census*) context;
        time_t start = time(NULL);
        COUNT(c->present);
        while (COUNTED(c->present) < c->wanted && !COUNTED(c->missed))
            if (time(NULL) - start > 60) COUNT(c->missed);
        if (index == c->wanted - 1 && c->milliseconds) rest(c->milliseconds);
    }

    static void tick(void* context, Py_ssize_t index) { COUNT(((census*) context)->times[index]); }
    """
    ctypedef struct Census "census":
        long wanted
        long present
        long missed
        long milliseconds
        long* times
    void meet_task "meet"(void* context, Py_ssize_t index) noexcept nogil
    void tick_task "tick"(void* context, Py_ssize_t index) noexcept nogil


def meet(int threads, long milliseconds=0):
    """Whether as many tasks as threads, which wait for each other, are all running at the same time.

    `milliseconds`: how much later than the others the last one ends.
    """
    cdef Census context = Census(threads, 0, 0, milliseconds, NULL)
    with nogil:
        parallel_for(meet_task, &context, threads, threads)
    return context.missed == 0


def times_run(Py_ssize_t count, int threads):
    """How often each task of a region was run."""
    cdef Census context = Census(0, 0, 0, 0, NULL)
    cdef Py_ssize_t i
    context.times = <long*> calloc(count + 1, sizeof(long))
    if context.times == NULL:
        raise MemoryError
    with nogil:
        parallel_for(tick_task, &context, count, threads)
    times = [context.times[i] for i in range(count)]
    free(context.times)
    return times
