/* SPDX-License-Identifier: Apache-2.0 */
/* t3v eval video: a clip against a reference, a clip alone, sets of clips. */
#define _GNU_SOURCE
#include "eval_video.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include <jansson.h>

#include "base/checked.h"
#include "base/log.h"
#include "cli.h"
#include "eval/features.h"
#include "eval/frechet.h"
#include "eval/judge.h"
#include "io/file.h"
#include "io/tensors.h"
#include "video/video.h"

enum { OPT_REF = 1, OPT_TEST, OPT_TILE, OPT_MATRIX, OPT_PAIRS };

static const struct argp_option options[] = {
    {"test", OPT_TEST, "A", 0,
     "Clip to score: a video, a safetensors file with `video` [3,F,H,W] F32 in [-1,1], or a directory of "
     "them",
     1},
    {"ref", OPT_REF, "B", 0, "What it should be: of the same size and length; for a directory, a directory",
     1},
    {"tile", OPT_TILE, "HxW", 0, "Also measure seams between tiles of this size in pixels", 1},
    {"matrix", OPT_MATRIX, "bt601|bt709", 0, "What Y, U and V are made with (default: bt601)", 1},
    {"pairs", OPT_PAIRS, 0, 0, "Directories: also score each clip against that of the same name in --ref", 1},
    {0},
};

typedef struct input {
    const char *ref, *test;
    t3v_judge_options opt;
    bool pairs;
} input;

