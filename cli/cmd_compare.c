/* SPDX-License-Identifier: Apache-2.0 */
/* t3v compare: the same prompts and seeds under several plans or weights, on one page. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "base/status.h"
#include "compare.h"
#include "eval/synth.h"
#include "io/file.h"
#include "video/video.h"

enum { CLIPS_MAX = 10000, CAPTION_MAX = 1024 };

enum {
    OPT_MODEL = 0x100,
    OPT_VARIANT,
    OPT_PROMPTS,
    OPT_COUNT,
    OPT_SIZE,
    OPT_FRAMES,
    OPT_STEPS,
    OPT_SAMPLER,
    OPT_SHIFT,
    OPT_CFG,
    OPT_FPS,
    OPT_SEED,
    OPT_TILE,
    OPT_INLINE,
    OPT_MEMORY,
    OPT_ACT,
};

static const struct argp_option options[] = {
    {0, 0, 0, 0, "What to compare:", 1},
    {"variant", OPT_VARIANT, "SPEC", 0,
     "name=NAME,plan=PLAN[,lora=FILE[:S]][,model=DIR][,act=int8|fp8]; give two or more, the first is the "
     "reference. The "
     "plan is "
     "the model's own unless given, the name the plan",
     1},
    {"model", OPT_MODEL, "DIR", 0, "Model directory of the variants that name none", 1},
    {"output", 'o', "DIR", 0, "Where index.html, compare.json and the clips go; clips that exist are kept",
     1},
    {0, 0, 0, 0, "What to make:", 2},
    {"count", OPT_COUNT, "N", 0,
     "N captions of scenes that training never shows, as `t3v eval synth' makes them", 2},
    {"prompts", OPT_PROMPTS, "F.json", 0, "A list of {prompt_en, data_file} instead", 2},
    {"size", OPT_SIZE, "WxH", 0, "Pixels, even, from 16 (default: the model's)", 2},
    {"frames", OPT_FRAMES, "N", 0, "4n+1 (default: the model's)", 2},
    {"seed", OPT_SEED, "S", 0,
     "Clip i starts from the noise of seed S + i; with --count also which scenes (default: 0)", 2},
    {"fps", OPT_FPS, "N", 0, "Frames per second", 2},
    {"steps", OPT_STEPS, "N", 0, "Denoising steps", 3},
    {"sampler", OPT_SAMPLER, "NAME", 0, "unipc, euler or dpm++", 3},
    {"shift", OPT_SHIFT, "F", 0, "Shift of the noise levels", 3},
    {"cfg", OPT_CFG, "F", 0, "Guidance scale; 1 takes one pass a step instead of two", 3},
    {"act", OPT_ACT, "float|int8|fp8", 0, "As `t3v generate' takes it, for the variants that do not say", 3},
    {"memory-limit", OPT_MEMORY, "SIZE", 0, "Refuse what needs more, e.g. 16G", 3},
    {"tile", OPT_TILE, "HxW", 0,
     "Look for seams between tiles of this size in pixels (default: the smallest blocks "
     "of each variant's plan)",
     4},
    {"inline-limit", OPT_INLINE, "SIZE", 0,
     "Clips of more bytes in all stay beside the page instead of inside (default: 64M; 0: always beside)", 4},
    {0},
};

typedef struct args {
    compare c;
    const char *prompts;
    int64_t count;
    t3v_status failed; /* of a --variant; the message is the library's */
} args;

