/* SPDX-License-Identifier: Apache-2.0 */
/* Dense layers, with low-rank updates on the fly, and the embedding lookup. */
#include <string.h>

#include "ops/fp8/fp8.h"
#include "ops/int8/int8.h"
#include "ops/kernels.h"
#include "ops/ops.h"
#include "ops/rows/rows.h"

/* What a product does beside: GELU, what that is taken of. */
typedef struct beside {
    t3v_act act;
    void *before;
} beside;

/* C[m,n] (+)= op(A) op(B). */
static void product_and(t3v_ctx *ctx, int64_t m, int64_t n, int64_t k, const void *a, t3v_dtype at,
                        bool a_trans, const void *b, t3v_dtype bt, const float *b_scale, bool b_trans,
                        const float *bias, void *c, t3v_dtype ct, bool accumulate, beside and)
{
    t3v_gemm_args g = {.batch = 1,
                       .m = m,
                       .n = n,
                       .k = k,
                       .a = a,
                       .a_type = at,
                       .lda = a_trans ? m : k,
                       .a_trans = a_trans,
                       .b = b,
                       .b_type = bt,
                       .b_scale = b_scale,
                       .ldb = b_trans ? k : n,
                       .b_trans = b_trans,
                       .bias = bias,
                       .c = c,
                       .c_type = ct,
                       .ldc = n,
                       .accumulate = accumulate,
                       .act = and.act,
                       .before = and.before};
    t3v_ctx_keep(ctx, t3v_k(ctx)->gemm(&g));
}

static void product(t3v_ctx *ctx, int64_t m, int64_t n, int64_t k, const void *a, t3v_dtype at, bool a_trans,
                    const void *b, t3v_dtype bt, const float *b_scale, bool b_trans, const float *bias,
                    void *c, t3v_dtype ct, bool accumulate)
{
    product_and(ctx, m, n, k, a, at, a_trans, b, bt, b_scale, b_trans, bias, c, ct, accumulate, (beside){0});
}

/* The values of x in another type: x's own memory, or scratch. */
static const void *as_type(t3v_ctx *ctx, const void *x, t3v_dtype from, t3v_dtype to, int64_t n)
{
    if (from == to) return x;
    void *y = t3v_data(ctx, n, t3v_dtype_size(to));
    if (y && t3v_runs(ctx)) t3v_k(ctx)->rows_convert(y, to, x, from, n);
    return y;
}

static int64_t in_features(const t3v_tensor *w) { return t3v_numel(w) / w->shape[0]; }

static void dense_backward(t3v_ctx *ctx, const t3v_record *r)
{
    t3v_tensor *x = r->in[0], *w = r->in[1], *bias = r->in[2];
    int64_t rows = t3v_rows(r->out[0]), out = w->shape[0], in = in_features(w);
    t3v_dtype type = t3v_operand(w, ctx->compute);
    bool accumulate;
    const float *dy = t3v_grad(ctx, r->out[0]);
    float *dx = t3v_grad_write(ctx, x, &accumulate), *dw = t3v_grad(ctx, w), *db = t3v_grad(ctx, bias);
    size_t mark = t3v_arena_mark(ctx->arena);
    const void *dyc = as_type(ctx, dy, T3V_F32, type, rows * out);
    const void *xc = r->saved[0] ? r->saved[0]->data : x->data;
    if (t3v_runs(ctx)) {
        if (dx)
            product(ctx, rows, in, out, dyc, type, false, w->data, w->type, w->scale, false, NULL, dx,
                    T3V_F32, accumulate);
        if (dw) product(ctx, out, in, rows, dyc, type, true, xc, type, NULL, false, NULL, dw, T3V_F32, true);
        if (db) t3v_ctx_keep(ctx, t3v_k(ctx)->rows_sum(db, dy, T3V_F32, rows, out));
    }
    t3v_arena_back(ctx->arena, mark);
}

static const t3v_op dense_op = {"linear", dense_backward};

/* Where the products of x's rows with w go; NULL after a failure. */
static t3v_tensor *result(t3v_ctx *ctx, const t3v_tensor *w, const t3v_tensor *x, t3v_dtype out)
{
    if (!x || ctx->status) return NULL;
    int64_t shape[T3V_MAX_DIMS];
    if (t3v_cols(x) != in_features(w))
        return t3v_ctx_fail(ctx, t3v_fail(T3V_E_SHAPE, "a layer of %lld inputs was given rows of %lld",
                                          (long long)in_features(w), (long long)t3v_cols(x)));
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = w->shape[0];
    return t3v_new(ctx, out, x->ndim, shape);
}

static bool trainable(t3v_ctx *ctx, const t3v_tensor *w)
{
    if (!ctx->status && ctx->tape && w->needs_grad && t3v_dtype_packed(w->type))
        t3v_ctx_fail(ctx, t3v_fail(T3V_E_UNSUPPORTED,
                                   "weights of type %s cannot be trained; train a LoRA on them, or convert "
                                   "them to BF16 first",
                                   t3v_dtype_name(w->type)));
    return !ctx->status;
}

