/* SPDX-License-Identifier: Apache-2.0 */
/* t3v inspect: what a file of weights, or a model directory, holds. The text is made from the JSON. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "cli.h"
#include "io/file.h"
#include "io/json.h"
#include "io/names.h"
#include "pipe/family.h"
#include "pipe/location.h"
#include "pipe/model.h"
#include "t3v/t3v.h"

typedef struct args {
    const char *path;
    bool all;
    int64_t width, height, frames;
    const char *plan;
} args;

enum { OPT_ALL = 0x100, OPT_SIZE, OPT_FRAMES, OPT_PLAN, FEW = 5 };

static const struct argp_option options[] = {
    {"all", OPT_ALL, 0, 0, "Every tensor, not only the first and the last (--json lists all)", 1},
    {"size", OPT_SIZE, "WxH", 0,
     "Memory and work of a clip of this size (default with --frames or --plan: the model's)", 1},
    {"frames", OPT_FRAMES, "N", 0, "The same of this many frames, 4n+1", 1},
    {"plan", OPT_PLAN, "PLAN", 0, "The same with this attention plan", 1},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    args *a = state->input;
    switch (key) {
    case OPT_ALL: a->all = true; return 0;
    case OPT_SIZE:
        if (!cli_size(arg, &a->width, &a->height))
            argp_error(state, "--size %s: expected WxH, e.g. 832x480", arg);
        return 0;
    case OPT_FRAMES:
        if (!cli_int(arg, 1, 1 << 16, &a->frames))
            argp_error(state, "--frames %s: expected a number above 0", arg);
        return 0;
    case OPT_PLAN: a->plan = arg; return 0;
    case ARGP_KEY_ARG:
        if (a->path) argp_error(state, "one PATH at a time");
        a->path = arg;
        return 0;
    case ARGP_KEY_END:
        if (!a->path) argp_error(state, "a PATH is needed");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* ---- gathering ------------------------------------------------------------------------------------- */

static void set_int(json_t *o, const char *key, int64_t v) { json_object_set_new(o, key, json_integer(v)); }

/* What was detected, without fields that do not apply. */
static void add_family(json_t *o, const t3v_family *y)
{
    const struct {
        const char *key;
        int64_t v;
    } field[] = {{"dim", y->dim},
                 {"ffn_dim", y->ffn_dim},
                 {"num_layers", y->layers},
                 {"in_dim", y->in_dim},
                 {"out_dim", y->out_dim},
                 {"text_dim", y->text_dim},
                 {"width", y->vae_width},
                 {"decoder_width", y->vae_decoder_width},
                 {"latent_channels", y->vae_z},
                 {"width", y->clip_width},
                 {"num_layers", y->clip_layers},
                 {"vocab", y->vocab},
                 {"dim", y->text_width},
                 {"num_layers", y->text_layers},
                 {"num_heads", y->text_heads}};
    json_object_set_new(o, "kind", json_string(t3v_weights_kind_name(y->kind)));
    json_object_set_new(o, "family", y->name ? json_string(y->name) : json_null());
    if (y->reason) json_object_set_new(o, "not_run", json_string(y->reason));
    for (size_t i = 0; i < sizeof field / sizeof *field; i++)
        if (field[i].v) set_int(o, field[i].key, field[i].v);
}

