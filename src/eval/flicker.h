/* SPDX-License-Identifier: Apache-2.0 */
/* Flicker: how far a pixel's brightness is from a straight line in time. */
#ifndef T3V_EVAL_FLICKER_H
#define T3V_EVAL_FLICKER_H

#include <stdint.h>

/* Mean of |a - 2b + c| over the n pixels of three frames in a row, in levels: 0 for still and for evenly brightening
 * pictures; motion of edges counts too, so compare with a reference. */
double t3v_flicker(const uint8_t *const y[3], int64_t n);

/* The same of the difference test - ref: what the test adds (or lacks) in time. */
double t3v_flicker_error(const uint8_t *const test[3], const uint8_t *const ref[3], int64_t n);

#endif
