/* Philox 4x32 over 16 counters at a time; see _philox.pxd. */
#ifndef FASTOPT_PHILOX_H
#define FASTOPT_PHILOX_H

#include <stdint.h>
#include <string.h>
#if defined(__GNUC__) && defined(__x86_64__)
    #include <immintrin.h>
#endif

#include "_memory.h"

#define FASTOPT_PHILOX_ROUNDS 7
#define FASTOPT_PHILOX_WORDS 64     /* of a group: 4 of each of 16 counters */

typedef FASTOPT_LINE struct { uint32_t v[FASTOPT_PHILOX_WORDS]; } fastopt_philox_words;

/* A product of two 32-bit words needs a 64-bit lane, so each word of a counter has one; its upper half may hold
   anything. fastopt_product multiplies the lower halves.

   This is the one place in this folder with intrinsics, because gcc has no other way to `vpmuludq` without moving words
   between lanes: a plain loop over 32-bit words takes 2.7 times as long at v3 (234 shuffles among 400 instructions) and
   1.9 times as long at v4 (vpmullq); a plain loop over 64-bit lanes 2.6 and 1.2 times. Elsewhere a lane is one integer. */
#if defined(__GNUC__) && defined(__AVX512F__)
    typedef uint64_t fastopt_lanes __attribute__((vector_size(64)));
    #define fastopt_product(a, b) ((fastopt_lanes) _mm512_mul_epu32((__m512i) (a), (__m512i) (b)))
#elif defined(__GNUC__) && defined(__AVX2__)
    typedef uint64_t fastopt_lanes __attribute__((vector_size(32)));
    #define fastopt_product(a, b) ((fastopt_lanes) _mm256_mul_epu32((__m256i) (a), (__m256i) (b)))
#elif defined(__GNUC__) && defined(__x86_64__)
    typedef uint64_t fastopt_lanes __attribute__((vector_size(16)));
    #define fastopt_product(a, b) ((fastopt_lanes) _mm_mul_epu32((__m128i) (a), (__m128i) (b)))
#else
    typedef uint64_t fastopt_lanes;
    #define fastopt_product(a, b) ((uint64_t) (uint32_t) (a) * (uint32_t) (b))
#endif
#define FASTOPT_WIDTH (sizeof(fastopt_lanes) / sizeof(uint64_t))

/* One round on the words a, b, c, d of some counters. */
#define FASTOPT_PHILOX_ROUND(a, b, c, d) do {               \
        fastopt_lanes p = fastopt_product(a, multiplier0);  \
        fastopt_lanes q = fastopt_product(c, multiplier1);  \
        a = (q >> 32) ^ b ^ key0;                           \
        c = (p >> 32) ^ d ^ key1;                           \
        b = q;                                              \
        d = p;                                              \
    } while (0)

/* Words of two neighbouring counters, as they stand in memory (little-endian). */
#define FASTOPT_PHILOX_STORE(word, even, odd) do {                      \
        fastopt_lanes both = ((even) & 0xFFFFFFFFu) | (odd) << 32;      \
        memcpy(out->v + 16 * (word) + 2 * at, &both, sizeof both);      \
    } while (0)

/* Output word j of counter 16 * group + l becomes out->v[16 * j + l]. Counters with an even and an odd l are held
   apart, so that their words are put together in one vector at the end. */
static CYTHON_INLINE void fastopt_philox(uint64_t key, uint64_t group, fastopt_philox_words* out) {
    static const uint64_t even[8] = {0, 2, 4, 6, 8, 10, 12, 14};
    const uint64_t first = 16 * group;
    size_t at;
    for (at = 0; at < 8; at += FASTOPT_WIDTH) {
        fastopt_lanes a, b, c, d, a2, b2, c2, d2, multiplier0, multiplier1;
        uint32_t key0 = (uint32_t) key, key1 = (uint32_t) (key >> 32);
        int round;
        memcpy(&a, even + at, sizeof a);
        c = d = c2 = d2 = a ^ a;
        multiplier0 = c + 0xD2511F53u;
        multiplier1 = c + 0xCD9E8D57u;
        b = b2 = c + (first >> 32);
        a += (uint32_t) first;
        a2 = a + 1;
#ifdef __GNUC__
    #pragma GCC unroll 10
#endif
        for (round = 0; round < FASTOPT_PHILOX_ROUNDS; round++) {
            FASTOPT_PHILOX_ROUND(a, b, c, d);
            FASTOPT_PHILOX_ROUND(a2, b2, c2, d2);
            key0 += 0x9E3779B9u;
            key1 += 0xBB67AE85u;
        }
        FASTOPT_PHILOX_STORE(0, a, a2);
        FASTOPT_PHILOX_STORE(1, b, b2);
        FASTOPT_PHILOX_STORE(2, c, c2);
        FASTOPT_PHILOX_STORE(3, d, d2);
    }
}

#endif
