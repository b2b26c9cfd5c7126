# The threads that help a call. Cython sees one function, `pool_run`; the rest is C, because it is about memory order.
#
# Design
# ------
# OpenMP's own regions end with a barrier: the caller waits for every thread of the team, even for one that has not got
# a processor yet, and libgomp spins for milliseconds while it does so and after it. Beside another library's threads
# (NumPy's BLAS has some, and they spin, too) a training loop took ten times as long as without any of our threads:
# docs/threads.md has the measurement. How long libgomp spins can be set by the environment alone, which is the user's.
# Hence a pool of our own, with two rules:
#
#   - the caller waits only for helpers that are in the middle of a task. One that has not begun is not needed: the
#     caller takes its tasks, too;
#   - nobody spins for longer than it takes to sleep and be woken.
#
# A job is cut into as many shares of consecutive tasks as it may have threads. Helper k begins with share k + 1 (so
# that the same memory meets the same core again in the next call), and goes on with what is left of others'. Which
# thread runs a task is free; what a task computes is not.
#
# Helpers compute in the caller's floating-point environment (rounding, subnormals), so that bits do not depend on who
# computes. One job at a time: a call that finds the pool busy runs alone. Helpers are started when first needed, never
# end, and take no signals. A forked child has none, and parallel.pyx never asks there.

