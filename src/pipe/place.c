/* SPDX-License-Identifier: Apache-2.0 */
/* Weights onto a device: one copy of each, in the order of the checkpoint. */
#include "pipe/place.h"

#include <stdlib.h>

#include "tensor/dtype.h"
#include "tensor/fp8.h"

static size_t bytes_of(const t3v_tensor *t) { return (size_t)t3v_numel(t) * t3v_dtype_size(t->type); }

t3v_status t3v_weight_place(const t3v_device *device, const t3v_arena *arena, t3v_tensor *t)
{
    if (!device) return T3V_OK;
    void *host = t->data;
    t->data = t3v_arena_twin(arena, host);
    return device->push(t->data, host, bytes_of(t));
}

/* Bytes of a parameter's copy. */
static size_t room_of(const t3v_tensor *t, t3v_dtype compute, bool fp8)
{
    if (fp8) return t3v_fp8_bytes(t->shape[0], t3v_numel(t) / t->shape[0]);
    return (size_t)t3v_numel(t) * t3v_dtype_size(t3v_dtype_packed(t->type) ? compute : t->type);
}

/* Packed values are expanded on the way, or become rows of 8-bit floats with their factors behind them. */
static t3v_status push(const t3v_device *device, t3v_tensor *t, char *to, t3v_dtype compute, bool fp8)
{
    int64_t n = t3v_numel(t);
    size_t bytes = room_of(t, compute, fp8);
    float scale = t->scale ? *t->scale : 1;
    if (!fp8 && !t3v_dtype_packed(t->type)) return device->push(to, t->data, bytes);
    char *made = malloc(bytes);
    if (!made) return t3v_fail(T3V_E_NOMEM, "no memory to expand %lld weights", (long long)n);
    t3v_status st = fp8 ? t3v_fp8_rows((uint8_t *)made, (float *)(void *)(made + n), t->data, t->type, scale,
                                       t->shape[0], n / t->shape[0])
                        : t3v_convert_scaled(made, compute, t->data, t->type, scale, n);
    t->type = fp8 ? T3V_F8_E4M3 : compute, t->scale = NULL;
    t->row_scale = fp8 ? (const float *)(const void *)(to + n) : NULL;
    if (!st) st = device->push(to, made, bytes);
    free(made);
    return st;
}

t3v_status t3v_weights_place(const t3v_params *p, t3v_dtype compute, const t3v_device *device,
                             t3v_arena *arena, bool (*stays)(const t3v_param *p),
                             bool (*fp8)(const t3v_param *p))
{
    size_t sum = 4096, room, all;
    for (int64_t i = 0; i < p->count; i++)
        if (!stays || !stays(&p->item[i]))
            sum += room_of(p->item[i].tensor, compute, fp8 && fp8(&p->item[i])) + 128;
    T3V_TRY(t3v_arena_open_in(arena, sum, &device->space));
    for (int64_t i = 0; i < p->count; i++) {
        t3v_tensor *t = p->item[i].tensor;
        if (stays && stays(&p->item[i])) continue;
        bool eight = fp8 && fp8(&p->item[i]);
        char *to = t3v_arena_twin(arena, t3v_arena_take(arena, room_of(t, compute, eight), 1));
        device->memory(&room, &all);
        if (!to)
            return t3v_fail(T3V_E_NOMEM, "the weights take %.2f GiB of %s, which has %.2f of %.2f GiB free",
                            (double)sum / 0x1p30, device->name, (double)room / 0x1p30, (double)all / 0x1p30);
        T3V_TRY(push(device, t, to, compute, eight));
        t->data = to;
    }
    return T3V_OK;
}
