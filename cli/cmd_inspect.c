/* SPDX-License-Identifier: Apache-2.0 */
/* t3v inspect: what a file of weights, or a model directory, holds. The text is made from the JSON. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "io/file.h"
#include "io/json.h"
#include "io/names.h"
#include "pipe/family.h"
#include "pipe/model.h"

typedef struct args {
    const char *path;
    bool all;
} args;

enum { OPT_ALL = 0x100, FEW = 5 };

static const struct argp_option options[] = {
    {"all", OPT_ALL, 0, 0, "Every tensor, not only the first and the last (--json lists all)", 1},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    args *a = state->input;
    switch (key) {
    case OPT_ALL: a->all = true; return 0;
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

/* Nothing is written yet: a command that only looks may end where memory does. */
static char *path_of(const char *dir, const char *name)
{
    char *path = t3v_path_join(dir, name);
    if (!path) exit(cli_fail(t3v_fail(T3V_E_NOMEM, "no memory for a path")));
    return path;
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

typedef struct parts {
    json_t *all, *missing, *problems;
    const char *dir;
    t3v_family family[3]; /* dit, vae, text */
} parts;

static void problem(parts *p, const char *text) { json_array_append_new(p->problems, json_string(text)); }

static bool add_part(parts *p, const char *name, const char *file, bool whole_dir, t3v_family *family)
{
    json_t *o = json_object();
    char *path = path_of(p->dir, file);
    bool present = t3v_is_file(path), good = present;
    json_object_set_new(p->all, name, o);
    if (!present && whole_dir) { /* a DiT in shards, or under another name */
        t3v_tensor_file *f = NULL;
        present = good = !t3v_tensors_open(&f, p->dir);
        t3v_tensors_close(f);
    }
    json_object_set_new(o, "file", json_string(file));
    json_object_set_new(o, "present", json_boolean(present));
    if (!present) json_array_append_new(p->missing, json_string(file));
    else if (add_weights(o, whole_dir ? p->dir : path, false, family)) {
        problem(p, t3v_error_text());
        good = false;
    } else if (family->reason) {
        problem(p, family->reason);
        good = false;
    }
    free(path);
    return good;
}

static bool add_tokenizer(parts *p, int64_t *pieces)
{
    static const char file[] = "google/umt5-xxl/spiece.model";
    char *path = path_of(p->dir, file);
    bool present = t3v_is_file(path), good = present;
    json_t *o = json_object();
    t3v_tokenizer *t = NULL;
    json_object_set_new(p->all, "tokenizer", o);
    json_object_set_new(o, "file", json_string(file));
    json_object_set_new(o, "present", json_boolean(present));
    if (!present) json_array_append_new(p->missing, json_string(file));
    else if (t3v_tokenizer_open(path, &t)) {
        problem(p, t3v_error_text());
        good = false;
    } else {
        set_int(o, "pieces", *pieces = t3v_tokenizer_vocab_size(t));
    }
    t3v_tokenizer_close(t);
    free(path);
    return good;
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

static void check(parts *p, const t3v_dit_config *c, bool dit, bool text, int64_t pieces)
{
    const t3v_family *d = &p->family[0], *x = &p->family[2];
    char line[200];
    if (dit) {
        compare(p, "dim", c->dim, d->dim);
        compare(p, "ffn_dim", c->ffn_dim, d->ffn_dim);
        compare(p, "num_layers", c->layers, d->layers);
        compare(p, "in_dim", c->in_dim, d->in_dim);
        compare(p, "out_dim", c->out_dim, d->out_dim);
    }
    if (dit && text && d->text_dim != x->text_width) {
        snprintf(line, sizeof line, "the transformer takes text rows of %lld, the text encoder makes %lld",
                 (long long)d->text_dim, (long long)x->text_width);
        problem(p, line);
    }
    if (dit && p->family[1].vae_z && d->out_dim != p->family[1].vae_z) {
        snprintf(line, sizeof line, "the transformer makes latents of %lld channels, the VAE takes %lld",
                 (long long)d->out_dim, (long long)p->family[1].vae_z);
        problem(p, line);
    }
    if (text && pieces > x->vocab) {
        snprintf(line, sizeof line, "the tokenizer has %lld pieces, the text encoder %lld rows",
                 (long long)pieces, (long long)x->vocab);
        problem(p, line);
    }
}

/* The VAE that the transformer's latents are for; without one, that which is there. */
static const char *vae_file(const parts *p)
{
    int64_t z = p->family[0].out_dim;
    char *path = t3v_path_join(p->dir, t3v_vae_file_name(48));
    if (!z && path && t3v_is_file(path)) z = 48;
    free(path);
    return t3v_vae_file_name(z);
}

static t3v_status model_json(const char *dir, json_t *o)
{
    parts p = {.all = json_object(), .missing = json_array(), .problems = json_array(), .dir = dir};
    t3v_model *m = NULL;
    t3v_model_paths paths = {.model = dir};
    json_object_set_new(o, "kind", json_string("model"));
    json_object_set_new(o, "parts", p.all);
    json_object_set_new(o, "missing", p.missing);
    json_object_set_new(o, "problems", p.problems);
    int64_t pieces = 0;
    bool dit = add_part(&p, "dit", "diffusion_pytorch_model.safetensors", true, &p.family[0]);
    bool vae = add_part(&p, "vae", vae_file(&p), false, &p.family[1]);
    bool text = add_part(&p, "text", "models_t5_umt5-xxl-enc-bf16.pth", false, &p.family[2]);
    bool tokenizer = add_tokenizer(&p, &pieces);
    json_object_set_new(o, "family", p.family[0].name ? json_string(p.family[0].name) : json_null());
    char *config = path_of(dir, "config.json");
    bool opened = false;
    if (!t3v_is_file(config)) json_array_append_new(p.missing, json_string("config.json"));
    else if (t3v_model_open(&m, &paths, 0, T3V_F32, false)) problem(&p, t3v_error_text());
    else opened = true;
    free(config);
    if (opened) {
        const t3v_dit_config *c = &m->config;
        check(&p, c, dit, text, pieces);
        json_object_set_new(o, "config",
                            json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "dim",
                                      (json_int_t)c->dim, "ffn_dim", (json_int_t)c->ffn_dim, "num_heads",
                                      (json_int_t)c->heads, "num_layers", (json_int_t)c->layers, "in_dim",
                                      (json_int_t)c->in_dim, "out_dim", (json_int_t)c->out_dim, "freq_dim",
                                      (json_int_t)c->freq_dim, "text_len", (json_int_t)c->text_len, "eps",
                                      c->eps));
        json_object_set_new(o, "defaults", defaults_json(&m->defaults));
    }
    bool sound = opened && json_array_size(p.problems) == 0;
    json_object_set_new(o, "runs",
                        json_pack("{s:b, s:b, s:b, s:b, s:b}", "generate",
                                  sound && dit && vae && text && tokenizer, "text",
                                  opened && text && tokenizer, "dit", opened && dit, "encode", opened && vae,
                                  "decode", opened && vae));
    t3v_model_close(m);
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
    static const char *const skip[] = {"tensors", "parameters", "bytes"};
    const char *key, *before = indent;
    json_t *v;
    json_object_foreach((json_t *)o, key, v)
    {
        bool skipped = !json_is_integer(v);
        for (size_t i = 0; i < 3; i++) skipped |= strcmp(key, skip[i]) == 0;
        if (skipped) continue;
        printf("%s%s %lld", before, key, (long long)json_integer_value(v));
        before = ", ";
    }
    if (before != indent) printf("\n");
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

static void print_model(const json_t *o)
{
    const char *key, *family = text_of(o, "family");
    json_t *v;
    size_t i;
    printf("model directory%s%s\n", *family ? ", family " : "", family);
    json_object_foreach(json_object_get(o, "parts"), key, v)
    {
        printf("%-10s", key);
        if (!json_is_true(json_object_get(v, "present"))) printf("missing: %s\n", text_of(v, "file"));
        else if (json_object_get(v, "pieces")) printf("%lld pieces\n", int_of(v, "pieces"));
        else print_sizes(v);
        if (json_object_get(v, "family")) print_numbers(v, "          ");
    }
    json_t *d = json_object_get(o, "defaults");
    if (d)
        printf("defaults  %lldx%lld, %lld frames, %g fps, %lld steps, %s, shift %g, cfg %g, plan %s\n",
               int_of(d, "width"), int_of(d, "height"), int_of(d, "frames"), real_of(d, "fps"),
               int_of(d, "steps"), text_of(d, "sampler"), real_of(d, "shift"), real_of(d, "cfg"),
               text_of(d, "plan"));
    json_array_foreach(json_object_get(o, "missing"), i, v) printf("missing   %s\n", json_string_value(v));
    json_array_foreach(json_object_get(o, "problems"), i, v)
    {
        printf("problem   ");
        print_text(json_string_value(v), 1000);
        printf("\n");
    }
    printf("runs     ");
    json_object_foreach(json_object_get(o, "runs"), key, v) if (json_is_true(v)) printf(" %s", key);
    printf("\n");
}

/* A directory with a configuration or another part of a model; else it is looked at as weights. */
static bool is_model(const char *path)
{
    static const char *const files[] = {"config.json", "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth",
                                        "google/umt5-xxl/spiece.model", "t3v.json"};
    bool any = false;
    for (size_t i = 0; i < sizeof files / sizeof *files && t3v_is_dir(path); i++) {
        char *p = path_of(path, files[i]);
        any |= t3v_is_file(p);
        free(p);
    }
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
    t3v_family family;
    bool model = is_model(a.path);
    json_object_set_new(o, "path", json_string(a.path));
    t3v_status st = model ? model_json(a.path, o) : add_weights(o, a.path, true, &family);
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
