/* Bit patterns and limits of floating-point numbers, and constants of exp and log1p; see _math.pxd. */
#ifndef FASTOPT_MATH_H
#define FASTOPT_MATH_H

#include <stdint.h>
#include <string.h>

static CYTHON_INLINE float fastopt_float(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static CYTHON_INLINE uint32_t fastopt_bits(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }
static CYTHON_INLINE double fastopt_double(uint64_t bits) { double x; memcpy(&x, &bits, 8); return x; }
static CYTHON_INLINE uint64_t fastopt_bits64(double x) { uint64_t bits; memcpy(&bits, &x, 8); return bits; }

#define FASTOPT_LARGEST 3.4028234663852886e38   /* of float32's numbers, as a double */
#define FASTOPT_SMALLEST 1.1754943508222875e-38 /* of its normal numbers: 2^-126 */
#define FASTOPT_MAGIC 12582912.0f               /* 2^23 + 2^22 */
#define FASTOPT_LOG2E 1.44269504f
#define FASTOPT_LN2_HI 0x1.62e8p-1f             /* 13 bits: its product with an integer below 2^11 is exact */
#define FASTOPT_LN2_LO -0x1.e8082ep-16f
#define FASTOPT_TWO64 0x1p64f                   /* 2^64 and 2^-64 */
#define FASTOPT_TWO_64 0x1p-64f
#define FASTOPT_ROOT_HALF 0x3FE6A09E667F3BCDu   /* the bits of the double nearest 1 / sqrt(2) */
#define FASTOPT_TWO52 0x4330000000000000u       /* the bits of the double 2^52, whose last bit has the value 1 */

#endif