/* Format, sizes, what it is; the tensors too if `list`. */
static t3v_status add_weights(json_t *o, const char *path, bool list, t3v_family *family)
{
    t3v_tensor_file *f = NULL;
    T3V_TRY(t3v_tensors_open(&f, path));
    int64_t numel[T3V_DTYPE_COUNT] = {0}, bytes[T3V_DTYPE_COUNT] = {0}, number[T3V_DTYPE_COUNT] = {0}, n = 0,
            b = 0;
    json_t *types = json_object(), *tensors = json_array(), *meta = json_object();
    for (int64_t i = 0; i < f->count; i++) {
        const t3v_tensor_entry *e = &f->tensors[i];
        number[e->dtype]++, numel[e->dtype] += e->numel, bytes[e->dtype] += e->nbytes;
        n += e->numel, b += e->nbytes;
        if (!list) continue;
        json_t *shape = json_array();
        for (int d = 0; d < e->ndim; d++) json_array_append_new(shape, json_integer(e->shape[d]));
        json_array_append_new(tensors, json_pack("{s:s, s:s, s:o, s:I}", "name", e->name, "dtype",
                                                 t3v_dtype_name(e->dtype), "shape", shape, "bytes",
                                                 (json_int_t)e->nbytes));
    }
    for (int i = 0; i < T3V_DTYPE_COUNT; i++)
        if (number[i])
            json_object_set_new(types, t3v_dtype_name((t3v_dtype)i),
                                json_pack("{s:I, s:I, s:I}", "tensors", (json_int_t)number[i], "parameters",
                                          (json_int_t)numel[i], "bytes", (json_int_t)bytes[i]));
    for (int64_t i = 0; i < f->meta_count; i++)
        json_object_set_new(meta, f->meta[i].key, json_string(f->meta[i].value));
    json_object_set_new(o, "format", json_string(f->format));
    set_int(o, "tensors", f->count);
    set_int(o, "parameters", n);
    set_int(o, "bytes", b);
    json_object_set_new(o, "dtypes", types);
    json_object_set_new(o, "metadata", meta);
    if (list) json_object_set(o, "list", tensors);
    json_decref(tensors);
    t3v_status st = t3v_names_apply(f, T3V_NAMES_ANY);
    if (!st) t3v_family_detect(f, family);
    if (!st) add_family(o, family);
    t3v_tensors_close(f);
    return st;
}

/* What was found of a model. */
typedef struct parts {
    json_t *all, *missing, *problems;
    t3v_location where;
    t3v_family family[T3V_AT_COUNT];
    bool good[T3V_AT_COUNT]; /* there, and of a kind that is run */
    int64_t pieces;          /* of the tokenizer */
} parts;

static const char *const part_names[T3V_AT_COUNT] = {"dit", "dit_low", "text", "tokenizer", "vae", "clip"};

static void problem(parts *p, const char *text) { json_array_append_new(p->problems, json_string(text)); }

/* What was looked for, and how to name it elsewhere. */
static void add_missing(parts *p, t3v_place place)
{
    json_t *names = json_array();
    for (const char *const *n = t3v_location_names(place); *n; n++)
        json_array_append_new(names, json_string(*n));
    if (place == T3V_AT_DIT)
        json_array_insert_new(names, 0, json_string("diffusion_pytorch_model.safetensors"));
    json_array_append_new(p->missing, json_pack("{s:s, s:s, s:o, s:s}", "part", part_names[place],
                                                "looked_in", p->where.root, "looked_for", names, "option",
                                                t3v_location_option(place)));
}

static bool open_tokenizer(parts *p, json_t *o, const char *path)
{
    t3v_tokenizer *t = NULL;
    if (t3v_tokenizer_open(path, &t)) return false;
    set_int(o, "pieces", p->pieces = t3v_tokenizer_vocab_size(t));
    t3v_tokenizer_close(t);
    return true;
}

/* A DiT's directory may hold nothing but the other parts; weights that cannot be read are there. */
static bool is_there(const parts *p, t3v_place place)
{
    const char *path = p->where.path[place];
    t3v_tensor_file *f = NULL;
    if (!path || place != T3V_AT_DIT || !t3v_is_dir(path)) return path;
    t3v_status st = t3v_tensors_open(&f, path);
    t3v_tensors_close(f);
    return st != T3V_E_IO;
}

static void add_part(parts *p, t3v_place place)
{
    const char *path = p->where.path[place];
    json_t *o = json_object();
    bool present = is_there(p, place);
    json_object_set_new(p->all, part_names[place], o);
    json_object_set_new(o, "file", present ? json_string(path) : json_null());
    json_object_set_new(o, "present", json_boolean(present));
    if (!present) {
        add_missing(p, place);
        return;
    }
    p->good[place] = place == T3V_AT_TOKENIZER ? open_tokenizer(p, o, path)
                                               : !add_weights(o, path, false, &p->family[place]);
    if (!p->good[place]) problem(p, t3v_error_text());
    if (p->family[place].reason) {
        problem(p, p->family[place].reason);
        p->good[place] = false;
    }
}

