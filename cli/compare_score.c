/* SPDX-License-Identifier: Apache-2.0 */
/* From clips and plans to the numbers of the table. */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/checked.h"
#include "base/log.h"
#include "cli.h"
#include "clip.h"
#include "compare.h"
#include "eval/features.h"
#include "eval/frechet.h"
#include "eval/metrics_synth.h"
#include "eval/synth.h"
#include "io/json.h"
#include "pipe/plan_choice.h"
#include "plan_figures.h"
#include "plan_svg.h"
#include "score.h"

const compare_column compare_columns[COMPARE_KEYS] = {
    [COMPARE_SECONDS_A_STEP] = {"seconds_a_step", "Cost", "Time a step", "s",
                                "median over the clips of a denoising step, guidance included", 1, -3, -1,
                                false, true},
    [COMPARE_SECONDS] = {"seconds", "Cost", "Time in all", "s",
                         "prompts, denoising and decoding of all clips", 1, -3, -1, false, false},
    [COMPARE_MACS] = {"macs", "Cost", "Work a clip", "", "multiply-adds of all passes of the transformer", 1,
                      -4, -1, false, true},
    [COMPARE_ATTENTION_SHARE] = {"attention_share", "Cost", "Attention", "%",
                                 "multiply-adds of self-attention; full attention is 100", 100, 1, -1, false,
                                 true},
    [COMPARE_DENSITY] =
        {"density", "Cost", "Pairs met", "%",
         "pairs of queries and keys that met where the plan chooses keys by content; a dash where "
         "nothing is chosen",
         100, 1, -1, false, false},
    [COMPARE_PEAK_BYTES] = {"peak_bytes", "Cost", "Peak memory", "GiB",
                            "resident, of the process that made the clips", 0x1p-30, 2, -1, false, true},
    [COMPARE_VTC_S] = {"vtc_s", "Scores", "VTC-S", "", "does it show what its caption says: 0 to 1", 1, 3, 1,
                       false, true},
    [COMPARE_VQA_S] = {"vqa_s", "Scores", "VQA-S", "", "is it drawn as well as a render: 0 to 100", 1, 1, 1,
                       false, true},
    [COMPARE_PSNR] = {"psnr", "Against the first", "PSNR", "dB", "of Y, U and V together", 1, 2, 1, true,
                      true},
    [COMPARE_SSIM] = {"ssim", "Against the first", "SSIM", "", "of Y, U and V together; 1: equal", 1, 4, 1,
                      true, true},
    [COMPARE_FLICKER_ERROR] = {"flicker_error", "Against the first", "Flicker error", "levels",
                               "bends in time that the first lacks", 1, 3, -1, true, false},
    [COMPARE_FLICKER] = {"flicker", "In time and space", "Flicker", "levels", "bends in time", 1, 3, 0, false,
                         false},
    [COMPARE_WARP_ERROR] = {"warp_error", "In time and space", "Warping error", "levels",
                            "a frame moved along the motion against the next", 1, 3, 0, false, false},
    [COMPARE_SEAM] = {"seam", "In time and space", "Seams", "",
                      "jumps where blocks meet against those beside; 1: none", 1, 3, 0, false, false},
    [COMPARE_FRECHET] = {"frechet", "Sets of clips", "Frechet to the first", "",
                         "distance between the sets of clips, in hand-made features", 1, 2, -1, true, true},
    [COMPARE_FRECHET_RENDERS] = {"frechet_renders", "Sets of clips", "Frechet to renders", "",
                                 "distance to renders of the same captions", 1, 2, -1, false, true},
};

/* ---- plans ------------------------------------------------------------------------------------------------- */

enum { TOKEN = 16 }; /* pixels a side */

