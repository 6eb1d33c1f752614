/* SPDX-License-Identifier: Apache-2.0 */
/* Convolution, norm with cached frames in front, upsampling and layout changes, with their gradients. */
#include "ops/conv_op.h"

#include <string.h>

#include "ops/kernels.h"

/* ---- convolution ---------------------------------------------------------------------------------- */

static t3v_conv_shape conv_shape(const t3v_tensor *w, const int64_t x[4], const t3v_conv_geom *g,
                                 t3v_dtype type)
{
    bool flat = w->ndim == 4; /* a 2-D kernel */
    return (t3v_conv_shape){
        .t = x[0],
        .h = x[1],
        .w = x[2],
        .cin = w->shape[1],
        .cout = w->shape[0],
        .kt = flat ? 1 : w->shape[2],
        .kh = w->shape[w->ndim - 2],
        .kw = w->shape[w->ndim - 1],
        .st = g->stride_t,
        .sh = g->stride_hw,
        .sw = g->stride_hw,
        .pt0 = g->front,
        .ph0 = g->before,
        .ph1 = g->after,
        .pw0 = g->before,
        .pw1 = g->after,
        .type = type,
    };
}

static void *pack(t3v_ctx *ctx, const t3v_conv_shape *s, t3v_conv_dir dir, const t3v_tensor *w)
{
    size_t bytes = 0;
    t3v_ctx_keep(ctx, t3v_k(ctx)->conv_packed_size(s, dir, &bytes));
    void *p = t3v_data(ctx, (int64_t)bytes, 1);
    if (p && t3v_runs(ctx)) t3v_ctx_keep(ctx, t3v_k(ctx)->conv_pack(s, dir, w->data, w->type, p));
    return p;
}

static void conv_backward(t3v_ctx *ctx, const t3v_record *r)
{
    t3v_tensor *x = r->in[0], *w = r->in[1], *y = r->out[0];
    t3v_conv_shape s = conv_shape(w, x->shape, r->attr, x->type);
    int64_t n = t3v_numel(y), nx = t3v_numel(x);
    bool accumulate;
    const float *dy = t3v_grad(ctx, y);
    float *dx = t3v_grad_write(ctx, x, &accumulate), *dw = t3v_grad(ctx, w), *db = t3v_grad(ctx, r->in[2]);
    size_t mark = t3v_arena_mark(ctx->arena);
    const void *dyc = dy;
    if (s.type != T3V_F32) {
        void *c = t3v_data(ctx, n, t3v_dtype_size(s.type));
        if (t3v_runs(ctx)) t3v_k(ctx)->rows_convert(c, s.type, dy, T3V_F32, n);
        dyc = c;
    }
    if ((dw || db) && t3v_runs(ctx))
        t3v_ctx_keep(ctx, t3v_k(ctx)->conv_backward_weights(&s, x->data, dyc, dw, db));
    if (dx) {
        void *p = pack(ctx, &s, T3V_CONV_BACKWARD_DATA, w);
        float *d = accumulate ? t3v_data(ctx, nx, sizeof *d) : dx;
        if (t3v_runs(ctx)) t3v_ctx_keep(ctx, t3v_k(ctx)->conv_backward_data(&s, dyc, p, d, T3V_F32));
        if (accumulate && t3v_runs(ctx)) t3v_k(ctx)->rows_axpy(dx, 1.0f, d, nx);
    }
    t3v_arena_back(ctx->arena, mark);
}

static const t3v_op conv_op = {"conv", conv_backward};

t3v_tensor *t3v_conv(t3v_ctx *ctx, const t3v_conv_weight *w, t3v_tensor *x, const t3v_conv_geom *g,
                     t3v_dtype out)
{
    if (ctx->status || !x) return NULL;
    t3v_conv_shape s = conv_shape(&w->w, x->shape, g, x->type);
    int64_t to, ho, wo;
    t3v_status st = t3v_conv_out(&s, &to, &ho, &wo);
    if (st) return t3v_ctx_fail(ctx, st);
    t3v_tensor *y = t3v_new(ctx, out, T3V_SHAPE(to, ho, wo, s.cout));
    t3v_tape_add(ctx, &conv_op, T3V_INS(x, (t3v_tensor *)&w->w, (t3v_tensor *)&w->bias), y, g, sizeof *g);
    t3v_conv_into(ctx, w, x, g, y, false);
    return ctx->status ? NULL : y;
}

