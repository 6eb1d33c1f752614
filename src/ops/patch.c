/* SPDX-License-Identifier: Apache-2.0 */
/* Patches of the latent to token rows and back. */
#include "ops/kernels.h"
#include "ops/ops.h"

static void patchify_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const int64_t *first = r->attr, *s = r->in[0]->shape;
    const float *dy = t3v_grad(ctx, r->out[0]);
    float *dx = t3v_grad(ctx, r->in[0]);
    if (dx && t3v_runs(ctx))
        t3v_k(ctx)->rows_unpatchify(dx, T3V_F32, dy, T3V_F32, T3V_PATCH_IN, true, s[0], s[1], s[2], s[3],
                                    *first, *first + r->out[0]->shape[0]);
}

static const t3v_op patchify_op = {"patchify", patchify_backward};

t3v_tensor *t3v_patchify(t3v_ctx *ctx, t3v_tensor *latent, int64_t first, int64_t n)
{
    if (ctx->status || !latent) return NULL;
    const int64_t *s = latent->shape;
    t3v_tensor *y = t3v_new(ctx, T3V_F32, T3V_SHAPE(n, 4 * s[0]));
    t3v_tape_add(ctx, &patchify_op, T3V_INS(latent), y, &first, sizeof first);
    if (t3v_runs(ctx))
        t3v_k(ctx)->rows_patchify(y->data, T3V_F32, latent->data, latent->type, T3V_PATCH_IN, false, s[0],
                                  s[1], s[2], s[3], first, first + n);
    return ctx->status ? NULL : y;
}

static void unpatchify_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const int64_t *first = r->attr, *s = r->out[0]->shape;
    const float *dy = t3v_grad(ctx, r->out[0]);
    bool accumulate;
    float *dx = t3v_grad_write(ctx, r->in[0], &accumulate);
    if (dx && t3v_runs(ctx))
        t3v_k(ctx)->rows_patchify(dx, T3V_F32, dy, T3V_F32, T3V_PATCH_OUT, accumulate, s[0], s[1], s[2], s[3],
                                  *first, *first + r->in[0]->shape[0]);
}

static const t3v_op unpatchify_op = {"unpatchify", unpatchify_backward};

void t3v_unpatchify(t3v_ctx *ctx, t3v_tensor *latent, int64_t first, t3v_tensor *rows)
{
    if (ctx->status || !latent || !rows) return;
    const int64_t *s = latent->shape;
    t3v_tape_add(ctx, &unpatchify_op, T3V_INS(rows), latent, &first, sizeof first);
    if (t3v_runs(ctx))
        t3v_k(ctx)->rows_unpatchify(latent->data, latent->type, rows->data, rows->type, T3V_PATCH_OUT, false,
                                    s[0], s[1], s[2], s[3], first, first + rows->shape[0]);
}
