/* SPDX-License-Identifier: Apache-2.0 */
/* t3v init: a model directory with random weights, written tensor by tensor. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/log.h"
#include "cli.h"
#include "clip/vision.h"
#include "dit/configs.h"
#include "io/file.h"
#include "io/pth.h"
#include "io/safetensors.h"
#include "pipe/model.h"
#include "tensor/dtype.h"
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
    "starter, tiny, tiny-i2v, tiny-ti2v, tiny-t2v-a14b or tiny-i2v-a14b"

/* Where a transformer's files go, below the model's directory. */
static const char *const alone[] = {"", NULL}, *const both[] = {"high_noise_model/", "low_noise_model/",
                                                                NULL};
static const char dit_file[] = "diffusion_pytorch_model.safetensors";

/* ---- options --------------------------------------------------------------------------------------- */

enum { DIT = 1, VAE = 2, TEXT = 4, TEXT_FULL = 8, TOKENIZER = 16, CLIP = 32 };

typedef struct args {
    const config *config;
    t3v_dit_config dit;
    unsigned parts;
    t3v_dtype dtype;
    int64_t seed;
    bool force;
    const char *list, *tokenizer, *out; /* list: as --parts gives it */
} args;

enum { OPT_CONFIG = 0x100, OPT_PARTS, OPT_DTYPE, OPT_SEED, OPT_TOKENIZER, OPT_FORCE };

static const struct argp_option options[] = {
    {"config", OPT_CONFIG, "NAME", 0, CONFIG_NAMES, 0},
    {"parts", OPT_PARTS, "LIST", 0,
     "Of dit, vae, text, text-full, tokenizer, clip (default: all but text-full; clip where the model looks "
     "at images with it)",
     0},
    {"dtype", OPT_DTYPE, "bf16|f32", 0, "Type of the weights in the files (default: bf16)", 0},
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
        if (strcmp(arg, "bf16") == 0) a->dtype = T3V_BF16;
        else if (strcmp(arg, "f32") == 0) a->dtype = T3V_F32;
        else argp_error(state, "--dtype %s: expected bf16 or f32", arg);
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
    "Writes a model with random weights in Wan's layout, to train, measure or test with."
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
    const char *name, *dir, *file; /* dir: "", or ends with a slash */
    unsigned bit;
    bool pth;
    char *path;
    t3v_params params; /* borrowed from the models below */
} part;

enum { PARTS = 5 };

typedef struct job {
    const args *a;
    t3v_dit dit;
    t3v_umt5 text;
    t3v_vae vae;
    t3v_clip clip;
    part part[PARTS];
    int64_t done, total; /* bytes of weights */
    const t3v_progress *progress;
} job;

static t3v_status make_dir(const char *path)
{
    char *copy = strdup(path);
    if (!copy) return t3v_fail(T3V_E_NOMEM, "no memory for a path");
    t3v_status st = T3V_OK;
    for (char *p = copy + 1; !st; p++) {
        if (*p && *p != '/') continue;
        char end = *p;
        *p = 0;
        if (mkdir(copy, 0777) && errno != EEXIST)
            st = t3v_fail(T3V_E_IO, "%s: cannot make the directory: %s", copy, strerror(errno));
        *p = end;
        if (!end) break;
    }
    if (!st && !t3v_is_dir(copy)) st = t3v_fail(T3V_E_IO, "%s is not a directory", copy);
    free(copy);
    return st;
}