void t3v_conv_into(t3v_ctx *ctx, const t3v_conv_weight *w, t3v_tensor *x, const t3v_conv_geom *g,
                   t3v_tensor *y, bool add)
{
    if (ctx->status || !x || !y) return;
    T3V_ASSERT(x->ndim == 4 && x->shape[3] == w->w.shape[1] && x->type == ctx->compute);
    t3v_conv_shape s = conv_shape(&w->w, x->shape, g, x->type);
    int64_t to, ho, wo;
    t3v_ctx_keep(ctx, t3v_conv_out(&s, &to, &ho, &wo));
    T3V_ASSERT(ctx->status || t3v_numel(y) == to * ho * wo * s.cout);
    size_t mark = t3v_arena_mark(ctx->arena);
    const void *p = w->packed ? w->packed : pack(ctx, &s, T3V_CONV_FORWARD, &w->w);
    int64_t scratch = ctx->arena->counting && !ctx->arena->space ? t3v_conv_forward_scratch(&s, y->type) : 0;
    if (scratch) t3v_temp(ctx, scratch, 1);
    if (t3v_runs(ctx))
        t3v_ctx_keep(ctx, add ? t3v_k(ctx)->conv_forward_add(&s, x->data, p, w->bias.data, y->data)
                              : t3v_k(ctx)->conv_forward(&s, x->data, p, w->bias.data, y->data, y->type));
    t3v_arena_back(ctx->arena, mark);
}

t3v_status t3v_conv_prepare(t3v_ctx *ctx, t3v_conv_weight *w, int64_t t, int64_t height, int64_t width)
{
    t3v_conv_geom g = {1, 1, 0, 1, 1};
    t3v_conv_shape s = conv_shape(&w->w, (int64_t[]){t + 2, height, width, 0}, &g, ctx->compute);
    if (s.kh == 1) s.ph0 = s.ph1 = s.pw0 = s.pw1 = 0;
    w->packed = pack(ctx, &s, T3V_CONV_FORWARD, &w->w);
    return ctx->status;
}

/* ---- norm with cached frames in front -------------------------------------------------------------- */

static void cat_norm_backward(t3v_ctx *ctx, const t3v_record *r)
{
    t3v_tensor *front = r->in[0], *x = r->in[1], *gamma = r->in[2];
    const bool *silu = r->attr;
    int64_t nf = front ? t3v_numel(front) : 0, c = t3v_cols(x);
    const float *dy = t3v_grad(ctx, r->out[0]);
    float *df = t3v_grad(ctx, front), *dg = t3v_grad(ctx, gamma);
    bool accumulate;
    float *dx = t3v_grad_write(ctx, x, &accumulate);
    if (!t3v_runs(ctx)) return;
    if (df) t3v_k(ctx)->rows_axpy(df, 1.0f, dy, nf);
    if (gamma)
        t3v_ctx_keep(ctx,
                     t3v_k(ctx)->rows_vae_norm_bwd(dx, T3V_F32, accumulate, dg, dy + nf, T3V_F32, x->data,
                                                   x->type, gamma->data, *silu, t3v_rows(x), c));
    else if (dx && accumulate) t3v_k(ctx)->rows_axpy(dx, 1.0f, dy + nf, t3v_numel(x));
    else if (dx) t3v_k(ctx)->move(dx, dy + nf, (size_t)t3v_numel(x) * sizeof *dx);
}

static const t3v_op cat_norm_op = {"cat_norm", cat_norm_backward};

