/* SPDX-License-Identifier: Apache-2.0 */
/* All scores of a clip that need no caption, frame by frame: against a reference, or of the clip alone. */
#ifndef T3V_EVAL_JUDGE_H
#define T3V_EVAL_JUDGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* X(name): fields of t3v_video_scores: PSNR in dB, SSIM -1..1, flicker and warping errors in levels. Those of the first
 * list need a reference. */
#define T3V_PSNR_YUV_SCORES(X) X(psnr_y) X(psnr_u) X(psnr_v) X(psnr_yuv)
#define T3V_PSNR_RGB_SCORES(X) X(psnr_r) X(psnr_g) X(psnr_b) X(psnr_rgb)
#define T3V_SSIM_YUV_SCORES(X) X(ssim_y) X(ssim_u) X(ssim_v) X(ssim_yuv)
#define T3V_SSIM_RGB_SCORES(X) X(ssim_r) X(ssim_g) X(ssim_b) X(ssim_rgb)
#define T3V_TIME_SCORES(X) X(flicker_error) X(flicker_ref) X(warp_error_ref) X(seam_ref)
#define T3V_FIDELITY_SCORES(X) T3V_PSNR_YUV_SCORES(X) T3V_PSNR_RGB_SCORES(X) T3V_SSIM_YUV_SCORES(X)
#define T3V_REF_SCORES(X) T3V_FIDELITY_SCORES(X) T3V_SSIM_RGB_SCORES(X) T3V_TIME_SCORES(X)
#define T3V_OWN_SCORES(X) X(flicker) X(warp_error) X(warp_coverage) X(seam)

/* NaN: not measured (no reference, too few frames, no tiles); psnr_* is infinite where nothing differs. */
typedef struct t3v_video_scores {
    int64_t frames;
#define T3V_VIDEO_FIELD(name) double name;
    T3V_REF_SCORES(T3V_VIDEO_FIELD)
    T3V_OWN_SCORES(T3V_VIDEO_FIELD)
#undef T3V_VIDEO_FIELD
} t3v_video_scores;

typedef struct t3v_judge_options {
    bool paired;            /* frames come with a reference */
    int64_t tile_h, tile_w; /* of seams; 0: not measured */
    bool bt709;             /* matrix of Y, U, V; else BT.601 */
} t3v_judge_options;

typedef struct t3v_judge t3v_judge;

/* For frames of h x w. E_ARG: paired and a side below 8 (SSIM's window); E_NOMEM. */
t3v_status t3v_judge_open(t3v_judge **j, int64_t h, int64_t w, const t3v_judge_options *opt);
/* The next frame, rgb [h,w,3] full range; ref is not looked at unless paired. E_NOMEM. */
t3v_status t3v_judge_frame(t3v_judge *j, const uint8_t *test, const uint8_t *ref);
void t3v_judge_scores(const t3v_judge *j, t3v_video_scores *out);
void t3v_judge_close(t3v_judge **j); /* frees and nulls; NULL is fine */

#endif
