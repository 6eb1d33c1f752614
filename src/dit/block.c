/* SPDX-License-Identifier: Apache-2.0 */
/* A DiT block in three parts: before attention, (attention), after attention. The first and the last work on
 * any range of tokens; and the walk over all ranges. */
#include "attn/attend_op.h"
#include "attn/own.h"
#include "dit/dit.h"
#include "ops/kernels.h"

t3v_dit_by_time t3v_dit_modulation(t3v_ctx *ctx, const t3v_dit_block *b, const t3v_dit_by_time *e0)
{
    int64_t dim = b->modulation.shape[2];
    t3v_dit_by_time m = {.edge = e0->edge};
    for (int i = 0; i < 2; i++)
        if (e0->of[i])
            m.of[i] = t3v_reshape(ctx, t3v_add_scaled(ctx, (t3v_tensor *)&b->modulation, e0->of[i], 1.0f),
                                  T3V_SHAPE(6, dim));
    return m;
}

t3v_qkv t3v_dit_pre(t3v_ctx *ctx, const t3v_dit *dit, const t3v_dit_block *b, t3v_tensor *x, t3v_tensor *m,
                    const t3v_rope *rope, int64_t first)
{
    const t3v_dit_config *c = &dit->config;
    t3v_tensor *shift = t3v_view(ctx, m, 0, 1), *scale = t3v_view(ctx, m, 1, 1);
    t3v_tensor *a = t3v_layernorm(ctx, x, scale, shift, true, c->eps, ctx->compute);
    t3v_tensor *q = t3v_linear_tokens(ctx, &b->q, a, T3V_F32), *k = t3v_linear_tokens(ctx, &b->k, a, T3V_F32);
    return (t3v_qkv){
        .q = t3v_qk_norm_rope(ctx, q, &b->norm_q, c->heads, c->eps, rope, first, ctx->compute),
        .k = t3v_qk_norm_rope(ctx, k, &b->norm_k, c->heads, c->eps, rope, first, ctx->compute),
        .v = t3v_linear_tokens(ctx, &b->v, a, ctx->compute),
    };
}

t3v_tensor *t3v_dit_post(t3v_ctx *ctx, const t3v_dit *dit, const t3v_dit_block *b, t3v_tensor *x,
                         t3v_tensor *o, t3v_tensor *m, const t3v_dit_call *call, int64_t layer)
{
    const t3v_dit_config *c = &dit->config;
    x = t3v_gate_residual(ctx, x, t3v_linear_tokens(ctx, &b->o, o, T3V_F32), t3v_view(ctx, m, 2, 1));

    /* cross-attention: no modulation, no gate */
    t3v_tensor *a = t3v_layernorm(ctx, x, (t3v_tensor *)&b->norm3_w, (t3v_tensor *)&b->norm3_b, false, c->eps,
                                  ctx->compute);
    t3v_tensor *q = t3v_linear_tokens(ctx, &b->cross_q, a, T3V_F32);
    q = t3v_qk_norm_rope(ctx, q, &b->cross_norm_q, c->heads, c->eps, NULL, 0, ctx->compute);
    const t3v_dit_prompt *prompt = call->prompt;
    const t3v_site *site = call->plan->layer[layer].site;
    t3v_tensor *again = call->image && !ctx->tape ? t3v_copy(ctx, q) : q; /* attention writes over q */
    t3v_tensor *t = t3v_attend(ctx, &site[T3V_SITE_CROSS_TEXT], c->heads, q, prompt->k[layer],
                               prompt->v[layer], prompt->log_weight, &call->moment, NULL);
    if (call->image)
        t = t3v_add_scaled(ctx, t,
                           t3v_attend(ctx, &site[T3V_SITE_CROSS_IMAGE], c->heads, again,
                                      call->image->k[layer], call->image->v[layer], NULL, &call->moment,
                                      NULL),
                           1.0f);
    x = t3v_linear_add(ctx, &b->cross_o, t, x); /* x is of this function */

    t3v_tensor *shift = t3v_view(ctx, m, 3, 1), *scale = t3v_view(ctx, m, 4, 1);
    a = t3v_layernorm(ctx, x, scale, shift, true, c->eps, ctx->compute);
    t3v_tensor *h = t3v_linear_gelu(ctx, &b->ffn_up, a, ctx->compute);
    return t3v_gate_residual(ctx, x, t3v_linear_tokens(ctx, &b->ffn_down, h, T3V_F32),
                             t3v_view(ctx, m, 5, 1));
}