/* The smallest blocks that the plan cuts frames into, in pixels; seams would lie between them. */
static void find_tile(const t3v_plan *plan, const t3v_result *r, int64_t tile[2])
{
    const t3v_grid g = plan->grid;
    tile[0] = tile[1] = 0;
    for (int i = 0; i < plan->layers; i++) {
        const int64_t *b = plan->layer[i].blocks;
        if (b[1] < 1 || b[2] < 1 || g.h % b[1] || g.w % b[2]) continue;
        int64_t h = g.h / b[1] * TOKEN, w = g.w / b[2] * TOKEN;
        if (h >= r->height && w >= r->width) continue;
        if (tile[0] && h * w >= tile[0] * tile[1]) continue;
        tile[0] = h;
        tile[1] = w;
    }
}

static t3v_status describe(const compare *c, compare_variant *v)
{
    const t3v_result *r = &v->expected;
    t3v_model *m = NULL;
    t3v_plan *plan = NULL;
    cli_plan_figures f = {0};
    t3v_model_paths paths = {.model = v->model};
    t3v_grid grid = {r->grid[0], r->grid[1], r->grid[2]};
    size_t size;
    t3v_status st;
    T3V_TRY_GOTO(st, done, t3v_model_open(&m, &paths, 0, c->job.compute, false));
    const t3v_dit_config *k = &m->config;
    const char *text = t3v_plan_text(&m->defaults, v->plan, grid);
    snprintf(v->plan_text, sizeof v->plan_text, "%s", text);
    T3V_TRY_GOTO(st, done, t3v_plan_make_for(&plan, text, grid, (int)k->layers, k->dim, k->heads));
    T3V_TRY_GOTO(st, done, cli_plan_measure(plan, k->dim, k->heads, NULL, &f));
    v->attention_macs = f.sum;
    v->attention_macs_full = f.full;
    const int64_t middle[3] = {grid.t / 2, grid.h / 2, grid.w / 2};
    T3V_TRY_GOTO(st, done, cli_plan_svg_text(plan, text, middle, &v->picture, &size));
    if (c->tile[0]) memcpy(v->tile, c->tile, sizeof v->tile);
    else find_tile(plan, r, v->tile);
done:
    cli_plan_figures_free(&f);
    t3v_plan_free(plan);
    t3v_model_close(m);
    return st ? t3v_fail_in(st, "variant \"%s\"", v->name) : T3V_OK;
}

/* ---- clips ------------------------------------------------------------------------------------------------- */

typedef struct scoring {
    compare *c;
    double *features,
        *renders; /* [variants][prompts][T3V_FEATURES], [prompts][T3V_FEATURES]; NULL: too few clips */
    t3v_progress progress;
    int64_t done;
} scoring;

static bool judgeable(const t3v_result *r) { return r->frames >= 5 && r->width >= 32 && r->height >= 32; }

static t3v_status score_one(scoring *s, int number, int64_t i)
{
    compare *c = s->c;
    compare_variant *v = &c->variant[number];
    compare_clip *k = &v->clip[i];
    t3v_judge_options opt = {.tile_h = v->tile[0], .tile_w = v->tile[1]};
    int64_t h, w;
    double *features = s->features ? s->features + ((int64_t)number * c->prompts.count + i) * T3V_FEATURES
                                   : NULL;
    const char *first = number ? c->variant[0].clip[i].path : NULL;
    T3V_TRY(cli_score_clip(k->path, first, &opt, &k->scores, features, NULL, &h, &w));
    k->vtc = k->vqa = (double)NAN;
    if (c->scene[i] && judgeable(&v->expected)) {
        t3v_synth_score score;
        cli_clip clip;
        T3V_TRY(cli_clip_read(&clip, k->path, v->expected.frames));
        if (clip.fps > 0) c->fps = c->fps > 0 ? c->fps : clip.fps;
        t3v_status st = t3v_score_synth(clip.video, clip.frames, clip.h, clip.w, clip.fps,
                                        c->prompts.item[i].text, &score);
        cli_clip_free(&clip);
        if (st) return t3v_fail_in(st, "%s", k->path);
        k->vtc = score.vtc;
        k->vqa = score.vqa;
    }
    return t3v_report(&s->progress, "score", ++s->done, c->variants * c->prompts.count);
}

