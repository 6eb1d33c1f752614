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

#include <jansson.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "cli.h"
#include "eval/features.h"
#include "eval/frechet.h"
#include "io/file.h"
#include "io/json.h"
#include "score.h"

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

static bool has_suffix(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n > m && strcasecmp(s + n - m, suffix) == 0;
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

typedef struct set_result {
    t3v_video_scores mean; /* over the clips of the test set in which it was measured; frames: their sum */
    double frechet, frechet_ref;
    int64_t clips, ref_clips;
} set_result;

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
    cli_scores sum = {0};
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
        T3V_TRY_GOTO(st, done, cli_score_clip(path, with, &in->opt, own ? &s : NULL, into, NULL, &h, &w));
        if (in->ref) T3V_TRY_GOTO(st, done, one_size(path, h, w, size));
        if (own) cli_scores_add(&sum, &s);
        T3V_TRY_GOTO(st, done, t3v_report(&progress, "clips", i + 1, all));
    }
    r->mean = cli_scores_mean(&sum);
    if (in->ref) {
        const double *of_ref = features + test.count * T3V_FEATURES;
        T3V_TRY_GOTO(st, done,
                     t3v_frechet(of_ref, ref.count, features, test.count, T3V_FEATURES, &r->frechet));
        T3V_TRY_GOTO(st, done, cli_frechet_halves(of_ref, ref.count, &r->frechet_ref));
    }
done:
    free(features);
    list_free(&test);
    list_free(&ref);
    return st;
}

/* ---- results ---- */

static int print_json(json_t *o)
{
    char *text = t3v_json_dumps(o, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(8));
    json_decref(o);
    if (!text) return CLI_FAILED;
    puts(text);
    free(text);
    return CLI_OK;
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

static int run_clip(const input *in, bool json)
{
    t3v_video_scores s;
    t3v_progress progress = cli_progress();
    int64_t h = 0, w = 0;
    double start = t3v_now();
    t3v_status st = cli_score_clip(in->test, in->ref, &in->opt, &s, NULL, &progress, &h, &w);
    if (st) return cli_fail(st);
    if (json) {
        json_t *o = json_pack("{s:I, s:I, s:I}", "width", (json_int_t)w, "height", (json_int_t)h, "frames",
                              (json_int_t)s.frames);
        cli_scores_put(o, &s, in->ref);
        cli_put_real(o, "seconds", t3v_now() - start);
        return print_json(o);
    }
    printf("%lldx%lld, %lld frames\n", (long long)w, (long long)h, (long long)s.frames);
    print_scores(&s, in->ref);
    return CLI_OK;
}

static int run_sets(const input *in, bool json)
{
    set_result r;
    double start = t3v_now();
    t3v_status st = judge_sets(in, &r);
    if (st) return cli_fail(st);
    if (json) {
        json_t *o = json_pack("{s:I, s:I}", "clips", (json_int_t)r.clips, "frames",
                              (json_int_t)r.mean.frames);
        if (in->ref) {
            json_object_set_new(o, "ref_clips", json_integer(r.ref_clips));
            cli_put_real(o, "frechet", r.frechet);
            cli_put_real(o, "frechet_ref", r.frechet_ref);
        }
        cli_scores_put(o, &r.mean, in->pairs);
        cli_put_real(o, "seconds", t3v_now() - start);
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
