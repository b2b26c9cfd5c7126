/* The transpose of 4 x 4 floats, for strided.pyx. SSE belongs to x86-64's baseline; gcc 12 makes single moves of loops. */
#ifndef FASTOPT_STRIDED_H
#define FASTOPT_STRIDED_H

#include <stddef.h>

/* y[i * y_stride + j] = x[j * x_stride + i] */
#if defined(__x86_64__) || defined(_M_X64)
    #include <xmmintrin.h>
    static inline void fastopt_transpose4(const float* x, ptrdiff_t x_stride, float* y, ptrdiff_t y_stride) {
        __m128 a = _mm_loadu_ps(x), b = _mm_loadu_ps(x + x_stride);
        __m128 c = _mm_loadu_ps(x + 2 * x_stride), d = _mm_loadu_ps(x + 3 * x_stride);
        _MM_TRANSPOSE4_PS(a, b, c, d);
        _mm_storeu_ps(y, a);
        _mm_storeu_ps(y + y_stride, b);
        _mm_storeu_ps(y + 2 * y_stride, c);
        _mm_storeu_ps(y + 3 * y_stride, d);
    }
#else
    static inline void fastopt_transpose4(const float* x, ptrdiff_t x_stride, float* y, ptrdiff_t y_stride) {
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) y[i * y_stride + j] = x[j * x_stride + i];
    }
#endif

#if defined(__GNUC__)
    #define fastopt_prefetch(p) __builtin_prefetch(p, 0)
    #define fastopt_prefetch_for_writing(p) __builtin_prefetch(p, 1)
#else
    #define fastopt_prefetch(p) ((void) (p))
    #define fastopt_prefetch_for_writing(p) ((void) (p))
#endif

#endif
