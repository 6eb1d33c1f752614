/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the scores of procedural scenes: the clip at working size and the two judges. */
#ifndef T3V_EVAL_SYNTH_PARTS_H
#define T3V_EVAL_SYNTH_PARTS_H

#include <stdint.h>

#include "eval/metrics_synth.h"
#include "eval/synth.h"

typedef struct synth_clip {
    int64_t frames, h, w;
    double fps, unit; /* unit: pixels of the shorter side */
    float *rgb;       /* [frames,3,h,w] in [0,1] */
} synth_clip;

static inline const float *synth_plane(const synth_clip *c, int64_t frame, int channel)
{
    return c->rgb + (frame * 3 + channel) * c->h * c->w;
}

static inline double synth_clamp(double x) { return x > 0 ? x < 1 ? x : 1 : 0; }
/* 0 below lo, 1 above hi, straight between (lo > hi falls). */
static inline double synth_ramp(double x, double lo, double hi) { return synth_clamp((x - lo) / (hi - lo)); }

/* The parts of VTC-S. */
t3v_status t3v_synth_agreement(const synth_clip *clip, const t3v_scene_attrs *said, t3v_synth_score *out);
/* The parts of VQA-S: `clip` and `ref` (a render of what is said) at working size, `picture` and `ref_picture`
 * some frames of them at full size. */
t3v_status t3v_synth_quality(const synth_clip *clip, const synth_clip *ref, const synth_clip *picture,
                             const synth_clip *ref_picture, t3v_synth_score *out);

#endif
