/* SPDX-License-Identifier: Apache-2.0 */
/* Tensor shapes and parameter lists. */
#include "tensor/tensor.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int64_t t3v_numel(const t3v_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++) n *= t->shape[i];
    return n;
}

int64_t t3v_rows(const t3v_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i + 1 < t->ndim; i++) n *= t->shape[i];
    return n;
}

const char *t3v_tensor_shape_text(const t3v_tensor *t, char *buf, size_t n)
{
    size_t used = (size_t)snprintf(buf, n, "[");
    for (int i = 0; i < t->ndim && used < n; i++)
        used += (size_t)snprintf(buf + used, n - used, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    if (used < n) snprintf(buf + used, n - used, "]");
    return buf;
}

t3v_status t3v_params_add(t3v_params *p, t3v_tensor *t, bool matrix, int ndim, const int64_t *shape,
                          const char *fmt, ...)
{
    if (p->count == p->capacity) {
        int64_t cap = p->capacity ? 2 * p->capacity : 64;
        t3v_param *item = realloc(p->item, (size_t)cap * sizeof *item);
        if (!item) return t3v_fail(T3V_E_NOMEM, "no memory for %lld parameters", (long long)cap);
        p->item = item;
        p->capacity = cap;
    }
    t3v_param *q = &p->item[p->count];
    *q = (t3v_param){.tensor = t, .matrix = matrix};
    va_list ap;
    va_start(ap, fmt);
    int len = vsnprintf(q->name, sizeof q->name, fmt, ap);
    va_end(ap);
    T3V_ASSERT(len > 0 && len < (int)sizeof q->name && ndim <= T3V_MAX_DIMS);
    *t = (t3v_tensor){.type = T3V_F32, .ndim = ndim};
    memcpy(t->shape, shape, (size_t)ndim * sizeof *shape);
    p->count++;
    return T3V_OK;
}

t3v_param *t3v_params_find(const t3v_params *p, const char *name)
{
    for (int64_t i = 0; i < p->count; i++)
        if (strcmp(p->item[i].name, name) == 0) return &p->item[i];
    return NULL;
}

int64_t t3v_params_numel(const t3v_params *p)
{
    int64_t n = 0;
    for (int64_t i = 0; i < p->count; i++) n += t3v_numel(p->item[i].tensor);
    return n;
}

void t3v_params_free(t3v_params *p)
{
    free(p->item);
    *p = (t3v_params){0};
}
