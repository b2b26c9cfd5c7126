/* The lanes of a BatchNorm row, aligned to a cache line, and the sum of one channel's; see _batchnorm_order.pxd. */
#ifndef FASTOPT_BATCHNORM_H
#define FASTOPT_BATCHNORM_H

#include "_memory.h"

/* MAX_LANES, and what `spread` writes beyond them, at most 7. fastopt_fold reads up to 7 more as well. */
typedef FASTOPT_LINE struct { double v[1024 + 8]; } fastopt_lanes;
typedef FASTOPT_LINE struct { float v[1024 + 16]; } fastopt_lanes32;

/* The sum of n lanes: eight sums of every eighth lane, then halves are added. Reads (but does not use) up to 7 lanes
   beyond them. With plain arrays gcc splits vectors into elements for the last n % 8 lanes. */
static CYTHON_INLINE double fastopt_fold(const double* lane, Py_ssize_t n) {
    Py_ssize_t j;
#ifdef __GNUC__
    static const long long masks[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    const long long* mask = masks + 8 - n % 8;
    typedef double four __attribute__((vector_size(32), aligned(8), may_alias));
    typedef long long bits __attribute__((vector_size(32), aligned(8), may_alias));
    four low = {0.0, 0.0, 0.0, 0.0}, high = {0.0, 0.0, 0.0, 0.0};
    for (j = 0; j + 8 <= n; j += 8) {
        low += *(const four*) (lane + j);
        high += *(const four*) (lane + j + 4);
    }
    if (j < n) {
        low += (four) (*(const bits*) (lane + j) & *(const bits*) mask);
        high += (four) (*(const bits*) (lane + j + 4) & *(const bits*) (mask + 4));
    }
    low += high;
    return (low[0] + low[2]) + (low[1] + low[3]);
#else
    double f[8] = {0.0};
    for (j = 0; j < n; j++)
        f[j % 8] += lane[j];
    return ((f[0] + f[4]) + (f[2] + f[6])) + ((f[1] + f[5]) + (f[3] + f[7]));
#endif
}

#endif
