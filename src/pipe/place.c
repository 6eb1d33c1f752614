/* SPDX-License-Identifier: Apache-2.0 */
/* Weights onto a device: one copy of each, in the order of the checkpoint. */
#include "pipe/place.h"

#include <stdlib.h>

#include "tensor/dtype.h"

static size_t bytes_of(const t3v_tensor *t) { return (size_t)t3v_numel(t) * t3v_dtype_size(t->type); }

t3v_status t3v_weight_place(const t3v_device *device, const t3v_arena *arena, t3v_tensor *t)
{
    if (!device) return T3V_OK;
    void *host = t->data;
    t->data = t3v_arena_twin(arena, host);
    return device->push(t->data, host, bytes_of(t));
}

/* The type of a parameter's copy. */
static t3v_dtype type_of(const t3v_tensor *t, t3v_dtype compute)
{
    return t3v_dtype_packed(t->type) ? compute : t->type;
}

/* Packed values are expanded on the way. */
static t3v_status push(const t3v_device *device, t3v_tensor *t, void *to, t3v_dtype type)
{
    if (t->type == type) return device->push(to, t->data, bytes_of(t));
    int64_t n = t3v_numel(t);
    void *wide = malloc((size_t)n * t3v_dtype_size(type));
    if (!wide) return t3v_fail(T3V_E_NOMEM, "no memory to expand %lld weights", (long long)n);
    t3v_status st = t3v_convert_scaled(wide, type, t->data, t->type, t->scale ? *t->scale : 1, n);
    t->type = type, t->scale = NULL;
    if (!st) st = device->push(to, wide, bytes_of(t));
    free(wide);
    return st;
}

t3v_status t3v_weights_place(const t3v_params *p, t3v_dtype compute, const t3v_device *device,
                             t3v_arena *arena, bool (*stays)(const t3v_param *p))
{
    size_t sum = 4096, room, all;
    for (int64_t i = 0; i < p->count; i++)
        if (!stays || !stays(&p->item[i]))
            sum += (size_t)t3v_numel(p->item[i].tensor) *
                       t3v_dtype_size(type_of(p->item[i].tensor, compute)) +
                   128;
    T3V_TRY(t3v_arena_open_in(arena, sum, &device->space));
    for (int64_t i = 0; i < p->count; i++) {
        t3v_tensor *t = p->item[i].tensor;
        if (stays && stays(&p->item[i])) continue;
        t3v_dtype type = type_of(t, compute);
        void *to = t3v_arena_twin(arena, t3v_arena_take(arena, (size_t)t3v_numel(t), t3v_dtype_size(type)));
        device->memory(&room, &all);
        if (!to)
            return t3v_fail(T3V_E_NOMEM, "the weights take %.2f GiB of %s, which has %.2f of %.2f GiB free",
                            (double)sum / 0x1p30, device->name, (double)room / 0x1p30, (double)all / 0x1p30);
        T3V_TRY(push(device, t, to, type));
        t->data = to;
    }
    return T3V_OK;
}