t3v_tensor *t3v_cat_norm(t3v_ctx *ctx, t3v_tensor *front, t3v_tensor *x, const t3v_tensor *gamma, bool silu)
{
    if (ctx->status || !x) return NULL;
    int64_t tf = front ? front->shape[0] : 0, nf = front ? t3v_numel(front) : 0;
    t3v_tensor *y = t3v_new(ctx, ctx->compute,
                            T3V_SHAPE(tf + x->shape[0], x->shape[1], x->shape[2], x->shape[3]));
    t3v_tape_add(ctx, &cat_norm_op, T3V_INS(front, x, (t3v_tensor *)gamma), y, &silu, sizeof silu);
    if (!t3v_runs(ctx)) return y;
    size_t size = t3v_dtype_size(ctx->compute);
    if (nf) t3v_k(ctx)->move(y->data, front->data, (size_t)nf * size);
    void *rest = (char *)y->data + (size_t)nf * size;
    if (gamma)
        t3v_k(ctx)->rows_vae_norm(rest, y->type, x->data, x->type, gamma->data, silu, t3v_rows(x),
                                  t3v_cols(x));
    else t3v_k(ctx)->rows_convert(rest, y->type, x->data, x->type, t3v_numel(x));
    return y;
}

/* ---- layout ---------------------------------------------------------------------------------------- */

static void upsample_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const int64_t *s = r->in[0]->shape;
    bool accumulate;
    const float *dy = t3v_grad(ctx, r->out[0]);
    float *dx = t3v_grad_write(ctx, r->in[0], &accumulate);
    if (dx && t3v_runs(ctx))
        t3v_k(ctx)->rows_upsample2x_bwd(dx, T3V_F32, accumulate, dy, T3V_F32, s[0], s[1], s[2], s[3]);
}

static const t3v_op upsample_op = {"upsample2x", upsample_backward};

t3v_tensor *t3v_upsample2x(t3v_ctx *ctx, t3v_tensor *x)
{
    if (ctx->status || !x) return NULL;
    const int64_t *s = x->shape;
    t3v_tensor *y = t3v_new(ctx, x->type, T3V_SHAPE(s[0], 2 * s[1], 2 * s[2], s[3]));
    t3v_tape_add(ctx, &upsample_op, T3V_INS(x), y, NULL, 0);
    if (t3v_runs(ctx)) t3v_k(ctx)->rows_upsample2x(y->data, x->data, x->type, s[0], s[1], s[2], s[3]);
    return y;
}

/* Moves the channel halves of frame i to frames 2i and 2i + 1, or back: `half` bytes a position. */
static void interleave(t3v_ctx *ctx, char *frames, char *halves, int64_t t, int64_t positions, int64_t half,
                       bool back)
{
    for (int64_t i = 0; i < 2 * t; i++) {
        char *a = halves + (i / 2 * 2 * positions + i % 2) * half, *b = frames + i * positions * half;
        t3v_k(ctx)->move_rows(back ? a : b, back ? 2 * half : half, back ? b : a, back ? half : 2 * half,
                              half, positions);
    }
}

static void interleave_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const int64_t *s = r->in[0]->shape;
    int64_t n = t3v_numel(r->in[0]);
    float *dy = t3v_grad(ctx, r->out[0]), *dx = t3v_grad(ctx, r->in[0]);
    size_t mark = t3v_arena_mark(ctx->arena);
    float *d = dx ? t3v_data(ctx, n, sizeof *d) : NULL;
    if (d && t3v_runs(ctx)) {
        interleave(ctx, (char *)dy, (char *)d, s[0], s[1] * s[2], s[3] / 2 * (int64_t)sizeof *d, true);
        t3v_k(ctx)->rows_axpy(dx, 1.0f, d, n);
    }
    t3v_arena_back(ctx->arena, mark);
}

static const t3v_op interleave_op = {"interleave_frames", interleave_backward};

t3v_tensor *t3v_interleave_frames(t3v_ctx *ctx, t3v_tensor *x)
{
    if (ctx->status || !x) return NULL;
    const int64_t *s = x->shape;
    t3v_tensor *y = t3v_new(ctx, x->type, T3V_SHAPE(2 * s[0], s[1], s[2], s[3] / 2));
    t3v_tape_add(ctx, &interleave_op, T3V_INS(x), y, NULL, 0);
    if (t3v_runs(ctx))
        interleave(ctx, y->data, x->data, s[0], s[1] * s[2], s[3] / 2 * (int64_t)t3v_dtype_size(x->type),
                   false);
    return y;
}