static json_t *defaults_json(const t3v_defaults *d)
{
    json_t *o = json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:s, s:s, s:s, s:I, s:s, s:s}", "width",
                          (json_int_t)d->width, "height", (json_int_t)d->height, "frames",
                          (json_int_t)d->frames, "steps", (json_int_t)d->steps, "fps", d->fps, "shift",
                          d->shift, "cfg", d->cfg, "sampler", d->sampler, "negative", d->negative, "plan",
                          d->plan, "dense_steps", (json_int_t)d->dense_steps, "cfg_steps", d->cfg_steps,
                          "reuse", d->reuse);
    if (d->plan_grid[0])
        json_object_set_new(o, "plan_grid",
                            json_pack("[I,I,I]", (json_int_t)d->plan_grid[0], (json_int_t)d->plan_grid[1],
                                      (json_int_t)d->plan_grid[2]));
    return o;
}

static void compare(parts *p, const char *what, int64_t config, int64_t weights)
{
    char text[160];
    if (config == weights || !weights) return;
    snprintf(text, sizeof text, "config.json says %s %lld, the weights have %lld", what, (long long)config,
             (long long)weights);
    problem(p, text);
}

/* What the parts say of each other. */
static void check(parts *p, const t3v_dit_config *c)
{
    const t3v_family *d = &p->family[T3V_AT_DIT], *x = &p->family[T3V_AT_TEXT], *v = &p->family[T3V_AT_VAE];
    char line[200];
    if (p->good[T3V_AT_DIT]) {
        compare(p, "dim", c->dim, d->dim);
        compare(p, "ffn_dim", c->ffn_dim, d->ffn_dim);
        compare(p, "num_layers", c->layers, d->layers);
        compare(p, "in_dim", c->in_dim, d->in_dim);
        compare(p, "out_dim", c->out_dim, d->out_dim);
    }
    if (p->good[T3V_AT_DIT] && p->good[T3V_AT_VAE] && d->out_dim != v->vae_z) {
        snprintf(line, sizeof line, "the transformer makes latents of %lld channels, the VAE takes %lld",
                 (long long)d->out_dim, (long long)v->vae_z);
        problem(p, line);
    }
    if (p->good[T3V_AT_DIT] && p->good[T3V_AT_TEXT] && d->text_dim != x->text_width) {
        snprintf(line, sizeof line, "the transformer takes text rows of %lld, the text encoder makes %lld",
                 (long long)d->text_dim, (long long)x->text_width);
        problem(p, line);
    }
    if (p->good[T3V_AT_TEXT] && p->pieces > x->vocab) {
        snprintf(line, sizeof line, "the tokenizer has %lld pieces, the text encoder %lld rows",
                 (long long)p->pieces, (long long)x->vocab);
        problem(p, line);
    }
}

static void add_config(json_t *o, const t3v_model *m)
{
    const t3v_dit_config *c = &m->config;
    json_object_set_new(o, "config",
                        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "dim", (json_int_t)c->dim,
                                  "ffn_dim", (json_int_t)c->ffn_dim, "num_heads", (json_int_t)c->heads,
                                  "num_layers", (json_int_t)c->layers, "in_dim", (json_int_t)c->in_dim,
                                  "out_dim", (json_int_t)c->out_dim, "freq_dim", (json_int_t)c->freq_dim,
                                  "text_len", (json_int_t)c->text_len, "eps", c->eps));
    json_object_set_new(o, "defaults", defaults_json(&m->defaults));
}

/* Memory and work of a clip, as a dry run finds them. */
static t3v_status add_cost(json_t *o, const args *a, const cli_common *common)
{
    t3v_output output = {.prompt = "", .path = "clip.y4m"};
    t3v_job job = T3V_JOB_INIT;
    t3v_result r;
    job.model = a->path;
    job.output = &output;
    job.outputs = 1;
    job.width = a->width;
    job.height = a->height;
    job.frames = a->frames;
    job.plan = a->plan;
    job.compute = common->bf16 ? T3V_BF16 : T3V_F32;
    job.dry_run = true;
    job.memory_limit = INT64_MAX / 2; /* what this machine has does not matter */
    T3V_TRY(t3v_generate(&job, &r));
    json_object_set_new(o, "cost",
                        json_pack("{s:I, s:I, s:I, s:s?, s:s, s:[I,I,I], s:I, s:I, s:f, s:I}", "width",
                                  (json_int_t)r.width, "height", (json_int_t)r.height, "frames",
                                  (json_int_t)r.frames, "plan", a->plan, "precision",
                                  common->bf16 ? "bf16" : "f32", "grid", (json_int_t)r.grid[0],
                                  (json_int_t)r.grid[1], (json_int_t)r.grid[2], "steps", (json_int_t)r.steps,
                                  "passes", (json_int_t)r.passes, "tflop", r.flop / 1e12, "peak_bytes",
                                  (json_int_t)r.peak_bytes));
    return T3V_OK;
}

