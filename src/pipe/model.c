/* SPDX-License-Identifier: Apache-2.0 */
/* Finding and loading the parts of a model; what its hyper-parameters are is read from config and shapes. */
#include "pipe/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn/own.h"
#include "base/log.h"
#include "dit/stream.h"
#include "io/file.h"
#include "io/json.h"
#include "io/names.h"
#include "pipe/place.h"

/* ---- parts ----------------------------------------------------------------------------------------- */

enum { DIT, TEXT, VAE };
static const unsigned bit_of[] = {T3V_PART_DIT, T3V_PART_TEXT, T3V_PART_VAE};

t3v_status t3v_model_weights(const t3v_model *m, t3v_place place, t3v_tensor_file **out)
{
    static const t3v_names_part part[T3V_AT_COUNT] = {[T3V_AT_DIT] = T3V_NAMES_DIT,
                                                      [T3V_AT_DIT_LOW] = T3V_NAMES_DIT,
                                                      [T3V_AT_TEXT] = T3V_NAMES_TEXT,
                                                      [T3V_AT_VAE] = T3V_NAMES_VAE,
                                                      [T3V_AT_CLIP] = T3V_NAMES_CLIP};
    const char *path;
    *out = NULL;
    T3V_TRY(t3v_location_get(&m->where, place, &path));
    T3V_TRY(t3v_tensors_open(out, path));
    t3v_status st = t3v_names_apply(*out, part[place]);
    if (!st) st = t3v_names_join(*out);
    if (!st) return T3V_OK;
    t3v_tensors_close(*out);
    *out = NULL;
    return st;
}

/* Size of axis `axis` of a tensor that tells a hyper-parameter. */
static t3v_status axis_of(const t3v_tensor_file *f, const char *name, int ndim, int axis, int64_t *out)
{
    const t3v_tensor_entry *e;
    T3V_TRY(t3v_tensors_get(f, name, &e));
    if (e->ndim != ndim)
        return t3v_fail(T3V_E_SHAPE, "%s: %s has %d axes, expected %d", f->path, name, e->ndim, ndim);
    *out = e->shape[axis];
    return T3V_OK;
}

/* Tables of which the host reads rows. */
static bool is_table(const t3v_param *p) { return strstr(p->name, "embedding.weight") != NULL; }

static t3v_status fill(t3v_model *m, int part, const t3v_params *p, bool writable,
                       bool (*optional)(const char *))
{
    bool streamed = m->device && m->streamed && part == DIT, fp8 = m->fp8 && part == DIT;
    t3v_params_options o = {.matrix = m->compute,
                            .map = !writable,
                            .packed = part != VAE && (!m->device || streamed || fp8)};
    T3V_TRY(t3v_arena_open(&m->arena[part], t3v_params_bytes(p, m->file[part], &o)));
    T3V_TRY(t3v_params_load(p, m->file[part], &o, &m->arena[part], true, optional));
    if (!m->device) return T3V_OK;
    T3V_TRY(t3v_weights_place(p, m->compute, m->device, &m->placed[part],
                              streamed       ? t3v_dit_streams
                              : part == TEXT ? is_table
                                             : NULL,
                              fp8 ? t3v_dit_fp8 : NULL));
    return streamed ? t3v_dit_stream_open(&m->dit, m->compute) : T3V_OK;
}

static t3v_status load_dit(t3v_model *m, bool writable)
{
    t3v_status st = t3v_model_weights(m, T3V_AT_DIT, &m->file[DIT]);
    if (!st) st = t3v_dit_config_complete(&m->config, m->file[DIT]);
    if (!st) st = t3v_dit_open(&m->dit, &m->config);
    m->dit.device = m->device;
    m->dit.fp8 = m->fp8;
    if (!st) st = fill(m, DIT, &m->dit.params, writable, t3v_site_param_named);
    return st;
}