/* All tensors of a part, a piece at a time. */
static t3v_status write_part(job *j, const part *p, uint64_t seed)
{
    enum { PIECE = 1 << 22 };
    t3v_dtype dtype = j->a->dtype;
    int64_t n = p->params.count;
    t3v_safetensors_writer *w = NULL;
    t3v_pth_writer *z = NULL;
    t3v_tensor_entry *e = calloc((size_t)n, sizeof *e);
    float *values = malloc(PIECE * sizeof *values);
    void *stored = malloc(PIECE * sizeof *values);
    t3v_status st = e && values && stored ? T3V_OK : t3v_fail(T3V_E_NOMEM, "no memory to write %s", p->path);
    for (int64_t i = 0; i < n && !st; i++) {
        const t3v_tensor *t = p->params.item[i].tensor;
        e[i] = (t3v_tensor_entry){.name = p->params.item[i].name, .dtype = dtype, .ndim = t->ndim};
        memcpy(e[i].shape, t->shape, (size_t)t->ndim * sizeof *t->shape);
    }
    if (!st)
        st = p->pth ? t3v_pth_begin(&z, p->path, e, n) : t3v_safetensors_begin(&w, p->path, e, n, NULL, 0);
    for (int64_t i = 0; i < n && !st; i++) {
        int64_t count = t3v_numel(p->params.item[i].tensor);
        for (int64_t first = 0; first < count && !st; first += PIECE) {
            int64_t len = count - first < PIECE ? count - first : PIECE;
            size_t bytes = (size_t)len * t3v_dtype_size(dtype);
            t3v_param_random(&p->params, i, seed, first, len, values);
            st = t3v_convert(stored, dtype, values, T3V_F32, len);
            if (!st)
                st = p->pth ? t3v_pth_append(z, stored, bytes)
                            : t3v_safetensors_append(w, e[i].name, stored, bytes);
            j->done += (int64_t)bytes;
            if (!st) st = t3v_report(j->progress, "weights", j->done / (1 << 20), j->total / (1 << 20));
        }
    }
    if (!st) {
        st = p->pth ? t3v_pth_finish(z) : t3v_safetensors_finish(w);
    } else {
        t3v_pth_abandon(z);
        t3v_safetensors_abandon(w);
    }
    free(e);
    free(values);
    free(stored);
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

static t3v_status check_space(const job *j)
{
    struct statvfs fs;
    if (statvfs(j->a->out, &fs) != 0) return T3V_OK; /* the writer will tell */
    double free_bytes = (double)fs.f_bavail * (double)fs.f_frsize;
    if (free_bytes >= (double)j->total + (1 << 20)) return T3V_OK;
    return t3v_fail(T3V_E_IO, "%s: the weights need %.2f GB, the disk has %.2f GB left", j->a->out,
                    (double)j->total / 1e9, free_bytes / 1e9);
}

/* What stays as it is and what cannot be replaced is found out before anything is written. */
static t3v_status plan_parts(job *j)
{
    for (int i = 0; i < PARTS; i++) {
        part *p = &j->part[i];
        if (!p->bit) continue;
        if (asprintf(&p->path, "%s/%s%s", j->a->out, p->dir, p->file) < 0) {
            p->path = NULL;
            return t3v_fail(T3V_E_NOMEM, "no memory for a path");
        }
        if (!j->a->force && t3v_is_file(p->path))
            return t3v_fail(T3V_E_IO, "%s is there already; --force replaces it", p->path);
        j->total += t3v_params_numel(&p->params) * (int64_t)t3v_dtype_size(j->a->dtype);
    }
    return check_space(j);
}

/* With a DiT, or where there are none yet. */
static t3v_status write_settings(const args *a)
{
    const config *c = a->config;
    char *own = t3v_path_join(a->out, "t3v.json");
    t3v_status st = own ? T3V_OK : t3v_fail(T3V_E_NOMEM, "no memory for a path");
    bool dit = a->parts & DIT;
    for (const char *const *d = c->experts ? both : alone; *d && !st; d++) {
        char *dir = t3v_path_join(a->out, *d), *path = dir ? t3v_path_join(dir, "config.json") : NULL;
        st = path ? make_dir(dir) : t3v_fail(T3V_E_NOMEM, "no memory for a path");
        if (!st && (dit || !t3v_is_file(path))) st = t3v_dit_config_write(path, &a->dit);
        free(dir);
        free(path);
    }
    if (!st && c->defaults.width && (dit || !t3v_is_file(own))) st = t3v_defaults_write(own, &c->defaults);
    free(own);
    return st;
}

static t3v_status write_tokenizer(const args *a, const char *path, const char *bytes, size_t n)
{
    char *dir = t3v_path_join(a->out, "google/umt5-xxl");
    t3v_status st = dir ? make_dir(dir) : t3v_fail(T3V_E_NOMEM, "no memory for a path");
    if (!st) st = t3v_write_text(path, bytes, n);
    free(dir);
    return st;
}

static t3v_status init(const args *a, const t3v_progress *progress)
{
    const config *c = a->config;
    job j = {.a = a, .progress = progress};
    char *own = t3v_path_join(a->out, "google/umt5-xxl/spiece.model"), *bytes = NULL;
    size_t n = 0;
    int64_t pieces = 0;
    t3v_status st = own ? make_dir(a->out) : t3v_fail(T3V_E_NOMEM, "no memory for a path");
    if (!st && a->parts & (TEXT | TEXT_FULL | TOKENIZER)) st = get_tokenizer(a, own, &bytes, &n, &pieces);
    if (!st && a->parts & DIT) {
        st = t3v_dit_open(&j.dit, &a->dit);
        const char *const *d = c->experts ? both : alone;
        j.part[0] = (part){"dit", d[0], dit_file, DIT, false, NULL, j.dit.params};
        if (d[1]) j.part[3] = (part){"low-noise dit", d[1], dit_file, DIT, false, NULL, j.dit.params};
    }
    if (!st && a->parts & VAE) {
        st = t3v_vae_open(&j.vae, &c->vae);
        j.part[1] = (part){"vae", "", t3v_vae_file_name(c->vae.z), VAE, true, NULL, j.vae.params};
    }
    if (!st && a->parts & (TEXT | TEXT_FULL)) {
        t3v_umt5_config t = a->parts & TEXT_FULL && c->full.layers ? c->full : c->text;
        if (t.vocab == 0) t.vocab = pieces;
        if (pieces > t.vocab)
            st = t3v_fail(T3V_E_SHAPE, "the tokenizer has %lld pieces, the text encoder of %s only %lld rows",
                          (long long)pieces, c->name, (long long)t.vocab);
        if (!st) st = t3v_umt5_open(&j.text, &t);
        j.part[2] = (part){"text", "", "models_t5_umt5-xxl-enc-bf16.pth", TEXT, true, NULL, j.text.params};
    }
    if (!st && a->parts & CLIP) {
        st = t3v_clip_open(&j.clip, &c->clip);
        j.part[4] = (part){"clip",       "",   "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
                           CLIP,         true, NULL,
                           j.clip.params};
    }
    if (!st) st = plan_parts(&j);
    if (!st && a->parts & TOKENIZER && (a->tokenizer || !t3v_is_file(own)))
        st = write_tokenizer(a, own, bytes, n);
    if (!st) st = write_settings(a);
    for (int i = 0; i < PARTS && !st; i++)
        if (j.part[i].bit)
            st = write_part(&j, &j.part[i], (uint64_t)a->seed + (uint64_t)i * 0x9e3779b97f4a7c15u);
    for (int i = 0; i < PARTS; i++) free(j.part[i].path);
    t3v_dit_close(&j.dit);
    t3v_vae_close(&j.vae);
    t3v_clip_close(&j.clip);
    t3v_umt5_close(&j.text);
    free(bytes);
    free(own);
    return st;
}

static int run(int argc, char **argv)
{
    args a = {.dtype = T3V_BF16};
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