/* The configuration and the defaults, with what only the weights tell. */
static t3v_status open_model(t3v_model **m, const t3v_model_paths *paths)
{
    t3v_tensor_file *f = NULL;
    T3V_TRY(t3v_model_open(m, paths, 0, T3V_F32, false));
    t3v_status st = t3v_model_weights(*m, T3V_AT_DIT, &f);
    if (!st) st = t3v_dit_config_complete(&(*m)->config, f);
    t3v_tensors_close(f);
    if (!st) return T3V_OK;
    t3v_model_close(*m);
    *m = NULL;
    return st;
}

static t3v_status model_json(const args *a, const cli_common *common, json_t *o)
{
    parts p = {.all = json_object(), .missing = json_array(), .problems = json_array()};
    t3v_model *m = NULL;
    t3v_model_paths paths = {.model = a->path};
    json_object_set_new(o, "kind", json_string("model"));
    json_object_set_new(o, "parts", p.all);
    json_object_set_new(o, "missing", p.missing);
    json_object_set_new(o, "problems", p.problems);
    T3V_TRY(t3v_location_look(&p.where, &paths));
    json_object_set_new(o, "layout", json_string(p.where.layout));
    add_part(&p, T3V_AT_DIT);
    if (p.where.experts) add_part(&p, T3V_AT_DIT_LOW);
    add_part(&p, T3V_AT_VAE);
    add_part(&p, T3V_AT_TEXT);
    add_part(&p, T3V_AT_TOKENIZER);
    const t3v_family *d = &p.family[T3V_AT_DIT];
    bool opened = p.good[T3V_AT_DIT] && !open_model(&m, &paths);
    if (p.good[T3V_AT_DIT] && !opened) problem(&p, t3v_error_text());
    bool clip = opened && m->config.clip_dim;
    if (clip || p.where.path[T3V_AT_CLIP]) add_part(&p, T3V_AT_CLIP);
    json_object_set_new(o, "family", d->name ? json_string(d->name) : json_null());
    if (opened) {
        check(&p, &m->config);
        add_config(o, m);
    }
    bool sound = json_array_size(p.problems) == 0, text = p.good[T3V_AT_TEXT] && p.good[T3V_AT_TOKENIZER];
    bool whole = opened && sound && text && p.good[T3V_AT_VAE] &&
                 (!p.where.experts || p.good[T3V_AT_DIT_LOW]) && (!clip || p.good[T3V_AT_CLIP]);
    json_object_set_new(o, "runs",
                        json_pack("{s:b, s:b, s:b, s:b, s:b}", "generate", whole, "text", opened && text,
                                  "dit", opened, "encode", opened && p.good[T3V_AT_VAE], "decode",
                                  opened && p.good[T3V_AT_VAE]));
    t3v_model_close(m);
    t3v_location_free(&p.where);
    if (!a->width && !a->frames && !a->plan) return T3V_OK;
    if (!whole)
        return t3v_fail(T3V_E_ARG, "%s: memory at a size is told of a whole model; see what is missing",
                        a->path);
    return add_cost(o, a, common);
}

/* Weights; of a transformer also which other parts were looked for and not found. */
static t3v_status file_json(const char *path, json_t *o)
{
    t3v_family family;
    T3V_TRY(add_weights(o, path, true, &family));
    parts p = {.missing = json_array()};
    json_object_set_new(o, "missing", p.missing);
    if (family.kind != T3V_WEIGHTS_DIT) return T3V_OK;
    T3V_TRY(t3v_location_look(&p.where, &(t3v_model_paths){.model = path}));
    for (t3v_place place = T3V_AT_TEXT; place <= T3V_AT_VAE; place++)
        if (!p.where.path[place]) add_missing(&p, place);
    t3v_location_free(&p.where);
    return T3V_OK;
}