t3v_attend_own t3v_dit_own(const t3v_dit *dit, const t3v_dit_call *call, int64_t layer)
{
    t3v_attend_own own = {.param = dit->own ? dit->own + layer * T3V_SITE_PARAMS_MAX : NULL,
                          .met = call->met};
    if (call->state)
        own.state = (char *)call->state + t3v_plan_state(call->plan, (int)layer, dit->config.heads,
                                                         dit->config.dim / dit->config.heads,
                                                         call->state_number);
    return own;
}

t3v_qkv t3v_dit_pre_all(t3v_ctx *ctx, const t3v_dit *dit, const t3v_dit_block *b, t3v_tensor *x,
                        const t3v_dit_by_time *m, const t3v_rope *rope, int64_t range)
{
    int64_t n = x->shape[0], len;
    if (ctx->tape && t3v_dit_piece(m, 0, range, n) == n)
        return t3v_dit_pre(ctx, dit, b, x, t3v_dit_of(m, 0), rope, 0);
    t3v_tensor *q = t3v_new_like(ctx, x, ctx->compute);
    t3v_qkv all = {q, t3v_new_like(ctx, x, ctx->compute), t3v_new_like(ctx, x, ctx->compute)};
    for (int64_t r = 0; r < n && !ctx->status; r += len) {
        size_t mark = t3v_arena_mark(ctx->arena);
        len = t3v_dit_piece(m, r, range, n);
        t3v_qkv p = t3v_dit_pre(ctx, dit, b, t3v_view(ctx, x, r, len), t3v_dit_of(m, r), rope, r);
        t3v_put(ctx, all.q, r, p.q);
        t3v_put(ctx, all.k, r, p.k);
        t3v_put(ctx, all.v, r, p.v);
        if (!ctx->tape) t3v_arena_back(ctx->arena, mark);
    }
    return all;
}

t3v_tensor *t3v_dit_block_run(t3v_ctx *ctx, const t3v_dit *dit, int64_t layer, t3v_tensor *x,
                              const t3v_dit_by_time *m, const t3v_rope *rope, const t3v_dit_call *call,
                              int64_t range, t3v_tensor *into)
{
    if (ctx->status) return NULL;
    int64_t n = x->shape[0], len;
    const t3v_dit_block *b = &dit->block[layer];
    const t3v_site *self = &call->plan->layer[layer].site[T3V_SITE_SELF];
    size_t start = t3v_arena_mark(ctx->arena);
    t3v_qkv p = t3v_dit_pre_all(ctx, dit, b, x, m, rope, range);
    if (call->watch && t3v_runs(ctx)) t3v_ctx_keep(ctx, call->watch->fn(call->watch->user, layer, &p));
    t3v_attend_own own = t3v_dit_own(dit, call, layer);
    t3v_tensor *o = t3v_attend(ctx, self, dit->config.heads, p.q, p.k, p.v, NULL, &call->moment, &own);
    if (call->attention && o && t3v_runs(ctx))
        t3v_k(ctx)->move(call->attention[layer]->data, o->data,
                         (size_t)t3v_numel(o) * t3v_dtype_size(o->type));
    if (ctx->tape) t3v_dit_teach(ctx, dit, call, layer, o);
    if (ctx->tape && t3v_dit_piece(m, 0, range, n) == n)
        return t3v_dit_post(ctx, dit, b, x, o, t3v_dit_of(m, 0), call, layer);
    t3v_tensor *next = ctx->tape ? t3v_new_like(ctx, x, T3V_F32) : into;
    for (int64_t r = 0; r < n && !ctx->status; r += len) {
        size_t mark = t3v_arena_mark(ctx->arena);
        len = t3v_dit_piece(m, r, range, n);
        t3v_put(ctx, next, r,
                t3v_dit_post(ctx, dit, b, t3v_view(ctx, x, r, len), t3v_view(ctx, o, r, len),
                             t3v_dit_of(m, r), call, layer));
        if (!ctx->tape) t3v_arena_back(ctx->arena, mark);
    }
    if (!ctx->tape) t3v_arena_back(ctx->arena, start);
    return ctx->status ? NULL : next;
}