/* Features of a render of prompt i's scene. */
static t3v_status render_one(scoring *s, int64_t i)
{
    const compare *c = s->c;
    const t3v_result *r = &c->variant[0].expected;
    int64_t plane = r->width * r->height;
    t3v_scene_attrs attrs;
    t3v_features *f = NULL;
    float *rgb = malloc((size_t)(3 * plane) * sizeof *rgb);
    uint8_t *packed = malloc((size_t)(3 * plane));
    t3v_status st = rgb && packed ? t3v_features_begin(&f, r->height, r->width)
                                  : t3v_fail(T3V_E_NOMEM, "no memory for a frame");
    if (!st && !t3v_scene_parse(c->prompts.item[i].text, &attrs))
        st = t3v_fail(T3V_E_INTERNAL, "prompt %lld is no scene", (long long)i);
    if (!st) {
        t3v_scene scene = t3v_scene_of(&attrs, c->job.seed + (uint64_t)i);
        for (int64_t t = 0; t < r->frames; t++) {
            t3v_scene_render(&scene, r->width, r->height, t, c->fps, rgb);
            for (int64_t p = 0; p < plane; p++)
                for (int64_t k = 0; k < 3; k++) packed[3 * p + k] = t3v_pixel_u8(rgb[k * plane + p]);
            t3v_features_frame(f, packed);
        }
        st = t3v_features_end(f, s->renders + i * T3V_FEATURES);
    }
    t3v_features_free(&f);
    free(packed);
    free(rgb);
    return st;
}

static t3v_status score_all(scoring *s)
{
    compare *c = s->c;
    const t3v_result *r = &c->variant[0].expected;
    int64_t n = c->prompts.count, bytes;
    bool scenes = true;
    for (int64_t i = 0; i < n; i++) scenes = scenes && c->scene[i];
    if (n >= COMPARE_SET && r->frames >= T3V_FEATURES_MIN_FRAMES && r->width >= T3V_FEATURES_MIN_SIDE &&
        r->height >= T3V_FEATURES_MIN_SIDE) {
        if (!t3v_mul3((c->variants + 1) * n, T3V_FEATURES, (int64_t)sizeof *s->features, &bytes) ||
            !(s->features = malloc((size_t)bytes)))
            return t3v_fail(T3V_E_NOMEM, "no memory for the features of %lld clips", (long long)n);
        if (scenes && judgeable(r)) s->renders = s->features + c->variants * n * T3V_FEATURES;
    }
    for (int v = 0; v < c->variants; v++)
        for (int64_t i = 0; i < n; i++) T3V_TRY(score_one(s, v, i));
    for (int64_t i = 0; i < n && s->renders; i++) T3V_TRY(render_one(s, i));
    return T3V_OK;
}

/* ---- the table --------------------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const compare_variant *v, int64_t count)
{
    double *x = malloc((size_t)count * sizeof *x), middle = (double)NAN;
    int64_t n = 0;
    for (int64_t i = 0; i < count && x; i++)
        if (isfinite(v->clip[i].seconds_a_step)) x[n++] = v->clip[i].seconds_a_step;
    if (n) {
        qsort(x, (size_t)n, sizeof *x, ascending);
        middle = (x[(n - 1) / 2] + x[n / 2]) / 2;
    }
    free(x);
    return middle;
}

/* Mean and standard deviation of the finite ones of n numbers that lie `step` bytes apart. */
static double mean_of(const double *x, size_t step, int64_t n, double *sd)
{
    double sum = 0, squares = 0;
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        double v = *(const double *)((const char *)x + (size_t)i * step);
        if (!isfinite(v)) continue;
        sum += v;
        squares += v * v;
        count++;
    }
    double mean = count ? sum / (double)count : (double)NAN;
    double var = count > 1 ? (squares - (double)count * mean * mean) / (double)(count - 1) : 0;
    if (sd) *sd = count ? sqrt(var > 0 ? var : 0) : (double)NAN;
    return mean;
}

