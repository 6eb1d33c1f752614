/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of neighbouring positions into channels and back, with means and copies where the numbers do not match. */
#include "ops/conv_op.h"
#include "ops/kernels.h"

/* Values of a block that share a channel. */
static int64_t shared(const t3v_blocks *a) { return a->ft * a->fs * a->fs / a->m; }

static t3v_blocks attr_of(const t3v_block_geom *geom, const int64_t coarse[4], int64_t c, int64_t frames)
{
    t3v_blocks a = {.ft = geom->ft,
                    .fs = geom->fs,
                    .t = coarse[0],
                    .h = coarse[1],
                    .w = coarse[2],
                    .c = c,
                    .m = coarse[3] / c,
                    .frames = frames,
                    .columns = geom->columns};
    T3V_ASSERT(a.m * c == coarse[3] && shared(&a) * a.m == a.ft * a.fs * a.fs);
    T3V_ASSERT(frames > a.ft * (a.t - 1) && frames <= a.ft * a.t);
    return a;
}

static void mean_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const t3v_blocks *a = r->attr;
    const float *dy = t3v_grad(ctx, r->out[0]);
    float *dx = t3v_grad(ctx, r->in[0]);
    if (dx && t3v_runs(ctx)) t3v_k(ctx)->rows_blocks_spread(dx, dy, a, 1.0f / (float)shared(a));
}

static void spread_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const t3v_blocks *a = r->attr;
    const float *dy = t3v_grad(ctx, r->out[0]);
    float *dx = t3v_grad(ctx, r->in[0]);
    if (dx && t3v_runs(ctx)) t3v_k(ctx)->rows_blocks_gather(dx, dy, a, 0, a->frames, 1.0f);
}

static const t3v_op mean_op = {"block_mean", mean_backward}, spread_op = {"block_spread", spread_backward};

t3v_tensor *t3v_block_mean(t3v_ctx *ctx, t3v_tensor *x, const t3v_block_geom *geom, int64_t channels)
{
    if (ctx->status || !x) return NULL;
    const int64_t *s = x->shape;
    t3v_tensor *y = t3v_new(ctx, T3V_F32,
                            T3V_SHAPE((s[0] + geom->ft - 1) / geom->ft, s[1] / geom->fs, s[2] / geom->fs,
                                      channels));
    if (!y) return NULL;
    t3v_blocks a = attr_of(geom, y->shape, s[3], s[0]);
    t3v_tape_add(ctx, &mean_op, T3V_INS(x), y, &a, sizeof a);
    if (t3v_runs(ctx)) t3v_k(ctx)->clear(y->data, (size_t)t3v_numel(y) * sizeof(float));
    t3v_block_mean_add(ctx, x, 0, s[0], geom, y);
    return ctx->status ? NULL : y;
}

void t3v_block_mean_add(t3v_ctx *ctx, const t3v_tensor *x, int64_t first, int64_t frames,
                        const t3v_block_geom *geom, t3v_tensor *y)
{
    if (ctx->status || !x || !y) return;
    T3V_ASSERT(x->type == T3V_F32 && y->type == T3V_F32 && x->shape[1] == y->shape[1] * geom->fs &&
               x->shape[2] == y->shape[2] * geom->fs && first + x->shape[0] <= frames);
    t3v_blocks a = attr_of(geom, y->shape, x->shape[3], frames);
    if (t3v_runs(ctx))
        t3v_k(ctx)->rows_blocks_gather(y->data, x->data, &a, first, x->shape[0], 1.0f / (float)shared(&a));
}

t3v_tensor *t3v_block_spread(t3v_ctx *ctx, t3v_tensor *x, const t3v_block_geom *geom, int64_t channels,
                             int64_t frames)
{
    if (ctx->status || !x) return NULL;
    const int64_t *s = x->shape;
    t3v_tensor *y = t3v_new(ctx, T3V_F32, T3V_SHAPE(frames, s[1] * geom->fs, s[2] * geom->fs, channels));
    if (!y) return NULL;
    t3v_blocks a = attr_of(geom, s, channels, frames);
    t3v_tape_add(ctx, &spread_op, T3V_INS(x), y, &a, sizeof a);
    if (t3v_runs(ctx)) t3v_k(ctx)->clear(y->data, (size_t)t3v_numel(y) * sizeof(float));
    t3v_block_spread_add(ctx, x, geom, y);
    return ctx->status ? NULL : y;
}

void t3v_block_spread_add(t3v_ctx *ctx, const t3v_tensor *x, const t3v_block_geom *geom, t3v_tensor *y)
{
    if (ctx->status || !x || !y) return;
    T3V_ASSERT(x->type == T3V_F32 && y->type == T3V_F32 && y->shape[1] == x->shape[1] * geom->fs &&
               y->shape[2] == x->shape[2] * geom->fs);
    t3v_blocks a = attr_of(geom, x->shape, y->shape[3], y->shape[0]);
    if (t3v_runs(ctx)) t3v_k(ctx)->rows_blocks_spread(y->data, x->data, &a, 1.0f);
}
