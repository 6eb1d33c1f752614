/* SPDX-License-Identifier: Apache-2.0 */
/* t3v eval: scores. `synth` judges clips of procedural scenes by their captions; `video` is in eval_video.c. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "cli.h"
#include "clip.h"
#include "eval_attention.h"
#include "eval_video.h"
#include "eval/metrics_synth.h"
#include "eval/sheet.h"
#include "eval/synth.h"
#include "io/file.h"
#include "io/json.h"
#include "io/prompts.h"
#include "t3v/t3v.h"

enum { FRAMES_MAX = 4096, SHEET_ROW = 2, CAPTION_MAX = 1024 };
enum {
    OPT_VIDEOS = 1,
    OPT_CAPTIONS,
    OPT_REAL,
    OPT_NOISE,
    OPT_SEED,
    OPT_SIZE,
    OPT_FRAMES,
    OPT_HELD_OUT,
    OPT_SEEN,
    OPT_SHEET,
    OPT_MODEL,
    OPT_COUNT,
    OPT_PLAN,
    OPT_STEPS,
    OPT_CFG,
    OPT_SHIFT,
    OPT_SAMPLER,
    OPT_CANONICAL,
    OPT_VARIED,
};

static const struct argp_option options[] = {
    {"videos", OPT_VIDEOS, "DIR", 0, "Score the clips of this directory", 1},
    {"captions", OPT_CAPTIONS, "FILE", 0, "JSON list of {prompt_en, data_file} for --videos", 1},
    {"real", OPT_REAL, "N", 0, "Score N renders: the best that can be had", 1},
    {"noise", OPT_NOISE, "N", 0, "Score N clips of noise: the worst", 1},
    {"model", OPT_MODEL, "DIR", 0, "Score what this model makes of captions", 1},
    {"count", OPT_COUNT, "N", 0, "Clips to make with --model", 1},
    {"seed", OPT_SEED, "S", 0,
     "Which scenes; clip i of a model starts from the noise of seed S + i (default: 0)", 2},
    {"held-out", OPT_HELD_OUT, 0, 0,
     "Scenes of combinations that training sets never show (default with --model)", 2},
    {"seen", OPT_SEEN, 0, 0, "Scenes of the other combinations (default without --model)", 2},
    {"canonical", OPT_CANONICAL, 0, 0, "One wording of captions (default)", 2},
    {"varied", OPT_VARIED, 0, 0, "Varied wordings", 2},
    {"size", OPT_SIZE, "WxH", 0, "Size in pixels (default: 128x128, or the model's)", 2},
    {"frames", OPT_FRAMES, "N", 0, "Frames a clip (default: 17, or the model's)", 2},
    {"plan", OPT_PLAN, "PLAN", 0, "Attention plan, e.g. full", 3},
    {"steps", OPT_STEPS, "N", 0, "Denoising steps", 3},
    {"sampler", OPT_SAMPLER, "NAME", 0, "unipc, euler or dpm++", 3},
    {"shift", OPT_SHIFT, "F", 0, "Shift of the noise levels", 3},
    {"cfg", OPT_CFG, "F", 0, "Guidance scale", 3},
    {"sheet", OPT_SHEET, "FILE.png", 0, "Picture of the first clips (up to 12)", 4},
    {0},
};

typedef struct input {
    const char *what, *videos, *captions, *sheet;
    int64_t real, noise, seed, width, height, frames;
    bool held_out, seen, canonical, varied;
    t3v_prompts list; /* of --captions */
    int64_t count;    /* of --model */
    t3v_job job;      /* of --model */
} input;