/* ---- printing -------------------------------------------------------------------------------------- */

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static long long int_of(const json_t *o, const char *key)
{
    return (long long)json_integer_value(json_object_get(o, key));
}

static double real_of(const json_t *o, const char *key) { return json_number_value(json_object_get(o, key)); }

/* Text from a file on a terminal: at most `most` bytes, control characters (C1 too) as '?'. */
static void print_text(const char *s, size_t most)
{
    size_t n = strlen(s);
    if (n > most)
        for (n = most; n > 0 && ((unsigned char)s[n] & 0xc0) == 0x80;) n--;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        bool c1 = c == 0xc2 && (unsigned char)s[i + 1] < 0xa0;
        putchar(c < 32 || c == 127 || c1 ? '?' : c);
        i += c1;
    }
    if (s[n]) printf("...");
}

static void print_sizes(const json_t *o)
{
    const char *key;
    json_t *t;
    printf("%s, %lld tensors, %lld parameters, %.3f GB:", text_of(o, "format"), int_of(o, "tensors"),
           int_of(o, "parameters"), (double)int_of(o, "bytes") / 1e9);
    json_object_foreach(json_object_get(o, "dtypes"), key, t)
        printf(" %s %lld", key, int_of(t, "parameters"));
    printf("\n");
}

/* The integers that describe a part: width, layers, ... */
static void print_numbers(const json_t *o, const char *indent)
{
    static const char *const skip[] = {"tensors", "parameters", "bytes", "peak_rss_bytes"};
    const char *key, *before = indent;
    json_t *v;
    json_object_foreach((json_t *)o, key, v)
    {
        bool skipped = !json_is_integer(v);
        for (size_t i = 0; i < sizeof skip / sizeof *skip; i++) skipped |= strcmp(key, skip[i]) == 0;
        if (skipped) continue;
        printf("%s%s %lld", before, key, (long long)json_integer_value(v));
        before = ", ";
    }
    if (before != indent) printf("\n");
}

static void print_missing(const json_t *v)
{
    size_t i;
    json_t *name;
    printf("missing   %s: looked in %s for", text_of(v, "part"), text_of(v, "looked_in"));
    json_array_foreach(json_object_get(v, "looked_for"), i, name)
        printf("%s %s", i ? "," : "", json_string_value(name));
    printf("; %s names it elsewhere\n", text_of(v, "option"));
}

static void print_file(const json_t *o, bool all)
{
    const char *key, *family = text_of(o, "family");
    json_t *v, *list = json_object_get(o, "list");
    size_t n = json_array_size(list), widest = 0;
    print_sizes(o);
    printf("kind %s%s%s\n", text_of(o, "kind"), *family ? ", family " : "", family);
    print_numbers(o, "");
    if (*text_of(o, "not_run")) printf("not run: %s\n", text_of(o, "not_run"));
    size_t gap;
    json_array_foreach(json_object_get(o, "missing"), gap, v) print_missing(v);
    json_object_foreach(json_object_get(o, "metadata"), key, v)
    {
        printf("metadata ");
        print_text(key, 100);
        printf(" = ");
        print_text(json_string_value(v), 200);
        printf("\n");
    }
    for (size_t i = 0; i < n; i++) {
        size_t w = strlen(text_of(json_array_get(list, i), "name"));
        if (w > widest) widest = w < 60 ? w : 60;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *t = json_array_get(list, i);
        if (!all && n > 2 * FEW + 1 && i == FEW) {
            printf("  ... %zu more; --all lists them\n", n - 2 * FEW);
            i = n - FEW - 1;
            continue;
        }
        char *shape = t3v_json_dumps(json_object_get(t, "shape"), JSON_COMPACT);
        const char *name = text_of(t, "name");
        printf("  ");
        print_text(name, 200);
        printf("%*s %-5s %s\n", (int)(strlen(name) < widest ? widest - strlen(name) : 0), "",
               text_of(t, "dtype"), shape ? shape : "");
        free(shape);
    }
}

static void print_cost(const json_t *o)
{
    printf("clip      %lldx%lld, %lld frames, %lld steps: %.2f GiB, %lld passes, %.1f Tflop (%s, plan %s)\n",
           int_of(o, "width"), int_of(o, "height"), int_of(o, "frames"), int_of(o, "steps"),
           (double)int_of(o, "peak_bytes") / 0x1p30, int_of(o, "passes"), real_of(o, "tflop"),
           text_of(o, "precision"), *text_of(o, "plan") ? text_of(o, "plan") : "of the model");
}

