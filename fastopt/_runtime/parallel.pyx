# The one module that knows of threads: one parallel loop, and how many threads it gets.
#
# Design
# ------
# A kernel cuts its work into tasks whose bounds depend on sizes alone and hands them to `parallel_for`. Which
# thread runs a task is free; what the task computes is not: so results have the same bits for any thread count.
# The threads are those of pool.pxd, which says why; OpenMP's where there are no POSIX threads. In both cases OpenMP's
# settings are the ones that users know, and they are obeyed.
#
# How many threads (`threads_for`), in this order:
#   1. work shorter than the serial threshold runs on the calling thread;
#   2. so does work inside another OpenMP region, or in a forked child: libgomp would wait for threads that do not
#      exist there if they had run in the parent, for us or for any other library that shares it;
#   3. `num_threads(n)` of this Python thread, else `set_num_threads(n)` or FASTOPT_NUM_THREADS;
#   4. else OpenMP's own count, cut to the CPUs this process may run on and to its cgroup's quota, unless the user
#      set OMP_NUM_THREADS, which is taken as it is;
#   5. in every case no more than a limit set through OpenMP since import (threadpoolctl does so).
from cython.parallel cimport prange
from libc.stdlib cimport calloc, free

from fastopt._runtime.pool cimport HAS_POOL, pool_run

cdef extern from *:
    """
    #ifdef _MSC_VER
        #define FASTOPT_THREAD_LOCAL __declspec(thread)
    #else
        #define FASTOPT_THREAD_LOCAL __thread
    #endif
    /* `num_threads(n)` of the calling thread; 0: none. */
    static FASTOPT_THREAD_LOCAL int fastopt_thread_request = 0;

    #if defined(__linux__)
        #include <sched.h>
        /* CPUs the calling thread may run on; 0 where the kernel does not say. */
        static int fastopt_affinity(void) {
            cpu_set_t set;
            return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
        }
    #else
        static int fastopt_affinity(void) { return 0; }
    #endif

    static int fastopt_used = 0;        /* whether a parallel region has run: for tests */
    static int fastopt_forked = 0;
    #ifndef _MSC_VER
        #include <pthread.h>
        static void fastopt_in_child(void) { fastopt_forked = 1; }
        static void fastopt_watch_forks(void) { pthread_atfork(NULL, NULL, fastopt_in_child); }
    #else
        static void fastopt_watch_forks(void) { }
    #endif
    """
    int thread_request "fastopt_thread_request"
    int used "fastopt_used"
    int forked "fastopt_forked"
    int affinity "fastopt_affinity"() noexcept nogil
    void watch_forks "fastopt_watch_forks"() noexcept nogil

cdef extern from *:
    """
    #ifdef _OPENMP
        #include <omp.h>
        static const int fastopt_openmp = _OPENMP;
    #else
        static const int fastopt_openmp = 0;
        static int omp_get_max_threads(void) { return 1; }
        static int omp_in_parallel(void) { return 0; }
    #endif
    """
    int omp_get_max_threads() noexcept nogil
    int omp_in_parallel() noexcept nogil
    int _OPENMP "fastopt_openmp"

# Work shorter than this, in nanoseconds of one core, runs serially: docs/threads.md has the measurement.
cdef double serial_below = 20000.0

cdef bint use_pool = HAS_POOL           # else OpenMP's regions
cdef int process_request = 0            # set_num_threads or FASTOPT_NUM_THREADS; 0: automatic
cdef int quota = 0                      # CPUs of the cgroup's quota, rounded up; 0: unlimited
cdef bint openmp_is_explicit = False    # OMP_NUM_THREADS is set: taken as it is
cdef int openmp_at_import = omp_get_max_threads()

watch_forks()


cdef int most_threads() noexcept nogil:
    """Threads that work of any size may use, without regard to where it is called from."""
    cdef int openmp = omp_get_max_threads()
    cdef int threads = thread_request if thread_request > 0 else process_request
    cdef int cpus
    if threads > 0:
        return min(threads, openmp) if openmp < openmp_at_import else threads
    threads = openmp
    if not openmp_is_explicit:
        cpus = affinity()
        if cpus > 0:
            threads = min(threads, cpus)
        if quota > 0:
            threads = min(threads, quota)
    return max(threads, 1)


