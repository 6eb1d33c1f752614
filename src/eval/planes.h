/* SPDX-License-Identifier: Apache-2.0 */
/* A frame as the scores see it: six 8-bit planes, Y, Cb, Cr (4:4:4) and R, G, B. */
#ifndef T3V_EVAL_PLANES_H
#define T3V_EVAL_PLANES_H

#include <stdint.h>

#include "base/status.h"

enum { T3V_Y, T3V_CB, T3V_CR, T3V_R, T3V_G, T3V_B, T3V_PLANES };

/* Loops over fewer pixels than this stay on one thread. */
enum { T3V_PARALLEL_PIXELS = 1 << 16 };

typedef struct t3v_planes {
    int64_t h, w;
    uint8_t *plane[T3V_PLANES]; /* [h,w] each, in one block */
} t3v_planes;

t3v_status t3v_planes_make(t3v_planes *p, int64_t h, int64_t w); /* E_NOMEM, E_TOO_BIG */
void t3v_planes_free(t3v_planes *p);                             /* safe on a zeroed struct */

/* From rgb [h,w,3], full range. Y 16..235, Cb and Cr 16..240, rounded to nearest, with the matrix of BT.601, or of
 * BT.709. A frame that came from 8-bit 4:4:4 of that matrix and is a colour gets its own numbers back: the two
 * roundings together stay below half a level. */
void t3v_planes_fill(t3v_planes *p, const uint8_t *rgb, int bt709);

#endif