/* The gradient of a transpose [n, d] -> [d, n] is the transpose back. */
static void transpose_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const int64_t *nd = r->attr;
    int64_t n = nd[0] * nd[1];
    const float *dy = t3v_grad(ctx, r->out[0]);
    float *dx = t3v_grad(ctx, r->in[0]);
    size_t mark = t3v_arena_mark(ctx->arena);
    float *d = dx ? t3v_data(ctx, n, sizeof *d) : NULL;
    if (d && t3v_runs(ctx)) {
        t3v_k(ctx)->rows_transpose(d, T3V_F32, dy, T3V_F32, nd[1], nd[0]);
        t3v_k(ctx)->rows_axpy(dx, 1.0f, d, n);
    }
    t3v_arena_back(ctx->arena, mark);
}

static const t3v_op transpose_op = {"transpose", transpose_backward};

static t3v_tensor *transpose(t3v_ctx *ctx, t3v_tensor *x, int64_t n, int64_t d, t3v_dtype out, int ndim,
                             const int64_t *shape)
{
    t3v_tensor *y = t3v_new(ctx, out, ndim, shape);
    int64_t nd[2] = {n, d};
    t3v_tape_add(ctx, &transpose_op, T3V_INS(x), y, nd, sizeof nd);
    if (t3v_runs(ctx)) t3v_k(ctx)->rows_transpose(y->data, out, x->data, x->type, n, d);
    return ctx->status ? NULL : y;
}

t3v_tensor *t3v_channels_last(t3v_ctx *ctx, t3v_tensor *x, t3v_dtype out)
{
    if (ctx->status || !x) return NULL;
    const int64_t *s = x->shape;
    return transpose(ctx, x, s[0], s[1] * s[2] * s[3], out, T3V_SHAPE(s[1], s[2], s[3], s[0]));
}

t3v_tensor *t3v_channels_first(t3v_ctx *ctx, t3v_tensor *x)
{
    if (ctx->status || !x) return NULL;
    const int64_t *s = x->shape;
    return transpose(ctx, x, s[0] * s[1] * s[2], s[3], T3V_F32, T3V_SHAPE(s[3], s[0], s[1], s[2]));
}

static void columns_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const int64_t *first = r->attr;
    int64_t rows = t3v_rows(r->in[0]), c = t3v_cols(r->in[0]), n = t3v_cols(r->out[0]);
    const float *dy = t3v_grad(ctx, r->out[0]);
    float *dx = t3v_grad(ctx, r->in[0]);
    size_t mark = t3v_arena_mark(ctx->arena);
    float *all = dx ? t3v_data(ctx, rows * c, sizeof *all) : NULL;
    if (all && t3v_runs(ctx)) {
        t3v_k(ctx)->clear(all, (size_t)(rows * c) * sizeof *all);
        t3v_k(ctx)->move_rows(all + *first, c * 4, dy, n * 4, n * 4, rows);
        t3v_k(ctx)->rows_axpy(dx, 1.0f, all, rows * c);
    }
    t3v_arena_back(ctx->arena, mark);
}

static const t3v_op columns_op = {"columns", columns_backward};

t3v_tensor *t3v_columns(t3v_ctx *ctx, t3v_tensor *x, int64_t first, int64_t n)
{
    if (ctx->status || !x) return NULL;
    int64_t rows = t3v_rows(x), c = t3v_cols(x), shape[T3V_MAX_DIMS];
    T3V_ASSERT(x->type == T3V_F32 && first >= 0 && first + n <= c);
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = n;
    t3v_tensor *y = t3v_new(ctx, T3V_F32, x->ndim, shape);
    t3v_tape_add(ctx, &columns_op, T3V_INS(x), y, &first, sizeof first);
    if (t3v_runs(ctx))
        t3v_k(ctx)->move_rows(y->data, n * 4, (const float *)x->data + first, c * 4, n * 4, rows);
    return ctx->status ? NULL : y;
}
