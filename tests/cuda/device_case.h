/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of attention on the device: random inputs there and on the CPU, and what the CPU's definition makes of them. After
 * cmocka.h. */
#ifndef T3V_TESTS_CUDA_DEVICE_CASE_H
#define T3V_TESTS_CUDA_DEVICE_CASE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attn/device_attend.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "cuda/emulate.h"
#include "tensor/dtype.h"

static inline void *must(void *p)
{
    assert_non_null(p);
    return p;
}

typedef struct inputs {
    int64_t n_q, n_k;
    int heads, dim;
    t3v_dtype type;
    float *q, *k, *v, *dout, *log_weight; /* dense, as the type holds them; log_weight may be NULL */
} inputs;

static inline float *random_rows(int64_t n, uint64_t seed, uint64_t stream, float scale, t3v_dtype type)
{
    float *x = must(malloc((size_t)n * sizeof *x));
    t3v_normal_fill(x, n, seed, stream, 0);
    for (int64_t i = 0; i < n; i++) {
        x[i] *= scale;
        if (type == T3V_BF16) x[i] = t3v_bf16_to_f32(t3v_f32_to_bf16(x[i]));
    }
    return x;
}

static inline inputs make_inputs(uint64_t seed, int64_t n_q, int64_t n_k, int heads, int dim, t3v_dtype type,
                                 float nats, bool log_weight)
{
    int64_t width = heads * dim;
    inputs x = {n_q, n_k, heads, dim, type, NULL, NULL, NULL, NULL, NULL};
    x.q = random_rows(n_q * width, seed, 1, nats / 4, type);
    x.k = random_rows(n_k * width, seed, 2, 1, type);
    x.v = random_rows(n_k * width, seed, 3, 1, type);
    x.dout = random_rows(n_q * width, seed, 4, 1, T3V_BF16);
    if (log_weight) {
        x.log_weight = random_rows(n_k, seed, 5, 1, T3V_F32);
        x.log_weight[n_k - 1] = 6.2f;
    }
    return x;
}

static inline void free_inputs(inputs *x)
{
    free(x->q), free(x->k), free(x->v), free(x->dout), free(x->log_weight);
}

/* Rows of `type`, `stride` apart, in a buffer of the device. */
static inline void *on_device(const float *x, int64_t n, int64_t width, int64_t stride, t3v_dtype type,
                              const char *name)
{
    char *p = t3v_emulate_alloc((size_t)((n - 1) * stride + width) * t3v_dtype_size(type), name);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < width; j++) {
            if (type == T3V_F32) ((float *)(void *)p)[i * stride + j] = x[i * width + j];
            else ((t3v_bf16 *)(void *)p)[i * stride + j] = t3v_f32_to_bf16(x[i * width + j]);
        }
    return p;
}

static inline double at_row(const void *p, t3v_dtype type, int64_t i)
{
    return type == T3V_F32 ? (double)((const float *)p)[i]
                           : (double)t3v_bf16_to_f32(((const t3v_bf16 *)p)[i]);
}

static inline t3v_attend_args args_of(const inputs *x, const t3v_moment *moment)
{
    int64_t width = x->heads * x->dim;
    t3v_attend_args a = {.n_q = x->n_q,
                         .n_k = x->n_k,
                         .heads = x->heads,
                         .dim = x->dim,
                         .type = x->type,
                         .q_stride = width,
                         .k_stride = width,
                         .v_stride = width,
                         .out_type = T3V_F32,
                         .out_stride = width};
    if (moment) a.moment = *moment;
    return a;
}

/* The list of a site in memory of the device. */
static inline t3v_device_site *site_on_device(const t3v_site *site, bool backward)
{
    t3v_device_site *s;
    assert_int_equal(t3v_device_site_make(&s, site, backward), T3V_OK);
    void *lists = t3v_emulate_alloc(s->size, "lists");
    if (s->size) memcpy(lists, s->bytes, s->size);
    s->at = lists;
    return s;
}

static inline void free_on_device(t3v_device_site *s)
{
    t3v_emulate_free((void *)s->at);
    t3v_device_site_free(s);
}

/* The CPU's definition: out and lse, dense. v: values, or their sizes. */
static inline void on_cpu(const t3v_site *site, const inputs *x, const t3v_moment *moment, const float *v,
                          float *out, float *lse, uint64_t *chosen)
{
    t3v_attend_args a = args_of(x, moment);
    size_t width = (size_t)a.heads * (size_t)a.dim;
    void *rows[3];
    const float *from[3] = {x->q, x->k, v};
    for (int i = 0; i < 3; i++) {
        size_t n = (size_t)(i ? a.n_k : a.n_q) * width;
        rows[i] = must(malloc(n * sizeof(float)));
        for (size_t j = 0; j < n; j++)
            if (a.type == T3V_F32) ((float *)rows[i])[j] = from[i][j];
            else ((t3v_bf16 *)rows[i])[j] = t3v_f32_to_bf16(from[i][j]);
    }
    a.q = rows[0], a.k = rows[1], a.v = rows[2];
    a.key_log_weight = x->log_weight;
    a.out = out, a.lse = lse, a.chosen = chosen;
    t3v_isa before = t3v_cpu();
    t3v_cpu_mask(T3V_ISA_REF);
    a.scratch_bytes = t3v_attend_scratch(site, &a);
    a.scratch = must(malloc(a.scratch_bytes));
    if (t3v_attend_run(site, &a)) fail_msg("%s", t3v_error_text());
    t3v_cpu_mask(before);
    free(a.scratch);
    for (int i = 0; i < 3; i++) free(rows[i]);
}

#endif
