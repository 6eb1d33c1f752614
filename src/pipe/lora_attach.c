/* SPDX-License-Identifier: Apache-2.0 */
/* LoRA: from matched files to the layers' lists of updates, or into copies of their weights. */
#include "pipe/lora_attach.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "dit/stream.h"
#include "io/lora.h"
#include "pipe/place.h"
#include "tensor/dtype.h"

/* A parameter as it was. */
struct t3v_lora_before {
    t3v_tensor *tensor;
    void *data;
    t3v_dtype type;
    const float *scale;
};

/* The items of all files for one parameter. */
typedef struct updates {
    const t3v_lora_item **item;
    double *strength;
    int64_t n;
} updates;

static t3v_status factor(t3v_tensor *out, const t3v_tensor_entry *e, int64_t rows, t3v_dtype type,
                         const t3v_device *device, t3v_arena *arena)
{
    *out = (t3v_tensor){.type = type, .ndim = 2, .shape = {rows, e->numel / rows}};
    out->data = t3v_arena_take(arena, (size_t)e->numel, t3v_dtype_size(type));
    if (!out->data) return t3v_fail(T3V_E_NOMEM, "no memory for %s", e->name);
    if (arena->counting) return T3V_OK;
    T3V_TRY(t3v_tensor_copy(e, out->data, type));
    return t3v_weight_place(device, arena, out);
}

/* Elements [first, first + n) of a tensor. */
static void *at(const t3v_tensor *t, int64_t first)
{
    return (char *)t->data + (size_t)(first / t3v_dtype_block(t->type)) * t3v_dtype_block_bytes(t->type);
}

/* The same where the host reads them: in place, or pulled from a device to `room`. */
static t3v_status fetch(const t3v_device *device, const t3v_tensor *t, int64_t first, int64_t n, void *room,
                        const void **out)
{
    *out = at(t, first);
    if (!device) return T3V_OK;
    size_t bytes = (size_t)(n / t3v_dtype_block(t->type)) * t3v_dtype_block_bytes(t->type);
    T3V_TRY(device->pull(room, *out, bytes));
    *out = room;
    return T3V_OK;
}

/* Gives t memory of its own, with `u` added: pairs only if `pairs`. */
static t3v_status merge(t3v_loras *l, t3v_tensor *t, const updates *u, bool pairs, t3v_dtype compute,
                        const t3v_device *device)
{
    enum { PIECE = 1 << 22 };
    int64_t n = t3v_numel(t), cols = n / t->shape[0], rows = PIECE > cols ? PIECE / cols : 1;
    if (rows > t->shape[0]) rows = t->shape[0];
    t3v_tensor own = *t;
    own.type = t3v_operand(t, compute);
    own.scale = NULL;
    own.data = t3v_arena_take(&l->arena, (size_t)n, t3v_dtype_size(own.type));
    size_t mark = t3v_arena_mark(&l->arena);
    float *values = t3v_arena_take(&l->arena, (size_t)(rows * cols), sizeof *values);
    void *room = device ? t3v_arena_take(&l->arena, (size_t)(rows * cols), sizeof *values) : NULL;
    t3v_status st = own.data && values && (room || !device)
                        ? T3V_OK
                        : t3v_fail(T3V_E_NOMEM, "no memory to merge a LoRA");
    for (int64_t first = 0; first < t->shape[0] && !st && !l->arena.counting; first += rows) {
        int64_t count = t->shape[0] - first < rows ? t->shape[0] - first : rows;
        const void *values_now;
        st = fetch(device, t, first * cols, count * cols, room, &values_now);
        if (!st)
            st = t3v_convert_scaled(values, T3V_F32, values_now, t->type, t->scale ? *t->scale : 1,
                                    count * cols);
        for (int64_t i = 0; i < u->n && !st; i++)
            if (pairs || u->item[i]->kind == T3V_LORA_DIFF)
                st = t3v_lora_add(u->item[i], u->strength[i], first, count, cols, values);
        if (!st) st = t3v_convert(at(&own, first * cols), own.type, values, T3V_F32, count * cols);
    }
    t3v_arena_back(&l->arena, mark);
    if (!st && !l->arena.counting) st = t3v_weight_place(device, &l->arena, &own);
    if (st) return st;
    l->before[l->changed++] = (struct t3v_lora_before){t, t->data, t->type, t->scale};
    if (!l->arena.counting) {
        t->type = own.type;
        t->data = own.data;
        t->scale = NULL;
    }
    return st;
}

