/* SPDX-License-Identifier: Apache-2.0 */
/* Generalised Hilbert curves over boxes of any size (Gilbert). */
#ifndef T3V_ATTN_GILBERT_H
#define T3V_ATTN_GILBERT_H

#include <stdint.h>

/* order [w*h*d]: the points of the curve as (z*h + y)*w + x. w, h, d from 1, their product below 2^31. */
void t3v_gilbert(int64_t w, int64_t h, int64_t d, int32_t *order);
/* Where the point (x, y, z) comes in that curve; found without the list. */
int64_t t3v_gilbert_index(int64_t w, int64_t h, int64_t d, int64_t x, int64_t y, int64_t z);

/* The point number `index`. */
void t3v_gilbert_point(int64_t w, int64_t h, int64_t d, int64_t index, int64_t xyz[3]);

#endif