t3v_status t3v_model_adopt(t3v_model *m, const t3v_plan *plan)
{
    t3v_params *p = &m->dit.params;
    int64_t known = p->count, missing = 0;
    const char *first = NULL;
    T3V_TRY(t3v_dit_adopt(&m->dit, plan));
    if (p->count > known && !m->own.base)
        T3V_TRY(t3v_arena_open_in(&m->own, (size_t)64 << 30, t3v_device_space(m->device)));
    for (int64_t i = known; i < p->count; i++) {
        t3v_tensor *t = p->item[i].tensor;
        int64_t n = t3v_numel(t), slot = t - m->dit.own;
        t->data = t3v_arena_take(&m->own, (size_t)n, sizeof(float));
        if (!t->data) return t3v_fail(T3V_E_NOMEM, "no memory for %s", p->item[i].name);
        void *host = t->data;
        if (t3v_tensors_find(m->file[DIT], p->item[i].name)) {
            T3V_TRY(t3v_tensors_read(m->file[DIT], p->item[i].name, t->ndim, t->shape, host, T3V_F32));
            T3V_TRY(t3v_weight_place(m->device, &m->own, t));
            continue;
        }
        t3v_site_param info[T3V_SITE_PARAMS_MAX];
        int layer = (int)(slot / T3V_SITE_PARAMS_MAX), index = (int)(slot % T3V_SITE_PARAMS_MAX);
        t3v_site_params(&plan->layer[layer].site[T3V_SITE_SELF], m->config.heads,
                        m->config.dim / m->config.heads, info);
        t3v_site_param_fill(&info[index], layer, index, host);
        T3V_TRY(t3v_weight_place(m->device, &m->own, t));
        if (!missing++) first = p->item[i].name;
    }
    if (missing)
        t3v_warn("the weights have none of %lld tensors of the plan's own (such as %s): they start at "
                 "random, to be trained",
                 (long long)missing, first);
    return T3V_OK;
}

static int64_t count_layers(const t3v_tensor_file *f)
{
    char name[64];
    for (int64_t n = 0;; n++) {
        snprintf(name, sizeof name, "blocks.%lld.norm1.weight", (long long)n);
        if (!t3v_tensors_find(f, name)) return n;
    }
}

t3v_status t3v_umt5_config_read(const t3v_tensor_file *f, t3v_umt5_config *c)
{
    *c = (t3v_umt5_config){0};
    T3V_TRY(axis_of(f, "token_embedding.weight", 2, 0, &c->vocab));
    T3V_TRY(axis_of(f, "token_embedding.weight", 2, 1, &c->dim));
    T3V_TRY(axis_of(f, "blocks.0.attn.q.weight", 2, 0, &c->dim_attn));
    T3V_TRY(axis_of(f, "blocks.0.pos_embedding.embedding.weight", 2, 0, &c->buckets));
    T3V_TRY(axis_of(f, "blocks.0.pos_embedding.embedding.weight", 2, 1, &c->heads));
    T3V_TRY(axis_of(f, "blocks.0.ffn.fc1.weight", 2, 0, &c->dim_ffn));
    c->layers = count_layers(f);
    return T3V_OK;
}

static t3v_status open_text(t3v_model *m)
{
    const char *spiece;
    t3v_umt5_config c;
    t3v_status st = t3v_model_weights(m, T3V_AT_TEXT, &m->file[TEXT]);
    if (!st) st = t3v_location_get(&m->where, T3V_AT_TOKENIZER, &spiece);
    if (!st) st = t3v_tokenizer_open(spiece, &m->tokenizer);
    const t3v_tensor_file *f = m->file[TEXT];
    if (!st) st = t3v_umt5_config_read(f, &c);
    if (!st && t3v_tokenizer_vocab_size(m->tokenizer) > c.vocab)
        st = t3v_fail(T3V_E_SHAPE, "the tokenizer %s has %d pieces, the text encoder %s only %lld rows",
                      spiece, t3v_tokenizer_vocab_size(m->tokenizer), f->path, (long long)c.vocab);
    if (!st) st = t3v_umt5_open(&m->text, &c);
    return st;
}

/* Some files have the tokenizer beside the weights. */
static bool is_tokenizer(const char *name) { return strcmp(name, "spiece_model") == 0; }

static t3v_status load_text(t3v_model *m, bool writable)
{
    T3V_TRY(open_text(m));
    m->text.device = m->device;
    return fill(m, TEXT, &m->text.params, writable, is_tokenizer);
}

static t3v_status load_vae(t3v_model *m, bool writable)
{
    t3v_vae_config c;
    t3v_status st = t3v_model_weights(m, T3V_AT_VAE, &m->file[VAE]);
    if (!st) st = t3v_vae_config_read(m->file[VAE], &c);
    if (!st && c.z != m->config.out_dim)
        st = t3v_fail(T3V_E_SHAPE, "the VAE %s has latents of %lld channels, the model %s of %lld",
                      m->file[VAE]->path, (long long)c.z, m->path, (long long)m->config.out_dim);
    if (!st) st = t3v_vae_open(&m->vae, &c);
    m->vae.device = m->device;
    if (!st) st = fill(m, VAE, &m->vae.params, writable, NULL);
    return st;
}

