/* SPDX-License-Identifier: Apache-2.0 */
/* t3v init: a model directory with random weights, written tensor by tensor. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "clip/vision.h"
#include "dit/configs.h"
#include "io/file.h"
#include "pipe/convert.h"
#include "pipe/model.h"
#include "tensor/randomise.h"
#include "text/byte_model.h"

/* ---- the configurations ---------------------------------------------------------------------------- */

typedef struct config {
    const char *name;     /* of the DiT's shape too, in dit/configs.h */
    t3v_umt5_config text; /* of the part text; vocab 0: the tokenizer's */
    t3v_umt5_config full; /* of text-full; layers 0: the same */
    t3v_vae_config vae;
    t3v_clip_config clip;  /* of the whole tower; dim 0: none */
    bool experts;          /* two transformers, for high noise and for low */
    t3v_defaults defaults; /* width 0: the family's */
} config;

/* A small encoder whose rows are as wide as the DiT expects them. */
#define SMALL_TEXT                                                                          \
    {                                                                                       \
        .dim = 4096, .dim_attn = 64, .heads = 4, .dim_ffn = 128, .layers = 2, .buckets = 32 \
    }
#define UMT5_XXL                                                                                     \
    {                                                                                                \
        .vocab = 256384, .dim = 4096, .dim_attn = 4096, .heads = 64, .dim_ffn = 10240, .layers = 24, \
        .buckets = 32                                                                                \
    }

#define TINY_TEXT                                                                        \
    {                                                                                    \
        .dim = 32, .dim_attn = 32, .heads = 4, .dim_ffn = 48, .layers = 2, .buckets = 32 \
    }
/* A short tower whose rows are as wide as the DiT expects them. */
#define SMALL_CLIP                                                                 \
    {                                                                              \
        .dim = 1280, .heads = 16, .mlp = 128, .layers = 2, .patch = 14, .side = 16 \
    }
/* What tiny models run unless told otherwise. */
#define TINY_RUN                                                                                  \
    .width = 64, .height = 64, .frames = 5, .steps = 4, .shift = 3, .cfg = 4, .sampler = "unipc", \
    .plan = "full"

static const config configs[] = {
    {.name = "wan2.1-t2v-1.3b", .text = SMALL_TEXT, .full = UMT5_XXL, .vae = {96, 96, 16}},
    {.name = "wan2.1-t2v-14b", .text = SMALL_TEXT, .full = UMT5_XXL, .vae = {96, 96, 16}},
    {.name = "wan2.1-i2v-14b", .text = SMALL_TEXT, .full = UMT5_XXL, .vae = {96, 96, 16}, .clip = SMALL_CLIP},
    {.name = "wan2.2-ti2v-5b", .text = SMALL_TEXT, .full = UMT5_XXL, .vae = {160, 256, 48}},
    {.name = "wan2.2-t2v-a14b", .text = SMALL_TEXT, .full = UMT5_XXL, .vae = {96, 96, 16}, .experts = true},
    {.name = "wan2.2-i2v-a14b", .text = SMALL_TEXT, .full = UMT5_XXL, .vae = {96, 96, 16}, .experts = true},
    {.name = "starter",
     .text = {.dim = 128, .dim_attn = 128, .heads = 4, .dim_ffn = 256, .layers = 3, .buckets = 32},
     .vae = {16, 16, 16},
     .defaults = {.width = 256,
                  .height = 256,
                  .frames = 17,
                  .steps = 20,
                  .fps = 16,
                  .shift = 3,
                  .cfg = 4,
                  .sampler = "unipc",
                  .plan = "full"}},
    {.name = "tiny", .text = TINY_TEXT, .vae = {6, 6, 16}, .defaults = {TINY_RUN, .fps = 16}},
    {.name = "tiny-t2v", .text = TINY_TEXT, .vae = {6, 6, 16}, .defaults = {TINY_RUN, .fps = 16}},
    {.name = "tiny-i2v",
     .text = TINY_TEXT,
     .vae = {6, 6, 16},
     .clip = {.dim = 32, .heads = 2, .mlp = 48, .layers = 3, .patch = 4, .side = 4},
     .defaults = {TINY_RUN, .fps = 16}},
    {.name = "tiny-ti2v", .text = TINY_TEXT, .vae = {4, 6, 48}, .defaults = {TINY_RUN, .fps = 24}},
    {.name = "tiny-t2v-a14b",
     .text = TINY_TEXT,
     .vae = {6, 6, 16},
     .experts = true,
     .defaults = {TINY_RUN, .fps = 16, .boundary = 0.875, .cfg_low = 3}},
    {.name = "tiny-i2v-a14b",
     .text = TINY_TEXT,
     .vae = {6, 6, 16},
     .experts = true,
     .defaults = {TINY_RUN, .fps = 16, .boundary = 0.9, .cfg_low = 3}},
};
enum { CONFIGS = sizeof configs / sizeof *configs };
#define CONFIG_NAMES                                                                                      \
    "wan2.1-t2v-1.3b, wan2.1-t2v-14b, wan2.1-i2v-14b, wan2.2-ti2v-5b, wan2.2-t2v-a14b, wan2.2-i2v-a14b, " \
    "starter, tiny, tiny-t2v, tiny-i2v, tiny-ti2v, tiny-t2v-a14b or tiny-i2v-a14b"

