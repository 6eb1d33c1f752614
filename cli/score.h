/* SPDX-License-Identifier: Apache-2.0 */
/* Scores of video files that need no caption: one clip, means over clips, distances between sets. */
#ifndef T3V_CLI_SCORE_H
#define T3V_CLI_SCORE_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "eval/judge.h"
#include "t3v/log.h"

/* The scores of the clip `test` (a video, or a safetensors file with `video` [3,F,H,W] F32), against `ref` unless NULL,
 * into `out`, and its features [T3V_FEATURES]; NULL: not wanted. `progress` may be NULL. E_SHAPE: the clips differ in
 * size or length; E_ARG: no border of opt's tiles lies inside the frames. */
t3v_status cli_score_clip(const char *test, const char *ref, const t3v_judge_options *opt,
                          t3v_video_scores *out, double *features, const t3v_progress *progress, int64_t *h,
                          int64_t *w);

/* Scores of several clips; start from zero. */
typedef struct cli_scores {
    t3v_video_scores sum, count;
} cli_scores;

void cli_scores_add(cli_scores *all, const t3v_video_scores *s);
/* Of the clips in which each score was measured (NaN: none); frames: their sum. */
t3v_video_scores cli_scores_mean(const cli_scores *all);

/* Distance between the clips of even and of odd place in x [n, T3V_FEATURES]: what two sets without a difference get. NaN
 * below 4 clips. */
t3v_status cli_frechet_halves(const double *x, int64_t n, double *out);

/* JSON has no infinity: null stands for what was not measured, and for the PSNR of equal pictures. */
void cli_put_real(json_t *o, const char *name, double x);
void cli_scores_put(json_t *o, const t3v_video_scores *s, bool paired);

#endif
