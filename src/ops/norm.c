/* SPDX-License-Identifier: Apache-2.0 */
/* Layer norm with modulation, RMS norm, and RMS norm + rotary embedding of q and k. */
#include "ops/kernels.h"
#include "ops/ops.h"

typedef struct norm_attr {
    bool one_plus;
    double eps;
    const t3v_rope *rope;
    int64_t first;
} norm_attr;

/* A row kernel that can be given NULL where no gradient is wanted. */
static void layernorm_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const norm_attr *a = r->attr;
    t3v_tensor *x = r->in[0], *scale = r->in[1], *y = r->out[0];
    bool accumulate;
    const float *dy = t3v_grad(ctx, y);
    float *dx = t3v_grad_write(ctx, x, &accumulate);
    float *dscale = t3v_grad(ctx, scale), *dshift = t3v_grad(ctx, r->in[2]);
    if (t3v_runs(ctx))
        t3v_ctx_keep(ctx, t3v_k(ctx)->rows_layernorm_bwd(dx, accumulate, dscale, dshift, dy, T3V_F32, x->data,
                                                         scale->data, a->one_plus, (float)a->eps, t3v_rows(x),
                                                         t3v_cols(x)));
}

static const t3v_op layernorm_op = {"layernorm", layernorm_backward};

t3v_tensor *t3v_layernorm(t3v_ctx *ctx, t3v_tensor *x, t3v_tensor *scale, t3v_tensor *shift, bool one_plus,
                          double eps, t3v_dtype out)
{
    if (ctx->status || !x) return NULL;
    t3v_tensor *y = t3v_new_like(ctx, x, out);
    norm_attr a = {.one_plus = one_plus, .eps = eps};
    t3v_tape_add(ctx, &layernorm_op, T3V_INS(x, scale, shift), y, &a, sizeof a);
    if (t3v_runs(ctx))
        t3v_k(ctx)->rows_layernorm(y->data, out, x->data, scale->data, shift->data, one_plus, (float)eps,
                                   t3v_rows(x), t3v_cols(x));
    return ctx->status ? NULL : y;
}

static void rmsnorm_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const norm_attr *a = r->attr;
    t3v_tensor *x = r->in[0], *g = r->in[1];
    bool accumulate;
    const float *dy = t3v_grad(ctx, r->out[0]);
    float *dx = t3v_grad_write(ctx, x, &accumulate), *dg = t3v_grad(ctx, g);
    if (t3v_runs(ctx))
        t3v_ctx_keep(ctx,
                     t3v_k(ctx)->rows_rmsnorm_bwd(dx, T3V_F32, accumulate, dg, dy, T3V_F32, x->data, x->type,
                                                  g->data, (float)a->eps, t3v_rows(x), t3v_cols(x)));
}

static const t3v_op rmsnorm_op = {"rmsnorm", rmsnorm_backward};

t3v_tensor *t3v_rmsnorm(t3v_ctx *ctx, t3v_tensor *x, const t3v_tensor *g, double eps, t3v_dtype out)
{
    if (ctx->status || !x) return NULL;
    t3v_tensor *y = t3v_new_like(ctx, x, out);
    norm_attr a = {.eps = eps};
    t3v_tape_add(ctx, &rmsnorm_op, T3V_INS(x, (t3v_tensor *)g), y, &a, sizeof a);
    if (t3v_runs(ctx))
        t3v_k(ctx)->rows_rmsnorm(y->data, out, x->data, x->type, g->data, (float)eps, t3v_rows(x),
                                 t3v_cols(x));
    return ctx->status ? NULL : y;
}

static void qk_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const norm_attr *a = r->attr;
    t3v_tensor *x = r->in[0], *g = r->in[1];
    int64_t d = t3v_cols(x);
    bool accumulate;
    const float *dy = t3v_grad(ctx, r->out[0]);
    float *dx = t3v_grad_write(ctx, x, &accumulate), *dg = t3v_grad(ctx, g);
    if (t3v_runs(ctx))
        t3v_ctx_keep(ctx, t3v_k(ctx)->rows_qk_norm_rope_bwd(dx, T3V_F32, d, accumulate, dg, dy, T3V_F32, d,
                                                            x->data, x->type, d, g->data, (float)a->eps,
                                                            a->rope, a->first, t3v_rows(x), d));
}

static const t3v_op qk_op = {"qk_norm_rope", qk_backward};

t3v_tensor *t3v_qk_norm_rope(t3v_ctx *ctx, t3v_tensor *x, const t3v_tensor *g, int64_t heads, double eps,
                             const t3v_rope *rope, int64_t first, t3v_dtype out)
{
    if (ctx->status || !x) return NULL;
    int64_t d = t3v_cols(x);
    T3V_ASSERT(!rope || rope->hd * heads == d);
    t3v_tensor *y = t3v_new_like(ctx, x, out);
    norm_attr a = {.eps = eps, .rope = rope, .first = first};
    t3v_tape_add(ctx, &qk_op, T3V_INS(x, (t3v_tensor *)g), y, &a, sizeof a);
    if (t3v_runs(ctx))
        t3v_k(ctx)->rows_qk_norm_rope(y->data, out, d, x->data, x->type, d, g->data, (float)eps, rope, first,
                                      t3v_rows(x), d);
    return ctx->status ? NULL : y;
}
