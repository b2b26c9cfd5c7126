# The only module that deals with threads: the OpenMP parallel region in which every kernel runs, and the team's size.
#
# Design
# ------
# A kernel cuts its work into tasks whose bounds depend on sizes alone and hands them to `parallel_for`, which runs them
# in a `prange` region. Any thread may run any task, and what a task computes does not depend on the thread: so results
# have the same bits for any number of threads.
#
# Each member of the team owns a share of consecutive tasks, so that a core finds in its cache what it worked on in
# the previous call, and steals from the other shares when its own is done (work stealing). If a member starts late, or
# loses its core to another process, the others run its tasks.
#
# At the end of a region OpenMP's barrier waits for every member, even for one that has had no core to run on yet.
# Next to the threads of NumPy's BLAS, which go on spinning after a matrix product, that can cost a time slice of
# milliseconds where microseconds of work were to be shared. Two measures (docs/threads.md has the figures):
#
#   - a short spin: fastopt/_runtime/__init__.py has libgomp's threads spin for microseconds, not milliseconds;
#   - back-off: the time that a region saves compared with running its tasks serially is credit; the time that it loses
#     is subtracted. Without credit, calls run on the calling thread alone for a multiple of the loss. The multiple
#     doubles each time and is halved when the team has earned its credit: a single delay costs little, and a team whose
#     cores are never free is tried rarely.
#
# How many threads (`threads_for`), in this order:
#   1. work shorter than the serial threshold runs on the calling thread;
#   2. so does work inside another OpenMP region; in a forked child, where libgomp would wait for threads that do not
#      exist if they had run in the parent, for us or for any other library that shares it; and during
#      back-off;
#   3. `num_threads(n)` of this Python thread, else `set_num_threads(n)` or FASTOPT_NUM_THREADS;
#   4. else OpenMP's own count, cut to the CPUs this process may run on and to its cgroup's quota, unless the user
#      set OMP_NUM_THREADS, which is taken as it is;
#   5. in every case no more than a limit set through OpenMP since import (threadpoolctl sets one).
from cython.parallel cimport prange

cdef extern from "parallel.h" nogil:
    ctypedef struct FloatEnvironment "fastopt_fenv":
        pass
    FloatEnvironment get_float_environment "fastopt_get_fenv"()
    void set_float_environment "fastopt_set_fenv"(FloatEnvironment environment)
    int omp_get_max_threads()
    int omp_in_parallel()
    int _OPENMP "fastopt_openmp"
    int thread_request "fastopt_thread_request"
    int team "fastopt_team"
    int forked "fastopt_forked"
    int affinity "fastopt_affinity"()
    void watch_forks "fastopt_watch_forks"()
    long long now "fastopt_now"()
    ctypedef struct Signals "fastopt_signals":
        pass
    void block_signals "fastopt_block_signals"(Signals* before)
    void restore_signals "fastopt_restore_signals"(const Signals* before)
    int can_start "fastopt_can_start"(int count)
    long long fetch_add "fastopt_fetch_add"(long long* value, long long n)
    bint claim "fastopt_claim"(int* flag)
    void release "fastopt_release"(int* flag)
    long long load "fastopt_load"(const long long* value)
    void store "fastopt_store"(long long* value, long long n)

cdef enum:
    MEMBERS = 1024          # of a team, at most
    ADVANCE = 200000        # nanoseconds of credit to begin with: waking a sleeping team takes 50 to 100 microseconds
    MOST_CREDIT = 1000000
    LEAST_MULTIPLE = 16     # without credit, calls run serially for this
    MOST_MULTIPLE = 1024    # to this many times the time lost,
    WORTH = 8               # work of this many times the delay is shared even then
    LONGEST = 1000000000    # and for this many nanoseconds at most

# Work shorter than this, in nanoseconds of one core, runs serially: docs/threads.md has the measurement.
cdef double serial_below = 20000.0

cdef int process_request = 0            # set_num_threads or FASTOPT_NUM_THREADS; 0: automatic
cdef int quota = 0                      # CPUs of the cgroup's quota, rounded up; 0: unlimited
cdef bint openmp_is_explicit = False    # OMP_NUM_THREADS is set: taken as it is
cdef int openmp_at_import = omp_get_max_threads()
cdef long long regions = 0              # run so far
cdef bint backs_off = True              # off in tests and measurements of regions
cdef long long alone_until = 0          # by the clock of now()
cdef long long delay = 0                # what a region has lost lately, in nanoseconds
cdef long long credit = ADVANCE, multiple = LEAST_MULTIPLE

watch_forks()


# The region

cdef struct Share:
    long long next          # the first task that nobody has taken
    long long end
    long long begun         # whether its owner is at work
    long long padding[13]   # against false sharing: 128 bytes, as adjacent lines are prefetched in pairs

cdef struct Region:
    task_fn task
    void* context
    int members
    FloatEnvironment environment        # the caller's
    long long done          # tasks that the caller itself has run
    long long began         # when it looked for the first one
    long long finished      # and when it found no more

cdef Share shares[MEMBERS]
cdef int busy = 0                   # a region is running: another call's work runs on its own thread
cdef long long granted = MEMBERS    # threads that the system has not refused


cdef long long run_tasks(const Region* region, int member) noexcept nogil:
    """Run tasks until none is left, the member's own share first; return how many.

    The last task of a share whose owner is at work is left to the owner: its memory is in that core's cache.
    """
    cdef long long done = 0, i, spared
    cdef Share* share
    cdef int k
    store(&shares[member].begun, 1)
    for k in range(region.members):
        share = &shares[member + k if member + k < region.members else member + k - region.members]
        while True:
            spared = 1 if k > 0 and load(&share.begun) else 0
            if load(&share.next) >= share.end - spared:
                break
            i = fetch_add(&share.next, 1)
            if i >= share.end:
                break
            region.task(region.context, i)
            done += 1
    return done