static void print_model(const json_t *o)
{
    const char *key, *family = text_of(o, "family");
    json_t *v;
    size_t i;
    printf("model, layout %s%s%s\n", text_of(o, "layout"), *family ? ", family " : "", family);
    json_object_foreach(json_object_get(o, "parts"), key, v)
    {
        if (!json_is_true(json_object_get(v, "present"))) continue;
        printf("%-10s", key);
        if (json_object_get(v, "pieces")) printf("%lld pieces\n", int_of(v, "pieces"));
        else print_sizes(v);
        if (json_object_get(v, "family")) print_numbers(v, "          ");
    }
    json_t *d = json_object_get(o, "defaults");
    if (d)
        printf("defaults  %lldx%lld, %lld frames, %g fps, %lld steps, %s, shift %g, cfg %g, plan %s\n",
               int_of(d, "width"), int_of(d, "height"), int_of(d, "frames"), real_of(d, "fps"),
               int_of(d, "steps"), text_of(d, "sampler"), real_of(d, "shift"), real_of(d, "cfg"),
               text_of(d, "plan"));
    json_array_foreach(json_object_get(o, "missing"), i, v) print_missing(v);
    json_array_foreach(json_object_get(o, "problems"), i, v)
    {
        printf("problem   ");
        print_text(json_string_value(v), 1000);
        printf("\n");
    }
    printf("runs     ");
    json_object_foreach(json_object_get(o, "runs"), key, v) if (json_is_true(v)) printf(" %s", key);
    printf("\n");
    if (json_object_get(o, "cost")) print_cost(json_object_get(o, "cost"));
}

/* Nothing is written yet: a command that only looks may end where memory does. */
static char *path_of(const char *dir, const char *name)
{
    char *path = t3v_path_join(dir, name);
    if (!path) exit(cli_fail(t3v_fail(T3V_E_NOMEM, "no memory for a path")));
    return path;
}

/* A directory with a configuration or another part of a model, or a DiT's file with its parts beside it when a clip's
 * memory is asked for; else it is looked at as weights. */
static bool is_model(const args *a)
{
    static const char *const files[] = {"config.json", "t3v.json", "model_index.json"};
    bool any = (a->width || a->frames || a->plan) && t3v_is_file(a->path);
    for (size_t i = 0; i < sizeof files / sizeof *files && t3v_is_dir(a->path); i++) {
        char *p = path_of(a->path, files[i]);
        any |= t3v_is_file(p);
        free(p);
    }
    t3v_location where = {0};
    if (any || !t3v_is_dir(a->path) || t3v_location_look(&where, &(t3v_model_paths){.model = a->path}))
        return any;
    for (int p = T3V_AT_DIT_LOW; p < T3V_AT_COUNT; p++) any |= where.path[p] != NULL;
    t3v_location_free(&where);
    return any;
}

static int run(int argc, char **argv)
{
    static const struct argp own = {
        .options = options,
        .parser = parse,
        .args_doc = "PATH",
        .doc = "Says what a file of weights or a model directory holds and whether it can be run."};
    args a = {0};
    cli_common common;
    int rc = cli_parse(&own, argc, argv, &common, &a);
    if (rc >= 0) return rc;
    json_t *o = json_object();
    bool model = is_model(&a);
    json_object_set_new(o, "path", json_string(a.path));
    t3v_status st = model ? model_json(&a, &common, o) : file_json(a.path, o);
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    set_int(o, "peak_rss_bytes", (int64_t)use.ru_maxrss * 1024);
    if (!st && common.json) {
        json_dumpf(o, stdout, JSON_INDENT(1));
        printf("\n");
    } else if (!st && model) {
        print_model(o);
    } else if (!st) {
        print_file(o, a.all);
    }
    bool broken = json_array_size(json_object_get(o, "problems")) > 0;
    json_decref(o);
    return st ? cli_fail(st) : broken ? CLI_FAILED : CLI_OK;
}

const cli_command cli_inspect = {"inspect", "what a file of weights or a model directory holds", run};
