# Which x86-64 level this processor and operating system run. Compiled once, at baseline.

cdef extern from *:
    """
    /* 4, 3 or 0: the highest of x86-64-v4, x86-64-v3 and everything else, the operating system's support for the
       registers included. gcc 12 knows the levels by name; others are asked for the features that tell them apart. */
    #if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && defined(__x86_64__)
        static int fastopt_x86_level(void) {
            __builtin_cpu_init();
            return __builtin_cpu_supports("x86-64-v4") ? 4 : __builtin_cpu_supports("x86-64-v3") ? 3 : 0;
        }
    #elif defined(__GNUC__) && defined(__x86_64__)
        static int fastopt_x86_level(void) {
            __builtin_cpu_init();
            if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi")
                  && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt")))
                return 0;
            if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
                  && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq")
                  && __builtin_cpu_supports("avx512vl")))
                return 3;
            return 4;
        }
    #elif defined(_MSC_VER) && defined(_M_X64)
        #include <intrin.h>
        #include <immintrin.h>
        static int fastopt_x86_level(void) {
            int leaf1[4], leaf7[4];
            unsigned long long enabled;
            __cpuid(leaf1, 1);
            if (!(leaf1[2] & (1 << 27))) return 0;                      /* OSXSAVE */
            enabled = _xgetbv(0);
            __cpuidex(leaf7, 7, 0);
            if ((enabled & 0x6) != 0x6 || !(leaf1[2] & (1 << 12)) || !(leaf7[1] & (1 << 5)) || !(leaf7[1] & (1 << 8)))
                return 0;                                               /* FMA, AVX2, BMI2 */
            if ((enabled & 0xe6) != 0xe6 || (leaf7[1] & 0xd0030000) != (int) 0xd0030000)
                return 3;                                               /* F, DQ, CD, BW, VL */
            return 4;
        }
    #else
        static int fastopt_x86_level(void) { return 0; }
    #endif
    """
    int x86_level "fastopt_x86_level"() noexcept nogil


def level():
    """The highest level this machine runs: 'v4', 'v3' or 'baseline'."""
    return {4: "v4", 3: "v3"}.get(x86_level(), "baseline")


cdef extern from *:
    """
    #if defined(_MSC_VER)
        #define FASTOPT_TEXT(x) FASTOPT_TEXT_(x)
        #define FASTOPT_TEXT_(x) #x
        #define FASTOPT_COMPILER "MSVC " FASTOPT_TEXT(_MSC_FULL_VER)
    #elif defined(__clang__)
        #define FASTOPT_COMPILER __VERSION__
    #elif defined(__GNUC__)
        #define FASTOPT_COMPILER "GCC " __VERSION__
    #else
        #define FASTOPT_COMPILER "unknown"
    #endif
    """
    const char* COMPILER "FASTOPT_COMPILER"
    const char* COMMON "FASTOPT_FLAGS_COMMON"
    const char* BASELINE "FASTOPT_FLAGS_baseline"
    const char* V3 "FASTOPT_FLAGS_v3"
    const char* V4 "FASTOPT_FLAGS_v4"


def build():
    """The compiler, the flags of everything it compiled, and those that each level adds."""
    return {
        "compiler": COMPILER.decode(),
        "flags": COMMON.decode(),
        "level_flags": {"baseline": BASELINE.decode(), "v3": V3.decode(), "v4": V4.decode()},
    }
