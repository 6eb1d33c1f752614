/* SPDX-License-Identifier: Apache-2.0 */
/* Activations, residual sums, casts, and copies of rows. */
#include "ops/kernels.h"
#include "ops/ops.h"

static void act_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const t3v_rows_fn *f = r->attr;
    t3v_tensor *x = r->in[0];
    bool accumulate;
    const float *dy = t3v_grad(ctx, r->out[0]);
    float *dx = t3v_grad_write(ctx, x, &accumulate);
    if (dx && t3v_runs(ctx))
        t3v_k(ctx)->rows_act_bwd(*f, dx, T3V_F32, accumulate, dy, T3V_F32, x->data, x->type, t3v_numel(x));
}

static const t3v_op act_op = {"activation", act_backward};

static t3v_tensor *act(t3v_ctx *ctx, t3v_rows_fn f, t3v_tensor *x, t3v_dtype out)
{
    if (ctx->status || !x) return NULL;
    t3v_tensor *y = t3v_new_like(ctx, x, out);
    t3v_tape_add(ctx, &act_op, T3V_INS(x), y, &f, sizeof f);
    if (t3v_runs(ctx)) t3v_k(ctx)->rows_act(f, y->data, out, x->data, x->type, t3v_numel(x));
    return ctx->status ? NULL : y;
}

t3v_tensor *t3v_gelu(t3v_ctx *ctx, t3v_tensor *x, t3v_dtype out)
{
    return act(ctx, T3V_ROWS_GELU_TANH, x, out);
}
void t3v_gelu_made(t3v_ctx *ctx, t3v_tensor *x, t3v_tensor *y)
{
    const t3v_rows_fn f = T3V_ROWS_GELU_TANH;
    t3v_tape_add(ctx, &act_op, T3V_INS(x), y, &f, sizeof f);
}

t3v_tensor *t3v_silu(t3v_ctx *ctx, t3v_tensor *x, t3v_dtype out) { return act(ctx, T3V_ROWS_SILU, x, out); }

static void gelu_erf_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const float *dy = t3v_grad(ctx, r->out[0]);
    float *dx = t3v_grad(ctx, r->in[0]);
    if (dx && t3v_runs(ctx)) t3v_k(ctx)->rows_gelu_erf_bwd(dx, dy, r->in[0]->data, t3v_numel(r->in[0]));
}

static const t3v_op gelu_erf_op = {"gelu_erf", gelu_erf_backward};

t3v_tensor *t3v_gelu_erf(t3v_ctx *ctx, t3v_tensor *x, t3v_dtype out)
{
    if (ctx->status || !x) return NULL;
    T3V_ASSERT(x->type == T3V_F32);
    t3v_tensor *y = t3v_new_like(ctx, x, T3V_F32);
    t3v_tape_add(ctx, &gelu_erf_op, T3V_INS(x), y, NULL, 0);
    if (t3v_runs(ctx)) t3v_k(ctx)->rows_gelu_erf(y->data, x->data, t3v_numel(x));
    return t3v_cast(ctx, y, out);
}

static void geglu_backward(t3v_ctx *ctx, const t3v_record *r)
{
    t3v_tensor *a = r->in[0], *b = r->in[1];
    const float *dy = t3v_grad(ctx, r->out[0]);
    float *da = t3v_grad(ctx, a), *db = t3v_grad(ctx, b);
    if (t3v_runs(ctx))
        t3v_k(ctx)->rows_geglu_bwd(da, T3V_F32, db, T3V_F32, true, dy, T3V_F32, a->data, a->type, b->data,
                                   b->type, t3v_numel(a));
}

static const t3v_op geglu_op = {"geglu", geglu_backward};

t3v_tensor *t3v_geglu(t3v_ctx *ctx, t3v_tensor *gate, t3v_tensor *x, t3v_dtype out)
{
    if (ctx->status || !x || !gate) return NULL;
    T3V_ASSERT(t3v_numel(gate) == t3v_numel(x));
    t3v_tensor *y = t3v_new_like(ctx, x, out);
    t3v_tape_add(ctx, &geglu_op, T3V_INS(gate, x), y, NULL, 0);
    if (t3v_runs(ctx))
        t3v_k(ctx)->rows_geglu(y->data, out, gate->data, gate->type, x->data, x->type, t3v_numel(x));
    return ctx->status ? NULL : y;
}

static void add_scaled_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const float *s = r->attr, *dy = t3v_grad(ctx, r->out[0]);
    int64_t n = t3v_numel(r->out[0]);
    float *da = t3v_grad(ctx, r->in[0]), *db = t3v_grad(ctx, r->in[1]);
    if (!t3v_runs(ctx)) return;
    if (da) t3v_k(ctx)->rows_axpy(da, 1.0f, dy, n);
    if (db) t3v_k(ctx)->rows_axpy(db, *s, dy, n);
}

