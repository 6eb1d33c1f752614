/* SPDX-License-Identifier: Apache-2.0 */
/* For comparison: attention composed of oneDNN's products and softmax, as one would without a kernel of one's own. */
#include <math.h>
#include <oneapi/dnnl/dnnl.h>
#include <omp.h>
#include <stdlib.h>

#include "base/status.h"
#include "base/threads.h"
#include "bench.h"
#include "tensor/dtype.h"

enum { PACK_K, PACK_V, SCORES, SOFTMAX, VALUES, PRIMITIVES };
enum { Q, K, V, PACKED_K, PACKED_V, SCORE, PROBABILITY, Y, SCRATCH, MEMORIES };

/* One thread's: memory objects carry the pointers of the call. */
typedef struct worker {
    dnnl_stream_t stream;
    dnnl_memory_t memory[MEMORIES];
    void *own
        [MEMORIES]; /* buffers that no other thread sees; K and V are packed by each thread for its heads */
} worker;

struct bench_composed {
    int64_t tokens, rows, width; /* rows: queries of a block, a divisor of the tokens */
    int heads, dim, threads;
    dnnl_engine_t engine;
    dnnl_memory_desc_t md[MEMORIES];
    dnnl_primitive_t primitive[PRIMITIVES];
    worker *worker; /* [threads] */
};

static t3v_status failed(dnnl_status_t st)
{
    return t3v_fail(st == dnnl_out_of_memory ? T3V_E_NOMEM : T3V_E_UNSUPPORTED,
                    "attention composed of oneDNN calls: status %d", (int)st);
}

static dnnl_status_t plain(dnnl_memory_desc_t *md, int64_t rows, int64_t columns, int64_t row_stride,
                           int64_t column_stride, dnnl_data_type_t type)
{
    dnnl_dims_t dims = {rows, columns}, strides = {row_stride, column_stride};
    return dnnl_memory_desc_init_by_strides(md, 2, dims, type, strides);
}

/* Makes primitive `i` and lets the scratchpad's size grow to what it needs. Takes ownership of pd. */
static dnnl_status_t finish(bench_composed *c, int i, dnnl_primitive_desc_t pd)
{
    const dnnl_memory_desc_t *scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    if (scratch && dnnl_memory_desc_get_size(scratch) > dnnl_memory_desc_get_size(&c->md[SCRATCH]))
        c->md[SCRATCH] = *scratch;
    dnnl_status_t e = dnnl_primitive_create(&c->primitive[i], pd);
    dnnl_primitive_desc_destroy(pd);
    return e;
}

/* a [m, k] times b [k, n] packed as oneDNN likes it, times `factor`; b's layout is set. */
static dnnl_status_t product(bench_composed *c, int i, const dnnl_memory_desc_t *a, dnnl_memory_desc_t *b,
                             const dnnl_memory_desc_t *y, float factor)
{
    dnnl_memory_desc_t any;
    dnnl_matmul_desc_t op;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_dims_t dims = {a->dims[1], y->dims[1]};
    dnnl_status_t e = dnnl_memory_desc_init_by_tag(&any, 2, dims, dnnl_bf16, dnnl_format_tag_any);
    if (!e) e = dnnl_primitive_attr_create(&attr);
    if (!e) e = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (!e) e = dnnl_primitive_attr_set_output_scales(attr, 1, 0, &factor);
    if (!e) e = dnnl_matmul_desc_init(&op, a, &any, NULL, y);
    if (!e) e = dnnl_primitive_desc_create(&pd, &op, attr, c->engine, NULL);
    if (!e) {
        *b = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
        e = finish(c, i, pd);
    }
    if (attr) dnnl_primitive_attr_destroy(attr);
    return e;
}

static dnnl_status_t make(bench_composed *c)
{
    dnnl_memory_desc_t *md = c->md;
    dnnl_softmax_v2_desc_t op;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_dim_t n = c->tokens;
    dnnl_status_t e = dnnl_engine_create(&c->engine, dnnl_cpu, 0);
    if (!e) e = plain(&md[Q], c->rows, c->dim, c->width, 1, dnnl_bf16);
    if (!e) e = plain(&md[K], c->dim, n, 1, c->width, dnnl_bf16);
    if (!e) e = plain(&md[V], n, c->dim, c->width, 1, dnnl_bf16);
    if (!e) e = plain(&md[SCORE], c->rows, n, n, 1, dnnl_f32);
    if (!e) e = plain(&md[PROBABILITY], c->rows, n, n, 1, dnnl_bf16);
    if (!e) e = plain(&md[Y], c->rows, c->dim, c->width, 1, dnnl_bf16);
    if (!e) e = product(c, SCORES, &md[Q], &md[PACKED_K], &md[SCORE], 1 / sqrtf((float)c->dim));
    if (!e) e = product(c, VALUES, &md[PROBABILITY], &md[PACKED_V], &md[Y], 1);
    for (int i = PACK_K; i <= PACK_V && !e; i++) {
        e = dnnl_reorder_primitive_desc_create(&pd, &md[i == PACK_K ? K : V], c->engine,
                                               &md[i == PACK_K ? PACKED_K : PACKED_V], c->engine, NULL);
        if (!e) e = finish(c, i, pd);
    }
    if (!e)
        e = dnnl_softmax_v2_forward_desc_init(&op, dnnl_forward_inference, dnnl_softmax_accurate, &md[SCORE],
                                              &md[PROBABILITY], 1);
    if (!e) e = dnnl_primitive_attr_create(&attr);
    if (!e) e = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (!e) e = dnnl_primitive_desc_create(&pd, &op, attr, c->engine, NULL);
    if (!e) e = finish(c, SOFTMAX, pd);
    if (attr) dnnl_primitive_attr_destroy(attr);
    return e;
}

