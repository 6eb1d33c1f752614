/* SPDX-License-Identifier: Apache-2.0 */
/* Weights onto a device: one copy of each, in the order of the checkpoint. */
#include "pipe/place.h"

static size_t bytes_of(const t3v_tensor *t) { return (size_t)t3v_numel(t) * t3v_dtype_size(t->type); }

t3v_status t3v_weight_place(const t3v_device *device, const t3v_arena *arena, t3v_tensor *t)
{
    if (!device) return T3V_OK;
    void *host = t->data;
    t->data = t3v_arena_twin(arena, host);
    return device->push(t->data, host, bytes_of(t));
}

t3v_status t3v_weights_place(const t3v_params *p, const t3v_device *device, t3v_arena *arena,
                             bool (*stays)(const char *name))
{
    size_t sum = 4096, room, all;
    for (int64_t i = 0; i < p->count; i++)
        if (!stays || !stays(p->item[i].name)) sum += bytes_of(p->item[i].tensor) + 128;
    T3V_TRY(t3v_arena_open_in(arena, sum, &device->space));
    for (int64_t i = 0; i < p->count; i++) {
        t3v_tensor *t = p->item[i].tensor;
        if (stays && stays(p->item[i].name)) continue;
        void *to = t3v_arena_twin(arena, t3v_arena_take(arena, bytes_of(t), 1));
        device->memory(&room, &all);
        if (!to)
            return t3v_fail(T3V_E_NOMEM, "the weights take %.2f GiB of %s, which has %.2f of %.2f GiB free",
                            (double)sum / 0x1p30, device->name, (double)room / 0x1p30, (double)all / 0x1p30);
        T3V_TRY(device->push(to, t->data, bytes_of(t)));
        t->data = to;
    }
    return T3V_OK;
}
