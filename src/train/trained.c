/* SPDX-License-Identifier: Apache-2.0 */
/* The trainer's list of a DiT's parameters, and how what was trained is saved. */
#include "train/trained.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "io/params.h"
#include "io/safetensors.h"
#include "ops/gemm/gemm.h"
#include "ops/rows/rows.h"
#include "pipe/place.h"
#include "tensor/dtype.h"

#define TARGETS "q,k,v,o,ffn.0,ffn.2"

static bool wanted(const t3v_trained *t, const t3v_param *q)
{
    const t3v_tensor *own = t->dit->own;
    if (t->kind == T3V_TRAIN_ALL) return true;
    if (t->kind == T3V_TRAIN_SELF) return strstr(q->name, ".self_attn.") != NULL;
    return own && q->tensor >= own && q->tensor < own + t->dit->config.layers * T3V_SITE_PARAMS_MAX;
}

static t3v_status list_own(t3v_trained *t)
{
    const t3v_params *all = &t->dit->params;
    t->params.item = calloc((size_t)all->count, sizeof *t->params.item);
    if (!t->params.item) return t3v_fail(T3V_E_NOMEM, "no memory for %lld parameters", (long long)all->count);
    for (int64_t i = 0; i < all->count; i++)
        if (wanted(t, &all->item[i])) t->params.item[t->params.count++] = all->item[i];
    if (!t->params.count)
        return t3v_fail(T3V_E_ARG, "nothing to train: the plan has no parameters of its own; train \"full\", "
                                   "\"self\" or \"lora\", or take a plan that has some (t3v plan --list)");
    return T3V_OK;
}

/* The layer's name: that of its matrix without ".weight". */
static int layer_name(const t3v_param *q) { return (int)(strlen(q->name) - strlen(".weight")); }

/* Is `target` (of n characters) the layer's name or the end of it behind a dot? */
static bool ends_with(const t3v_param *q, const char *target, size_t n)
{
    size_t len = (size_t)layer_name(q);
    return n && n <= len && memcmp(q->name + len - n, target, n) == 0 &&
           (n == len || q->name[len - n - 1] == '.');
}

/* Number of the target that names the layer, -1: none. */
static int target_of(const char *targets, const t3v_param *q)
{
    int i = 0;
    for (const char *at = targets; *at; i++) {
        size_t n = strcspn(at, ",");
        if (ends_with(q, at, n)) return i;
        at += n + (at[n] == ',');
    }
    return -1;
}

static t3v_status add_factor(t3v_trained *t, t3v_tensor *f, t3v_dtype type, int64_t rows, int64_t columns,
                             const t3v_param *q, char part)
{
    T3V_TRY(t3v_params_add(&t->params, f, true, T3V_SHAPE(rows, columns), "%.*s.lora_%c.weight",
                           layer_name(q), q->name, part));
    f->type = type;
    f->data = t3v_arena_take(&t->arena, (size_t)(rows * columns), t3v_dtype_size(type));
    return f->data ? T3V_OK : t3v_fail(T3V_E_NOMEM, "no memory for a low-rank update of %s", q->name);
}

/* A uniform within 1 / sqrt(in), as a linear layer starts in PyTorch; B zero: the model is what it was. */
static t3v_status fill(const t3v_lora_pair *p, uint64_t seed, uint64_t stream)
{
    int64_t n = t3v_numel(&p->a);
    double reach = 1 / sqrt((double)p->a.shape[1]);
    t3v_rng rng = t3v_rng_make(seed, stream);
    memset(p->b.data, 0, (size_t)t3v_numel(&p->b) * t3v_dtype_size(p->b.type));
    for (int64_t i = 0; i < n; i++) {
        float x = (float)((2 * t3v_rng_uniform(&rng) - 1) * reach);
        T3V_TRY(t3v_convert((char *)p->a.data + (size_t)i * t3v_dtype_size(p->a.type), p->a.type, &x, T3V_F32,
                            1));
    }
    return T3V_OK;
}

