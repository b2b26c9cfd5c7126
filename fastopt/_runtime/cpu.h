/* The processor's instruction-set level, and the compiler this was built with. */
#ifndef FASTOPT_CPU_H
#define FASTOPT_CPU_H

/* fastopt_x86_level() returns 4 or 3 for the highest of x86-64-v4 and x86-64-v3 that both processor and operating system
   support, else 0. gcc 12 knows the levels by name; for other compilers we test the features that define them. */
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

#endif
