/* Sizes of the softmax kernels' local blocks, and the blocks, aligned to a cache line; see _softmax.pxd. */
#ifndef FASTOPT_SOFTMAX_H
#define FASTOPT_SOFTMAX_H

#include "_memory.h"

#define FASTOPT_NARROW 32           /* elements of a narrow row, at most */
#define FASTOPT_MAX_ROWS 64         /* rows in a group, at most: a lane each if they are narrow */
#define FASTOPT_LONG_ROWS 32        /* the same for rows that are not narrow */
#define FASTOPT_ROW_LANES 16        /* lanes over the elements of one row */
#define FASTOPT_BLOCK 3072          /* elements of a block of a long row, at most */
#define FASTOPT_STAGE 256           /* elements whose terms are computed at a time, at most */

typedef FASTOPT_LINE struct { float v[FASTOPT_NARROW * FASTOPT_MAX_ROWS]; } fastopt_narrow_block;
typedef FASTOPT_LINE struct { float v[FASTOPT_BLOCK]; } fastopt_terms;
typedef FASTOPT_LINE struct { float v[FASTOPT_STAGE]; } fastopt_stage;
typedef FASTOPT_LINE struct { float v[FASTOPT_LONG_ROWS * FASTOPT_ROW_LANES]; } fastopt_maxima;
typedef FASTOPT_LINE struct { double v[FASTOPT_LONG_ROWS * FASTOPT_ROW_LANES / 2]; } fastopt_sums;

#endif
