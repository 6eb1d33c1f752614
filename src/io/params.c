/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters: filled from checkpoint tensors, and made into entries for a writer. */
#include "io/params.h"

#include <stdio.h>
#include <string.h>

#include "tensor/dtype.h"

static t3v_dtype stored(const t3v_param *q, const t3v_params_options *o)
{
    return q->matrix ? o->matrix : T3V_F32;
}

bool t3v_param_in_place(const t3v_param *q, const t3v_tensor_entry *e, const t3v_params_options *o)
{
    t3v_dtype want = stored(q, o);
    if (!o->map) return false;
    if (e->dtype == want) return (uintptr_t)e->data % t3v_dtype_size(want) == 0;
    const t3v_tensor *t = q->tensor;
    return o->packed && q->matrix && t3v_dtype_packed(e->dtype) && t->shape[0] > 0 &&
           t3v_numel(t) / t->shape[0] % t3v_dtype_block(e->dtype) == 0;
}

size_t t3v_params_bytes(const t3v_params *p, const t3v_tensor_file *f, const t3v_params_options *o)
{
    size_t sum = 0;
    for (int64_t i = 0; i < p->count; i++) {
        const t3v_param *q = &p->item[i];
        const t3v_tensor_entry *e = f ? t3v_tensors_find(f, q->name) : NULL;
        if (!e || !t3v_param_in_place(q, e, o))
            sum += (size_t)t3v_numel(q->tensor) * t3v_dtype_size(stored(q, o)) + 128;
    }
    return sum + 4096;
}

static t3v_status alloc(const t3v_param *q, t3v_dtype type, t3v_arena *arena)
{
    q->tensor->type = type;
    q->tensor->data = t3v_arena_take(arena, (size_t)t3v_numel(q->tensor), t3v_dtype_size(type));
    return q->tensor->data ? T3V_OK
                           : t3v_fail(T3V_E_NOMEM, "no memory for %s (%lld elements of %s)", q->name,
                                      (long long)t3v_numel(q->tensor), t3v_dtype_name(type));
}

t3v_status t3v_params_alloc(const t3v_params *p, const t3v_params_options *o, t3v_arena *arena)
{
    for (int64_t i = 0; i < p->count; i++) T3V_TRY(alloc(&p->item[i], stored(&p->item[i], o), arena));
    return T3V_OK;
}

t3v_status t3v_params_load(const t3v_params *p, const t3v_tensor_file *f, const t3v_params_options *o,
                           t3v_arena *arena, bool strict, bool (*optional)(const char *name))
{
    for (int64_t i = 0; i < p->count; i++) {
        const t3v_param *q = &p->item[i];
        t3v_tensor *t = q->tensor;
        const t3v_tensor_entry *e;
        T3V_TRY(t3v_tensors_get(f, q->name, &e));
        T3V_TRY(t3v_tensor_expect(e, t->ndim, t->shape));
        t3v_dtype type = stored(q, o);
        if (t3v_param_in_place(q, e, o)) {
            t->type = e->dtype;
            t->scale = e->scale;
            t->data = (void *)(uintptr_t)e->data;
            continue;
        }
        T3V_TRY(alloc(q, type, arena));
        T3V_TRY(t3v_tensors_read(f, q->name, t->ndim, t->shape, t->data, type));
    }
    if (strict)
        for (int64_t i = 0; i < f->count; i++)
            if (!t3v_params_find(p, f->tensors[i].name) && !(optional && optional(f->tensors[i].name)))
                return t3v_fail(T3V_E_FORMAT,
                                "%s has a tensor %s that this model does not know; is it a model of another "
                                "kind (image-to-video, VACE)?",
                                f->path, f->tensors[i].stored ? f->tensors[i].stored : f->tensors[i].name);
    return t3v_tensors_check(f);
}

t3v_status t3v_params_entries(const t3v_params *p, float *const *values, t3v_dtype type, t3v_arena *arena,
                              t3v_tensor_entry **out)
{
    t3v_tensor_entry *list = t3v_arena_take(arena, (size_t)p->count, sizeof *list);
    if (!list) return t3v_fail(T3V_E_NOMEM, "no memory to write %lld tensors", (long long)p->count);
    for (int64_t i = 0; i < p->count; i++) {
        const t3v_tensor *t = p->item[i].tensor;
        int64_t n = t3v_numel(t);
        void *data = t3v_arena_take(arena, (size_t)n, t3v_dtype_size(type));
        if (!data) return t3v_fail(T3V_E_NOMEM, "no memory to write %s", p->item[i].name);
        const float *value = values ? values[i] : NULL;
        T3V_TRY(t3v_convert_scaled(data, type, value ? value : t->data, value ? T3V_F32 : t->type,
                                   t->scale ? *t->scale : 1, n));
        list[i] = (t3v_tensor_entry){.name = p->item[i].name,
                                     .dtype = type,
                                     .ndim = t->ndim,
                                     .numel = n,
                                     .nbytes = n * (int64_t)t3v_dtype_size(type),
                                     .data = data};
        memcpy(list[i].shape, t->shape, (size_t)t->ndim * sizeof *t->shape);
    }
    *out = list;
    return T3V_OK;
}
