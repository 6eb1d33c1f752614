/* SPDX-License-Identifier: Apache-2.0 */
/* A whole model rewritten: each part as a file of the layout, its tokenizer, and the small files beside them. */
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "pipe/convert.h"
#include "pipe/model.h"

/* Block and 8-bit types are for transformers and text encoders, the latter not in PyTorch's format. */
static const t3v_file_type *type_of(const t3v_file_type *t, t3v_place place, t3v_container container)
{
    bool plain = t && (t->base == T3V_F32 || t->base == T3V_BF16 || t->base == T3V_F16);
    bool large = place == T3V_AT_DIT || place == T3V_AT_DIT_LOW || place == T3V_AT_TEXT;
    return plain || (large && container != T3V_FILE_PTH) ? t : NULL;
}

static t3v_status convert_part(const t3v_convert_job *job, const t3v_model *m, t3v_place place,
                               const char *target, t3v_convert_result *result)
{
    t3v_convert_job part = *job;
    bool dit = place == T3V_AT_DIT || place == T3V_AT_DIT_LOW;
    part.in = m->where.path[place];
    part.out = target;
    part.tokenizer = job->tokenizer ? job->tokenizer : m->where.path[T3V_AT_TOKENIZER];
    part.tokenizer_beside = t3v_layout_path(job->layout, T3V_AT_TOKENIZER, false, 0) != NULL;
    part.expert = !m->where.experts     ? T3V_LORA_FOR_ALL
                  : place == T3V_AT_DIT ? T3V_LORA_FOR_HIGH
                                        : T3V_LORA_FOR_LOW;
    if (!dit) part.loras = 0;
    if (!t3v_container_of(target, &part.container)) return t3v_fail(T3V_E_ARG, "%s: no known ending", target);
    part.type = type_of(job->type, place, part.container);
    return t3v_convert_file(&part, result);
}

/* The tokenizer, whatever it comes in, as a spiece.model. */
static t3v_status put_tokenizer(const t3v_convert_job *job, const char *from, const char *to)
{
    t3v_tokenizer *t;
    size_t n;
    if (!job->force && t3v_is_file(to))
        return t3v_fail(T3V_E_IO, "%s is there already; --force replaces it", to);
    T3V_TRY(t3v_tokenizer_open(from, &t));
    const void *bytes = t3v_tokenizer_bytes(t, &n);
    t3v_status st = t3v_write_text(to, bytes, n);
    t3v_tokenizer_close(t);
    return st;
}

/* The part's file below job->out. */
static t3v_status put_part(const t3v_convert_job *job, const t3v_model *m, t3v_place place, int64_t vae_z,
                           t3v_convert_result *result)
{
    const char *name = t3v_layout_path(job->layout, place, m->where.experts, vae_z);
    if (!m->where.path[place] || !name) return T3V_OK;
    char *target = t3v_path_join(job->out, name);
    t3v_status st = target ? t3v_make_parents(target) : t3v_fail(T3V_E_NOMEM, "no memory for a path");
    if (!st && place == T3V_AT_TOKENIZER) st = put_tokenizer(job, m->where.path[place], target);
    else if (!st) st = convert_part(job, m, place, target, result);
    free(target);
    return st;
}

/* The small files say what the parts that were written are. */
static t3v_status put_settings(const t3v_convert_job *job, const t3v_model *m, const t3v_umt5_config *text,
                               const t3v_vae *vae, const t3v_clip_config *clip)
{
    t3v_layout_model l = {.dit = &m->config,
                          .experts = m->where.experts,
                          .text = text,
                          .vae = vae,
                          .clip = clip,
                          .defaults = &m->defaults,
                          .own_defaults = m->where.defaults != NULL};
    return t3v_layout_write(job->layout, job->out, &l);
}

t3v_status t3v_convert_model(const t3v_convert_job *job, t3v_convert_result results[T3V_AT_COUNT])
{
    t3v_model_paths paths = {.model = job->in, .tokenizer = job->tokenizer};
    t3v_model *m = NULL;
    t3v_tensor_file *f = NULL;
    t3v_vae vae = {0};
    t3v_vae_config vc = {0};
    t3v_umt5 text = {0};
    t3v_umt5_config tc = {0};
    t3v_clip clip = {0};
    t3v_clip_config cc = {0};
    for (int p = 0; p < T3V_AT_COUNT; p++) results[p] = (t3v_convert_result){0};
    T3V_TRY(t3v_model_open(&m, &paths, 0, T3V_F32, false));
    const t3v_location *w = &m->where;
    t3v_status st = t3v_model_weights(m, T3V_AT_DIT, &f);
    if (!st) st = t3v_dit_config_complete(&m->config, f);
    t3v_tensors_close(f);
    f = NULL;
    if (!st && w->path[T3V_AT_VAE]) {
        st = t3v_model_weights(m, T3V_AT_VAE, &f);
        if (!st) st = t3v_vae_config_read(f, &vc);
        if (!st) st = t3v_vae_open(&vae, &vc);
        t3v_tensors_close(f);
        f = NULL;
    }
    if (!st && w->path[T3V_AT_TEXT]) {
        st = t3v_model_weights(m, T3V_AT_TEXT, &f);
        if (!st) st = t3v_umt5_config_read(f, &tc);
        if (!st) st = t3v_umt5_open(&text, &tc);
        t3v_tensors_close(f);
        f = NULL;
    }
    if (!st && w->path[T3V_AT_CLIP]) {
        st = t3v_model_weights(m, T3V_AT_CLIP, &f);
        if (!st) st = t3v_clip_config_read(f, &cc);
        if (!st) st = t3v_clip_open(&clip, &cc);
        cc.layers++; /* the last block is not run */
        t3v_tensors_close(f);
    }
    for (int p = 0; p < T3V_AT_COUNT && !st; p++) st = put_part(job, m, (t3v_place)p, vc.z, &results[p]);
    if (!st) st = put_settings(job, m, tc.layers ? &tc : NULL, vc.z ? &vae : NULL, cc.dim ? &cc : NULL);
    t3v_clip_close(&clip);
    t3v_umt5_close(&text);
    t3v_vae_close(&vae);
    t3v_model_close(m);
    return st;
}