/* y = x w^T + bias, recorded; with `gelu` that gets its GELU, and y may be NULL where nothing is recorded; or y += that. */
static void run_dense(t3v_ctx *ctx, const t3v_tensor *w, const t3v_tensor *bias, t3v_tensor *x, t3v_tensor *y,
                      t3v_tensor *gelu, bool add)
{
    int64_t rows = t3v_rows(x), n = w->shape[0], k = in_features(w);
    t3v_dtype type = t3v_operand(w, ctx->compute);
    t3v_record *r = t3v_tape_add(ctx, &dense_op, T3V_INS(x, (t3v_tensor *)w, (t3v_tensor *)bias), y, NULL, 0);
    if (r && x->type != type) r->saved[0] = t3v_new_like(ctx, x, type); /* x as the product saw it */
    size_t mark = t3v_arena_mark(ctx->arena);
    const void *xc = x->data;
    if (r && r->saved[0]) {
        xc = r->saved[0]->data;
        if (t3v_runs(ctx)) t3v_k(ctx)->rows_convert(r->saved[0]->data, type, x->data, x->type, rows * k);
    } else {
        xc = as_type(ctx, x->data, x->type, type, rows * k);
    }
    t3v_tensor *to = gelu ? gelu : y;
    beside and = {gelu ? T3V_ACT_GELU_TANH : T3V_ACT_NONE, gelu && y ? y->data : NULL};
    if (t3v_runs(ctx))
        product_and(ctx, rows, n, k, xc, type, false, w->data, w->type, w->scale, true, bias->data, to->data,
                    to->type, add, and);
    t3v_arena_back(ctx->arena, mark);
}

static t3v_tensor *dense(t3v_ctx *ctx, const t3v_tensor *w, const t3v_tensor *bias, t3v_tensor *x,
                         t3v_dtype out)
{
    if (!trainable(ctx, w)) return NULL;
    t3v_tensor *y = result(ctx, w, x, out);
    if (y) run_dense(ctx, w, bias, x, y, NULL, false);
    return ctx->status ? NULL : y;
}

/* The same in 8-bit integers. */
static t3v_tensor *dense_int8(t3v_ctx *ctx, const t3v_tensor *w, const t3v_tensor *bias, t3v_tensor *x,
                              t3v_dtype out)
{
    if (ctx->status) return NULL;
    if (ctx->tape)
        return t3v_ctx_fail(ctx, t3v_fail(T3V_E_UNSUPPORTED,
                                          "int8 activations have no gradient: train and differentiate "
                                          "without --act int8"));
    if (t3v_arena_device(ctx->arena))
        return t3v_ctx_fail(ctx, t3v_fail(T3V_E_UNSUPPORTED,
                                          "int8 activations are computed on the CPU alone: leave out "
                                          "--act int8, or --device"));
    t3v_tensor *y = result(ctx, w, x, out);
    if (!y) return NULL;
    int64_t rows = t3v_rows(x), k = in_features(w);
    size_t mark = t3v_arena_mark(ctx->arena), bytes = t3v_int8_work(rows, k);
    void *work = t3v_temp(ctx, (int64_t)bytes, 1);
    t3v_int8_args g = {.m = rows,
                       .n = w->shape[0],
                       .k = k,
                       .x = x->data,
                       .x_type = x->type,
                       .w = w->data,
                       .w_type = w->type,
                       .w_scale = w->scale,
                       .bias = bias->data,
                       .y = y->data,
                       .y_type = out,
                       .work = work};
    if (t3v_runs(ctx)) t3v_ctx_keep(ctx, t3v_int8_linear(&g));
    t3v_arena_back(ctx->arena, mark);
    return ctx->status ? NULL : y;
}

/* The same in 8-bit floats, and GELU of it. */
static t3v_tensor *dense_fp8(t3v_ctx *ctx, const t3v_tensor *w, const t3v_tensor *bias, t3v_tensor *x,
                             t3v_dtype out, t3v_act act)
{
    if (ctx->status) return NULL;
    if (ctx->tape)
        return t3v_ctx_fail(ctx, t3v_fail(T3V_E_UNSUPPORTED,
                                          "8-bit activations have no gradient: train and differentiate "
                                          "without --act fp8"));
    t3v_tensor *y = result(ctx, w, x, out);
    if (!y) return NULL;
    int64_t rows = t3v_rows(x), k = in_features(w);
    size_t mark = t3v_arena_mark(ctx->arena);
    t3v_fp8_args g = {.m = rows,
                      .n = w->shape[0],
                      .k = k,
                      .x = x->data,
                      .x_type = x->type,
                      .w = w->data,
                      .w_scale = w->row_scale,
                      .bias = bias->data,
                      .y = y->data,
                      .y_type = out,
                      .act = act,
                      .q = t3v_data(ctx, rows * k, 1),
                      .scale = t3v_data(ctx, rows, sizeof(float))};
    if (t3v_runs(ctx)) t3v_ctx_keep(ctx, t3v_arena_device(ctx->arena)->fp8(&g));
    t3v_arena_back(ctx->arena, mark);
    return ctx->status ? NULL : y;
}

