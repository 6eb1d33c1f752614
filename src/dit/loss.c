/* SPDX-License-Identifier: Apache-2.0 */
/* The training loss of the DiT, with the plain tape or with blocks run again on the way back. */
#include <string.h>

#include "attn/attend_op.h"
#include "base/log.h"
#include "dit/dit.h"
#include "ops/kernels.h"

/* mean((v - target)^2), of the frames that are compared, and weight times its gradient in dv. */
static double compare(const t3v_ctx *ctx, t3v_tensor *dv, double weight, const t3v_tensor *v,
                      const float *target, const t3v_dit_call *call)
{
    const t3v_kernels *k = t3v_k(ctx);
    int64_t parts = call->skip_first ? v->shape[0] : 1, n = t3v_numel(v) / parts;
    int64_t skip = call->skip_first ? v->shape[2] * v->shape[3] : 0;
    double sum = 0;
    if (skip) k->clear(dv->data, (size_t)t3v_numel(v) * sizeof(float));
    for (int64_t at = skip; at < parts * n; at += n)
        sum += k->rows_mse((float *)dv->data + at, (float)(weight / (double)parts),
                           (const float *)v->data + at, target + at, n - skip);
    return sum / (double)parts;
}

static t3v_status plain(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *latent, const float *target,
                        double weight, const t3v_dit_call *call, double *loss)
{
    t3v_tensor *v = t3v_dit_forward(ctx, dit, latent, call), *dv = t3v_new_like(ctx, v, T3V_F32);
    if (ctx->status) return ctx->status;
    if (t3v_runs(ctx)) *loss = compare(ctx, dv, weight, v, target, call);
    return t3v_backward(ctx, v, dv->data);
}

void t3v_dit_teach(t3v_ctx *ctx, const t3v_dit *dit, const t3v_dit_call *call, int64_t layer, t3v_tensor *o)
{
    enum { PART = 1 << 15 };
    if (!call->teacher || !o || ctx->status) return;
    const t3v_tensor *to = call->teacher[layer];
    int64_t n = t3v_numel(o), size = (int64_t)t3v_dtype_size(o->type);
    float *grad = t3v_grad(ctx, o); /* NULL: nothing before o is trained */
    size_t mark = t3v_arena_mark(ctx->arena);
    float *a = t3v_data(ctx, PART, sizeof *a), *b = t3v_data(ctx, PART, sizeof *b),
          *d = t3v_data(ctx, PART, sizeof *d);
    double sum = 0, all = (double)n * (double)dit->config.layers;
    for (int64_t i = 0; i < n && t3v_runs(ctx); i += PART) {
        int64_t len = i + PART < n ? PART : n - i;
        t3v_k(ctx)->rows_convert(a, T3V_F32, (const char *)o->data + i * size, o->type, len);
        t3v_k(ctx)->rows_convert(b, T3V_F32, (const char *)to->data + i * size, to->type, len);
        sum += t3v_k(ctx)->rows_mse(d, (float)(call->teach * (double)len / all), a, b, len) * (double)len;
        if (grad) t3v_k(ctx)->rows_add(grad + i, grad + i, d, len);
    }
    *call->taught += sum / all;
    t3v_arena_back(ctx->arena, mark);
}

/* A gradient buffer for x that outlives the marks to come. */
static void give_grad(t3v_ctx *ctx, t3v_tensor *x, float *buffer)
{
    if (!x || ctx->status) return;
    x->needs_grad = true;
    x->grad = buffer;
    if (t3v_runs(ctx)) t3v_k(ctx)->clear(buffer, (size_t)t3v_numel(x) * sizeof *buffer);
}

/* From the gradient of the block's output `dnext` [n, dim] to those of x, m, the prompt and the weights. */
static void block_backward(t3v_ctx *ctx, const t3v_dit *dit, int64_t layer, t3v_tensor *x,
                           const t3v_dit_by_time *m, const t3v_rope *rope, const t3v_dit_call *call,
                           int64_t range, const float *dnext)
{
    const t3v_dit_block *b = &dit->block[layer];
    const t3v_site *self = &call->plan->layer[layer].site[T3V_SITE_SELF];
    int64_t n = x->shape[0], d = dit->config.dim, len;
    t3v_tape attention = {0}, part = {0};
    ctx->tape = NULL;
    t3v_qkv p = t3v_dit_pre_all(ctx, dit, b, x, m, rope, range);
    if (ctx->status) return;
    p.q->needs_grad = p.k->needs_grad = p.v->needs_grad = true;
    ctx->tape = &attention;
    t3v_attend_own own = t3v_dit_own(dit, call, layer);
    t3v_tensor *o = t3v_attend(ctx, self, dit->config.heads, p.q, p.k, p.v, NULL, &call->moment, &own);
    t3v_tensor *grads[] = {o, p.q, p.k, p.v};
    for (int i = 0; i < 4; i++) (void)t3v_grad(ctx, grads[i]);
    t3v_dit_teach(ctx, dit, call, layer, o);
    for (int64_t r = 0; r < n && !ctx->status; r += len) {
        size_t mark = t3v_arena_mark(ctx->arena);
        len = t3v_dit_piece(m, r, range, n);
        ctx->tape = &part;
        t3v_tensor *y = t3v_dit_post(ctx, dit, b, t3v_view(ctx, x, r, len), t3v_view(ctx, o, r, len),
                                     t3v_dit_of(m, r), call, layer);
        if (y) (void)t3v_backward(ctx, y, dnext + r * d);
        t3v_arena_back(ctx->arena, mark);
    }
    ctx->tape = &attention;
    if (!ctx->status) (void)t3v_backward(ctx, o, NULL);
    for (int64_t r = 0; r < n && !ctx->status; r += len) {
        size_t mark = t3v_arena_mark(ctx->arena);
        len = t3v_dit_piece(m, r, range, n);
        ctx->tape = &part;
        t3v_qkv again = t3v_dit_pre(ctx, dit, b, t3v_view(ctx, x, r, len), t3v_dit_of(m, r), rope, r);
        t3v_put(ctx, p.q, r, again.q); /* the same values: this hands the gradients of these rows over */
        t3v_put(ctx, p.k, r, again.k);
        t3v_put(ctx, p.v, r, again.v);
        if (!ctx->status) (void)t3v_backward(ctx, p.q, NULL);
        t3v_arena_back(ctx->arena, mark);
    }
    ctx->tape = NULL;
}

