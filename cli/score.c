/* SPDX-License-Identifier: Apache-2.0 */
/* Video files through the scores of src/eval, frame by frame. */
#define _GNU_SOURCE
#include "score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/log.h"
#include "eval/features.h"
#include "eval/frechet.h"
#include "io/tensors.h"
#include "video/video.h"

/* ---- frames of a clip, one after the other ---- */

typedef struct frames {
    const char *path;
    int64_t h, w, count; /* count: as far as the file says, else -1 */
    int64_t at;
    uint8_t *rgb; /* [h,w,3] of the frame read last */
    t3v_video_reader *video;
    t3v_tensor_file *file;
    const t3v_tensor_entry *tensor; /* [3,count,h,w] */
    float *row;
} frames;

static void frames_close(frames *f)
{
    t3v_video_reader_close(&f->video);
    t3v_tensors_close(f->file);
    free(f->rgb);
    free(f->row);
    *f = (frames){0};
}

static bool has_suffix(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n > m && strcasecmp(s + n - m, suffix) == 0;
}

static t3v_status open_tensor(frames *f)
{
    T3V_TRY(t3v_tensors_open(&f->file, f->path));
    T3V_TRY(t3v_tensors_get(f->file, "video", &f->tensor));
    const t3v_tensor_entry *e = f->tensor;
    T3V_TRY(t3v_tensor_expect(e, 4, (int64_t[]){3, -1, -1, -1}));
    if (e->dtype != T3V_F32)
        return t3v_fail(T3V_E_DTYPE, "%s: tensor 'video' is %s, expected F32", f->path,
                        t3v_dtype_name(e->dtype));
    f->count = e->shape[e->ndim - 3];
    f->h = e->shape[e->ndim - 2];
    f->w = e->shape[e->ndim - 1];
    if (f->count < 1 || f->h < 1 || f->w < 1)
        return t3v_fail(T3V_E_SHAPE, "%s: tensor 'video' is empty", f->path);
    if (f->h > T3V_VIDEO_MAX_SIDE || f->w > T3V_VIDEO_MAX_SIDE || f->h * f->w > T3V_VIDEO_MAX_PIXELS)
        return t3v_fail(T3V_E_TOO_BIG, "%s: frames of %lldx%lld, at most %d a side", f->path, (long long)f->w,
                        (long long)f->h, T3V_VIDEO_MAX_SIDE);
    f->row = malloc((size_t)f->w * sizeof *f->row);
    return f->row ? T3V_OK : t3v_fail(T3V_E_NOMEM, "%s: no memory for a row", f->path);
}

static t3v_status frames_open(frames *f, const char *path)
{
    *f = (frames){.path = path};
    t3v_status st;
    if (has_suffix(path, ".safetensors")) {
        st = open_tensor(f);
    } else {
        st = t3v_video_reader_open(&f->video, path);
        if (!st) {
            const t3v_video_info *info = t3v_video_reader_info(f->video);
            f->h = info->height;
            f->w = info->width;
            f->count = info->frames;
        }
    }
    if (!st && !(f->rgb = malloc((size_t)(3 * f->h * f->w))))
        st = t3v_fail(T3V_E_NOMEM, "%s: no memory for a frame of %lldx%lld", path, (long long)f->w,
                      (long long)f->h);
    if (st) frames_close(f);
    return st;
}

static t3v_status frames_next(frames *f, bool *eof)
{
    if (f->video) {
        T3V_TRY(t3v_video_reader_next_u8(f->video, f->rgb, eof));
        f->at += !*eof;
        return T3V_OK;
    }
    if ((*eof = f->at == f->count)) return T3V_OK;
    const char *data = f->tensor->data;
    for (int64_t c = 0; c < 3; c++)
        for (int64_t y = 0; y < f->h; y++) {
            int64_t from = ((c * f->count + f->at) * f->h + y) * f->w;
            memcpy(f->row, data + from * (int64_t)sizeof(float), (size_t)f->w * sizeof *f->row);
            for (int64_t x = 0; x < f->w; x++) f->rgb[3 * (y * f->w + x) + c] = t3v_pixel_u8(f->row[x]);
        }
    f->at++;
    return T3V_OK;
}

/* ---- scores of one clip ---- */