static t3v_status sum_up(const scoring *s, int number)
{
    compare *c = s->c;
    compare_variant *v = &c->variant[number];
    int64_t n = c->prompts.count, block = n * T3V_FEATURES;
    cli_scores all = {0};
    for (int64_t i = 0; i < n; i++) cli_scores_add(&all, &v->clip[i].scores);
    v->scores = cli_scores_mean(&all);
    double *x = v->value;
    x[COMPARE_SECONDS_A_STEP] = median(v, n);
    x[COMPARE_SECONDS] = v->seconds_text + (double)n * mean_of(&v->clip[0].seconds, sizeof *v->clip, n, NULL);
    x[COMPARE_MACS] = v->expected.flop / 2;
    x[COMPARE_ATTENTION_SHARE] = v->attention_macs_full > 0
                                     ? (double)v->attention_macs / (double)v->attention_macs_full
                                     : (double)NAN;
    x[COMPARE_DENSITY] = mean_of(&v->clip[0].density, sizeof *v->clip, n, NULL);
    x[COMPARE_PEAK_BYTES] = v->peak_bytes ? (double)v->peak_bytes : (double)NAN;
    x[COMPARE_VTC_S] = mean_of(&v->clip[0].vtc, sizeof *v->clip, n, &v->vtc_sd);
    x[COMPARE_VQA_S] = mean_of(&v->clip[0].vqa, sizeof *v->clip, n, &v->vqa_sd);
    x[COMPARE_PSNR] = v->scores.psnr_yuv;
    x[COMPARE_SSIM] = v->scores.ssim_yuv;
    x[COMPARE_FLICKER_ERROR] = v->scores.flicker_error;
    x[COMPARE_FLICKER] = v->scores.flicker;
    x[COMPARE_WARP_ERROR] = v->scores.warp_error;
    x[COMPARE_SEAM] = v->scores.seam;
    x[COMPARE_FRECHET] = x[COMPARE_FRECHET_RENDERS] = (double)NAN;
    const double *own = s->features ? s->features + number * block : NULL;
    if (own && number) T3V_TRY(t3v_frechet(s->features, n, own, n, T3V_FEATURES, &x[COMPARE_FRECHET]));
    if (own && s->renders)
        T3V_TRY(t3v_frechet(s->renders, n, own, n, T3V_FEATURES, &x[COMPARE_FRECHET_RENDERS]));
    return T3V_OK;
}

t3v_status compare_score(compare *c)
{
    scoring s = {.c = c, .progress = cli_progress()};
    t3v_status st = T3V_OK;
    c->frechet_halves = c->frechet_renders_halves = (double)NAN;
    for (int i = 0; i < c->variants && !st; i++) st = describe(c, &c->variant[i]);
    if (!st) st = score_all(&s);
    for (int i = 0; i < c->variants && !st; i++) st = sum_up(&s, i);
    if (!st && s.features) st = cli_frechet_halves(s.features, c->prompts.count, &c->frechet_halves);
    if (!st && s.renders) st = cli_frechet_halves(s.renders, c->prompts.count, &c->frechet_renders_halves);
    free(s.features);
    return st;
}

const char *compare_unit(const compare *c, compare_key key, double *scale)
{
    double most = 0;
    *scale = compare_columns[key].scale;
    if (key != COMPARE_MACS) return compare_columns[key].unit;
    for (int i = 0; i < c->variants; i++) most = fmax(most, c->variant[i].value[key]);
    *scale = most < 1e12 ? 1e-9 : 1e-12;
    return most < 1e12 ? "GMAC" : "TMAC";
}

const char *compare_value(const compare *c, int variant, compare_key key, char text[32])
{
    double x = c->variant[variant].value[key], scale;
    int digits = compare_columns[key].digits;
    if (isnan(x)) return "-";
    if (isinf(x)) return "equal";
    compare_unit(c, key, &scale);
    x *= scale;
    if (digits < 0) {
        int whole = x > 0 ? (int)floor(log10(x)) + 1
                          : 1; /* digits before the point; below 1: zeros behind it */
        digits = -digits > whole ? -digits - whole : 0;
    }
    snprintf(text, 32, "%.*f", digits < 9 ? digits : 9, x);
    return text;
}