static error_t parse(int key, char *arg, struct argp_state *state)
{
    args *a = state->input;
    compare *c = &a->c;
    t3v_job *j = &c->job;
    int64_t n;
    switch (key) {
    case OPT_MODEL: j->model = arg; return 0;
    case OPT_VARIANT:
        if (!a->failed) a->failed = compare_variant_add(c, arg);
        return 0;
    case 'o': c->out = arg; return 0;
    case OPT_PROMPTS: a->prompts = arg; return 0;
    case OPT_SAMPLER: j->sampler = arg; return 0;
    case OPT_COUNT:
        if (!cli_int(arg, 1, CLIPS_MAX, &a->count))
            argp_error(state, "--count %s: expected 1 to %d", arg, CLIPS_MAX);
        return 0;
    case OPT_SIZE:
        if (!cli_size(arg, &j->width, &j->height))
            argp_error(state, "--size %s: expected WxH, e.g. 832x480", arg);
        return 0;
    case OPT_FRAMES:
        if (!cli_int(arg, 1, 1 << 20, &j->frames))
            argp_error(state, "--frames %s: expected a number from 1", arg);
        return 0;
    case OPT_STEPS:
        if (!cli_int(arg, 1, 1000, &j->steps)) argp_error(state, "--steps %s: expected 1 to 1000", arg);
        return 0;
    case OPT_FPS:
        if (!cli_float(arg, 0.1, 1000, &j->fps))
            argp_error(state, "--fps %s: expected a number from 0.1 to 1000", arg);
        return 0;
    case OPT_SHIFT:
        if (!cli_float(arg, 0.001, 1000, &j->shift))
            argp_error(state, "--shift %s: expected a number above 0", arg);
        return 0;
    case OPT_CFG:
        if (!cli_float(arg, 0, 1000, &j->cfg)) argp_error(state, "--cfg %s: expected a number from 0", arg);
        return 0;
    case OPT_SEED:
        if (!cli_int(arg, 0, INT64_MAX - CLIPS_MAX, &n))
            argp_error(state, "--seed %s: expected a number from 0", arg);
        else j->seed = (uint64_t)n;
        return 0;
    case OPT_TILE:
        if (!cli_size(arg, &c->tile[0], &c->tile[1]))
            argp_error(state, "--tile %s: expected HxW in pixels", arg);
        return 0;
    case OPT_INLINE:
        if (strcmp(arg, "0") == 0) c->inline_limit = 0;
        else if (!cli_bytes(arg, &c->inline_limit))
            argp_error(state, "--inline-limit %s: expected bytes, e.g. 64M", arg);
        return 0;
    case OPT_ACT:
        if (!cli_act(arg, &j->products)) argp_error(state, "--act %s: expected " CLI_ACTS, arg);
        return 0;
    case OPT_MEMORY:
        if (!cli_bytes(arg, &j->memory_limit))
            argp_error(state, "--memory-limit %s: expected bytes, e.g. 16G", arg);
        return 0;
    case ARGP_KEY_ARG: argp_error(state, "unexpected argument '%s'", arg); return 0;
    case ARGP_KEY_END:
        if (!c->out) argp_error(state, "-o is needed: the directory of the page");
        if (!a->count == !a->prompts) argp_error(state, "give one of --count and --prompts");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .doc =
        "Makes the same clips with several attention plans or weights and shows them side by side.\v"
        "Example:\n"
        "  t3v compare --model models/starter --count 8 --variant plan=full --variant name=fast,plan=t3 -o "
        "out\n\n"
        "writes out/index.html, one page that a browser opens from the disk: the videos in step, what they "
        "took "
        "(time, multiply-adds, memory), how good they are (VTC-S and VQA-S where the prompts are captions of "
        "procedural scenes), how near to the first variant (PSNR, SSIM, flicker; Frechet distance from 8 "
        "prompts on), "
        "and a picture of each plan. out/compare.json has the same numbers. An interrupted comparison goes "
        "on where it "
        "stopped. Weights tuned for a plan are a variant too:\n"
        "  --variant name=tuned,plan=t3,lora=t3.safetensors --variant name=other,model=models/other",
};

static t3v_status make_captions(args *a)
{
    compare *c = &a->c;
    c->prompts.item = calloc((size_t)a->count, sizeof *c->prompts.item);
    if (!c->prompts.item) return t3v_fail(T3V_E_NOMEM, "no memory for %lld captions", (long long)a->count);
    for (; c->prompts.count < a->count; c->prompts.count++) {
        char text[CAPTION_MAX];
        t3v_scene scene = t3v_scene_make(c->job.seed, c->prompts.count, true);
        t3v_scene_caption(&scene, 0, text, sizeof text);
        t3v_prompt *p = &c->prompts.item[c->prompts.count];
        *p = (t3v_prompt){.text = strdup(text), .file = strdup("")};
        if (!p->text || !p->file) {
            free(p->text);
            free(p->file);
            return t3v_fail(T3V_E_NOMEM, "no memory for a caption");
        }
    }
    return T3V_OK;
}

static t3v_status find_prompts(args *a)
{
    compare *c = &a->c;
    if (a->count) T3V_TRY(make_captions(a));
    else T3V_TRY(t3v_prompts_load(&c->prompts, a->prompts));
    if (c->prompts.count < 1 || c->prompts.count > CLIPS_MAX)
        return t3v_fail(T3V_E_FORMAT, "%s: %lld prompts, expected 1 to %d", a->prompts,
                        (long long)c->prompts.count, CLIPS_MAX);
    c->scene = calloc((size_t)c->prompts.count, sizeof *c->scene);
    if (!c->scene) return t3v_fail(T3V_E_NOMEM, "out of memory");
    for (int64_t i = 0; i < c->prompts.count; i++) {
        t3v_scene_attrs attrs;
        c->scene[i] = t3v_scene_parse(c->prompts.item[i].text, &attrs);
    }
    return T3V_OK;
}

static void print_table(const compare *c, const char *page)
{
    static const compare_key key[] = {COMPARE_SECONDS_A_STEP, COMPARE_MACS,  COMPARE_ATTENTION_SHARE,
                                      COMPARE_PEAK_BYTES,     COMPARE_VTC_S, COMPARE_VQA_S,
                                      COMPARE_PSNR,           COMPARE_SSIM};
    enum { SHOWN = sizeof key / sizeof *key };
    char text[32];
    printf("%-20s", "variant");
    for (int k = 0; k < SHOWN; k++) printf(" %12s", compare_columns[key[k]].title);
    putchar('\n');
    for (int i = 0; i < c->variants; i++) {
        printf("%-20.40s", c->variant[i].name);
        for (int k = 0; k < SHOWN; k++) printf(" %12s", compare_value(c, i, key[k], text));
        putchar('\n');
    }
    printf("%s\n", page);
}

static t3v_status write_results(const compare *c, bool json)
{
    char *text = NULL, *numbers = t3v_path_join(c->out, "compare.json"),
         *page = t3v_path_join(c->out, "index.html");
    t3v_status st = numbers && page ? T3V_OK : t3v_fail(T3V_E_NOMEM, "out of memory");
    if (!st) st = compare_json(c, &text);
    if (!st) st = t3v_write_text(numbers, text, strlen(text));
    if (!st) st = compare_page(c, page);
    if (!st && json) fputs(text, stdout);
    if (!st && !json) print_table(c, page);
    free(text);
    free(numbers);
    free(page);
    return st;
}

static int run(int argc, char **argv)
{
    static args a = {.c = {.job = T3V_JOB_INIT, .inline_limit = 64ll << 20}};
    compare *c = &a.c;
    cli_common common;
    int rc = cli_parse(&argp, argc, argv, &common, &a);
    if (rc >= 0) return rc;
    c->job.compute = common.bf16 ? T3V_BF16 : T3V_F32;
    c->job.device = cli_device_name(common.device);
    c->job.progress = cli_progress();
    c->job.codec = "h264"; /* what browsers play */
    t3v_status st = a.failed;
    if (!st) st = compare_variants_check(c);
    if (!st) st = find_prompts(&a);
    rc = st ? cli_fail(st) : compare_run(c);
    if (!rc && ((st = compare_score(c)) || (st = write_results(c, common.json)))) rc = cli_fail(st);
    compare_free(c);
    return rc;
}

const cli_command cli_compare = {"compare", "the same clips under several plans or weights, on one page",
                                 run};
