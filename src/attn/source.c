/* SPDX-License-Identifier: Apache-2.0 */
/* Keys of a term: pooled keys and values are means, their log-weight is ln(sum of the weights of what was pooled),
 * ln(n) for n tokens; so n equal keys and one pooled key are the same softmax. */
#include "attn/source.h"

#include <math.h>
#include <string.h>

#include "attn/kernel.h"
#include "tensor/dtype.h"

static size_t row_bytes(const t3v_attend_args *a) { return (size_t)a->dim * t3v_dtype_size(a->type); }

int64_t t3v_source_rows(const t3v_term *t, const t3v_attend_args *a)
{
    if (t->pool > 1) return (a->n_k - 1) / t->pool + 1;
    return t->log_weight && a->key_log_weight ? a->n_k : 0;
}

size_t t3v_source_bytes(const t3v_term *t, const t3v_attend_args *a)
{
    size_t rows = (size_t)t3v_source_rows(t, a);
    return rows * (sizeof(float) + (t->pool > 1 ? 2 * row_bytes(a) : 0));
}

/* The memory: log-weights [rows], and of pooled keys k and v [rows][dim]. */
t3v_key_source t3v_source_make(const t3v_term *t, const t3v_attend_args *a, int head, void *memory)
{
    size_t column = (size_t)head * row_bytes(a);
    t3v_key_source s = {(const char *)a->k + column, (const char *)a->v + column, a->k_stride, a->v_stride,
                        t->log_weight ? t->log_weight : a->key_log_weight};
    int64_t rows = t3v_source_rows(t, a);
    if (!rows) return s;
    s.log_weight = memory;
    if (t->pool <= 1) return s;
    s.k = (char *)memory + (size_t)rows * sizeof(float);
    s.v = (const char *)s.k + (size_t)rows * row_bytes(a);
    s.k_stride = s.v_stride = a->dim;
    return s;
}

static int64_t token_of(const t3v_term *t, int64_t slot) { return t->order ? t->order[slot] : slot; }

/* The mean of some slots' rows. */
static void mean(void *dst, const void *base, const t3v_attend_args *a, int64_t stride, const t3v_term *t,
                 t3v_range slots)
{
    float sum[T3V_HEAD_DIM_MAX] = {0}, n = (float)(slots.last - slots.first);
    for (int32_t s = slots.first; s < slots.last; s++) {
        int64_t at = token_of(t, s) * stride;
        for (int d = 0; d < a->dim; d++)
            sum[d] += a->type == T3V_F32 ? ((const float *)base)[at + d]
                                         : t3v_bf16_to_f32(((const t3v_bf16 *)base)[at + d]);
    }
    for (int d = 0; d < a->dim; d++) {
        if (a->type == T3V_F32) ((float *)dst)[d] = sum[d] / n;
        else ((t3v_bf16 *)dst)[d] = t3v_f32_to_bf16(sum[d] / n);
    }
}

void t3v_source_fill(const t3v_term *t, const t3v_attend_args *a, int head, void *memory, int64_t first,
                     int64_t last)
{
    size_t column = (size_t)head * row_bytes(a), rows = (size_t)t3v_source_rows(t, a);
    float *weight = memory;
    char *k = (char *)memory + rows * sizeof *weight, *v = k + rows * row_bytes(a);
    for (int64_t i = first; i < last; i++) {
        if (t->pool <= 1) {
            weight[i] = t->log_weight[i] + a->key_log_weight[i];
            continue;
        }
        t3v_range slots = t3v_term_slots(t, (t3v_range){(int32_t)i, (int32_t)i + 1});
        double sum = 0;
        for (int32_t s = slots.first; s < slots.last; s++)
            sum += a->key_log_weight ? exp((double)a->key_log_weight[token_of(t, s)]) : 1;
        weight[i] = (float)log(sum) + (t->log_weight ? t->log_weight[i] : 0);
        mean(k + (size_t)i * row_bytes(a), (const char *)a->k + column, a, a->k_stride, t, slots);
        mean(v + (size_t)i * row_bytes(a), (const char *)a->v + column, a, a->v_stride, t, slots);
    }
}

void t3v_source_backward(const t3v_term *t, const t3v_attend_args *a, const float *dk, const float *dv,
                         float *token_dk, int64_t dk_stride, float *token_dv, int64_t dv_stride)
{
    for (int64_t i = 0; i < t3v_source_rows(t, a); i++) {
        t3v_range slots = t3v_term_slots(t, (t3v_range){(int32_t)i, (int32_t)i + 1});
        float share = 1 / (float)(slots.last - slots.first);
        for (int32_t s = slots.first; s < slots.last; s++) {
            float *to_k = token_dk + token_of(t, s) * dk_stride,
                  *to_v = token_dv + token_of(t, s) * dv_stride;
            for (int d = 0; d < a->dim; d++) {
                to_k[d] += dk[i * a->dim + d] * share;
                to_v[d] += dv[i * a->dim + d] * share;
            }
        }
    }
}