t3v_status t3v_model_load(t3v_model *m, unsigned parts, bool writable)
{
    parts &= ~m->parts;
    t3v_status st = T3V_OK;
    if (parts & T3V_PART_TEXT) st = load_text(m, writable);
    if (!st && parts & T3V_PART_DIT) st = load_dit(m, writable);
    if (!st && parts & T3V_PART_VAE) st = load_vae(m, writable);
    m->parts |= parts; /* what was begun is unloaded like what was loaded */
    if (st) t3v_model_unload(m, parts);
    return st;
}

t3v_status t3v_model_measure_text(t3v_model *m)
{
    m->parts |= T3V_PART_TEXT;
    t3v_status st = open_text(m);
    if (st) t3v_model_unload(m, T3V_PART_TEXT);
    return st;
}

void t3v_model_unload(t3v_model *m, unsigned parts)
{
    if (parts & T3V_PART_DIT) {
        t3v_dit_close(&m->dit);
        t3v_arena_close(&m->own);
    }
    if (parts & T3V_PART_VAE) t3v_vae_close(&m->vae);
    if (parts & T3V_PART_TEXT) {
        t3v_umt5_close(&m->text);
        t3v_tokenizer_close(m->tokenizer);
        m->tokenizer = NULL;
    }
    for (int i = 0; i < 3; i++) {
        if (!(parts & bit_of[i])) continue;
        t3v_tensors_close(m->file[i]);
        m->file[i] = NULL;
        t3v_arena_close(&m->arena[i]);
        t3v_arena_close(&m->placed[i]);
    }
    m->parts &= ~parts;
}

t3v_status t3v_model_check(const t3v_model *m, unsigned parts)
{
    for (int i = 0; i < 3; i++)
        if (parts & bit_of[i]) T3V_TRY(t3v_tensors_check(m->file[i]));
    return T3V_OK;
}

int64_t t3v_model_stride(const t3v_model *m)
{
    int64_t s = t3v_vae_stride(m->config.out_dim);
    return s ? s : t3v_vae_stride(16);
}

/* The DiT's shape and what a job starts from: t3v.json over the pipeline's own settings over the family's. */
static t3v_status read_config(t3v_model *m)
{
    const t3v_location *w = &m->where;
    if (w->config) {
        T3V_TRY(t3v_dit_config_read(w->config, &m->config));
    } else {
        t3v_tensor_file *f;
        T3V_TRY(t3v_model_weights(m, T3V_AT_DIT, &f));
        t3v_status st = t3v_dit_config_tell(&m->config, f);
        t3v_tensors_close(f);
        T3V_TRY(st);
    }
    t3v_defaults_of(&m->config, w->experts, &m->defaults);
    T3V_TRY(t3v_defaults_pipeline(w->pipeline, w->scheduler, &m->defaults));
    return w->defaults ? t3v_defaults_read(w->defaults, &m->defaults) : T3V_OK;
}

t3v_status t3v_model_open(t3v_model **out, const t3v_model_paths *paths, unsigned parts, t3v_dtype compute,
                          bool writable)
{
    *out = NULL;
    if (paths->fp8) T3V_TRY(t3v_device_check_fp8(paths->device));
    t3v_model *m = calloc(1, sizeof *m);
    if (!m || !(m->path = strdup(paths->model))) {
        free(m);
        return t3v_fail(T3V_E_NOMEM, "no memory to open %s", paths->model);
    }
    m->compute = compute;
    m->device = paths->device;
    m->streamed = paths->streamed;
    m->fp8 = paths->fp8;
    t3v_status st = t3v_location_find(&m->where, paths);
    if (!st) st = read_config(m);
    if (!st) st = t3v_model_load(m, parts, writable);
    if (st) t3v_model_close(m);
    else *out = m;
    return st;
}

t3v_status t3v_model_open_low(t3v_model **out, const t3v_model *m)
{
    const char *path;
    *out = NULL;
    T3V_TRY(t3v_location_get(&m->where, T3V_AT_DIT_LOW, &path));
    t3v_model *low = calloc(1, sizeof *low);
    bool ok = low && (low->path = strdup(path)) && (low->where.path[T3V_AT_DIT] = strdup(path)) &&
              (low->where.root = strdup(m->where.root));
    if (!ok) {
        t3v_model_close(low);
        return t3v_fail(T3V_E_NOMEM, "no memory to open %s", path);
    }
    low->device = m->device;
    low->streamed = m->streamed;
    low->fp8 = m->fp8;
    low->compute = m->compute;
    low->config = m->config;
    *out = low;
    return T3V_OK;
}

void t3v_model_close(t3v_model *m)
{
    if (!m) return;
    t3v_model_unload(m, T3V_PART_ALL);
    t3v_location_free(&m->where);
    free(m->path);
    free(m);
}