static t3v_status add_updates(t3v_trained *t, const t3v_trained_lora *o, t3v_dtype compute)
{
    const char *targets = o->targets ? o->targets : TARGETS;
    const t3v_params *all = &t->dit->params;
    bool used[64] = {0};
    int64_t pairs = 0, next = 0;
    size_t bytes = 4096;
    for (int64_t i = 0; i < all->count; i++) {
        const t3v_param *q = &all->item[i];
        t3v_weight *w = t3v_dit_layer(t->dit, q->tensor);
        int k = w ? target_of(targets, q) : -1;
        if (k < 0) continue;
        int64_t out = w->w.shape[0], in = t3v_numel(&w->w) / out;
        if (o->rank > (in < out ? in : out))
            return t3v_fail(T3V_E_ARG,
                            "lora: rank %lld for %s [%lld, %lld]: at most the smaller side is of use",
                            (long long)o->rank, q->name, (long long)out, (long long)in);
        if (k < 64) used[k] = true;
        bytes += (size_t)(o->rank * (in + out)) * t3v_dtype_size(t3v_operand(&w->w, compute)) + 256;
        pairs++;
    }
    int k = 0;
    for (const char *at = targets; *at; k++) {
        size_t n = strcspn(at, ",");
        if (k >= 64 || !used[k])
            return t3v_fail(T3V_E_ARG,
                            "lora: target \"%.*s\" is no layer's name, nor the end of one behind a dot; the "
                            "usual ones are " TARGETS,
                            (int)n, at);
        at += n + (at[n] == ',');
    }
    if (!pairs) return t3v_fail(T3V_E_ARG, "lora: no targets; the usual ones are " TARGETS);
    t->scale = (o->alpha > 0 ? o->alpha : (double)o->rank) / (double)o->rank;
    T3V_TRY(t3v_arena_open_in(&t->arena, bytes, t3v_device_space(t->dit->device)));
    if (!(t->pair = calloc((size_t)pairs, sizeof *t->pair)))
        return t3v_fail(T3V_E_NOMEM, "no memory for LoRA pairs");
    for (int64_t i = 0; i < all->count; i++) {
        const t3v_param *q = &all->item[i];
        t3v_weight *w = t3v_dit_layer(t->dit, q->tensor);
        if (!w || target_of(targets, q) < 0) continue;
        t3v_lora_pair *p = &t->pair[next];
        int64_t out = w->w.shape[0], in = t3v_numel(&w->w) / out;
        p->strength = (float)t->scale;
        T3V_TRY(add_factor(t, &p->a, t3v_operand(&w->w, compute), o->rank, in, q, 'A'));
        T3V_TRY(add_factor(t, &p->b, t3v_operand(&w->w, compute), out, o->rank, q, 'B'));
        T3V_TRY(fill(p, o->seed, (uint64_t)next++));
        T3V_TRY(t3v_weight_place(t->dit->device, &t->arena, &p->a));
        T3V_TRY(t3v_weight_place(t->dit->device, &t->arena, &p->b));
        w->lora = p;
        w->loras = 1;
    }
    return T3V_OK;
}

t3v_status t3v_trained_open(t3v_trained *t, t3v_dit *dit, t3v_trained_kind kind, const t3v_trained_lora *lora,
                            t3v_dtype compute)
{
    *t = (t3v_trained){.dit = dit, .kind = kind};
    return kind == T3V_TRAIN_LORA ? add_updates(t, lora, compute) : list_own(t);
}

void t3v_trained_close(t3v_trained *t)
{
    for (int64_t i = 0; t->pair && i < t->dit->params.count; i++) {
        t3v_weight *w = t3v_dit_layer(t->dit, t->dit->params.item[i].tensor);
        if (!w) continue;
        w->lora = NULL;
        w->loras = 0;
    }
    free(t->pair);
    t3v_params_free(&t->params);
    t3v_arena_close(&t->arena);
    *t = (t3v_trained){0};
}

/* ---- saving ------------------------------------------------------------------------------------------- */

/* The values of a parameter where the host reads them; on a device a copy in `arena`. */
static t3v_status read_weight(const t3v_trained *t, const t3v_tensor *w, t3v_arena *arena, const void **out)
{
    const t3v_device *d = t->dit->device;
    size_t bytes = (size_t)t3v_numel(w) * t3v_dtype_size(w->type);
    *out = w->data;
    if (!d) return T3V_OK;
    void *copy = t3v_arena_take(arena, bytes, 1);
    if (!copy) return t3v_fail(T3V_E_NOMEM, "no memory for a copy of weights of %s", d->name);
    *out = copy;
    return d->pull(copy, w->data, bytes);
}

/* The DiT's parameters with data that the host reads, of those that have no values. */
static t3v_status read_rest(const t3v_trained *t, float *const *values, t3v_arena *arena, t3v_params *out)
{
    const t3v_params *all = &t->dit->params;
    *out = *all;
    if (!t->dit->device) return T3V_OK;
    t3v_tensor *tensor = t3v_arena_take(arena, (size_t)all->count, sizeof *tensor);
    out->item = t3v_arena_take(arena, (size_t)all->count, sizeof *out->item);
    if (!tensor || !out->item)
        return t3v_fail(T3V_E_NOMEM, "no memory to write %lld tensors", (long long)all->count);
    for (int64_t i = 0; i < all->count; i++) {
        const void *data = NULL;
        if (!values[i]) T3V_TRY(read_weight(t, all->item[i].tensor, arena, &data));
        tensor[i] = *all->item[i].tensor;
        tensor[i].data = (void *)(uintptr_t)data;
        out->item[i] = all->item[i];
        out->item[i].tensor = &tensor[i];
    }
    return T3V_OK;
}

/* The whole DiT, with values (F32) for some of its parameters and NULL for the others. */
static t3v_status write_dit(const t3v_trained *t, const char *dir, float *const *values, t3v_dtype type,
                            t3v_arena *arena)
{
    char path[4096];
    t3v_tensor_entry *e;
    snprintf(path, sizeof path, "%s/diffusion_pytorch_model.safetensors", dir);
    t3v_params all;
    T3V_TRY(read_rest(t, values, arena, &all));
    T3V_TRY(t3v_params_entries(&all, values, type, arena, &e));
    return t3v_safetensors_write(path, e, all.count, NULL, 0);
}