static const t3v_op add_scaled_op = {"add_scaled", add_scaled_backward};

t3v_tensor *t3v_add_scaled(t3v_ctx *ctx, t3v_tensor *a, t3v_tensor *b, float s)
{
    if (ctx->status || !a || !b) return NULL;
    T3V_ASSERT(t3v_numel(a) == t3v_numel(b));
    t3v_tensor *y = t3v_new_like(ctx, a, a->type);
    t3v_tape_add(ctx, &add_scaled_op, T3V_INS(a, b), y, &s, sizeof s);
    if (t3v_runs(ctx))
        t3v_k(ctx)->rows_lincomb(y->data, y->type, 1.0f, a->data, a->type, s, b->data, b->type, t3v_numel(a));
    return ctx->status ? NULL : y;
}

static void gate_backward(t3v_ctx *ctx, const t3v_record *r)
{
    t3v_tensor *x = r->in[0], *y = r->in[1], *gate = r->in[2];
    const float *dout = t3v_grad(ctx, r->out[0]);
    bool accumulate, stays = t3v_grad_pass(ctx, r->out[0], x);
    float *dx = stays ? NULL : t3v_grad(ctx, x), *dy = t3v_grad_write(ctx, y, &accumulate),
          *dgate = t3v_grad(ctx, gate);
    if (t3v_runs(ctx))
        t3v_ctx_keep(ctx, t3v_k(ctx)->rows_gate_residual_bwd(dx, dy, T3V_F32, accumulate, dgate, dout,
                                                             gate ? gate->data : NULL, y->data, y->type,
                                                             t3v_rows(x), t3v_cols(x)));
}

static const t3v_op gate_op = {"gate_residual", gate_backward};

t3v_tensor *t3v_gate_residual(t3v_ctx *ctx, t3v_tensor *x, t3v_tensor *y, t3v_tensor *gate)
{
    if (ctx->status || !x || !y) return NULL;
    t3v_tensor *out = t3v_new_like(ctx, x, T3V_F32);
    t3v_tape_add(ctx, &gate_op, T3V_INS(x, y, gate), out, NULL, 0);
    if (t3v_runs(ctx))
        t3v_k(ctx)->rows_gate_residual(out->data, x->data, gate ? gate->data : NULL, y->data, y->type,
                                       t3v_rows(x), t3v_cols(x));
    return ctx->status ? NULL : out;
}

static void copy_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const float *dy = t3v_grad(ctx, r->out[0]);
    bool accumulate;
    float *dx = t3v_grad_write(ctx, r->in[0], &accumulate);
    int64_t n = t3v_numel(r->in[0]);
    if (!dx || !t3v_runs(ctx)) return;
    if (accumulate) t3v_k(ctx)->rows_axpy(dx, 1.0f, dy, n);
    else t3v_k(ctx)->move(dx, dy, (size_t)n * sizeof *dx);
}

static const t3v_op cast_op = {"cast", copy_backward}, put_op = {"put", copy_backward};

t3v_tensor *t3v_cast(t3v_ctx *ctx, t3v_tensor *x, t3v_dtype out)
{
    if (ctx->status || !x) return NULL;
    if (x->type == out) return x;
    t3v_tensor *y = t3v_new_like(ctx, x, out);
    t3v_tape_add(ctx, &cast_op, T3V_INS(x), y, NULL, 0);
    if (t3v_runs(ctx)) t3v_k(ctx)->rows_convert(y->data, out, x->data, x->type, t3v_numel(x));
    return ctx->status ? NULL : y;
}

t3v_tensor *t3v_copy(t3v_ctx *ctx, t3v_tensor *x)
{
    if (ctx->status || !x) return NULL;
    t3v_tensor *y = t3v_new_like(ctx, x, x->type);
    t3v_tape_add(ctx, &cast_op, T3V_INS(x), y, NULL, 0);
    if (t3v_runs(ctx)) t3v_k(ctx)->move(y->data, x->data, (size_t)t3v_numel(x) * t3v_dtype_size(x->type));
    return ctx->status ? NULL : y;
}

void t3v_put(t3v_ctx *ctx, t3v_tensor *dst, int64_t first, t3v_tensor *src)
{
    if (ctx->status || !dst || !src) return;
    t3v_tensor *rows = t3v_view(ctx, dst, first, src->shape[0]);
    if (!rows) return;
    T3V_ASSERT(rows->type == src->type && t3v_numel(rows) == t3v_numel(src));
    t3v_tape_add(ctx, &put_op, T3V_INS(src), rows, NULL, 0);
    if (rows->needs_grad) dst->needs_grad = true;
    if (t3v_runs(ctx))
        t3v_k(ctx)->move(rows->data, src->data, (size_t)t3v_numel(src) * t3v_dtype_size(src->type));
}