static error_t parse(int key, char *arg, struct argp_state *state)
{
    input *in = state->input;
    switch (key) {
    case OPT_REF: in->ref = arg; return 0;
    case OPT_TEST: in->test = arg; return 0;
    case OPT_TILE:
        if (!cli_size(arg, &in->opt.tile_h, &in->opt.tile_w))
            argp_error(state, "--tile %s: expected HxW in pixels", arg);
        return 0;
    case OPT_MATRIX:
        in->opt.bt709 = strcmp(arg, "bt709") == 0;
        if (!in->opt.bt709 && strcmp(arg, "bt601") != 0)
            argp_error(state, "--matrix %s: expected bt601 or bt709", arg);
        return 0;
    case OPT_PAIRS: in->pairs = true; return 0;
    case ARGP_KEY_ARG: argp_error(state, "unexpected argument '%s'", arg); return 0;
    case ARGP_KEY_END:
        if (!in->test) argp_error(state, "--test is needed");
        if (in->pairs && (!in->ref || !t3v_is_dir(in->test)))
            argp_error(state, "--pairs goes with two directories");
        if (in->ref && t3v_is_dir(in->ref) != t3v_is_dir(in->test))
            argp_error(state, "--ref and --test: expected two clips or two directories");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

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

/* The scores of `test`, against `ref` unless NULL; its features too, unless `features` is NULL. `progress` may be
 * NULL. */
static t3v_status judge(const char *test, const char *ref, const t3v_judge_options *opt,
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

/* ---- sets of clips ---- */

typedef struct clip_list {
    char **path;
    int64_t count;
} clip_list;

static void list_free(clip_list *l)
{
    for (int64_t i = 0; i < l->count; i++) free(l->path[i]);
    free(l->path);
    *l = (clip_list){0};
}

static int is_clip(const struct dirent *d)
{
    static const char *const suffix[] = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".y4m", ".safetensors"};
    for (size_t i = 0; i < sizeof suffix / sizeof *suffix; i++)
        if (d->d_name[0] != '.' && has_suffix(d->d_name, suffix[i])) return 1;
    return 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* The clips of a directory in the order of their names' bytes. */
static t3v_status list_clips(clip_list *l, const char *dir)
{
    struct dirent **entry = NULL;
    *l = (clip_list){0};
    int n = scandir(dir, &entry, is_clip, by_name);
    if (n < 0) return t3v_fail(T3V_E_IO, "cannot read the directory '%s': %s", dir, strerror(errno));
    t3v_status st =
        n ? T3V_OK
          : t3v_fail(T3V_E_FORMAT,
                     "no clips in '%s': expected mp4, mov, mkv, webm, avi, y4m or safetensors files", dir);
    if (n && !(l->path = calloc((size_t)n, sizeof *l->path))) st = t3v_fail(T3V_E_NOMEM, "out of memory");
    for (int i = 0; i < n; i++) {
        if (!st && !(l->path[i] = t3v_path_join(dir, entry[i]->d_name)))
            st = t3v_fail(T3V_E_NOMEM, "out of memory");
        else if (!st) l->count++;
        free(entry[i]);
    }
    free(entry);
    if (st) list_free(l);
    return st;
}

/* The clip of `l` with the file name of `path`. */
static t3v_status list_find(const clip_list *l, const char *dir, const char *path, const char **out)
{
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    for (int64_t i = 0; i < l->count; i++) {
        *out = l->path[i];
        const char *other = strrchr(*out, '/') ? strrchr(*out, '/') + 1 : *out;
        if (strcmp(name, other) == 0) return T3V_OK;
    }
    return t3v_fail(T3V_E_FORMAT, "--pairs: '%s' has no clip of the same name in '%s'", path, dir);
}

#define SCORES(X) T3V_REF_SCORES(X) T3V_OWN_SCORES(X)

typedef struct set_result {
    t3v_video_scores mean; /* over the clips of the test set in which it was measured; frames: their sum */
    double frechet, frechet_ref;
    int64_t clips, ref_clips;
} set_result;

static void add_scores(t3v_video_scores *sum, t3v_video_scores *count, const t3v_video_scores *s)
{
    sum->frames += s->frames;
#define ADD(name)             \
    if (!isnan(s->name)) {    \
        sum->name += s->name; \
        count->name += 1;     \
    }
    SCORES(ADD)
#undef ADD
}

/* Distance between the clips of even and of odd place: what two sets without a difference get. */
static t3v_status halves(const double *x, int64_t n, double *out)
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

/* All clips of one size: features of others do not compare. */
static t3v_status one_size(const char *path, int64_t h, int64_t w, int64_t size[2])
{
    if (!size[0]) {
        size[0] = h;
        size[1] = w;
    }
    if (h == size[0] && w == size[1]) return T3V_OK;
    return t3v_fail(T3V_E_SHAPE, "'%s' is %lldx%lld, the first clip is %lldx%lld: expected clips of one size",
                    path, (long long)w, (long long)h, (long long)size[1], (long long)size[0]);
}

static t3v_status judge_sets(const input *in, set_result *r)
{
    clip_list test = {0}, ref = {0};
    double *features = NULL; /* of the test set, then of the reference */
    t3v_video_scores count = {0};
    t3v_progress progress = cli_progress();
    int64_t size[2] = {0}, h = 0, w = 0, bytes;
    t3v_status st;
    *r = (set_result){.frechet = (double)NAN, .frechet_ref = (double)NAN};
    T3V_TRY_GOTO(st, done, list_clips(&test, in->test));
    if (in->ref) T3V_TRY_GOTO(st, done, list_clips(&ref, in->ref));
    r->clips = test.count;
    r->ref_clips = ref.count;
    if (in->ref && (test.count < 2 || ref.count < 2)) {
        st = t3v_fail(T3V_E_FORMAT, "%lld clips in '%s', %lld in '%s': a Frechet distance needs 2 of each",
                      (long long)test.count, in->test, (long long)ref.count, in->ref);
        goto done;
    }
    int64_t all = test.count + ref.count;
    if (!t3v_mul3(all, T3V_FEATURES, (int64_t)sizeof *features, &bytes) ||
        !(features = malloc((size_t)bytes))) {
        st = t3v_fail(T3V_E_NOMEM, "no memory for the features of %lld clips", (long long)all);
        goto done;
    }
    for (int64_t i = 0; i < all; i++) {
        bool own = i < test.count;
        const char *path = own ? test.path[i] : ref.path[i - test.count], *with = NULL;
        double *into = in->ref ? features + i * T3V_FEATURES : NULL;
        t3v_video_scores s;
        if (own && in->pairs) T3V_TRY_GOTO(st, done, list_find(&ref, in->ref, path, &with));
        T3V_TRY_GOTO(st, done, judge(path, with, &in->opt, own ? &s : NULL, into, NULL, &h, &w));
        if (in->ref) T3V_TRY_GOTO(st, done, one_size(path, h, w, size));
        if (own) add_scores(&r->mean, &count, &s);
        T3V_TRY_GOTO(st, done, t3v_report(&progress, "clips", i + 1, all));
    }
#define MEAN(name) r->mean.name = count.name > 0 ? r->mean.name / count.name : (double)NAN;
    SCORES(MEAN)
#undef MEAN
    if (in->ref) {
        const double *of_ref = features + test.count * T3V_FEATURES;
        T3V_TRY_GOTO(st, done,
                     t3v_frechet(of_ref, ref.count, features, test.count, T3V_FEATURES, &r->frechet));
        T3V_TRY_GOTO(st, done, halves(of_ref, ref.count, &r->frechet_ref));
    }
done:
    free(features);
    list_free(&test);
    list_free(&ref);
    return st;
}

/* ---- results ---- */

/* JSON has no infinity: null stands for what was not measured, and for the PSNR of equal pictures. */
static void put(json_t *o, const char *name, double x)
{
    json_object_set_new(o, name, isfinite(x) ? json_real(x) : json_null());
}

static int print_json(json_t *o)
{
    char *text = json_dumps(o, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(8));
    json_decref(o);
    if (!text) return CLI_FAILED;
    puts(text);
    free(text);
    return CLI_OK;
}

static void put_scores(json_t *o, const t3v_video_scores *s, bool paired)
{
#define PUT(name) put(o, #name, s->name);
    if (paired) {
        T3V_REF_SCORES(PUT)
    }
    T3V_OWN_SCORES(PUT)
#undef PUT
}

static void line(const char *name, double own, double ref, const char *unit, const char *what)
{
    if (isnan(own)) return;
    printf("%-14s %8.3f%s", name, own, unit);
    if (!isnan(ref)) printf("   (reference %.3f)", ref);
    printf("   %s\n", what);
}

static void print_scores(const t3v_video_scores *s, bool paired)
{
    if (paired) {
        printf("PSNR  Y %.3f  U %.3f  V %.3f  all %.3f dB;  R %.3f  G %.3f  B %.3f  all %.3f dB\n", s->psnr_y,
               s->psnr_u, s->psnr_v, s->psnr_yuv, s->psnr_r, s->psnr_g, s->psnr_b, s->psnr_rgb);
        printf("SSIM  Y %.5f  U %.5f  V %.5f  all %.5f;  R %.5f  G %.5f  B %.5f  all %.5f\n", s->ssim_y,
               s->ssim_u, s->ssim_v, s->ssim_yuv, s->ssim_r, s->ssim_g, s->ssim_b, s->ssim_rgb);
        line("flicker error", s->flicker_error, (double)NAN, "",
             "levels: bends in time that the reference lacks");
    }
    line("flicker", s->flicker, s->flicker_ref, "", "levels: bends in time");
    line("warping error", s->warp_error, s->warp_error_ref, "",
         "levels: a frame along the motion against the next");
    line("  coverage", 100 * s->warp_coverage, (double)NAN, " %",
         "of the pixels have motion that can be trusted");
    line("seam", s->seam, s->seam_ref, "", "jumps where tiles meet against those beside: 1 = none");
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int run_clip(const input *in, bool json)
{
    t3v_video_scores s;
    t3v_progress progress = cli_progress();
    int64_t h = 0, w = 0;
    double start = now();
    t3v_status st = judge(in->test, in->ref, &in->opt, &s, NULL, &progress, &h, &w);
    if (st) return cli_fail(st);
    if (json) {
        json_t *o = json_pack("{s:I, s:I, s:I}", "width", (json_int_t)w, "height", (json_int_t)h, "frames",
                              (json_int_t)s.frames);
        put_scores(o, &s, in->ref);
        put(o, "seconds", now() - start);
        return print_json(o);
    }
    printf("%lldx%lld, %lld frames\n", (long long)w, (long long)h, (long long)s.frames);
    print_scores(&s, in->ref);
    return CLI_OK;
}

static int run_sets(const input *in, bool json)
{
    set_result r;
    double start = now();
    t3v_status st = judge_sets(in, &r);
    if (st) return cli_fail(st);
    if (json) {
        json_t *o = json_pack("{s:I, s:I}", "clips", (json_int_t)r.clips, "frames",
                              (json_int_t)r.mean.frames);
        if (in->ref) {
            json_object_set_new(o, "ref_clips", json_integer(r.ref_clips));
            put(o, "frechet", r.frechet);
            put(o, "frechet_ref", r.frechet_ref);
        }
        put_scores(o, &r.mean, in->pairs);
        put(o, "seconds", now() - start);
        return print_json(o);
    }
    printf("%lld clips, %lld frames; means over clips\n", (long long)r.clips, (long long)r.mean.frames);
    if (in->ref) {
        printf("Frechet        %8.3f   to %lld clips", r.frechet, (long long)r.ref_clips);
        if (!isnan(r.frechet_ref)) printf("; between two halves of those: %.3f", r.frechet_ref);
        printf("\n");
    }
    print_scores(&r.mean, in->pairs);
    return CLI_OK;
}

int cli_eval_video(int argc, char **argv)
{
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .doc = "Scores videos that have no captions.\v"
               "With --ref: PSNR and SSIM as ffmpeg's filters have them, flicker, warping error. Without: "
               "what can be "
               "said of the clip alone. Two directories: the Frechet distance between the sets.",
    };
    input in = {0};
    cli_common common;
    int rc = cli_parse(&argp, argc, argv, &common, &in);
    if (rc >= 0) return rc;
    return t3v_is_dir(in.test) ? run_sets(&in, common.json) : run_clip(&in, common.json);
}
