/* SPDX-License-Identifier: Apache-2.0 */
/* What a clip looks like in 41 numbers: gradients, colours and changes in time. No network. */
#ifndef T3V_EVAL_FEATURES_H
#define T3V_EVAL_FEATURES_H

#include <stdint.h>

#include "base/status.h"

enum {
    T3V_FEATURE_SCALES = 4,
    T3V_FEATURES_A_SCALE = 8,
    T3V_FEATURES_MIN_SIDE = 32,
    T3V_FEATURES_MIN_FRAMES = 3
};
enum { T3V_FEATURES = T3V_FEATURE_SCALES * T3V_FEATURES_A_SCALE + 9 };

typedef struct t3v_features t3v_features;

/* E_ARG: a side below T3V_FEATURES_MIN_SIDE; E_NOMEM. */
t3v_status t3v_features_begin(t3v_features **f, int64_t h, int64_t w);
void t3v_features_frame(t3v_features *f, const uint8_t *rgb /*[h,w,3]*/);

/* Over the brightness Y in [0,1] at full size, halved, halved twice and three times; L(x) = ln(x + 0.001) of a mean over
 * pixels and frames:
 *   L of |g| cos^4 of the angle between the gradient g and 0, 45, 90, 135 degrees; L of the root mean square of |g|;
 *   L of |Laplacian|; L of |change to the frame before|; L of |second difference in time|.
 * Then 16 times the means and deviations of Y, Cb, Cr in [0,1]; L of the smallest change of a frame; L of the deviation of
 * the changes; L of the change of a frame's mean brightness.
 * E_ARG: fewer than T3V_FEATURES_MIN_FRAMES frames. */
t3v_status t3v_features_end(const t3v_features *f, double out[T3V_FEATURES]);
void t3v_features_free(t3v_features **f); /* frees and nulls; NULL is fine */

#endif
