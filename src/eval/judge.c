/* SPDX-License-Identifier: Apache-2.0 */
/* The scores of a clip, gathered frame by frame: three frames are held at a time. */
#include "eval/judge.h"

#include <math.h>
#include <stdlib.h>

#include "eval/fidelity.h"
#include "eval/flicker.h"
#include "eval/flow.h"
#include "eval/planes.h"
#include "eval/seam.h"

enum { TIMES = 3 };

/* One of the two clips. */
typedef struct side {
    t3v_planes at[TIMES]; /* now, one and two frames before */
    double flicker;
    t3v_warp warp;
    t3v_seam seam;
} side;

struct t3v_judge {
    t3v_judge_options opt;
    int64_t h, w, frames;
    side test, ref;
    t3v_flow back, forth;
    double mse[T3V_PLANES], ssim[T3V_PLANES], flicker_error; /* sums over frames */
};

void t3v_judge_close(t3v_judge **j)
{
    if (!*j) return;
    for (int t = 0; t < TIMES; t++) {
        t3v_planes_free(&(*j)->test.at[t]);
        t3v_planes_free(&(*j)->ref.at[t]);
    }
    t3v_flow_free(&(*j)->back);
    t3v_flow_free(&(*j)->forth);
    free(*j);
    *j = NULL;
}

t3v_status t3v_judge_open(t3v_judge **out, int64_t h, int64_t w, const t3v_judge_options *opt)
{
    *out = NULL;
    if (opt->paired && (h < T3V_SSIM_MIN_SIDE || w < T3V_SSIM_MIN_SIDE))
        return t3v_fail(T3V_E_ARG, "frames of %lldx%lld: expected at least %d pixels a side", (long long)w,
                        (long long)h, T3V_SSIM_MIN_SIDE);
    t3v_judge *j = calloc(1, sizeof *j);
    if (!j) return t3v_fail(T3V_E_NOMEM, "no memory for scores");
    j->opt = *opt;
    j->h = h;
    j->w = w;
    t3v_status st = t3v_flow_make(&j->back, h, w);
    if (!st) st = t3v_flow_make(&j->forth, h, w);
    for (int t = 0; t < TIMES && !st; t++) {
        st = t3v_planes_make(&j->test.at[t], h, w);
        if (!st && opt->paired) st = t3v_planes_make(&j->ref.at[t], h, w);
    }
    if (st) t3v_judge_close(&j);
    *out = j;
    return st;
}

static void take(side *s, const t3v_judge *j, const uint8_t *rgb)
{
    t3v_planes oldest = s->at[TIMES - 1];
    for (int t = TIMES - 1; t > 0; t--) s->at[t] = s->at[t - 1];
    s->at[0] = oldest;
    t3v_planes_fill(&s->at[0], rgb, j->opt.bt709);
    t3v_seam_add(&s->seam, s->at[0].plane[T3V_Y], j->h, j->w, j->opt.tile_h, j->opt.tile_w);
}

t3v_status t3v_judge_frame(t3v_judge *j, const uint8_t *test, const uint8_t *ref)
{
    int64_t n = j->h * j->w;
    side *sides[2] = {&j->test, j->opt.paired ? &j->ref : NULL};
    take(&j->test, j, test);
    if (j->opt.paired) take(&j->ref, j, ref);
    for (int i = 0; i < T3V_PLANES && j->opt.paired; i++) {
        const uint8_t *a = j->ref.at[0].plane[i], *b = j->test.at[0].plane[i];
        j->mse[i] += t3v_plane_mse(a, b, j->h, j->w);
        j->ssim[i] += t3v_plane_ssim(a, b, j->h, j->w);
    }
    if (j->frames >= 1) { /* the reference, where there is one, says what moved */
        const t3v_planes *at = j->opt.paired ? j->ref.at : j->test.at;
        T3V_TRY(t3v_flow_find(&j->back, at[0].plane[T3V_Y], at[1].plane[T3V_Y]));
        T3V_TRY(t3v_flow_find(&j->forth, at[1].plane[T3V_Y], at[0].plane[T3V_Y]));
        for (int i = 0; i < 2 && sides[i]; i++)
            t3v_warp_add(&sides[i]->warp, &sides[i]->at[0], &sides[i]->at[1], &j->back, &j->forth);
    }
    if (j->frames >= 2) {
        const uint8_t *y[2][TIMES];
        for (int t = 0; t < TIMES; t++) {
            y[0][t] = j->test.at[t].plane[T3V_Y];
            y[1][t] = j->ref.at[t].plane[T3V_Y];
        }
        for (int i = 0; i < 2 && sides[i]; i++) sides[i]->flicker += t3v_flicker(y[i], n);
        if (j->opt.paired) j->flicker_error += t3v_flicker_error(y[0], y[1], n);
    }
    j->frames++;
    return T3V_OK;
}

static double mean_of(double sum, int64_t n) { return n > 0 ? sum / (double)n : (double)NAN; }

void t3v_judge_scores(const t3v_judge *j, t3v_video_scores *o)
{
    int64_t bends = j->frames - 2;
#define NOT_MEASURED(name) o->name = (double)NAN;
    T3V_REF_SCORES(NOT_MEASURED)
    T3V_OWN_SCORES(NOT_MEASURED)
#undef NOT_MEASURED
    o->frames = j->frames;
    o->flicker = mean_of(j->test.flicker, bends);
    o->warp_error = t3v_warp_error(&j->test.warp);
    o->warp_coverage = t3v_warp_coverage(&j->test.warp);
    o->seam = t3v_seam_ratio(&j->test.seam);
    if (!j->opt.paired || !j->frames) return;
    double *psnr[] = {&o->psnr_y, &o->psnr_u, &o->psnr_v, &o->psnr_r, &o->psnr_g, &o->psnr_b};
    double *ssim[] = {&o->ssim_y, &o->ssim_u, &o->ssim_v, &o->ssim_r, &o->ssim_g, &o->ssim_b};
    double mse[2] = {0}, all[2] = {0}; /* of Y, U, V; of R, G, B */
    for (int i = 0; i < T3V_PLANES; i++) {
        *psnr[i] = t3v_psnr(j->mse[i] / (double)j->frames);
        *ssim[i] = j->ssim[i] / (double)j->frames;
        mse[i >= T3V_R] += j->mse[i] / (3 * (double)j->frames);
        all[i >= T3V_R] += *ssim[i] / 3;
    }
    o->psnr_yuv = t3v_psnr(mse[0]);
    o->psnr_rgb = t3v_psnr(mse[1]);
    o->ssim_yuv = all[0];
    o->ssim_rgb = all[1];
    o->flicker_ref = mean_of(j->ref.flicker, bends);
    o->flicker_error = mean_of(j->flicker_error, bends);
    o->warp_error_ref = t3v_warp_error(&j->ref.warp);
    o->seam_ref = t3v_seam_ratio(&j->ref.seam);
}