cdef void join(Region* region, int member) noexcept nogil:
    """A member's part of the region, in the caller's floating-point environment."""
    cdef FloatEnvironment own
    if member == 0:
        region.began = now()
        region.done = run_tasks(region, 0)
        region.finished = now()
    else:
        own = get_float_environment()
        set_float_environment(region.environment)
        run_tasks(region, member)
        set_float_environment(own)


cdef void account(const Region* region, Py_ssize_t count, long long start, long long end) noexcept nogil:
    """Add the time that the region saved to the credit; without credit left, begin a back-off."""
    global credit, multiple, delay
    cdef long long gain
    cdef double serial = 0.0        # a caller that found no task left was displaced from its core by its own team
    if region.done > 0:
        serial = <double> (region.finished - region.began) * count / region.done        # all tasks, at its own pace
    gain = <long long> serial - (end - start)
    credit += gain
    store(&delay, max(-gain, delay - delay // 8))
    if credit > MOST_CREDIT:
        credit = MOST_CREDIT
        multiple = max(multiple // 2, <long long> LEAST_MULTIPLE)
    elif credit < 0:
        store(&alone_until, end + min(multiple * (ADVANCE - credit), <long long> LONGEST))
        credit = ADVANCE
        multiple = min(2 * multiple, <long long> MOST_MULTIPLE)


cdef int grown(int threads) noexcept nogil:
    """The size that the calling thread's team can grow to. Threads that the system refuses are not asked for again.

    One thread more is tried than is needed, for what libgomp itself allocates. Where the system refuses, the team grows
    by half of what it grants: their stacks are address space, of which the process needs the rest.
    """
    cdef int missing = threads - team
    cdef int started = can_start(missing + 1)
    if started > missing:
        return threads
    threads = team + started // 2
    store(&granted, threads)
    return threads


cdef void parallel_for(task_fn task, void* context, Py_ssize_t count, int threads) noexcept nogil:
    """Call task(context, i) once for each i in [0, count), in any order, on this many threads.

    With one thread or one task, or while another call's region is running, all of them run here. The team has
    `threads` members even where tasks are fewer: libgomp ends the threads that a smaller team leaves out, and would
    have to start them again for the next region.
    """
    global team
    cdef Region region
    cdef Signals signals
    cdef Py_ssize_t i, bound = 0
    cdef long long start
    cdef int member
    cdef bint grows, first = team == 1
    threads = <int> min(<long long> threads, load(&granted))
    if threads < 2 or count < 2 or not claim(&busy):
        for i in range(count):
            task(context, i)
        return
    store(&regions, regions + 1)
    start = now()
    grows = threads > team      # OpenMP starts threads
    if grows:
        block_signals(&signals)
        threads = grown(threads)
    team = threads
    region.task, region.context, region.members = task, context, threads
    for member in range(threads):
        shares[member].begun, shares[member].next = 0, bound
        bound += count // threads + (member < count % threads)
        shares[member].end = bound
    region.environment = get_float_environment()
    for member in prange(threads, num_threads=threads, schedule="static", chunksize=1):
        join(&region, member)
    if backs_off and not first:
        account(&region, count, start, now())
    if grows:
        restore_signals(&signals)
    release(&busy)


# How many threads

cdef int most_threads() noexcept nogil:
    """Threads that work of any size may use, wherever it is called from."""
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


cdef int allowed_threads() noexcept nogil:
    """Threads that work of any size may use here."""
    return 1 if forked or omp_in_parallel() else most_threads()


cdef int forks() noexcept nogil:
    """How many forks lie between this process and the one that imported fastopt."""
    return forked


cdef int threads_for(double nanoseconds) noexcept nogil:
    """Threads for work that takes one core about this long."""
    if nanoseconds < serial_below:
        return 1
    if backs_off and nanoseconds < WORTH * <double> load(&delay) and now() < load(&alone_until):
        return 1
    return allowed_threads()


# For fastopt._runtime.threads, which holds the policy's Python side, and for tests and measurements.

def configure(int request, int cgroup_quota, bint explicit_openmp):
    global process_request, quota, openmp_is_explicit
    process_request = request
    quota = cgroup_quota
    openmp_is_explicit = explicit_openmp


def set_process_request(int threads):
    global process_request
    process_request = threads


def swap_thread_request(int threads):
    """Set this Python thread's own request (0: none) and return the previous one."""
    global thread_request
    cdef int before = thread_request
    thread_request = threads
    return before


def swap_serial_below(double nanoseconds):
    """Set the serial threshold and return the previous one."""
    global serial_below
    before = serial_below
    serial_below = nanoseconds
    return before


def swap_back_off(bint on):
    """Turn back-off on or off and return the previous setting."""
    global backs_off
    before = backs_off
    backs_off = on
    return before


def threads():
    """Threads that work of any size may use if it is started now on this thread."""
    return allowed_threads()


def state():
    """All inputs of the policy, by name."""
    return {
        "openmp": _OPENMP,
        "threads": allowed_threads(),
        "openmp_threads": omp_get_max_threads(),
        "openmp_threads_at_import": openmp_at_import,
        "affinity": affinity(),
        "quota": quota,
        "thread_request": thread_request,
        "process_request": process_request,
        "openmp_is_explicit": bool(openmp_is_explicit),
        "regions": load(&regions),
        "forked": bool(forked),
        "serial_below": serial_below,
        "credit": credit, "multiple": multiple,
        "alone": bool(backs_off and now() < load(&alone_until)),
    }
