/* SPDX-License-Identifier: Apache-2.0 */
/* LoRA: from matched files to the layers' lists of updates. */
#include "pipe/lora_attach.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "io/lora.h"
#include "ops/kernels.h"
#include "pipe/place.h"
#include "tensor/dtype.h"

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

/* t += strength * diff, in memory of its own. */
static t3v_status add_diff(t3v_tensor *t, const t3v_tensor_entry *e, double strength,
                           const t3v_device *device, t3v_arena *arena)
{
    int64_t n = t3v_numel(t);
    float *diff = t3v_arena_take(arena, (size_t)n, sizeof *diff);
    void *own = t3v_arena_take(arena, (size_t)n, t3v_dtype_size(t->type));
    if (!diff || !own) return t3v_fail(T3V_E_NOMEM, "no memory for %s", e->name);
    if (arena->counting) return T3V_OK;
    T3V_TRY(t3v_tensor_copy(e, diff, T3V_F32));
    t3v_tensor there = {.data = diff, .type = T3V_F32, .ndim = 1, .shape = {n}};
    T3V_TRY(t3v_weight_place(device, arena, &there));
    own = t3v_arena_twin(arena, own);
    (device ? device->kernels : &t3v_kernels_cpu)
        ->rows_lincomb(own, t->type, 1.0f, t->data, t->type, (float)strength, there.data, T3V_F32, n);
    t->data = own;
    return T3V_OK;
}

static t3v_status attach_item(t3v_loras *l, const t3v_lora_item *item, double strength, t3v_dit *dit,
                              int64_t *used)
{
    t3v_tensor *t = dit->params.item[item->weight].tensor;
    if (item->kind == T3V_LORA_DIFF)
        return add_diff(t, item->diff, strength * item->scale, dit->device, &l->arena);
    t3v_weight *w = t3v_dit_layer(dit, t);
    if (!w)
        return t3v_fail(T3V_E_FORMAT, "%s: low-rank updates go to linear layers",
                        dit->params.item[item->weight].name);
    t3v_lora_pair *p = &l->pair[(*used)++];
    p->strength = (float)(strength * item->scale);
    T3V_TRY(factor(&p->a, item->a, item->rank, w->w.type, dit->device, &l->arena));
    return factor(&p->b, item->b, item->b->shape[0], w->w.type, dit->device, &l->arena);
}

t3v_status t3v_loras_attach(t3v_loras *l, const t3v_lora_use *use, int64_t n, t3v_dit *dit)
{
    l->attached = true;
    if (n == 0) return T3V_OK;
    const t3v_params *p = &dit->params;
    t3v_tensor_entry *names = calloc((size_t)p->count, sizeof *names);
    t3v_lora **file = calloc((size_t)n, sizeof *file);
    t3v_status st = names && file ? T3V_OK : t3v_fail(T3V_E_NOMEM, "no memory for LoRA files");
    for (int64_t i = 0; i < p->count && names; i++) {
        names[i] = (t3v_tensor_entry){.name = p->item[i].name, .ndim = p->item[i].tensor->ndim};
        memcpy(names[i].shape, p->item[i].tensor->shape, sizeof p->item[i].tensor->shape);
    }
    int64_t pairs = 0;
    for (int64_t i = 0; i < n && !st; i++) {
        st = t3v_lora_open(&file[i], use[i].path, names, p->count, T3V_EXPERT_ANY);
        if (!st) pairs += file[i]->count;
    }
    bool counting = p->count && !p->item[0].tensor->data;
    if (!st)
        st = counting ? t3v_arena_count(&l->arena)
                      : t3v_arena_open_in(&l->arena, (size_t)64 << 30, t3v_device_space(dit->device));
    if (!st && !(l->pair = calloc((size_t)pairs + 1, sizeof *l->pair)))
        st = t3v_fail(T3V_E_NOMEM, "no memory for LoRA pairs");

    /* Layer by layer, so that a layer's updates lie side by side. */
    int64_t used = 0;
    for (int64_t w = 0; w < p->count && !st; w++) {
        int64_t first = used;
        for (int64_t i = 0; i < n && !st; i++)
            for (int64_t k = 0; k < file[i]->count && !st; k++)
                if (file[i]->items[k].weight == w)
                    st = attach_item(l, &file[i]->items[k], use[i].strength, dit, &used);
        t3v_weight *layer = used > first ? t3v_dit_layer(dit, p->item[w].tensor) : NULL;
        if (layer) {
            layer->lora = &l->pair[first];
            layer->loras = (int)(used - first);
        }
    }
    if (!st && !counting) t3v_info("%lld LoRA updates on the model", (long long)pairs);
    for (int64_t i = 0; i < n && file; i++) t3v_lora_close(file[i]);
    free(file);
    free(names);
    return st;
}

void t3v_loras_detach(t3v_loras *l, t3v_dit *dit)
{
    for (int64_t i = 0; dit->block && i < dit->params.count; i++) {
        t3v_weight *w = t3v_dit_layer(dit, dit->params.item[i].tensor);
        if (w) {
            w->lora = NULL;
            w->loras = 0;
        }
    }
    free(l->pair);
    t3v_arena_close(&l->arena);
    *l = (t3v_loras){0};
}