/* The updates of one parameter. */
static t3v_status attach(t3v_loras *l, const t3v_param *p, const updates *u, const t3v_loras_how *how,
                         t3v_dit *dit, int64_t *used)
{
    t3v_tensor *t = p->tensor;
    t3v_weight *w = t3v_dit_layer(dit, t);
    bool streamed = dit->stream && t3v_dit_streams(p);
    bool fly = w && (!how->merge || streamed || t3v_dtype_packed(t->type)), diffs = false;
    int64_t first = *used;
    for (int64_t i = 0; i < u->n; i++) {
        const t3v_lora_item *item = u->item[i];
        diffs |= item->kind == T3V_LORA_DIFF;
        if (item->kind == T3V_LORA_DIFF) continue;
        if (!w) return t3v_fail(T3V_E_FORMAT, "%s: low-rank updates go to linear layers", p->name);
        if (!fly) continue;
        t3v_dtype type = t3v_operand(t, how->compute);
        t3v_lora_pair *pair = &l->pair[(*used)++];
        pair->strength = (float)(u->strength[i] * item->scale);
        T3V_TRY(factor(&pair->a, item->a, item->rank, type, dit->device, &l->arena));
        T3V_TRY(factor(&pair->b, item->b, item->b->shape[0], type, dit->device, &l->arena));
    }
    if (diffs && (streamed || t->row_scale))
        return t3v_fail(T3V_E_UNSUPPORTED,
                        "%s: a LoRA file has a full difference for it, which %s weights do not take; give "
                        "%s, or convert the model with --lora",
                        p->name, streamed ? "streamed" : "8-bit",
                        streamed ? "--weights resident" : "--act float");
    if (*used > first) {
        w->lora = &l->pair[first];
        w->loras = (int)(*used - first);
    }
    return diffs || (w && !fly) ? merge(l, t, u, !fly, how->compute, dit->device) : T3V_OK;
}

static t3v_status open_files(t3v_lora **file, const t3v_lora_use *use, int64_t n, const t3v_loras_how *how,
                             const t3v_params *p)
{
    t3v_tensor_entry *names = calloc((size_t)p->count + 1, sizeof *names);
    t3v_status st = names ? T3V_OK : t3v_fail(T3V_E_NOMEM, "no memory for LoRA files");
    for (int64_t i = 0; i < p->count && names; i++) {
        names[i] = (t3v_tensor_entry){.name = p->item[i].name, .ndim = p->item[i].tensor->ndim};
        memcpy(names[i].shape, p->item[i].tensor->shape, sizeof p->item[i].tensor->shape);
    }
    for (int64_t i = 0; i < n && !st; i++) {
        if (use[i].expert && how->expert == T3V_LORA_FOR_ALL)
            st = t3v_fail(T3V_E_ARG, "%s is for one of two experts; this model has one transformer",
                          use[i].path);
        else if (!use[i].expert || use[i].expert == how->expert)
            st = t3v_lora_open(&file[i], use[i].path, names, p->count, how->expert);
    }
    free(names);
    return st;
}

t3v_status t3v_loras_attach(t3v_loras *l, const t3v_lora_use *use, int64_t n, const t3v_loras_how *how,
                            t3v_dit *dit)
{
    l->attached = true;
    if (n == 0) return T3V_OK;
    const t3v_params *p = &dit->params;
    t3v_lora **file = calloc((size_t)n, sizeof *file);
    updates u = {0};
    int64_t items = 0, used = 0;
    t3v_status st = file ? open_files(file, use, n, how, p)
                         : t3v_fail(T3V_E_NOMEM, "no memory for LoRA files");
    for (int64_t i = 0; i < n && !st; i++) items += file[i] ? file[i]->count : 0;
    bool counting = p->count && !p->item[0].tensor->data;
    if (!st)
        st = counting ? t3v_arena_count(&l->arena)
                      : t3v_arena_open_in(&l->arena, (size_t)64 << 30, t3v_device_space(dit->device));
    if (!st) {
        l->pair = calloc((size_t)items + 1, sizeof *l->pair);
        l->before = calloc((size_t)p->count + 1, sizeof *l->before);
        u.item = calloc((size_t)items + 1, sizeof *u.item);
        u.strength = calloc((size_t)items + 1, sizeof *u.strength);
        if (!l->pair || !l->before || !u.item || !u.strength)
            st = t3v_fail(T3V_E_NOMEM, "no memory for LoRA updates");
    }
    /* Layer by layer, so that a layer's updates lie side by side. */
    for (int64_t w = 0; w < p->count && !st; w++) {
        u.n = 0;
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = 0; file[i] && k < file[i]->count; k++) {
                if (file[i]->items[k].weight != w) continue;
                u.item[u.n] = &file[i]->items[k];
                u.strength[u.n++] = use[i].strength;
            }
        if (u.n) st = attach(l, &p->item[w], &u, how, dit, &used);
    }
    for (int64_t i = 0; i < n && !st; i++)
        if (file[i]) st = t3v_tensors_check(file[i]->file);
    if (!st && !counting)
        t3v_info("%lld LoRA updates on the model%s", (long long)items, how->merge ? ", merged" : "");
    for (int64_t i = 0; i < n && file; i++) t3v_lora_close(file[i]);
    free(file);
    free(u.item);
    free(u.strength);
    return st;
}

void t3v_loras_detach(t3v_loras *l, t3v_dit *dit)
{
    for (int64_t i = 0; dit->block && i < dit->params.count; i++) {
        t3v_weight *w = t3v_dit_layer(dit, dit->params.item[i].tensor);
        if (!w) continue;
        w->lora = NULL;
        w->loras = 0;
    }
    for (int64_t i = l->changed - 1; dit->block && i >= 0; i--) {
        l->before[i].tensor->data = l->before[i].data;
        l->before[i].tensor->type = l->before[i].type;
        l->before[i].tensor->scale = l->before[i].scale;
    }
    free(l->pair);
    free(l->before);
    t3v_arena_close(&l->arena);
    *l = (t3v_loras){0};
}