static error_t parse(int key, char *arg, struct argp_state *state)
{
    input *in = state->input;
    switch (key) {
    case OPT_VIDEOS: in->videos = arg; return 0;
    case OPT_CAPTIONS: in->captions = arg; return 0;
    case OPT_REAL:
        if (!cli_int(arg, 1, 1000000, &in->real))
            argp_error(state, "--real %s: expected a number of clips", arg);
        return 0;
    case OPT_NOISE:
        if (!cli_int(arg, 1, 1000000, &in->noise))
            argp_error(state, "--noise %s: expected a number of clips", arg);
        return 0;
    case OPT_SEED:
        if (!cli_int(arg, 0, INT64_MAX, &in->seed))
            argp_error(state, "--seed %s: expected a number from 0", arg);
        return 0;
    case OPT_HELD_OUT: in->held_out = true; return 0;
    case OPT_SEEN: in->seen = true; return 0;
    case OPT_CANONICAL: in->canonical = true; return 0;
    case OPT_VARIED: in->varied = true; return 0;
    case OPT_MODEL: in->job.model = arg; return 0;
    case OPT_PLAN: in->job.plan = arg; return 0;
    case OPT_SAMPLER: in->job.sampler = arg; return 0;
    case OPT_COUNT:
        if (!cli_int(arg, 1, 1000000, &in->count))
            argp_error(state, "--count %s: expected a number of clips", arg);
        return 0;
    case OPT_STEPS:
        if (!cli_int(arg, 1, 1000, &in->job.steps)) argp_error(state, "--steps %s: expected 1 to 1000", arg);
        return 0;
    case OPT_SHIFT:
        if (!cli_float(arg, 0.001, 1000, &in->job.shift))
            argp_error(state, "--shift %s: expected a number above 0", arg);
        return 0;
    case OPT_CFG:
        if (!cli_float(arg, 0, 1000, &in->job.cfg))
            argp_error(state, "--cfg %s: expected a number from 0", arg);
        return 0;
    case OPT_SIZE:
        if (!cli_size(arg, &in->width, &in->height) || in->width > T3V_VIDEO_MAX_SIDE ||
            in->height > T3V_VIDEO_MAX_SIDE)
            argp_error(state, "--size %s: expected WxH, at most %d a side", arg, T3V_VIDEO_MAX_SIDE);
        return 0;
    case OPT_FRAMES:
        if (!cli_int(arg, 5, FRAMES_MAX, &in->frames))
            argp_error(state, "--frames %s: expected 5 to %d", arg, FRAMES_MAX);
        return 0;
    case OPT_SHEET: in->sheet = arg; return 0;
    case ARGP_KEY_ARG:
        if (in->what || strcmp(arg, "synth") != 0)
            argp_error(state, "%s: expected synth, video or attention", arg);
        in->what = arg;
        return 0;
    case ARGP_KEY_NO_ARGS: argp_error(state, "say what to judge: synth, video or attention"); return 0;
    case ARGP_KEY_END:
        if ((in->videos != NULL) + (in->real > 0) + (in->noise > 0) + (in->job.model != NULL) != 1)
            argp_error(state, "give one of --model, --videos, --real and --noise");
        if (!in->job.model != !in->count) argp_error(state, "--model and --count go together");
        if (!in->job.model &&
            (in->job.plan || in->job.steps || in->job.sampler || in->job.shift > 0 || in->job.cfg >= 0))
            argp_error(state, "--plan, --steps, --sampler, --shift and --cfg go with --model");
        if (in->held_out && in->seen) argp_error(state, "give one of --held-out and --seen");
        if (in->canonical && in->varied) argp_error(state, "give one of --canonical and --varied");
        if (in->job.model && !in->seen) in->held_out = true;
        if (!in->job.model && !in->frames) in->frames = 17;
        if (!in->job.model && !in->width) in->width = in->height = 128;
        if (!in->videos != !in->captions) argp_error(state, "--videos and --captions go together");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static t3v_scene scene_of(const input *in, int64_t i, char *caption, size_t size)
{
    t3v_scene scene = t3v_scene_make((uint64_t)in->seed, i, in->held_out);
    t3v_scene_caption(&scene, in->varied ? (uint64_t)i + 1 : 0, caption, size);
    return scene;
}

/* Where clips that exist come from: one row per source. Clip i and the caption it is judged by. */
typedef struct source {
    int64_t count;
    t3v_status (*clip)(input *in, int64_t i, cli_clip *clip, char *caption, size_t size);
} source;

static t3v_status clip_of_render(input *in, int64_t i, cli_clip *clip, char *caption, size_t size)
{
    t3v_scene scene = scene_of(in, i, caption, size);
    T3V_TRY(cli_clip_make(clip, in->frames, in->height, in->width, 16));
    int64_t plane = in->width * in->height;
    float *frame = malloc((size_t)(3 * plane) * sizeof *frame);
    if (!frame)
        return t3v_fail(T3V_E_NOMEM, "a frame of %lld pixels does not fit in memory", (long long)plane);
    for (int64_t f = 0; f < in->frames; f++) {
        t3v_scene_render(&scene, in->width, in->height, f, clip->fps, frame);
        for (int64_t c = 0; c < 3; c++)
            memcpy(clip->video + (c * in->frames + f) * plane, frame + c * plane,
                   (size_t)plane * sizeof *frame);
    }
    free(frame);
    return T3V_OK;
}

static t3v_status clip_of_noise(input *in, int64_t i, cli_clip *clip, char *caption, size_t size)
{
    scene_of(in, i, caption, size);
    T3V_TRY(cli_clip_make(clip, in->frames, in->height, in->width, 16));
    int64_t n = 3 * in->frames * in->width * in->height;
    t3v_normal_fill(clip->video, n, (uint64_t)in->seed, (uint64_t)i, 0);
    for (int64_t k = 0; k < n; k++) clip->video[k] = fminf(fmaxf(0.5f * clip->video[k], -1), 1);
    return T3V_OK;
}

static t3v_status clip_of_file(input *in, int64_t i, cli_clip *clip, char *caption, size_t size)
{
    const t3v_prompt *p = &in->list.item[i];
    if (strlen(p->text) >= size)
        return t3v_fail(T3V_E_ARG, "%s: entry %lld: caption longer than %zu bytes", in->captions,
                        (long long)i, size - 1);
    memcpy(caption, p->text, strlen(p->text) + 1);
    char *path = t3v_path_join(in->videos, p->file);
    if (!path) return t3v_fail(T3V_E_NOMEM, "out of memory");
    t3v_status st = cli_clip_read(clip, path, FRAMES_MAX);
    if (!st && clip->fps <= 0) st = t3v_fail(T3V_E_FORMAT, "%s: no frame rate", path);
    free(path);
    return st;
}

typedef struct tally {
    double sum, squares;
} tally;

static void tally_add(tally *t, double x)
{
    t->sum += x;
    t->squares += x * x;
}
static double tally_mean(const tally *t, int64_t n) { return t->sum / (double)n; }
static double tally_sd(const tally *t, int64_t n)
{
    double mean = tally_mean(t, n),
           var = n > 1 ? (t->squares - (double)n * mean * mean) / (double)(n - 1) : 0;
    return var > 0 ? sqrt(var) : 0;
}

#define PARTS(X) T3V_VTC_PARTS(X) T3V_VQA_PARTS(X)
enum {
#define PART(name, weight) PART_##name,
    PARTS(PART)
#undef PART
        PART_COUNT
};
static const char *const part_names[PART_COUNT] = {
#define PART(name, weight) #name,
    PARTS(PART)
#undef PART
};

typedef struct results {
    tally vtc, vqa;
    double part[PART_COUNT];
    int64_t with_second; /* clips whose caption has a second object */
    int64_t count;
    double seconds;
} results;

/* Clips of other sizes than the first have no place in the sheet. */
typedef struct sheet {
    float *rgb;
    int64_t clips, h, w;
} sheet;

static t3v_status sheet_add(sheet *s, int64_t i, const cli_clip *c)
{
    if (i >= s->clips) return T3V_OK;
    int64_t h, w;
    if (!s->rgb) {
        s->h = c->h;
        s->w = c->w;
        t3v_sheet_size(s->clips, SHEET_ROW, c->h, c->w, &h, &w);
        if (h > T3V_VIDEO_MAX_SIDE || w > T3V_VIDEO_MAX_SIDE)
            return t3v_fail(T3V_E_TOO_BIG, "--sheet: %lldx%lld is too large a picture", (long long)w,
                            (long long)h);
        s->rgb = malloc((size_t)(3 * h * w) * sizeof *s->rgb);
        if (!s->rgb) return t3v_fail(T3V_E_NOMEM, "the sheet does not fit in memory");
    }
    if (c->h == s->h && c->w == s->w)
        t3v_sheet_put(s->rgb, s->clips, SHEET_ROW, i, c->video, c->frames, c->h, c->w);
    return T3V_OK;
}

static t3v_status sheet_write(const sheet *s, const char *path)
{
    cli_clip picture = {.video = s->rgb, .frames = 1};
    t3v_sheet_size(s->clips, SHEET_ROW, s->h, s->w, &picture.h, &picture.w);
    t3v_video_options opt = {.width = picture.w, .height = picture.h, .fps_num = 1, .fps_den = 1};
    return cli_clip_write(&picture, path, &opt);
}

typedef struct judging {
    input *in;
    int64_t count;
    sheet sheet;
    results r;
} judging;

static t3v_status judge_clip(judging *j, int64_t i, const cli_clip *clip, const char *caption)
{
    t3v_synth_score score;
    results *r = &j->r;
    t3v_status st = t3v_score_synth(clip->video, clip->frames, clip->h, clip->w, clip->fps, caption, &score);
    if (st) return t3v_fail_in(st, "clip %lld", (long long)i);
    if (j->in->sheet) T3V_TRY(sheet_add(&j->sheet, i, clip));
    tally_add(&r->vtc, score.vtc);
    tally_add(&r->vqa, score.vqa);
#define PART(name, weight) r->part[PART_##name] += score.name;
    PARTS(PART)
#undef PART
    t3v_scene_attrs said;
    r->with_second += t3v_scene_parse(caption, &said) && said.second;
    r->count++;
    return T3V_OK;
}

static t3v_status judge_source(judging *j, const source *from)
{
    t3v_progress progress = cli_progress();
    t3v_status st = T3V_OK;
    for (int64_t i = 0; i < from->count && !st; i++) {
        cli_clip clip = {0};
        char caption[CAPTION_MAX];
        st = from->clip(j->in, i, &clip, caption, sizeof caption);
        if (!st) st = judge_clip(j, i, &clip, caption);
        cli_clip_free(&clip);
        if (!st) st = t3v_report(&progress, "score", i + 1, from->count);
    }
    return st;
}

/* Clips that are made: frames gather until a clip is whole and can be judged. */
typedef struct gathering {
    judging *judging;
    const t3v_output *output;
    cli_clip clip;
    int64_t current; /* clip being made */
    t3v_progress progress;
} gathering;

static t3v_status gather_frame(void *user, const t3v_frame *f)
{
    gathering *g = user;
    int64_t i = g->judging->r.count;
    if (f->index == 0) {
        cli_clip_free(&g->clip);
        T3V_TRY(cli_clip_make(&g->clip, f->count, f->height, f->width, f->fps));
    }
    for (int64_t c = 0; c < 3; c++)
        for (int64_t y = 0; y < f->height; y++)
            memcpy(g->clip.video + ((c * f->count + f->index) * f->height + y) * f->width,
                   f->rgb + c * f->plane + y * f->row, (size_t)f->width * sizeof *f->rgb);
    return f->index + 1 < f->count ? T3V_OK : judge_clip(g->judging, i, &g->clip, g->output[i].prompt);
}

/* One bar for all clips, in hundredths of a clip. */
static bool gather_progress(void *user, const char *phase, int64_t done, int64_t total)
{
    enum { DENOISE = 90, CLIP = 100 };
    gathering *g = user;
    if (total <= 0 || strcmp(phase, "text") == 0) return g->progress.fn(g->progress.user, phase, done, total);
    bool denoise = strcmp(phase, "denoise") == 0;
    if (denoise) g->current = g->judging->r.count;
    int64_t part = denoise ? 1 + (DENOISE - 1) * done / total : DENOISE + (CLIP - DENOISE) * done / total;
    return g->progress.fn(g->progress.user, "clips/100", CLIP * g->current + part, CLIP * g->judging->count);
}

static t3v_status judge_model(judging *j)
{
    input *in = j->in;
    gathering g = {.judging = j, .progress = cli_progress()};
    t3v_output *out = calloc((size_t)in->count, sizeof *out);
    char *captions = calloc((size_t)in->count, CAPTION_MAX);
    t3v_status st = out && captions
                        ? T3V_OK
                        : t3v_fail(T3V_E_NOMEM, "no memory for %lld captions", (long long)in->count);
    for (int64_t i = 0; i < in->count && !st; i++) {
        char *caption = captions + i * CAPTION_MAX;
        scene_of(in, i, caption, CAPTION_MAX);
        out[i] = (t3v_output){.prompt = caption, .sink = {gather_frame, &g}, .seed_offset = (uint64_t)i};
    }
    t3v_job job = in->job;
    job.output = g.output = out;
    job.outputs = in->count;
    job.width = in->width;
    job.height = in->height;
    job.frames = in->frames;
    job.seed = (uint64_t)in->seed;
    job.progress = (t3v_progress){gather_progress, &g};
    if (!st) st = t3v_generate(&job, NULL);
    cli_clip_free(&g.clip);
    free(captions);
    free(out);
    return st;
}

static int print(const results *r, bool json)
{
    int64_t n = r->count;
    double part[PART_COUNT];
    for (int k = 0; k < PART_COUNT; k++) {
        int64_t of = k == PART_second ? r->with_second : n;
        part[k] = of ? r->part[k] / (double)of : 0;
    }
    if (!json) {
        printf("VTC-S %.3f (sd %.3f)   VQA-S %.1f (sd %.1f)   %lld clips, %.1f s\n", tally_mean(&r->vtc, n),
               tally_sd(&r->vtc, n), tally_mean(&r->vqa, n), tally_sd(&r->vqa, n), (long long)n, r->seconds);
        for (int k = 0; k < PART_COUNT; k++) printf("  %-9s %.3f\n", part_names[k], part[k]);
        return CLI_OK;
    }
    json_t *o = json_pack("{s:f, s:f, s:f, s:f, s:I, s:f}", "vtc_s", tally_mean(&r->vtc, n), "vtc_s_sd",
                          tally_sd(&r->vtc, n), "vqa_s", tally_mean(&r->vqa, n), "vqa_s_sd",
                          tally_sd(&r->vqa, n), "count", (json_int_t)n, "seconds", r->seconds);
    json_t *parts = json_object();
    for (int k = 0; k < PART_COUNT; k++)
        if (k != PART_second || r->with_second) json_object_set_new(parts, part_names[k], json_real(part[k]));
    json_object_set_new(o, "parts", parts);
    char *text = t3v_json_dumps(o, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6));
    json_decref(o);
    if (!text) return CLI_FAILED;
    puts(text);
    free(text);
    return CLI_OK;
}

static int run(int argc, char **argv)
{
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "synth",
        .doc =
            "Scores videos.\v`synth' measures in the pixels what the caption of a procedural scene says "
            "(VTC-S, 0 to 1) "
            "and how well it is drawn (VQA-S, 0 to 100). `video' measures any clips, against a reference or "
            "alone, and sets of clips: its options are --test, --ref, --tile, --matrix and --pairs (see `t3v "
            "eval video --help'). `attention' compares a plan with full attention inside a model: its "
            "options are --model, --plan, --data, --clips, --timesteps, --queries and --seed (see `t3v eval "
            "attention "
            "--help').",
    };
    if (argc > 1 && strcmp(argv[1], "video") == 0) {
        static char name[] = "t3v eval video";
        argv[1] = name;
        cli_on_devices(false);
        return cli_eval_video(argc - 1, argv + 1);
    }
    if (argc > 1 && strcmp(argv[1], "attention") == 0) {
        static char name[] = "t3v eval attention";
        argv[1] = name;
        return cli_eval_attention(argc - 1, argv + 1);
    }
    input in = {.job = T3V_JOB_INIT};
    cli_common common;
    int rc = cli_parse(&argp, argc, argv, &common, &in);
    if (rc >= 0) return rc;
    in.job.compute = common.bf16 ? T3V_BF16 : T3V_F32;
    in.job.device = cli_device_name(common.device);
    if (!in.job.model && (rc = cli_cpu_alone(&common, "eval without --model")) >= 0) return rc;
    t3v_status st = T3V_OK;
    source from = {in.real, clip_of_render};
    if (in.noise) from = (source){in.noise, clip_of_noise};
    if (in.videos) {
        st = t3v_prompts_load(&in.list, in.captions);
        from = (source){in.list.count, clip_of_file};
        if (!st && !from.count) st = t3v_fail(T3V_E_FORMAT, "%s: no entries", in.captions);
    }
    judging j = {.in = &in, .count = in.job.model ? in.count : from.count};
    j.sheet.clips = j.count < 12 ? j.count : 12;
    double start = t3v_now();
    if (!st) st = in.job.model ? judge_model(&j) : judge_source(&j, &from);
    j.r.seconds = t3v_now() - start;
    if (!st && in.sheet) st = sheet_write(&j.sheet, in.sheet);
    free(j.sheet.rgb);
    t3v_prompts_free(&in.list);
    return st ? cli_fail(st) : print(&j.r, common.json);
}

const cli_command cli_eval = {
    "eval", "score videos by caption or reference, and attention plans against full attention", run};
