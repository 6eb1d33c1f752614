/* SPDX-License-Identifier: Apache-2.0 */
/* VTC-S and VQA-S: prepares the clip and its reference, asks both judges, combines their parts. */
#include "eval/metrics_synth.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "eval/synth_parts.h"

enum { WORK_SIDE = 128, PICTURES = 4, SIDE_MIN = 32, FRAMES_MIN = 5, REFERENCE_SEED = 20240 };

static t3v_status clip_open(synth_clip *c, int64_t frames, int64_t h, int64_t w, double fps)
{
    int64_t n;
    *c = (synth_clip){.frames = frames, .h = h, .w = w, .fps = fps, .unit = (double)(h < w ? h : w)};
    if (!t3v_mul3(frames, h, w, &n) || !t3v_mul(n, 3 * (int64_t)sizeof(float), &n))
        return t3v_fail(T3V_E_TOO_BIG, "clip of %lldx%lldx%lld", (long long)frames, (long long)h,
                        (long long)w);
    c->rgb = malloc((size_t)n);
    return c->rgb ? T3V_OK : t3v_fail(T3V_E_NOMEM, "no memory: scoring needs %lld bytes", (long long)n);
}

static float unit_range(float x) { return fminf(fmaxf(0.5f * x + 0.5f, 0), 1); } /* NaN gives 0 */

/* Mean over the area each target pixel covers; [-1,1] becomes [0,1]. `line` holds W floats. */
static void shrink(const float *src, int64_t H, int64_t W, float *dst, int64_t h, int64_t w, float *line)
{
    double sy = (double)H / (double)h, sx = (double)W / (double)w;
    for (int64_t y = 0; y < h; y++) {
        double y0 = (double)y * sy, y1 = fmin(y0 + sy, (double)H);
        memset(line, 0, (size_t)W * sizeof *line);
        for (int64_t v = (int64_t)y0; (double)v < y1 - 1e-9; v++) {
            float wy = (float)((fmin((double)v + 1, y1) - fmax((double)v, y0)) / (y1 - y0));
            for (int64_t x = 0; x < W; x++) line[x] += wy * unit_range(src[v * W + x]);
        }
        for (int64_t x = 0; x < w; x++) {
            double x0 = (double)x * sx, x1 = fmin(x0 + sx, (double)W), sum = 0;
            for (int64_t u = (int64_t)x0; (double)u < x1 - 1e-9; u++)
                sum += line[u] * (fmin((double)u + 1, x1) - fmax((double)u, x0));
            dst[y * w + x] = (float)(sum / (x1 - x0));
        }
    }
}

static t3v_status clip_from_video(synth_clip *c, const float *video, int64_t frames, int64_t h, int64_t w)
{
    float *line = malloc((size_t)w * sizeof *line);
    if (!line) return t3v_fail(T3V_E_NOMEM, "no memory: scoring needs %lld bytes", (long long)w * 4);
    for (int64_t i = 0; i < c->frames * 3; i++)
        shrink(video + (i % 3 * frames + i / 3) * h * w, h, w, c->rgb + i * c->h * c->w, c->h, c->w, line);
    free(line);
    return T3V_OK;
}

static void clip_frame(synth_clip *c, int64_t to, const float *video, int64_t frames, int64_t frame)
{
    int64_t n = c->h * c->w;
    for (int64_t ch = 0; ch < 3; ch++)
        for (int64_t i = 0; i < n; i++)
            c->rgb[(to * 3 + ch) * n + i] = unit_range(video[(ch * frames + frame) * n + i]);
}

static void clip_render(synth_clip *c, int64_t to, const t3v_scene *s, int64_t frame)
{
    float *p = c->rgb + to * 3 * c->h * c->w;
    t3v_scene_render(s, c->w, c->h, frame, c->fps, p);
    for (int64_t i = 0; i < 3 * c->h * c->w; i++) p[i] = unit_range(p[i]);
}

static void combine(t3v_synth_score *s, bool second)
{
    double sum = 0, weights = 0;
#define ADD(name, weight)                         \
    if (second || strcmp(#name, "second") != 0) { \
        sum += (weight)*s->name;                  \
        weights += (weight);                      \
    }
    T3V_VTC_PARTS(ADD)
#undef ADD
    s->vtc = sum / weights;
    sum = 0;
#define ADD(name, weight) sum += (weight)*s->name;
    T3V_VQA_PARTS(ADD)
#undef ADD
    s->vqa = 100 * sum;
}

t3v_status t3v_score_synth(const float *video, int64_t frames, int64_t h, int64_t w, double fps,
                           const char *caption, t3v_synth_score *out)
{
    t3v_scene_attrs said;
    memset(out, 0, sizeof *out);
    if (!t3v_scene_parse(caption, &said))
        return t3v_fail(
            T3V_E_ARG,
            "caption \"%.200s\": not of the synthetic grammar; see `t3v data synth --captions-only'",
            caption);
    if (frames < FRAMES_MIN || h < SIDE_MIN || w < SIDE_MIN || !(fps > 0))
        return t3v_fail(T3V_E_ARG,
                        "a clip of %lldx%lld, %lld frames at %g fps: at least %dx%d and %d frames are needed",
                        (long long)w, (long long)h, (long long)frames, fps, SIDE_MIN, SIDE_MIN, FRAMES_MIN);
    int64_t side = h < w ? h : w, wh = h, ww = w;
    if (side > WORK_SIDE) {
        wh = (h * WORK_SIDE + side / 2) / side;
        ww = (w * WORK_SIDE + side / 2) / side;
    }
    synth_clip work = {0}, ref = {0}, picture = {0}, ref_picture = {0};
    t3v_scene scene = t3v_scene_of(&said, REFERENCE_SEED);
    t3v_status st;
    T3V_TRY_GOTO(st, done, clip_open(&work, frames, wh, ww, fps));
    T3V_TRY_GOTO(st, done, clip_open(&ref, frames, wh, ww, fps));
    T3V_TRY_GOTO(st, done, clip_open(&picture, PICTURES, h, w, fps));
    T3V_TRY_GOTO(st, done, clip_open(&ref_picture, PICTURES, h, w, fps));
    T3V_TRY_GOTO(st, done, clip_from_video(&work, video, frames, h, w));
    for (int64_t f = 0; f < frames; f++) clip_render(&ref, f, &scene, f);
    for (int64_t i = 0; i < PICTURES; i++) {
        int64_t f = i * (frames - 1) / (PICTURES - 1);
        clip_frame(&picture, i, video, frames, f);
        clip_render(&ref_picture, i, &scene, f);
    }
    T3V_TRY_GOTO(st, done, t3v_synth_agreement(&work, &said, out));
    T3V_TRY_GOTO(st, done, t3v_synth_quality(&work, &ref, &picture, &ref_picture, out));
    combine(out, said.second);
done:
    free(work.rgb);
    free(ref.rgb);
    free(picture.rgb);
    free(ref_picture.rgb);
    return st;
}