static t3v_status recomputed(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *latent, const float *target,
                             double weight, const t3v_dit_call *call, double *loss)
{
    int64_t grid[3], layers = dit->config.layers;
    t3v_status st = t3v_dit_check(dit, latent, call, grid);
    if (st) return ctx->status = st;
    int64_t n = grid[0] * grid[1] * grid[2], d = dit->config.dim, range = t3v_dit_range(ctx, call, false, n);
    t3v_tape *outer = ctx->tape, ends = {0};

    /* What is small stays on the caller's tape and is walked back last. */
    t3v_rope *rope = t3v_dit_rope(ctx, dit, grid);
    t3v_dit_by_time e, e0, *m = t3v_temp(ctx, layers, sizeof *m);
    t3v_tensor **x = t3v_temp(ctx, layers + 1, sizeof *x);
    t3v_dit_times(ctx, dit, call, grid, &e, &e0);
    if (ctx->status) return ctx->status;
    for (int64_t i = 0; i < layers; i++) m[i] = t3v_dit_modulation(ctx, &dit->block[i], &e0);
    x[0] = t3v_dit_embed_all(ctx, dit, latent, n, range);

    ctx->tape = NULL;
    for (int64_t i = 0; i < layers && !ctx->status; i++) {
        if ((st = t3v_report(call->progress, "blocks", i, 2 * layers))) t3v_ctx_fail(ctx, st);
        x[i + 1] = t3v_new_like(ctx, x[0], T3V_F32);
        t3v_dit_block_run(ctx, dit, i, x[i], &m[i], rope, call, range, x[i + 1]);
    }
    float *grad = t3v_data(ctx, n * d, sizeof *grad), *spare = t3v_data(ctx, n * d, sizeof *spare);
    for (int k = 0; k < 2 && !ctx->status; k++) {
        (void)t3v_grad(ctx, e.of[k]);
        for (int64_t i = 0; i < layers; i++) (void)t3v_grad(ctx, m[i].of[k]);
    }
    for (int64_t i = 0; i < layers && !ctx->status; i++) {
        (void)t3v_grad(ctx, call->prompt->k[i]);
        (void)t3v_grad(ctx, call->prompt->v[i]);
        (void)t3v_grad(ctx, call->image ? call->image->k[i] : NULL);
        (void)t3v_grad(ctx, call->image ? call->image->v[i] : NULL);
    }
    size_t mark = t3v_arena_mark(ctx->arena);
    if (!ctx->status) {
        ctx->tape = &ends;
        give_grad(ctx, x[layers], grad);
        t3v_tensor *v = t3v_new(ctx, T3V_F32,
                                T3V_SHAPE(dit->config.out_dim, grid[0], latent->shape[2], latent->shape[3]));
        t3v_tensor *dv = t3v_new_like(ctx, v, T3V_F32);
        t3v_dit_head_all(ctx, dit, x[layers], &e, range, v);
        if (t3v_runs(ctx)) *loss = compare(ctx, dv, weight, v, target, call);
        if (!ctx->status) (void)t3v_backward(ctx, v, dv->data);
        t3v_arena_back(ctx->arena, mark);
    }
    for (int64_t i = layers - 1; i >= 0 && !ctx->status; i--) {
        if ((st = t3v_report(call->progress, "blocks", 2 * layers - 1 - i, 2 * layers)))
            t3v_ctx_fail(ctx, st);
        give_grad(ctx, x[i], spare);
        block_backward(ctx, dit, i, x[i], &m[i], rope, call, range, grad);
        t3v_arena_back(ctx->arena, mark);
        float *done = grad;
        grad = spare;
        spare = done;
    }
    ctx->tape = outer;
    return ctx->status ? ctx->status : t3v_backward(ctx, x[0], NULL);
}

t3v_status t3v_dit_loss(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *latent, t3v_tensor *context,
                        const float *target, double weight, const t3v_dit_call *call, bool recompute,
                        double *loss)
{
    T3V_ASSERT(ctx->tape);
    *loss = 0;
    if (ctx->status || !context) return ctx->status;
    t3v_dit_prompt prompt;
    T3V_TRY(t3v_dit_prompt_make(ctx, dit, context, &prompt));
    t3v_dit_call mine = *call;
    mine.prompt = &prompt;
    return (recompute ? recomputed : plain)(ctx, dit, latent, target, weight, &mine, loss);
}