static t3v_status save_dit(const t3v_trained *t, const char *dir, float *const *values, t3v_arena *arena,
                           float **whole)
{
    const t3v_params *all = &t->dit->params, *mine = &t->params;
    for (int64_t i = 0, k = 0; i < all->count; i++) {
        bool trained = k < mine->count && mine->item[k].tensor == all->item[i].tensor;
        whole[i] = trained ? values[k++] : NULL;
    }
    return write_dit(t, dir, whole, T3V_BF16, arena);
}

static t3v_status merge(const t3v_trained *t, const char *dir, float *const *values, t3v_arena *arena,
                        float **whole)
{
    const t3v_params *all = &t->dit->params;
    int64_t k = 0;
    for (int64_t i = 0; i < all->count; i++) {
        const t3v_weight *w = t3v_dit_layer(t->dit, all->item[i].tensor);
        whole[i] = NULL;
        if (!w || !w->loras) continue;
        int64_t out = w->w.shape[0], n = t3v_numel(&w->w), in = n / out, rank = t->pair[k / 2].a.shape[0];
        float *sum = whole[i] = t3v_arena_take(arena, (size_t)n, sizeof *sum);
        if (!sum) return t3v_fail(T3V_E_NOMEM, "no memory to merge %s", all->item[i].name);
        t3v_gemm_args g = {.batch = 1,
                           .m = out,
                           .n = in,
                           .k = rank,
                           .a = values[k + 1],
                           .a_type = T3V_F32,
                           .lda = rank,
                           .b = values[k],
                           .b_type = T3V_F32,
                           .ldb = in,
                           .c = sum,
                           .c_type = T3V_F32,
                           .ldc = in};
        T3V_TRY(t3v_gemm(&g));
        size_t mark = t3v_arena_mark(arena);
        const void *own;
        T3V_TRY(read_weight(t, &w->w, arena, &own));
        t3v_dtype type = t3v_operand(&w->w, T3V_F32);
        if (type != w->w.type) {
            float *base = t3v_arena_take(arena, (size_t)n, sizeof *base);
            if (!base) return t3v_fail(T3V_E_NOMEM, "no memory to merge %s", all->item[i].name);
            T3V_TRY(t3v_convert_scaled(base, T3V_F32, own, w->w.type, w->w.scale ? *w->w.scale : 1, n));
            own = base;
        }
        t3v_rows_lincomb(sum, T3V_F32, 1.0f, own, type, (float)t->scale, sum, T3V_F32, n);
        t3v_arena_back(arena, mark);
        k += 2;
    }
    return write_dit(t, dir, whole, t->pair[0].a.type, arena);
}

static t3v_status save_lora(const t3v_trained *t, const char *dir, float *const *values, t3v_arena *arena)
{
    char path[4096];
    int64_t n = t->params.count;
    char(*name)[T3V_NAME_MAX + 32] = t3v_arena_take(arena, (size_t)n, sizeof *name);
    t3v_tensor_entry *e;
    if (!name) return t3v_fail(T3V_E_NOMEM, "no memory to write %s/lora.safetensors", dir);
    T3V_TRY(t3v_params_entries(&t->params, values, T3V_F32, arena, &e));
    for (int64_t i = 0; i < n; i++) {
        snprintf(name[i], sizeof name[i], "diffusion_model.%s", t->params.item[i].name);
        e[i].name = name[i];
        float *x = (float *)(uintptr_t)e[i].data; /* the entry's own copy */
        if (i % 2) t3v_rows_lincomb(x, T3V_F32, (float)t->scale, x, T3V_F32, 0, x, T3V_F32, e[i].numel);
    }
    snprintf(path, sizeof path, "%s/lora.safetensors", dir);
    return t3v_safetensors_write(path, e, n, NULL, 0);
}

static t3v_status saved(const t3v_trained *t, const char *dir, float *const *values, bool merged)
{
    t3v_arena arena;
    T3V_TRY(t3v_arena_open(&arena, (size_t)256 << 30));
    float **whole = t3v_arena_take(&arena, (size_t)t->dit->params.count, sizeof *whole);
    t3v_status st;
    if (!whole) st = t3v_fail(T3V_E_NOMEM, "no memory to write %s", dir);
    else if (merged) st = merge(t, dir, values, &arena, whole);
    else if (t->kind == T3V_TRAIN_LORA) st = save_lora(t, dir, values, &arena);
    else st = save_dit(t, dir, values, &arena, whole);
    t3v_arena_close(&arena);
    return st;
}

t3v_status t3v_trained_save(const t3v_trained *t, const char *dir, float *const *values)
{
    return saved(t, dir, values, false);
}

t3v_status t3v_trained_merge(const t3v_trained *t, const char *dir, float *const *values)
{
    return saved(t, dir, values, true);
}
