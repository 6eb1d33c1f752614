/* SPDX-License-Identifier: Apache-2.0 */
/* Small dense attention, composed of matrix products: any head dim, additive bias, scale. */
#include "ops/kernels.h"
#include "ops/ops.h"

typedef struct sdpa_attr {
    int64_t heads;
    double scale;
} sdpa_attr;

/* Per-head products on token-major [n, heads * hd] and head-major [heads, n_q, n_k] operands. */
typedef struct operand {
    const void *data;
    t3v_dtype type;
    int64_t ld, step; /* row stride, distance of heads */
    bool trans;
} operand;

static void products(t3v_ctx *ctx, int64_t heads, int64_t m, int64_t n, int64_t k, operand a, operand b,
                     void *c, t3v_dtype ct, int64_t ldc, int64_t c_step, bool accumulate)
{
    t3v_gemm_args g = {.batch = heads,
                       .m = m,
                       .n = n,
                       .k = k,
                       .a = a.data,
                       .a_type = a.type,
                       .lda = a.ld,
                       .a_batch = a.step,
                       .a_trans = a.trans,
                       .b = b.data,
                       .b_type = b.type,
                       .ldb = b.ld,
                       .b_batch = b.step,
                       .b_trans = b.trans,
                       .c = c,
                       .c_type = ct,
                       .ldc = ldc,
                       .c_batch = c_step,
                       .accumulate = accumulate};
    t3v_ctx_keep(ctx, t3v_k(ctx)->gemm(&g));
}

static operand by_token(const void *data, t3v_dtype type, int64_t d, int64_t heads, bool trans)
{
    return (operand){data, type, d, d / heads, trans};
}

static operand by_head(const void *data, t3v_dtype type, int64_t n_q, int64_t n_k, bool trans)
{
    return (operand){data, type, n_k, n_q * n_k, trans};
}

static void sdpa_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const sdpa_attr *a = r->attr;
    t3v_tensor *q = r->in[0], *k = r->in[1], *v = r->in[2], *p = r->saved[0];
    t3v_dtype t = q->type;
    int64_t nq = t3v_rows(q), nk = t3v_rows(k), d = t3v_cols(q), h = a->heads, hd = d / h, n = h * nq * nk;
    const float *dout = t3v_grad(ctx, r->out[0]);
    float *dq = t3v_grad(ctx, q), *dk = t3v_grad(ctx, k), *dv = t3v_grad(ctx, v),
          *dbias = t3v_grad(ctx, r->in[3]);
    size_t mark = t3v_arena_mark(ctx->arena);
    void *doc = t3v_data(ctx, nq * d, t3v_dtype_size(t)), *dsc = t3v_data(ctx, n, t3v_dtype_size(t));
    float *ds = t3v_data(ctx, n, sizeof(float));
    if (t3v_runs(ctx)) {
        t3v_k(ctx)->rows_convert(doc, t, dout, T3V_F32, nq * d);
        if (dv)
            products(ctx, h, nk, hd, nq, by_head(p->data, t, nq, nk, true), by_token(doc, t, d, h, false), dv,
                     T3V_F32, d, hd, true);
        products(ctx, h, nq, nk, hd, by_token(doc, t, d, h, false), by_token(v->data, t, d, h, true), ds,
                 T3V_F32, nk, nq * nk, false);
        t3v_k(ctx)->rows_softmax_bwd(ds, T3V_F32, false, ds, T3V_F32, p->data, t, 1.0f, h * nq, nk);
        if (dbias) t3v_k(ctx)->rows_axpy(dbias, 1.0f, ds, n);
        t3v_k(ctx)->rows_lincomb(dsc, t, (float)a->scale, ds, T3V_F32, 0, NULL, T3V_F32, n);
        if (dq)
            products(ctx, h, nq, hd, nk, by_head(dsc, t, nq, nk, false), by_token(k->data, t, d, h, false),
                     dq, T3V_F32, d, hd, true);
        if (dk)
            products(ctx, h, nk, hd, nq, by_head(dsc, t, nq, nk, true), by_token(q->data, t, d, h, false), dk,
                     T3V_F32, d, hd, true);
    }
    t3v_arena_back(ctx->arena, mark);
}

static const t3v_op sdpa_op = {"sdpa", sdpa_backward};

enum { BAND = 1 << 22 }; /* scores held at a time when nothing is recorded */

t3v_tensor *t3v_sdpa(t3v_ctx *ctx, t3v_tensor *q, t3v_tensor *k, t3v_tensor *v, int64_t heads, double scale,
                     t3v_tensor *bias)
{
    if (ctx->status || !q || !k || !v) return NULL;
    t3v_dtype t = q->type;
    int64_t nq = t3v_rows(q), nk = t3v_rows(k), d = t3v_cols(q), hd = d / heads;
    T3V_ASSERT(k->type == t && v->type == t && hd * heads == d && t3v_cols(k) == d && t3v_rows(v) == nk);
    T3V_ASSERT(!bias || t3v_numel(bias) == heads * nq * nk);
    t3v_tensor *out = t3v_new_like(ctx, q, t);
    sdpa_attr a = {heads, scale};
    t3v_record *r = t3v_tape_add(ctx, &sdpa_op, T3V_INS(q, k, v, bias), out, &a, sizeof a);
    if (r) r->saved[0] = t3v_new(ctx, t, T3V_SHAPE(heads, nq, nk));
    size_t mark = t3v_arena_mark(ctx->arena);
    /* A bias belongs to whole score matrices: bands are cut only without one. */
    int64_t band = r || bias ? nq : BAND / (heads * nk) + 1;
    if (band > nq) band = nq;
    float *s = t3v_data(ctx, heads * band * nk, sizeof(float));
    void *p = r && r->saved[0] ? r->saved[0]->data : t3v_data(ctx, heads * band * nk, t3v_dtype_size(t));
    for (int64_t i = 0; i < nq && t3v_runs(ctx); i += band) {
        int64_t m = i + band < nq ? band : nq - i;
        size_t row = (size_t)(i * d) * t3v_dtype_size(t);
        products(ctx, heads, m, nk, hd, by_token((const char *)q->data + row, t, d, heads, false),
                 by_token(k->data, t, d, heads, true), s, T3V_F32, nk, m * nk, false);
        t3v_k(ctx)->rows_softmax(p, t, s, T3V_F32, (float)scale, bias ? bias->data : NULL,
                                 bias ? heads * nq : 1, heads * m, nk);
        products(ctx, heads, m, hd, nk, by_head(p, t, m, nk, false), by_token(v->data, t, d, heads, false),
                 (char *)out->data + row, t, d, hd, false);
    }
    t3v_arena_back(ctx->arena, mark);
    return ctx->status ? NULL : out;
}