cdef extern from *:
    """
    typedef void (*fastopt_task)(void* context, Py_ssize_t index);

    #ifndef _WIN32
    static const int fastopt_has_pool = 1;
    #include <fenv.h>
    #include <pthread.h>
    #include <sched.h>
    #include <signal.h>
    #include <time.h>

    enum { FASTOPT_SHARES = 1024 };
    enum { FASTOPT_SPIN = 30000 };      /* nanoseconds: docs/threads.md */

    typedef struct {                    /* tasks [next, end) that nobody has taken */
        Py_ssize_t next, end;
        int begun;                      /* by its owner */
        char apart[128 - 3 * sizeof(Py_ssize_t)];
    } fastopt_share;

    typedef struct {
        pthread_mutex_t mutex;
        pthread_cond_t wake;
        int asleep;
        char apart[128];
    } fastopt_bed;

    static struct {
        /* The job: written by the caller while it is closed and nobody inside, read by helpers inside. */
        fastopt_task task;
        void* context;
        int shares;
        fenv_t environment;             /* the caller's, of floating-point arithmetic */
        char apart0[128];
        unsigned long long ticket;      /* counts openings and closings: odd while a job is open */
        char apart1[128];
        int inside;                     /* helpers that may look at the job */
        char apart2[128];
        int busy;                       /* a caller has the pool */
        int helpers;                    /* started */
        int refused;                    /* another one */
        fastopt_share share[FASTOPT_SHARES];
        fastopt_bed bed[FASTOPT_SHARES];        /* [0] is the caller's */
    } fastopt_pool;

    static inline void fastopt_pause(void) {
    #if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
    #elif defined(__aarch64__)
        __asm__ __volatile__("yield");
    #endif
    }

    static inline long long fastopt_now(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return now.tv_sec * 1000000000LL + now.tv_nsec;
    }

    /* Take tasks until none is left: one's own share first. The last task of a share whose owner is at work is left
       to him: its memory is in his cache, and he is as good as there. */
    static void fastopt_work(fastopt_task task, void* context, int shares, int own) {
        Py_ssize_t i, left;
        __atomic_store_n(&fastopt_pool.share[own].begun, 1, __ATOMIC_RELAXED);
        for (int k = 0; k < shares; k++) {
            fastopt_share* share = &fastopt_pool.share[own + k < shares ? own + k : own + k - shares];
            for (;;) {
                left = k > 0 && __atomic_load_n(&share->begun, __ATOMIC_RELAXED) ? 1 : 0;
                if (__atomic_load_n(&share->next, __ATOMIC_RELAXED) >= share->end - left) break;
                if ((i = __atomic_fetch_add(&share->next, 1, __ATOMIC_RELAXED)) >= share->end) break;
                task(context, i);
            }
        }
    }

    static int fastopt_job_after(unsigned long long last) {
        unsigned long long ticket = __atomic_load_n(&fastopt_pool.ticket, __ATOMIC_SEQ_CST);
        return (ticket & 1) && ticket != last;
    }

    static int fastopt_nobody_inside(unsigned long long unused) {
        return __atomic_load_n(&fastopt_pool.inside, __ATOMIC_SEQ_CST) == 0;
    }

    /* Spin until `ready`, for FASTOPT_SPIN at most, then sleep. Who makes it ready looks at `asleep` afterwards. */
    static void fastopt_await(fastopt_bed* bed, int (*ready)(unsigned long long), unsigned long long last, int spin) {
        if (spin) {
            long long start = fastopt_now();
            do {
                for (int k = 0; k < 16; k++) {
                    if (ready(last)) return;
                    fastopt_pause();
                }
                sched_yield();          /* to whom we wait for, if he is on this core */
            } while (fastopt_now() - start < FASTOPT_SPIN);
        }
        pthread_mutex_lock(&bed->mutex);
        __atomic_store_n(&bed->asleep, 1, __ATOMIC_SEQ_CST);
        while (!ready(last)) pthread_cond_wait(&bed->wake, &bed->mutex);
        __atomic_store_n(&bed->asleep, 0, __ATOMIC_SEQ_CST);
        pthread_mutex_unlock(&bed->mutex);
    }

    static void fastopt_wake(fastopt_bed* bed) {
        if (__atomic_load_n(&bed->asleep, __ATOMIC_SEQ_CST)) {
            pthread_mutex_lock(&bed->mutex);
            pthread_cond_signal(&bed->wake);
            pthread_mutex_unlock(&bed->mutex);
        }
    }

    static void* fastopt_helper(void* bed) {
        int own = (int) ((fastopt_bed*) bed - fastopt_pool.bed), spin = 0;
        unsigned long long last = 0;
        for (;;) {
            fastopt_await((fastopt_bed*) bed, fastopt_job_after, last, spin);
            /* Inside first, then look: so either the caller waits for us or we see that the job is closed. */
            __atomic_fetch_add(&fastopt_pool.inside, 1, __ATOMIC_SEQ_CST);
            spin = 0;
            if (fastopt_job_after(last)) {
                last = __atomic_load_n(&fastopt_pool.ticket, __ATOMIC_SEQ_CST);
                spin = own < fastopt_pool.shares;
                if (spin) {
                    fesetenv(&fastopt_pool.environment);
                    fastopt_work(fastopt_pool.task, fastopt_pool.context, fastopt_pool.shares, own);
                }
            }
            if (__atomic_sub_fetch(&fastopt_pool.inside, 1, __ATOMIC_SEQ_CST) == 0) fastopt_wake(&fastopt_pool.bed[0]);
        }
        return NULL;
    }

    static int fastopt_start_helper(int own) {
        static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
        sigset_t none, before;
        pthread_attr_t detached;
        pthread_t thread;
        int failed;
        pthread_mutex_init(&fastopt_pool.bed[own].mutex, NULL);
        pthread_cond_init(&fastopt_pool.bed[own].wake, NULL);
        sigfillset(&none);
        for (int k = 0; k < 4; k++) sigdelset(&none, faults[k]);
        pthread_attr_init(&detached);
        pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
        pthread_sigmask(SIG_SETMASK, &none, &before);
        failed = pthread_create(&thread, &detached, fastopt_helper, &fastopt_pool.bed[own]);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&detached);
        return !failed;
    }

    /* Run the tasks [0, count) on up to so many threads. 0: nothing ran, as the pool is busy or nobody can help. */
    static int fastopt_pool_run(fastopt_task task, void* context, Py_ssize_t count, int threads) {
        Py_ssize_t each, more, next = 0;
        int free_pool = 0;
        if (!__atomic_compare_exchange_n(&fastopt_pool.busy, &free_pool, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return 0;
        if (threads > FASTOPT_SHARES) threads = FASTOPT_SHARES;
        if (fastopt_pool.helpers == 0) {
            pthread_mutex_init(&fastopt_pool.bed[0].mutex, NULL);
            pthread_cond_init(&fastopt_pool.bed[0].wake, NULL);
        }
        while (fastopt_pool.helpers < threads - 1 && !fastopt_pool.refused) {
            if (fastopt_start_helper(fastopt_pool.helpers + 1)) fastopt_pool.helpers++;
            else fastopt_pool.refused = 1;      /* by the system, which is not asked again */
        }
        if (threads > fastopt_pool.helpers + 1) threads = fastopt_pool.helpers + 1;
        if (threads < 2) {
            __atomic_store_n(&fastopt_pool.busy, 0, __ATOMIC_RELEASE);
            return 0;
        }
        each = count / threads, more = count % threads;
        for (int k = 0; k < threads; k++) {
            fastopt_pool.share[k].begun = 0;
            fastopt_pool.share[k].next = next;
            fastopt_pool.share[k].end = next += each + (k < more);
        }
        fastopt_pool.task = task, fastopt_pool.context = context, fastopt_pool.shares = threads;
        fegetenv(&fastopt_pool.environment);
        __atomic_fetch_add(&fastopt_pool.ticket, 1, __ATOMIC_SEQ_CST);
        for (int k = 1; k < threads; k++) fastopt_wake(&fastopt_pool.bed[k]);
        fastopt_work(task, context, threads, 0);
        __atomic_fetch_add(&fastopt_pool.ticket, 1, __ATOMIC_SEQ_CST);
        fastopt_await(&fastopt_pool.bed[0], fastopt_nobody_inside, 0, 1);
        __atomic_store_n(&fastopt_pool.busy, 0, __ATOMIC_RELEASE);
        return 1;
    }
    #else
    static const int fastopt_has_pool = 0;
    static int fastopt_pool_run(fastopt_task task, void* context, Py_ssize_t count, int threads) { return 0; }
    #endif
    """
    bint HAS_POOL "fastopt_has_pool"
    ctypedef void (*pool_task "fastopt_task")(void* context, Py_ssize_t index) noexcept nogil
    int pool_run "fastopt_pool_run"(pool_task task, void* context, Py_ssize_t count, int threads) noexcept nogil