/* ---- options --------------------------------------------------------------------------------------- */

enum { DIT = 1, VAE = 2, TEXT = 4, TEXT_FULL = 8, TOKENIZER = 16, CLIP = 32 };

typedef struct args {
    const config *config;
    t3v_dit_config dit;
    unsigned parts;
    const t3v_file_type *type;
    t3v_layout layout;
    int64_t seed;
    bool force;
    const char *list, *tokenizer, *out; /* list: as --parts gives it */
} args;

enum { OPT_CONFIG = 0x100, OPT_PARTS, OPT_DTYPE, OPT_LAYOUT, OPT_SEED, OPT_TOKENIZER, OPT_FORCE };

static const struct argp_option options[] = {
    {"config", OPT_CONFIG, "NAME", 0, CONFIG_NAMES, 0},
    {"parts", OPT_PARTS, "LIST", 0,
     "Of dit, vae, text, text-full, tokenizer, clip (default: all but text-full; clip where the model looks "
     "at images with it)",
     0},
    {"dtype", OPT_DTYPE, "TYPE", 0,
     "Type of the weights in the files (default: bf16): f32, bf16, f16; of the transformer, with the other "
     "parts in "
     "bf16, also f8_e4m3, or a type of `t3v convert' for GGUF (q8_0, q4_k, ...)",
     0},
    {"layout", OPT_LAYOUT, "NAME", 0, "original (default), diffusers or comfyui", 0},
    {"seed", OPT_SEED, "N", 0, "Which random weights (default: 0)", 0},
    {"tokenizer", OPT_TOKENIZER, "FILE", 0, "A spiece.model (default: the one in DIR, else one piece a byte)",
     0},
    {"force", OPT_FORCE, 0, 0, "Replace weights that are there", 0},
    {"output", 'o', "DIR", 0, "The model directory; made when it is not there", 0},
    {0},
};

