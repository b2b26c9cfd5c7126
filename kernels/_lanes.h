/* Eight doubles as one value, which stays in registers; see _lanes.pxd. */
#ifndef FASTOPT_LANES_H
#define FASTOPT_LANES_H

#include "_memory.h"

/* gcc splits a vector that is wider than a register badly: parts of a register's width. */
#ifndef __GNUC__
    #define FASTOPT_PART 8
typedef double fastopt_part;
#else
    #if defined(__AVX512F__)
        #define FASTOPT_PART 64
    #elif defined(__AVX__)
        #define FASTOPT_PART 32
    #else
        #define FASTOPT_PART 16
    #endif
typedef double fastopt_part __attribute__((vector_size(FASTOPT_PART)));
typedef long long fastopt_part_bits __attribute__((vector_size(FASTOPT_PART)));
typedef double fastopt_part_in __attribute__((vector_size(FASTOPT_PART), aligned(8), may_alias));
typedef long long fastopt_part_bits_in __attribute__((vector_size(FASTOPT_PART), aligned(8), may_alias));
typedef float fastopt_part32_in __attribute__((vector_size(FASTOPT_PART / 2), aligned(4), may_alias));
#endif
#define FASTOPT_PARTS (64 / FASTOPT_PART)
#define FASTOPT_ROWS (FASTOPT_PART == 64 ? 4 : 2)
#define FASTOPT_EACH for (i = 0; i < FASTOPT_PARTS; i++)

typedef struct { fastopt_part v[FASTOPT_PARTS]; } fastopt_lanes8;

static CYTHON_INLINE fastopt_lanes8 fastopt_lanes8_of(double x) {
    fastopt_lanes8 r;
    int i;
    FASTOPT_EACH r.v[i] = x - (fastopt_part) {0.0};
    return r;
}

static CYTHON_INLINE fastopt_lanes8 fastopt_lanes8_add(fastopt_lanes8 a, fastopt_lanes8 b) {
    int i;
    FASTOPT_EACH a.v[i] += b.v[i];
    return a;
}

static CYTHON_INLINE fastopt_lanes8 fastopt_lanes8_sub(fastopt_lanes8 a, fastopt_lanes8 b) {
    int i;
    FASTOPT_EACH a.v[i] -= b.v[i];
    return a;
}

static CYTHON_INLINE fastopt_lanes8 fastopt_lanes8_mul(fastopt_lanes8 a, fastopt_lanes8 b) {
    int i;
    FASTOPT_EACH a.v[i] *= b.v[i];
    return a;
}

#ifdef __GNUC__

static CYTHON_INLINE fastopt_lanes8 fastopt_lanes8_load(const double* x) {
    fastopt_lanes8 r;
    int i;
    FASTOPT_EACH r.v[i] = ((const fastopt_part_in*) x)[i];
    return r;
}

static CYTHON_INLINE fastopt_lanes8 fastopt_lanes8_load32(const float* x) {
    fastopt_lanes8 r;
    int i;
    FASTOPT_EACH r.v[i] = __builtin_convertvector(((const fastopt_part32_in*) x)[i], fastopt_part);
    return r;
}

static CYTHON_INLINE void fastopt_lanes8_store(fastopt_lanes8 a, double* x) {
    int i;
    FASTOPT_EACH ((fastopt_part_in*) x)[i] = a.v[i];
}

static CYTHON_INLINE fastopt_lanes8 fastopt_lanes8_keep_last(fastopt_lanes8 a, int n) {
    static const long long masks[16] = {0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1, -1};
    int i;
    FASTOPT_EACH a.v[i] = (fastopt_part) ((fastopt_part_bits) a.v[i] & ((const fastopt_part_bits_in*) (masks + n))[i]);
    return a;
}

#else

static CYTHON_INLINE fastopt_lanes8 fastopt_lanes8_load(const double* x) {
    fastopt_lanes8 r;
    int i;
    FASTOPT_EACH r.v[i] = x[i];
    return r;
}

static CYTHON_INLINE fastopt_lanes8 fastopt_lanes8_load32(const float* x) {
    fastopt_lanes8 r;
    int i;
    FASTOPT_EACH r.v[i] = x[i];
    return r;
}

static CYTHON_INLINE void fastopt_lanes8_store(fastopt_lanes8 a, double* x) {
    int i;
    FASTOPT_EACH x[i] = a.v[i];
}

static CYTHON_INLINE fastopt_lanes8 fastopt_lanes8_keep_last(fastopt_lanes8 a, int n) {
    int i;
    FASTOPT_EACH a.v[i] = i < 8 - n ? 0.0 : a.v[i];
    return a;
}

#endif

/* Halves are added. */
static CYTHON_INLINE double fastopt_lanes8_sum(fastopt_lanes8 a) {
    FASTOPT_LINE double v[8];
    fastopt_lanes8_store(a, v);
#ifdef __GNUC__
    {
        typedef double four __attribute__((vector_size(32), may_alias));
        four half = *(const four*) v + *(const four*) (v + 4);
        return (half[0] + half[2]) + (half[1] + half[3]);
    }
#else
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
#endif
}

#endif
