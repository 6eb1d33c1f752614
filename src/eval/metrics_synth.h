/* SPDX-License-Identifier: Apache-2.0 */
/* Scores of a clip of a procedural scene from its pixels and its caption alone: no network is involved. */
#ifndef T3V_EVAL_METRICS_SYNTH_H
#define T3V_EVAL_METRICS_SYNTH_H

#include <stdint.h>

#include "base/status.h"

/* VTC-S: does the clip show what the caption says? Each part 0..1; vtc is their mean with these weights
 * (`second` counts only where the caption names a second object). */
#define T3V_VTC_PARTS(X) \
    X(shape, 0.20)       \
    X(colour, 0.20)      \
    X(motion, 0.25)      \
    X(shade, 0.10) X(backdrop, 0.10) X(camera, 0.05) X(extent, 0.05) X(texture, 0.05) X(second, 0.10)
/* VQA-S: is the picture as good as a render? Each part 0..1, measured against a render of the caption's scene
 * at the same size; vqa is 100 times their mean with these weights, sharpness, edges and texture counting only
 * as far as the picture is clean, and all only as far as it has edges at all. */
#define T3V_VQA_PARTS(X) X(sharp, 0.35) X(edges, 0.15) X(clean, 0.20) X(grain, 0.10) X(steady, 0.20)

typedef struct t3v_synth_score {
    double vtc; /* 0..1 */
    double vqa; /* 0..100 */
#define T3V_SCORE_FIELD(name, weight) double name;
    T3V_VTC_PARTS(T3V_SCORE_FIELD)
    T3V_VQA_PARTS(T3V_SCORE_FIELD)
#undef T3V_SCORE_FIELD
} t3v_synth_score;

/* video [3,frames,h,w] f32 in [-1,1]. E_ARG: the caption is not of the grammar of eval/synth.h, or the clip is
 * smaller than 32x32 or shorter than 5 frames. Works at 128 pixels on the shorter side except where sharpness
 * is judged. */
t3v_status t3v_score_synth(const float *video, int64_t frames, int64_t h, int64_t w, double fps,
                           const char *caption, t3v_synth_score *out);

#endif