static t3v_tensor *layer(t3v_ctx *ctx, const t3v_weight *w, t3v_tensor *x, t3v_dtype out, bool int8)
{
    t3v_dtype first = w->loras ? T3V_F32 : out;
    t3v_tensor *y = w->w.row_scale ? dense_fp8(ctx, &w->w, &w->bias, x, first, T3V_ACT_NONE)
                    : int8         ? dense_int8(ctx, &w->w, &w->bias, x, first)
                                   : dense(ctx, &w->w, &w->bias, x, first);
    for (int i = 0; i < w->loras; i++) { /* updates are added in F32 */
        static const t3v_tensor none = {.type = T3V_F32};
        const t3v_lora_pair *l = &w->lora[i];
        t3v_tensor *h = dense(ctx, &l->a, &none, x, T3V_F32);
        y = t3v_add_scaled(ctx, y, dense(ctx, &l->b, &none, h, T3V_F32), l->strength);
    }
    return t3v_cast(ctx, y, out);
}

t3v_tensor *t3v_linear(t3v_ctx *ctx, const t3v_weight *w, t3v_tensor *x, t3v_dtype out)
{
    return layer(ctx, w, x, out, false);
}

t3v_tensor *t3v_linear_tokens(t3v_ctx *ctx, const t3v_weight *w, t3v_tensor *x, t3v_dtype out)
{
    return layer(ctx, w, x, out, ctx->int8);
}

/* On a device one product does it; the CPU's take one pass more, over rows that are still in its caches. */
static bool fuses(const t3v_ctx *ctx, const t3v_weight *w)
{
    return t3v_arena_device(ctx->arena) && !w->loras && !ctx->int8;
}

t3v_tensor *t3v_linear_gelu(t3v_ctx *ctx, const t3v_weight *w, t3v_tensor *x, t3v_dtype out)
{
    if (!fuses(ctx, w)) return t3v_gelu(ctx, t3v_linear_tokens(ctx, w, x, T3V_F32), out);
    if (w->w.row_scale) return dense_fp8(ctx, &w->w, &w->bias, x, out, T3V_ACT_GELU_TANH);
    if (!trainable(ctx, &w->w)) return NULL;
    t3v_tensor *y = result(ctx, &w->w, x, out), *before = ctx->tape ? t3v_new_like(ctx, y, out) : NULL;
    if (ctx->status || !y) return NULL;
    run_dense(ctx, &w->w, &w->bias, x, before, y, false);
    t3v_gelu_made(ctx, before, y);
    return ctx->status ? NULL : y;
}

t3v_tensor *t3v_linear_add(t3v_ctx *ctx, const t3v_weight *w, t3v_tensor *y, t3v_tensor *x)
{
    if (ctx->tape || !fuses(ctx, w) || w->w.row_scale)
        return t3v_gate_residual(ctx, x, t3v_linear_tokens(ctx, w, y, T3V_F32), NULL);
    if (ctx->status || !x || !y) return NULL;
    T3V_ASSERT(x->type == T3V_F32 && t3v_cols(x) == w->w.shape[0] && t3v_cols(y) == in_features(&w->w) &&
               t3v_rows(x) == t3v_rows(y));
    run_dense(ctx, &w->w, &w->bias, y, x, NULL, true);
    return ctx->status ? NULL : x;
}

static void embed_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const float *dy = t3v_grad(ctx, r->out[0]);
    float *dt = t3v_grad(ctx, r->in[0]);
    const int32_t *ids = r->attr;
    int64_t n = r->out[0]->shape[0], d = r->out[0]->shape[1];
    if (!dt || !t3v_runs(ctx)) return;
    for (int64_t i = 0; i < n; i++) t3v_k(ctx)->rows_axpy(dt + ids[i] * d, 1.0f, dy + i * d, d);
}

static const t3v_op embed_op = {"embed", embed_backward};

/* The table stays with the host, also of a model on a device: few of its rows are used. */
t3v_tensor *t3v_embed(t3v_ctx *ctx, const t3v_tensor *table, const int32_t *ids, int64_t n)
{
    int64_t d = table->shape[1];
    size_t row = (size_t)(d / t3v_dtype_block(table->type)) * t3v_dtype_block_bytes(table->type);
    float scale = table->scale ? *table->scale : 1;
    t3v_tensor *y = t3v_new(ctx, T3V_F32, T3V_SHAPE(n, d));
    if (ctx->status) return NULL;
    t3v_tape_add(ctx, &embed_op, T3V_INS((t3v_tensor *)table), y, ids, (size_t)n * sizeof *ids);
    if (!t3v_runs(ctx)) return y;
    float *rows = t3v_host(ctx, y);
    for (int64_t i = 0; i < n; i++)
        t3v_ctx_keep(ctx, t3v_convert_scaled(rows + i * d, T3V_F32,
                                             (const char *)table->data + (size_t)ids[i] * row, table->type,
                                             scale, d));
    t3v_give(ctx, y);
    return ctx->status ? NULL : y;
}