/* ---- compare.json ------------------------------------------------------------------------------------------ */

static json_t *variant_json(const compare *c, int number)
{
    const compare_variant *v = &c->variant[number];
    const t3v_result *r = &v->expected;
    json_t *loras = json_array(), *clips = json_array();
    for (int64_t i = 0; i < v->loras; i++)
        json_array_append_new(loras, json_pack("{s:s, s:f}", "file", v->lora[i].path, "strength",
                                               v->lora[i].strength));
    json_t *o = json_pack("{s:s, s:s, s:s, s:o, s:[I,I,I], s:I, s:I}", "name", v->name, "plan", v->plan_text,
                          "model", v->model, "lora", loras, "grid", (json_int_t)r->grid[0],
                          (json_int_t)r->grid[1], (json_int_t)r->grid[2], "steps", (json_int_t)r->steps,
                          "passes", (json_int_t)r->passes);
    json_object_set_new(o, "act", json_string(t3v_products_name(v->act ? v->products : c->job.products)));
    for (int k = 0; k < COMPARE_KEYS; k++) cli_put_real(o, compare_columns[k].key, v->value[k]);
    cli_put_real(o, "vtc_s_sd", v->vtc_sd);
    cli_put_real(o, "vqa_s_sd", v->vqa_sd);
    json_object_set_new(o, "attention_macs", json_integer((json_int_t)v->attention_macs));
    json_object_set_new(o, "attention_macs_full", json_integer((json_int_t)v->attention_macs_full));
    json_object_set_new(o, "tile",
                        v->tile[0] ? json_pack("[I,I]", (json_int_t)v->tile[0], (json_int_t)v->tile[1])
                                   : json_null());
    json_t *scores = json_object();
    cli_scores_put(scores, &v->scores, number > 0);
    json_object_set_new(o, "scores", scores);
    for (int64_t i = 0; i < c->prompts.count; i++) {
        const compare_clip *k = &v->clip[i];
        json_t *one = json_object();
        char *file = NULL;
        if (asprintf(&file, "%s/%05lld.mp4", v->folder, (long long)i) >= 0)
            json_object_set_new(one, "file", json_string(file));
        free(file);
        cli_put_real(one, "seconds_a_step", k->seconds_a_step);
        cli_put_real(one, "seconds", k->seconds);
        cli_put_real(one, "density", k->density);
        cli_put_real(one, "vtc_s", k->vtc);
        cli_put_real(one, "vqa_s", k->vqa);
        cli_put_real(one, "psnr", k->scores.psnr_yuv);
        cli_put_real(one, "ssim", k->scores.ssim_yuv);
        json_array_append_new(clips, one);
    }
    json_object_set_new(o, "clips", clips);
    return o;
}

t3v_status compare_json(const compare *c, char **text)
{
    const t3v_result *r = &c->variant[0].expected;
    json_t *prompts = json_array(), *variants = json_array();
    for (int64_t i = 0; i < c->prompts.count; i++)
        json_array_append_new(prompts, json_string(c->prompts.item[i].text));
    for (int i = 0; i < c->variants; i++) json_array_append_new(variants, variant_json(c, i));
    json_t *o = json_pack("{s:s, s:[I,I], s:I, s:I, s:s}", "t3v", T3V_VERSION, "size", (json_int_t)r->width,
                          (json_int_t)r->height, "frames", (json_int_t)r->frames, "seed",
                          (json_int_t)c->job.seed, "precision", t3v_dtype_name(c->job.compute));
    cli_put_real(o, "frechet_halves", c->frechet_halves);
    cli_put_real(o, "frechet_renders_halves", c->frechet_renders_halves);
    json_object_set_new(o, "prompts", prompts);
    json_object_set_new(o, "variants", variants);
    char *dump = t3v_json_dumps(o, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(8));
    json_decref(o);
    int rc = dump ? asprintf(text, "%s\n", dump) : -1;
    free(dump);
    return rc < 0 ? t3v_fail(T3V_E_NOMEM, "no memory for compare.json") : T3V_OK;
}