t3v_status cli_score_clip(const char *test, const char *ref, const t3v_judge_options *opt,
                          t3v_video_scores *out, double *features, const t3v_progress *progress, int64_t *h,
                          int64_t *w)
{
    frames a = {0}, b = {0};
    t3v_judge *j = NULL;
    t3v_features *f = NULL;
    t3v_judge_options o = *opt;
    t3v_status st;
    o.paired = ref != NULL;
    T3V_TRY_GOTO(st, done, frames_open(&a, test));
    if (ref) T3V_TRY_GOTO(st, done, frames_open(&b, ref));
    if (ref && (a.h != b.h || a.w != b.w)) {
        st = t3v_fail(T3V_E_SHAPE, "'%s' is %lldx%lld, '%s' is %lldx%lld: expected clips of one size", test,
                      (long long)a.w, (long long)a.h, ref, (long long)b.w, (long long)b.h);
        goto done;
    }
    *h = a.h;
    *w = a.w;
    if (o.tile_h >= a.h && o.tile_w >= a.w) {
        st = t3v_fail(T3V_E_ARG, "--tile %lldx%lld: no border lies inside frames of %lldx%lld (HxW)",
                      (long long)o.tile_h, (long long)o.tile_w, (long long)a.h, (long long)a.w);
        goto done;
    }
    if (out) T3V_TRY_GOTO(st, done, t3v_judge_open(&j, a.h, a.w, &o));
    if (features) T3V_TRY_GOTO(st, done, t3v_features_begin(&f, a.h, a.w));
    for (;;) {
        bool end, ref_end;
        T3V_TRY_GOTO(st, done, frames_next(&a, &end));
        ref_end = end;
        if (ref) T3V_TRY_GOTO(st, done, frames_next(&b, &ref_end));
        if (end != ref_end) {
            st = t3v_fail(T3V_E_SHAPE,
                          "'%s' ends after %lld frames, '%s' goes on: expected clips of one length",
                          end ? test : ref, (long long)(end ? a.at : b.at), end ? ref : test);
            goto done;
        }
        if (end) break;
        if (j) T3V_TRY_GOTO(st, done, t3v_judge_frame(j, a.rgb, b.rgb));
        if (f) t3v_features_frame(f, a.rgb);
        if (progress)
            T3V_TRY_GOTO(st, done,
                         t3v_report(progress, "frames", a.at, a.count >= a.at ? a.count : a.at + 1));
    }
    if (!a.at) {
        st = t3v_fail(T3V_E_FORMAT, "'%s' has no frames", test);
        goto done;
    }
    if (j) t3v_judge_scores(j, out);
    if (f && (st = t3v_features_end(f, features))) st = t3v_fail_in(st, "%s", test);
done:
    t3v_features_free(&f);
    t3v_judge_close(&j);
    frames_close(&a);
    frames_close(&b);
    return st;
}

/* ---- means ---- */

#define SCORES(X) T3V_REF_SCORES(X) T3V_OWN_SCORES(X)

void cli_scores_add(cli_scores *all, const t3v_video_scores *s)
{
    all->sum.frames += s->frames;
#define ADD(name)                 \
    if (!isnan(s->name)) {        \
        all->sum.name += s->name; \
        all->count.name += 1;     \
    }
    SCORES(ADD)
#undef ADD
}

t3v_video_scores cli_scores_mean(const cli_scores *all)
{
    t3v_video_scores mean = {.frames = all->sum.frames};
#define MEAN(name) mean.name = all->count.name > 0 ? all->sum.name / all->count.name : (double)NAN;
    SCORES(MEAN)
#undef MEAN
    return mean;
}

t3v_status cli_frechet_halves(const double *x, int64_t n, double *out)
{
    *out = (double)NAN;
    if (n < 4) return T3V_OK;
    int64_t even = (n + 1) / 2;
    double *sorted = malloc((size_t)n * T3V_FEATURES * sizeof *sorted);
    if (!sorted) return t3v_fail(T3V_E_NOMEM, "out of memory");
    for (int64_t i = 0; i < n; i++)
        memcpy(sorted + (i % 2 * even + i / 2) * T3V_FEATURES, x + i * T3V_FEATURES,
               T3V_FEATURES * sizeof *x);
    t3v_status st = t3v_frechet(sorted, even, sorted + even * T3V_FEATURES, n - even, T3V_FEATURES, out);
    free(sorted);
    return st;
}

void cli_put_real(json_t *o, const char *name, double x)
{
    json_object_set_new(o, name, isfinite(x) ? json_real(x) : json_null());
}

void cli_scores_put(json_t *o, const t3v_video_scores *s, bool paired)
{
#define PUT(name) cli_put_real(o, #name, s->name);
    if (paired) {
        T3V_REF_SCORES(PUT)
    }
    T3V_OWN_SCORES(PUT)
#undef PUT
}
