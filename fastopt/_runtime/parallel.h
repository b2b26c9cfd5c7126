/* What parallel.pyx needs of the system: per-thread variables, atomics, the clock, CPU affinity, fork handlers, signal
   masks, and OpenMP's run-time functions. All code of threads that depends on the platform is here. */
#ifndef FASTOPT_PARALLEL_H
#define FASTOPT_PARALLEL_H

/* Cython declares the index of a prange firstprivate and lastprivate. For the two together gcc puts a barrier before the
   loop: every thread of the team waits there until the last one has woken up, before it takes its first task. The
   index needs no first value, so the clause expands to nothing (tests/test_threads.py looks for the barrier). */
#define firstprivate(index)

#ifdef _OPENMP
    #include <omp.h>
    static const int fastopt_openmp = _OPENMP;
#else
    static const int fastopt_openmp = 0;
    static int omp_get_max_threads(void) { return 1; }
    static int omp_in_parallel(void) { return 0; }
#endif

#ifdef _MSC_VER
    #define FASTOPT_THREAD_LOCAL __declspec(thread)
#else
    #define FASTOPT_THREAD_LOCAL __thread
#endif
/* Of the calling thread: what `num_threads(n)` asked for (0: nothing), and the size of its last team. */
static FASTOPT_THREAD_LOCAL int fastopt_thread_request = 0;
static FASTOPT_THREAD_LOCAL int fastopt_team = 1;

/* The floating-point environment as kernels see it: rounding mode and treatment of subnormals. */
#if defined(__x86_64__) || defined(_M_X64)
    #include <xmmintrin.h>
    typedef unsigned int fastopt_fenv;
    static fastopt_fenv fastopt_get_fenv(void) { return _mm_getcsr(); }
    static void fastopt_set_fenv(fastopt_fenv environment) { _mm_setcsr(environment); }
#else
    #include <fenv.h>
    typedef fenv_t fastopt_fenv;
    static fastopt_fenv fastopt_get_fenv(void) { fenv_t environment; fegetenv(&environment); return environment; }
    static void fastopt_set_fenv(fastopt_fenv environment) { fesetenv(&environment); }
#endif

/* Number of CPUs the calling thread may run on; 0 where the system does not say. */
#ifdef __linux__
    #include <sched.h>
    static int fastopt_affinity(void) {
        cpu_set_t set;
        return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
    }
#else
    static int fastopt_affinity(void) { return 0; }
#endif

#ifdef _WIN32
    #include <intrin.h>
    #include <windows.h>

    static int fastopt_forked = 0;
    static void fastopt_watch_forks(void) { }

    static long long fastopt_now(void) {        /* nanoseconds of a monotonic clock */
        LARGE_INTEGER count, frequency;
        QueryPerformanceCounter(&count);
        QueryPerformanceFrequency(&frequency);
        return (long long) (1e9 * (double) count.QuadPart / (double) frequency.QuadPart);
    }

    typedef int fastopt_signals;
    static void fastopt_block_signals(fastopt_signals* before) { (void) before; }
    static void fastopt_restore_signals(const fastopt_signals* before) { (void) before; }

    static int fastopt_can_start(int count) { return count; }

    static long long fastopt_fetch_add(long long* value, long long n) { return _InterlockedExchangeAdd64(value, n); }
    static int fastopt_claim(int* flag) { return _InterlockedExchange((volatile long*) flag, 1) == 0; }
    static void fastopt_release(int* flag) { _InterlockedExchange((volatile long*) flag, 0); }
    static long long fastopt_load(const long long* value) { return *(const volatile long long*) value; }
    static void fastopt_store(long long* value, long long n) { *(volatile long long*) value = n; }
#else
    #include <pthread.h>
    #include <signal.h>
    #include <time.h>

    /* Forks between this process and the one that loaded us. os.register_at_fork would miss those made by C code. */
    static int fastopt_forked = 0;
    static void fastopt_in_child(void) { fastopt_forked++; }
    static void fastopt_watch_forks(void) { pthread_atfork(NULL, NULL, fastopt_in_child); }

    static long long fastopt_now(void) {        /* nanoseconds of a monotonic clock */
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return now.tv_sec * 1000000000LL + now.tv_nsec;
    }

    /* OpenMP's threads inherit the signal mask of the thread that starts them. With every signal blocked but those of
       hardware faults, a signal reaches the user's own threads and interrupts what they wait for. */
    typedef sigset_t fastopt_signals;
    static void fastopt_block_signals(fastopt_signals* before) {
        sigset_t all;
        sigfillset(&all);
        sigdelset(&all, SIGSEGV);
        sigdelset(&all, SIGBUS);
        sigdelset(&all, SIGFPE);
        sigdelset(&all, SIGILL);
        pthread_sigmask(SIG_SETMASK, &all, before);
    }
    static void fastopt_restore_signals(const fastopt_signals* before) { pthread_sigmask(SIG_SETMASK, before, NULL); }

    /* How many of `count` (at most 1024) threads the system grants at the same time. libgomp ends the process when it is
       refused one, so this is tried before a team grows. */
    static void* fastopt_pass(void* gate) {
        pthread_mutex_lock((pthread_mutex_t*) gate);
        pthread_mutex_unlock((pthread_mutex_t*) gate);
        return NULL;
    }
    static int fastopt_can_start(int count) {
        pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
        pthread_t threads[1024];
        int started = 0;
        pthread_mutex_lock(&gate);
        while (started < count && pthread_create(&threads[started], NULL, fastopt_pass, &gate) == 0) started++;
        pthread_mutex_unlock(&gate);
        for (int k = 0; k < started; k++) pthread_join(threads[k], NULL);
        return started;
    }

    static long long fastopt_fetch_add(long long* value, long long n) {
        return __atomic_fetch_add(value, n, __ATOMIC_RELAXED);
    }
    static int fastopt_claim(int* flag) { return __atomic_exchange_n(flag, 1, __ATOMIC_ACQUIRE) == 0; }
    static void fastopt_release(int* flag) { __atomic_store_n(flag, 0, __ATOMIC_RELEASE); }
    static long long fastopt_load(const long long* value) { return __atomic_load_n(value, __ATOMIC_RELAXED); }
    static void fastopt_store(long long* value, long long n) { __atomic_store_n(value, n, __ATOMIC_RELAXED); }
#endif

#endif