cdef int threads_for(double nanoseconds) noexcept nogil:
    """Threads for work that takes one core about so long."""
    if nanoseconds < serial_below or forked or omp_in_parallel():
        return 1
    return most_threads()


cdef void parallel_for(task_fn task, void* context, Py_ssize_t count, int threads) noexcept nogil:
    """Call task(context, i) once for each i in [0, count), in any order, on so many threads.

    With one thread, or while another call has the pool, all of them run here.
    """
    global used
    cdef Py_ssize_t i
    if threads > count:
        threads = <int> count
    if threads > 1:
        used = 1
        if use_pool:
            if pool_run(task, context, count, threads):
                return
        else:
            for i in prange(count, num_threads=threads, schedule="static"):
                task(context, i)
            return
    for i in range(count):
        task(context, i)


# For fastopt._runtime.threads, which holds the policy's Python side, and for tests.

def configure(int request, int cgroup_quota, bint explicit_openmp):
    global process_request, quota, openmp_is_explicit
    process_request = request
    quota = cgroup_quota
    openmp_is_explicit = explicit_openmp


def set_process_request(int threads):
    global process_request
    process_request = threads


def swap_thread_request(int threads):
    """Set this Python thread's own request (0: none) and return the one before."""
    global thread_request
    cdef int before = thread_request
    thread_request = threads
    return before


def swap_serial_below(double nanoseconds):
    """Set the serial threshold and return the one before."""
    global serial_below
    before = serial_below
    serial_below = nanoseconds
    return before


def swap_pool(bint pool):
    """Use the pool, or OpenMP's regions, from now on; return what was used before. For measurements and tests."""
    global use_pool
    before = use_pool
    use_pool = pool and HAS_POOL
    return before


def threads():
    """Threads that work of any size gets if it is started here and now."""
    return threads_for(serial_below)


def state():
    """Every fact the policy looks at, by name."""
    return {
        "openmp": _OPENMP,
        "threads": threads_for(serial_below),
        "openmp_threads": omp_get_max_threads(),
        "openmp_threads_at_import": openmp_at_import,
        "affinity": affinity(),
        "quota": quota,
        "thread_request": thread_request,
        "process_request": process_request,
        "openmp_is_explicit": bool(openmp_is_explicit),
        "used": bool(used),
        "forked": bool(forked),
        "serial_below": serial_below,
    }


cdef extern from *:
    """
    #include <time.h>
    #ifdef _MSC_VER
        #include <intrin.h>
        #define FASTOPT_COUNT(counter) _InterlockedIncrement(&(counter))
    #else
        #define FASTOPT_COUNT(counter) __atomic_add_fetch(&(counter), 1, __ATOMIC_SEQ_CST)
    #endif
    typedef struct { long wanted; volatile long present, missed; long* times; } fastopt_census;

    /* Wait in the task until so many others are in theirs, or for 10 seconds. */
    static void fastopt_meet(void* context, Py_ssize_t index) {
        fastopt_census* census = (fastopt_census*) context;
        time_t start = time(NULL);
        FASTOPT_COUNT(census->present);
        while (census->present < census->wanted && !census->missed)
            if (time(NULL) - start > 10) FASTOPT_COUNT(census->missed);
    }

    static void fastopt_tick(void* context, Py_ssize_t index) {
        FASTOPT_COUNT(((fastopt_census*) context)->times[index]);
    }
    """
    ctypedef struct Census "fastopt_census":
        long wanted
        long present
        long missed
        long* times
    void meet_others "fastopt_meet"(void* context, Py_ssize_t index) noexcept nogil
    void tick "fastopt_tick"(void* context, Py_ssize_t index) noexcept nogil


def meet(int threads):
    """Whether so many tasks that wait for each other are all at work at the same time."""
    cdef Census context = Census(threads, 0, 0, NULL)
    with nogil:
        parallel_for(meet_others, &context, threads, threads)
    return context.missed == 0


def times_run(Py_ssize_t count, int threads):
    """How often each task of a parallel loop was run."""
    cdef Census context = Census(0, 0, 0, NULL)
    cdef Py_ssize_t i
    context.times = <long*> calloc(count + 1, sizeof(long))
    if context.times == NULL:
        raise MemoryError
    with nogil:
        parallel_for(tick, &context, count, threads)
    times = [context.times[i] for i in range(count)]
    free(context.times)
    return times