static bool parse_parts(const char *list, unsigned *out)
{
    static const struct {
        const char *name;
        unsigned part;
    } names[] = {
        {"dit", DIT},  {"vae", VAE}, {"text", TEXT}, {"text-full", TEXT_FULL}, {"tokenizer", TOKENIZER},
        {"clip", CLIP}};
    const size_t count = sizeof names / sizeof *names;
    for (*out = 0;; list++) {
        size_t n = strcspn(list, ","), i = 0;
        while (i < count && (strlen(names[i].name) != n || strncmp(list, names[i].name, n) != 0)) i++;
        if (i == count) return false;
        *out |= names[i].part;
        list += n;
        if (!*list) return true;
    }
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    args *a = state->input;
    switch (key) {
    case OPT_CONFIG:
        for (int i = 0; i < CONFIGS; i++)
            if (strcmp(arg, configs[i].name) == 0) a->config = &configs[i];
        if (!a->config || t3v_dit_config_named(arg, &a->dit))
            argp_error(state, "--config %s: expected " CONFIG_NAMES, arg);
        return 0;
    case OPT_PARTS:
        a->list = arg;
        if (!parse_parts(arg, &a->parts))
            argp_error(state, "--parts %s: expected a list of dit, vae, text, text-full, tokenizer, clip",
                       arg);
        return 0;
    case OPT_DTYPE:
        if (!(a->type = t3v_file_type_named(arg)))
            argp_error(state, "--dtype %s: not a type that --help or `t3v convert --help' lists", arg);
        return 0;
    case OPT_LAYOUT:
        if (!t3v_layout_named(arg, &a->layout))
            argp_error(state, "--layout %s: expected original, diffusers or comfyui", arg);
        return 0;
    case OPT_SEED:
        if (!cli_int(arg, 0, INT64_MAX, &a->seed))
            argp_error(state, "--seed %s: expected a number from 0", arg);
        return 0;
    case OPT_TOKENIZER: a->tokenizer = arg; return 0;
    case OPT_FORCE: a->force = true; return 0;
    case 'o': a->out = arg; return 0;
    case ARGP_KEY_ARG: argp_error(state, "unexpected argument '%s'", arg); return 0;
    case ARGP_KEY_END:
        if (!a->config || !a->out) argp_error(state, "--config and -o are needed");
        if (!a->parts) a->parts = DIT | VAE | TEXT | TOKENIZER | (a->config->clip.dim ? CLIP : 0);
        if (a->parts & CLIP && !a->config->clip.dim)
            argp_error(state, "--parts %s: %s has no clip", a->list, a->config->name);
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    NULL,
    "Writes a model with random weights in one of Wan's layouts, to train, measure or test with."
    "\vThe parts text and clip are small encoders of the right width. For the Wan configurations, text-full "
    "is the "
    "whole UMT5-XXL "
    "(5.7 billion weights, 11 GB in bf16); for the others it is the same as text. Numbers depend on the seed "
    "alone. "
    "Writing takes less than 100 MB of memory, whatever the model's size.",
    0,
    0,
    0};

/* ---- writing --------------------------------------------------------------------------------------- */

/* One file of weights to be made. */
typedef struct part {
    const char *phase;
    t3v_place place;
    bool wanted;
    char *path;
    const t3v_file_type *type;
    t3v_params params; /* borrowed from the models below */
    uint64_t seed;
} part;

enum { DIT_PART, VAE_PART, TEXT_PART, LOW_PART, CLIP_PART, PARTS };

typedef struct job {
    const args *a;
    t3v_dit dit;
    t3v_umt5 text;
    t3v_vae vae;
    t3v_clip clip;
    part part[PARTS];
    char *tokenizer; /* where it goes; NULL: the layout has no place for it */
    const t3v_progress *progress;
} job;

static void random_values(void *user, int64_t i, int64_t first, int64_t n, float *out)
{
    const part *p = user;
    t3v_param_random(&p->params, i, p->seed, first, n, out);
}

static t3v_status write_part(const job *j, part *p)
{
    t3v_tensor_entry *e = calloc((size_t)p->params.count + 1, sizeof *e);
    t3v_convert_result result;
    t3v_convert_source source = {e, p->params.count, random_values, p};
    t3v_convert_job convert = {.in = p->path,
                               .out = p->path,
                               .source = &source,
                               .phase = p->phase,
                               .type = p->type,
                               .layout = j->a->layout,
                               .tokenizer = t3v_is_file(j->tokenizer) ? j->tokenizer : j->a->tokenizer,
                               .force = j->a->force,
                               .progress = j->progress};
    t3v_status st = e ? T3V_OK : t3v_fail(T3V_E_NOMEM, "no memory to write %s", p->path);
    for (int64_t i = 0; i < p->params.count && !st; i++) {
        const t3v_tensor *t = p->params.item[i].tensor;
        e[i] = (t3v_tensor_entry){.name = p->params.item[i].name, .ndim = t->ndim};
        memcpy(e[i].shape, t->shape, (size_t)t->ndim * sizeof *t->shape);
    }
    if (!st && !t3v_container_of(p->path, &convert.container))
        st = t3v_fail(T3V_E_ARG, "%s: no known ending", p->path);
    if (!st) st = t3v_make_parents(p->path);
    if (!st) st = t3v_convert_file(&convert, &result);
    free(e);
    return st;
}

/* The tokenizer's bytes and its pieces: the file given, DIR's own, or one piece a byte. */
static t3v_status get_tokenizer(const args *a, const char *own, char **bytes, size_t *n, int64_t *pieces)
{
    const char *path = a->tokenizer ? a->tokenizer : t3v_is_file(own) ? own : NULL;
    if (path) {
        T3V_TRY(t3v_read_text(path, (size_t)64 << 20, bytes, n));
    } else {
        unsigned char *made;
        T3V_TRY(t3v_byte_model(&made, n));
        *bytes = (char *)made;
    }
    t3v_tokenizer *t = NULL;
    t3v_status st = t3v_tokenizer_open_memory(*bytes, *n, &t);
    if (st) return path ? t3v_fail_in(st, "%s", path) : st;
    *pieces = t3v_tokenizer_vocab_size(t);
    t3v_tokenizer_close(t);
    return T3V_OK;
}

/* The path of a part, in GGUF where its type is one of blocks. */
static t3v_status part_path(const args *a, part *p)
{
    const char *name = t3v_layout_path(a->layout, p->place, a->config->experts, a->config->vae.z);
    bool gguf = t3v_dtype_block(p->type->base) > 1;
    int stem = (int)strlen(name) - (gguf ? (int)strlen(".safetensors") : 0);
    if (asprintf(&p->path, "%s/%.*s%s", a->out, stem, name, gguf ? ".gguf" : "") >= 0) return T3V_OK;
    p->path = NULL;
    return t3v_fail(T3V_E_NOMEM, "no memory for a path");
}

/* What cannot be replaced, and whether there is room, is found out before anything is written. */
static t3v_status plan_parts(job *j)
{
    const args *a = j->a;
    bool plain = a->type->base == T3V_F32 || a->type->base == T3V_BF16 || a->type->base == T3V_F16;
    int64_t total = 0;
    for (int i = 0; i < PARTS; i++) {
        part *p = &j->part[i];
        if (!p->wanted) continue;
        p->type = plain || p->place == T3V_AT_DIT || p->place == T3V_AT_DIT_LOW ? a->type
                                                                                : t3v_file_type_named("bf16");
        p->seed = (uint64_t)a->seed + (uint64_t)i * 0x9e3779b97f4a7c15u;
        T3V_TRY(part_path(a, p));
        if (!a->force && t3v_is_file(p->path))
            return t3v_fail(T3V_E_IO, "%s is there already; --force replaces it", p->path);
        total += t3v_params_numel(&p->params) / t3v_dtype_block(p->type->base) *
                 (int64_t)t3v_dtype_block_bytes(p->type->base);
    }
    return t3v_check_space(a->out, total);
}

/* With a DiT, or where there are none yet. */
static t3v_status write_settings(const job *j)
{
    const args *a = j->a;
    const config *c = a->config;
    const char *name = a->layout == T3V_LAYOUT_DIFFUSERS ? "model_index.json"
                       : c->experts                      ? "high_noise_model/config.json"
                                                         : "config.json";
    char *path = t3v_path_join(a->out, name), *own = t3v_path_join(a->out, "t3v.json");
    t3v_defaults defaults = c->defaults;
    t3v_status st = path && own ? T3V_OK : t3v_fail(T3V_E_NOMEM, "no memory for a path");
    if (!defaults.width) t3v_defaults_of(&a->dit, c->experts, &defaults);
    if (!st) {
        bool dit = a->parts & DIT;
        t3v_layout_model m = {.dit = dit || !t3v_is_file(path) ? &a->dit : NULL,
                              .experts = c->experts,
                              .text = j->part[TEXT_PART].wanted ? &j->text.config : NULL,
                              .vae = j->part[VAE_PART].wanted ? &j->vae : NULL,
                              .clip = j->part[CLIP_PART].wanted ? &j->clip.config : NULL,
                              .defaults = &defaults,
                              .own_defaults = c->defaults.width && (dit || !t3v_is_file(own))};
        st = t3v_layout_write(a->layout, a->out, &m);
    }
    free(path);
    free(own);
    return st;
}

static t3v_status open_parts(job *j, int64_t pieces)
{
    const args *a = j->a;
    const config *c = a->config;
    if (a->parts & DIT) {
        T3V_TRY(t3v_dit_open(&j->dit, &a->dit));
        j->part[DIT_PART] =
            (part){.phase = "transformer", .place = T3V_AT_DIT, .wanted = true, .params = j->dit.params};
        j->part[LOW_PART] = (part){.phase = "transformer 2",
                                   .place = T3V_AT_DIT_LOW,
                                   .wanted = c->experts,
                                   .params = j->dit.params};
    }
    if (a->parts & VAE) {
        T3V_TRY(t3v_vae_open(&j->vae, &c->vae));
        j->part[VAE_PART] =
            (part){.phase = "VAE", .place = T3V_AT_VAE, .wanted = true, .params = j->vae.params};
    }
    if (a->parts & (TEXT | TEXT_FULL)) {
        t3v_umt5_config t = a->parts & TEXT_FULL && c->full.layers ? c->full : c->text;
        if (t.vocab == 0) t.vocab = pieces;
        if (pieces > t.vocab)
            return t3v_fail(T3V_E_SHAPE,
                            "the tokenizer has %lld pieces, the text encoder of %s only %lld rows",
                            (long long)pieces, c->name, (long long)t.vocab);
        T3V_TRY(t3v_umt5_open(&j->text, &t));
        j->part[TEXT_PART] =
            (part){.phase = "text encoder", .place = T3V_AT_TEXT, .wanted = true, .params = j->text.params};
    }
    if (a->parts & CLIP) {
        T3V_TRY(t3v_clip_open(&j->clip, &c->clip));
        j->part[CLIP_PART] =
            (part){.phase = "image encoder", .place = T3V_AT_CLIP, .wanted = true, .params = j->clip.params};
    }
    return T3V_OK;
}

static t3v_status init(const args *a, const t3v_progress *progress)
{
    job j = {.a = a, .progress = progress};
    const char *name = t3v_layout_path(a->layout, T3V_AT_TOKENIZER, false, 0);
    char *bytes = NULL;
    size_t n = 0;
    int64_t pieces = 0;
    t3v_status st = t3v_make_dir(a->out);
    if (!name) name = "spiece.model"; /* of ComfyUI's layout: from where it goes into the text encoder */
    if (!st && !(j.tokenizer = t3v_path_join(a->out, name)))
        st = t3v_fail(T3V_E_NOMEM, "no memory for a path");
    if (!st && a->parts & (TEXT | TEXT_FULL | TOKENIZER))
        st = get_tokenizer(a, j.tokenizer, &bytes, &n, &pieces);
    if (!st) st = open_parts(&j, pieces);
    if (!st) st = plan_parts(&j);
    if (!st && a->parts & TOKENIZER && (a->tokenizer || !t3v_is_file(j.tokenizer))) {
        st = t3v_make_parents(j.tokenizer);
        if (!st) st = t3v_write_text(j.tokenizer, bytes, n);
    }
    if (!st) st = write_settings(&j);
    for (int i = 0; i < PARTS && !st; i++)
        if (j.part[i].wanted) st = write_part(&j, &j.part[i]);
    for (int i = 0; i < PARTS; i++) free(j.part[i].path);
    t3v_dit_close(&j.dit);
    t3v_vae_close(&j.vae);
    t3v_umt5_close(&j.text);
    t3v_clip_close(&j.clip);
    free(j.tokenizer);
    free(bytes);
    return st;
}

static int run(int argc, char **argv)
{
    args a = {.type = t3v_file_type_named("bf16")};
    cli_common common;
    int rc = cli_parse(&argp, argc, argv, &common, &a);
    if (rc >= 0) return rc;
    t3v_progress progress = cli_progress();
    t3v_status st = init(&a, &progress);
    if (st) return cli_fail(st);
    printf("%s\n", a.out);
    return CLI_OK;
}

const cli_command cli_init = {"init", "a model directory with random weights", run};