t3v_status bench_composed_make(bench_composed **out, int64_t tokens, int heads, int dim, int64_t width)
{
    int64_t rows = 160;
    while (tokens % rows) rows--;
    if (rows < 32)
        return t3v_fail(T3V_E_ARG, "composed attention takes tokens with a divisor from 32 to 160, not %lld",
                        (long long)tokens);
    bench_composed *c = *out = calloc(1, sizeof *c);
    if (!c) return t3v_fail(T3V_E_NOMEM, "no memory for composed attention");
    c->tokens = tokens, c->rows = rows, c->width = width, c->heads = heads, c->dim = dim;
    c->threads = t3v_threads();
    int all = omp_get_max_threads();
    omp_set_num_threads(1); /* oneDNN plans for so many; our threads take different blocks */
    dnnl_status_t e = make(c);
    if (!e && !(c->worker = calloc((size_t)c->threads, sizeof *c->worker))) e = dnnl_out_of_memory;
    for (int t = 0; t < c->threads && !e; t++) {
        worker *w = &c->worker[t];
        e = dnnl_stream_create(&w->stream, c->engine, dnnl_stream_default_flags);
        for (int i = 0; i < MEMORIES && !e; i++) {
            bool shared = t && (i == PACKED_K || i == PACKED_V);
            size_t size = dnnl_memory_desc_get_size(&c->md[i]);
            if (i >= PACKED_K && i != Y && !shared && size &&
                !(w->own[i] = aligned_alloc(64, (size + 63) / 64 * 64)))
                e = dnnl_out_of_memory;
            if (!e)
                e = dnnl_memory_create(&w->memory[i], &c->md[i], c->engine,
                                       shared ? c->worker->own[i] : w->own[i]);
        }
    }
    omp_set_num_threads(all);
    if (!e) return T3V_OK;
    bench_composed_free(c);
    *out = NULL;
    return failed(e);
}

static dnnl_status_t step(const bench_composed *c, const worker *w, int primitive, int from, int weights,
                          int to)
{
    dnnl_exec_arg_t args[] = {{primitive == PACK_K || primitive == PACK_V ? DNNL_ARG_FROM : DNNL_ARG_SRC,
                               w->memory[from]},
                              {DNNL_ARG_DST, w->memory[to]},
                              {DNNL_ARG_SCRATCHPAD, w->memory[SCRATCH]},
                              {DNNL_ARG_WEIGHTS, w->memory[weights]}};
    return dnnl_primitive_execute(c->primitive[primitive], w->stream, weights ? 4 : 3, args);
}

t3v_status bench_composed_run(bench_composed *c, const void *q, const void *k, const void *v, void *y)
{
    int wrong = 0;
#pragma omp parallel num_threads(c->threads)
    {
        omp_set_num_threads(1);
        const worker *w = &c->worker[omp_get_thread_num()];
        for (int h = 0; h < c->heads; h++) {
            int64_t column = (int64_t)h * c->dim;
            dnnl_status_t e = dnnl_success;
#pragma omp single
            {
                e = dnnl_memory_set_data_handle(w->memory[K], (t3v_bf16 *)(uintptr_t)k + column);
                if (!e) e = dnnl_memory_set_data_handle(w->memory[V], (t3v_bf16 *)(uintptr_t)v + column);
                if (!e) e = step(c, w, PACK_K, K, 0, PACKED_K);
                if (!e) e = step(c, w, PACK_V, V, 0, PACKED_V);
            }
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < c->tokens; i += c->rows) {
                int64_t at = i * c->width + column;
                if (!e) e = dnnl_memory_set_data_handle(w->memory[Q], (t3v_bf16 *)(uintptr_t)q + at);
                if (!e) e = dnnl_memory_set_data_handle(w->memory[Y], (t3v_bf16 *)y + at);
                if (!e) e = step(c, w, SCORES, Q, PACKED_K, SCORE);
                if (!e) e = step(c, w, SOFTMAX, SCORE, 0, PROBABILITY);
                if (!e) e = step(c, w, VALUES, PROBABILITY, PACKED_V, Y);
            }
            if (e) {
#pragma omp atomic write
                wrong = (int)e;
            }
        }
    }
    return wrong ? failed((dnnl_status_t)wrong) : T3V_OK;
}

void bench_composed_free(bench_composed *c)
{
    if (!c) return;
    for (int t = 0; c->worker && t < c->threads; t++) {
        for (int i = 0; i < MEMORIES; i++) {
            if (c->worker[t].memory[i]) dnnl_memory_destroy(c->worker[t].memory[i]);
            free(c->worker[t].own[i]);
        }
        if (c->worker[t].stream) dnnl_stream_destroy(c->worker[t].stream);
    }
    free(c->worker);
    for (int i = 0; i < PRIMITIVES; i++)
        if (c->primitive[i]) dnnl_primitive_destroy(c->primitive[i]);
    if (c->engine) dnnl_engine_destroy(c->engine);
    free(c);
}
