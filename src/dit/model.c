/* SPDX-License-Identifier: Apache-2.0 */
/* The DiT's parameter list, prompt preparation, and forward pass. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn/attend_op.h"
#include "base/clock.h"
#include "base/log.h"
#include "dit/dit.h"
#include "dit/graph.h"
#include "dit/stream.h"
#include "ops/kernels.h"
#include "tensor/fp8.h"

/* ---- parameters ---------------------------------------------------------------------------------- */

static t3v_status add_linear(t3v_params *p, t3v_weight *w, bool matrix, int ndim, const int64_t *shape,
                             const char *name)
{
    T3V_TRY(t3v_params_add(p, &w->w, matrix, ndim, shape, "%s.weight", name));
    return t3v_params_add(p, &w->bias, false, 1, shape, "%s.bias", name);
}

t3v_dit_image_use t3v_dit_image_used(const t3v_dit_config *c)
{
    if (c->in_dim > c->out_dim) return T3V_DIT_IMAGE_CHANNELS;
    return c->in_dim == 48 ? T3V_DIT_IMAGE_FRAME : T3V_DIT_NO_IMAGE;
}

/* What an image's features need in a block. */
static t3v_status add_block_image(t3v_params *p, t3v_dit_block *b, int64_t i, int64_t d)
{
    char name[T3V_NAME_MAX];
    snprintf(name, sizeof name, "blocks.%lld.cross_attn.k_img", (long long)i);
    T3V_TRY(add_linear(p, &b->cross_k_img, true, T3V_SHAPE(d, d), name));
    snprintf(name, sizeof name, "blocks.%lld.cross_attn.v_img", (long long)i);
    T3V_TRY(add_linear(p, &b->cross_v_img, true, T3V_SHAPE(d, d), name));
    return t3v_params_add(p, &b->cross_norm_k_img, false, T3V_SHAPE(d),
                          "blocks.%lld.cross_attn.norm_k_img.weight", (long long)i);
}

static t3v_status add_norm(t3v_params *p, t3v_tensor *w, t3v_tensor *b, int64_t d, const char *name)
{
    T3V_TRY(t3v_params_add(p, w, false, T3V_SHAPE(d), "%s.weight", name));
    return t3v_params_add(p, b, false, T3V_SHAPE(d), "%s.bias", name);
}

static t3v_status add_image(t3v_dit *dit)
{
    t3v_params *p = &dit->params;
    int64_t c = dit->config.clip_dim, d = dit->config.dim;
    T3V_TRY(add_norm(p, &dit->clip_norm_w, &dit->clip_norm_b, c, "img_emb.proj.0"));
    T3V_TRY(add_linear(p, &dit->clip_up, true, T3V_SHAPE(c, c), "img_emb.proj.1"));
    T3V_TRY(add_linear(p, &dit->clip_down, true, T3V_SHAPE(d, c), "img_emb.proj.3"));
    return add_norm(p, &dit->clip_out_w, &dit->clip_out_b, d, "img_emb.proj.4");
}

static t3v_status add_block(t3v_params *p, t3v_dit_block *b, int64_t i, int64_t d, int64_t f)
{
    char name[T3V_NAME_MAX];
    T3V_TRY(
        t3v_params_add(p, &b->modulation, false, T3V_SHAPE(1, 6, d), "blocks.%lld.modulation", (long long)i));
    struct {
        const char *site;
        t3v_weight *w[4];
        t3v_tensor *norm_q, *norm_k;
    } sites[] = {
        {"self_attn", {&b->q, &b->k, &b->v, &b->o}, &b->norm_q, &b->norm_k},
        {"cross_attn",
         {&b->cross_q, &b->cross_k, &b->cross_v, &b->cross_o},
         &b->cross_norm_q,
         &b->cross_norm_k},
    };
    for (int s = 0; s < 2; s++) {
        for (int j = 0; j < 4; j++) {
            snprintf(name, sizeof name, "blocks.%lld.%s.%c", (long long)i, sites[s].site, "qkvo"[j]);
            T3V_TRY(add_linear(p, sites[s].w[j], true, T3V_SHAPE(d, d), name));
        }
        T3V_TRY(t3v_params_add(p, sites[s].norm_q, false, T3V_SHAPE(d), "blocks.%lld.%s.norm_q.weight",
                               (long long)i, sites[s].site));
        T3V_TRY(t3v_params_add(p, sites[s].norm_k, false, T3V_SHAPE(d), "blocks.%lld.%s.norm_k.weight",
                               (long long)i, sites[s].site));
    }
    T3V_TRY(t3v_params_add(p, &b->norm3_w, false, T3V_SHAPE(d), "blocks.%lld.norm3.weight", (long long)i));
    T3V_TRY(t3v_params_add(p, &b->norm3_b, false, T3V_SHAPE(d), "blocks.%lld.norm3.bias", (long long)i));
    snprintf(name, sizeof name, "blocks.%lld.ffn.0", (long long)i);
    T3V_TRY(add_linear(p, &b->ffn_up, true, T3V_SHAPE(f, d), name));
    snprintf(name, sizeof name, "blocks.%lld.ffn.2", (long long)i);
    return add_linear(p, &b->ffn_down, true, T3V_SHAPE(d, f), name);
}

/* Time embedding and projection stay in F32, as in the official code. */
static t3v_status add_time(t3v_dit *dit)
{
    t3v_params *p = &dit->params;
    int64_t d = dit->config.dim;
    T3V_TRY(add_linear(p, &dit->time_up, false, T3V_SHAPE(d, dit->config.freq_dim), "time_embedding.0"));
    T3V_TRY(add_linear(p, &dit->time_down, false, T3V_SHAPE(d, d), "time_embedding.2"));
    return add_linear(p, &dit->time_projection, false, T3V_SHAPE(6 * d, d), "time_projection.1");
}

static t3v_status check(const char *field, int64_t v, int64_t min, int64_t max)
{
    if (v >= min && v <= max) return T3V_OK;
    return t3v_fail(T3V_E_ARG, "model config: %s is %lld, expected %lld to %lld", field, (long long)v,
                    (long long)min, (long long)max);
}

t3v_status t3v_dit_open(t3v_dit *dit, const t3v_dit_config *c)
{
    t3v_status st;
    *dit = (t3v_dit){.config = *c};
    t3v_params *p = &dit->params;
    T3V_TRY(check("dim", c->dim, 16, 1 << 16));
    T3V_TRY(check("num_heads", c->heads, 1, 1024));
    T3V_TRY(check("ffn_dim", c->ffn_dim, 1, 1 << 18));
    T3V_TRY(check("num_layers", c->layers, 1, 1024));
    T3V_TRY(check("in_dim", c->in_dim, 1, 1024));
    T3V_TRY(check("out_dim", c->out_dim, 1, 1024));
    T3V_TRY(check("freq_dim", c->freq_dim, 2, 1 << 14));
    T3V_TRY(check("text_dim", c->text_dim, 1, 1 << 16));
    T3V_TRY(check("text_len", c->text_len, 1, 1 << 14));
    T3V_TRY(check("clip_dim", c->clip_dim, 0, 1 << 16));
    if (c->dim % c->heads || c->dim / c->heads % 2 || c->freq_dim % 2)
        return t3v_fail(T3V_E_ARG, "model config: dim %lld does not split into %lld heads of even size",
                        (long long)c->dim, (long long)c->heads);
    int64_t d = c->dim;
    dit->block = calloc((size_t)c->layers, sizeof *dit->block);
    if (!dit->block) return t3v_fail(T3V_E_NOMEM, "no memory for %lld blocks", (long long)c->layers);
    T3V_TRY_GOTO(st, fail,
                 add_linear(p, &dit->patch_embedding, true, T3V_SHAPE(d, c->in_dim, 1, 2, 2),
                            "patch_embedding"));
    T3V_TRY_GOTO(st, fail, add_linear(p, &dit->text_up, true, T3V_SHAPE(d, c->text_dim), "text_embedding.0"));
    T3V_TRY_GOTO(st, fail, add_linear(p, &dit->text_down, true, T3V_SHAPE(d, d), "text_embedding.2"));
    T3V_TRY_GOTO(st, fail, add_time(dit));
    for (int64_t i = 0; i < c->layers; i++) {
        T3V_TRY_GOTO(st, fail, add_block(p, &dit->block[i], i, d, c->ffn_dim));
        if (c->clip_dim) T3V_TRY_GOTO(st, fail, add_block_image(p, &dit->block[i], i, d));
    }
    if (c->clip_dim) T3V_TRY_GOTO(st, fail, add_image(dit));
    T3V_TRY_GOTO(st, fail,
                 t3v_params_add(p, &dit->head_modulation, false, T3V_SHAPE(1, 2, d), "head.modulation"));
    T3V_TRY_GOTO(st, fail, add_linear(p, &dit->head, true, T3V_SHAPE(4 * c->out_dim, d), "head.head"));
    return T3V_OK;
fail:
    t3v_dit_close(dit);
    return st;
}

t3v_status t3v_dit_open_time(t3v_dit *dit, const t3v_dit_config *c)
{
    *dit = (t3v_dit){.config = *c};
    T3V_TRY(check("dim", c->dim, 16, 1 << 16));
    T3V_TRY(check("freq_dim", c->freq_dim, 2, 1 << 14));
    t3v_status st = add_time(dit);
    if (st) t3v_dit_close(dit);
    return st;
}

void t3v_dit_close(t3v_dit *dit)
{
    t3v_dit_stream_close(dit);
    t3v_params_free(&dit->params);
    free(dit->block);
    free(dit->own);
    *dit = (t3v_dit){0};
}

t3v_weight *t3v_dit_layer(t3v_dit *dit, const t3v_tensor *t)
{
    t3v_weight *ends[] = {&dit->patch_embedding, &dit->text_up,         &dit->text_down, &dit->time_up,
                          &dit->time_down,       &dit->time_projection, &dit->head,      &dit->clip_up,
                          &dit->clip_down};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (&ends[i]->w == t) return ends[i];
    for (int64_t i = 0; i < dit->config.layers; i++) {
        t3v_dit_block *b = &dit->block[i];
        t3v_weight *in[] = {&b->q,       &b->k,           &b->v,           &b->o,
                            &b->cross_q, &b->cross_k,     &b->cross_v,     &b->cross_o,
                            &b->ffn_up,  &b->cross_k_img, &b->cross_v_img, &b->ffn_down};
        for (size_t j = 0; j < sizeof in / sizeof *in; j++)
            if (&in[j]->w == t) return in[j];
    }
    return NULL;
}

bool t3v_dit_fp8(const t3v_param *p)
{
    const t3v_tensor *t = p->tensor;
    return t3v_dit_streams(p) && t->ndim == 2 && t3v_fp8_fits(t->shape[0], t->shape[1]);
}

t3v_status t3v_dit_adopt(t3v_dit *dit, const t3v_plan *plan)
{
    const t3v_dit_config *c = &dit->config;
    t3v_site_param info[T3V_SITE_PARAMS_MAX];
    for (int64_t layer = 0; layer < c->layers; layer++) {
        int n = t3v_site_params(&plan->layer[layer].site[T3V_SITE_SELF], c->heads, c->dim / c->heads, info);
        if (n && !dit->own && !(dit->own = calloc((size_t)c->layers * T3V_SITE_PARAMS_MAX, sizeof *dit->own)))
            return t3v_fail(T3V_E_NOMEM, "no memory for the plan's parameters");
        for (int i = 0; i < n; i++) {
            t3v_tensor *t = &dit->own[layer * T3V_SITE_PARAMS_MAX + i];
            if (!t->ndim) {
                T3V_TRY(t3v_params_add(&dit->params, t, false, info[i].ndim, info[i].shape,
                                       "blocks.%lld.self_attn.%s", (long long)layer, info[i].name));
            } else if (t->ndim != info[i].ndim ||
                       memcmp(t->shape, info[i].shape, (size_t)t->ndim * sizeof *t->shape) != 0) {
                return t3v_fail(T3V_E_ARG, "layer %lld has attention parameters of another plan (%s differs)",
                                (long long)layer, info[i].name);
            }
        }
    }
    return T3V_OK;
}

/* ---- prompt -------------------------------------------------------------------------------------- */

t3v_status t3v_dit_prompt_make(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *context, t3v_dit_prompt *out)
{
    const t3v_dit_config *c = &dit->config;
    int64_t n = context->shape[0], pad = c->text_len - n;
    if (n < 1 || pad < 0 || context->shape[1] != c->text_dim)
        return ctx->status = t3v_fail(T3V_E_SHAPE,
                                      "the context is [%lld, %lld], the model takes [1..%lld, %lld]",
                                      (long long)n, (long long)context->shape[1], (long long)c->text_len,
                                      (long long)c->text_dim);
    int64_t rows = n + (pad > 0);
    *out = (t3v_dit_prompt){.rows = rows};
    out->k = t3v_temp(ctx, c->layers, sizeof *out->k);
    out->v = t3v_temp(ctx, c->layers, sizeof *out->v);
    out->log_weight = t3v_temp(ctx, rows, sizeof(float));
    t3v_tensor *x = t3v_new(ctx, T3V_F32, T3V_SHAPE(rows, c->text_dim));
    if (ctx->status) return ctx->status;
    for (int64_t i = 0; i < rows; i++) out->log_weight[i] = i < n ? 0.0f : (float)log((double)pad);
    out->log_weight = t3v_give_temp(ctx, out->log_weight, rows, sizeof(float));
    if (pad > 0 && t3v_runs(ctx))
        t3v_k(ctx)->clear((float *)x->data + n * c->text_dim, (size_t)c->text_dim * 4);
    t3v_put(ctx, x, 0, context);

    x = t3v_gelu(ctx, t3v_linear(ctx, &dit->text_up, x, T3V_F32), ctx->compute);
    x = t3v_linear(ctx, &dit->text_down, x, T3V_F32);
    for (int64_t i = 0; i < c->layers && !ctx->status; i++) {
        const t3v_dit_block *b = &dit->block[i];
        t3v_dit_stream_here(ctx, dit, i);
        t3v_tensor *k = t3v_linear(ctx, &b->cross_k, x, T3V_F32);
        out->k[i] = t3v_qk_norm_rope(ctx, k, &b->cross_norm_k, c->heads, c->eps, NULL, 0, ctx->compute);
        out->v[i] = t3v_linear(ctx, &b->cross_v, x, ctx->compute);
        t3v_dit_stream_next(ctx, dit, i);
    }
    return ctx->status;
}

t3v_status t3v_dit_image_make(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *clip, t3v_dit_image *out)
{
    const t3v_dit_config *c = &dit->config;
    const double eps = 1e-5;
    char text[96];
    if (ctx->status) return ctx->status;
    if (!c->clip_dim || clip->ndim != 2 || clip->shape[1] != c->clip_dim)
        return ctx->status = t3v_fail(T3V_E_SHAPE,
                                      "the image features are %s, the model takes [rows, %lld]%s",
                                      t3v_tensor_shape_text(clip, text, sizeof text), (long long)c->clip_dim,
                                      c->clip_dim ? "" : ", that is none");
    *out = (t3v_dit_image){0};
    out->k = t3v_temp(ctx, c->layers, sizeof *out->k);
    out->v = t3v_temp(ctx, c->layers, sizeof *out->v);
    t3v_tensor *x = t3v_layernorm(ctx, clip, (t3v_tensor *)&dit->clip_norm_w, (t3v_tensor *)&dit->clip_norm_b,
                                  false, eps, ctx->compute);
    x = t3v_gelu_erf(ctx, t3v_linear(ctx, &dit->clip_up, x, T3V_F32), ctx->compute);
    x = t3v_linear(ctx, &dit->clip_down, x, T3V_F32);
    x = t3v_layernorm(ctx, x, (t3v_tensor *)&dit->clip_out_w, (t3v_tensor *)&dit->clip_out_b, false, eps,
                      T3V_F32);
    for (int64_t i = 0; i < c->layers && !ctx->status; i++) {
        const t3v_dit_block *b = &dit->block[i];
        t3v_dit_stream_here(ctx, dit, i);
        t3v_tensor *k = t3v_linear(ctx, &b->cross_k_img, x, T3V_F32);
        out->k[i] = t3v_qk_norm_rope(ctx, k, &b->cross_norm_k_img, c->heads, c->eps, NULL, 0, ctx->compute);
        out->v[i] = t3v_linear(ctx, &b->cross_v_img, x, ctx->compute);
        t3v_dit_stream_next(ctx, dit, i);
    }
    return ctx->status;
}

/* ---- forward ------------------------------------------------------------------------------------- */

/* e [1, dim] and e0 [1, 6 dim] of a timestep: cosines first, angles in double. */
void t3v_dit_time(t3v_ctx *ctx, const t3v_dit *dit, double t, t3v_tensor **e, t3v_tensor **e0)
{
    int64_t f = dit->config.freq_dim, half = f / 2;
    t3v_tensor *s = t3v_new(ctx, T3V_F32, T3V_SHAPE(1, f));
    if (t3v_runs(ctx)) {
        float *a = t3v_host(ctx, s);
        for (int64_t k = 0; k < half; k++) {
            double angle = t * pow(10000.0, -(double)k / (double)half);
            a[k] = (float)cos(angle);
            a[half + k] = (float)sin(angle);
        }
        t3v_give(ctx, s);
    }
    s = t3v_silu(ctx, t3v_linear(ctx, &dit->time_up, s, T3V_F32), T3V_F32);
    *e = t3v_linear(ctx, &dit->time_down, s, T3V_F32);
    *e0 = t3v_linear(ctx, &dit->time_projection, t3v_silu(ctx, *e, T3V_F32), T3V_F32);
}

void t3v_dit_times(t3v_ctx *ctx, const t3v_dit *dit, const t3v_dit_call *call, const int64_t grid[3],
                   t3v_dit_by_time *e, t3v_dit_by_time *e0)
{
    int64_t edge = call->first_given ? grid[1] * grid[2] : 0;
    *e = (t3v_dit_by_time){.edge = edge};
    *e0 = (t3v_dit_by_time){.edge = edge};
    if (edge > 0) t3v_dit_time(ctx, dit, 0, &e->of[0], &e0->of[0]);
    if (edge < grid[0] * grid[1] * grid[2]) t3v_dit_time(ctx, dit, call->timestep, &e->of[1], &e0->of[1]);
}

t3v_tensor *t3v_dit_embed(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *latent, int64_t first, int64_t n)
{
    return t3v_linear(ctx, &dit->patch_embedding, t3v_patchify(ctx, latent, first, n), T3V_F32);
}

t3v_tensor *t3v_dit_head(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *x, t3v_tensor *e)
{
    int64_t d = dit->config.dim;
    t3v_tensor *mod = (t3v_tensor *)&dit->head_modulation;
    t3v_tensor *rows = t3v_reshape(ctx, mod, T3V_SHAPE(2, d)), *flat = t3v_reshape(ctx, e, T3V_SHAPE(1, d));
    t3v_tensor *shift = t3v_add_scaled(ctx, t3v_view(ctx, rows, 0, 1), flat, 1.0f);
    t3v_tensor *scale = t3v_add_scaled(ctx, t3v_view(ctx, rows, 1, 1), flat, 1.0f);
    x = t3v_layernorm(ctx, x, scale, shift, true, dit->config.eps, ctx->compute);
    return t3v_linear(ctx, &dit->head, x, T3V_F32);
}

t3v_status t3v_dit_check(const t3v_dit *dit, const t3v_tensor *latent, const t3v_dit_call *call,
                         int64_t grid[3])
{
    char text[96];
    if (call->image ? !dit->config.clip_dim : dit->config.clip_dim != 0)
        return t3v_fail(T3V_E_ARG, call->image
                                       ? "image features are given, and the model looks at none"
                                       : "the model looks at an image's features, and none are given");
    for (int i = 0; i < 3; i++) grid[i] = latent->ndim == 4 ? latent->shape[i + 1] / (i ? 2 : 1) : 0;
    if (latent->ndim == 4 && latent->type == T3V_F32 && latent->shape[0] == dit->config.in_dim &&
        latent->shape[1] >= 1 && latent->shape[2] >= 2 && latent->shape[3] >= 2 &&
        latent->shape[2] % 2 == 0 && latent->shape[3] % 2 == 0)
        return T3V_OK;
    return t3v_fail(T3V_E_SHAPE, "the latent is %s, the model takes F32 [%lld, T, H, W] with even H and W",
                    t3v_tensor_shape_text(latent, text, sizeof text), (long long)dit->config.in_dim);
}

t3v_rope *t3v_dit_rope(t3v_ctx *ctx, const t3v_dit *dit, const int64_t grid[3])
{
    int64_t floats = 0, hd = dit->config.dim / dit->config.heads;
    t3v_ctx_keep(ctx, t3v_rope_tables_size(&floats, grid[0], grid[1], grid[2], hd));
    t3v_rope *rope = t3v_temp(ctx, 1, sizeof *rope);
    float *tables = t3v_temp(ctx, floats, sizeof(float));
    if (ctx->status) return NULL;
    t3v_rope_tables_make(rope, tables, grid[0], grid[1], grid[2], hd, 10000.0);
    const float *given = t3v_give_temp(ctx, tables, floats, sizeof(float));
    for (int i = 0; i < 3; i++) { /* the tables are where kernels read them */
        rope->cos[i] = given + (rope->cos[i] - tables);
        rope->sin[i] = given + (rope->sin[i] - tables);
    }
    return ctx->status ? NULL : rope;
}

t3v_tensor *t3v_dit_embed_all(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *latent, int64_t n, int64_t range)
{
    if (ctx->tape && range >= n) return t3v_dit_embed(ctx, dit, latent, 0, n);
    t3v_tensor *x = t3v_new(ctx, T3V_F32, T3V_SHAPE(n, dit->config.dim));
    for (int64_t r = 0; r < n && !ctx->status; r += range) {
        size_t mark = t3v_arena_mark(ctx->arena);
        t3v_put(ctx, x, r, t3v_dit_embed(ctx, dit, latent, r, r + range < n ? range : n - r));
        if (!ctx->tape) t3v_arena_back(ctx->arena, mark);
    }
    return x;
}

void t3v_dit_head_all(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *x, const t3v_dit_by_time *e,
                      int64_t range, t3v_tensor *velocity)
{
    int64_t n = ctx->status ? 0 : x->shape[0], len;
    for (int64_t r = 0; r < n && !ctx->status; r += len) {
        size_t mark = t3v_arena_mark(ctx->arena);
        len = t3v_dit_piece(e, r, range, n);
        t3v_tensor *rows = len == n ? x : t3v_view(ctx, x, r, len);
        t3v_unpatchify(ctx, velocity, r, t3v_dit_head(ctx, dit, rows, t3v_dit_of(e, r)));
        if (!ctx->tape) t3v_arena_back(ctx->arena, mark);
    }
}

/* Tokens: an FFN hidden of 8960 is 73 MB in F32; a GPU wants enough work in a kernel to fill it. */
enum { RANGE = 2048, DEVICE_RANGE = 16384 };

int64_t t3v_dit_range(const t3v_ctx *ctx, const t3v_dit_call *call, bool whole, int64_t n)
{
    return call->range > 0 ? call->range : whole ? n : t3v_arena_device(ctx->arena) ? DEVICE_RANGE : RANGE;
}

/* x in and out of all blocks: residual = x - (what went in), which is made again range by range. */
static void keep_residual(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *latent, const t3v_tensor *x,
                          void *residual, int64_t range)
{
    int64_t n = ctx->status ? 0 : x->shape[0], d = dit->config.dim;
    for (int64_t r = 0; r < n && !ctx->status; r += range) {
        size_t mark = t3v_arena_mark(ctx->arena);
        int64_t len = r + range < n ? range : n - r;
        t3v_tensor *in = t3v_dit_embed(ctx, dit, latent, r, len);
        if (t3v_runs(ctx))
            t3v_k(ctx)->rows_lincomb((char *)residual + (size_t)(r * d) * t3v_dtype_size(ctx->compute),
                                     ctx->compute, 1.0f, (const float *)x->data + r * d, T3V_F32, -1.0f,
                                     in->data, T3V_F32, len * d);
        t3v_arena_back(ctx->arena, mark);
    }
}

/* x through all blocks; in place unless recorded. */
static t3v_tensor *run_blocks(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *x, const t3v_dit_by_time *e0,
                              const t3v_rope *rope, const t3v_dit_call *call, int64_t range)
{
    const t3v_dit_halfway *h = t3v_runs(ctx) && !ctx->tape ? call->halfway : NULL;
    int64_t first = h ? h->layer : 0;
    if (first) {
        t3v_status st = h->read(h->user, x);
        if (st) return t3v_ctx_fail(ctx, st);
    }
    double kept = h ? t3v_now() : 0;
    for (int64_t i = first; i < dit->config.layers && !ctx->status; i++) {
        t3v_status st = t3v_report(call->progress, "blocks", i, dit->config.layers);
        if (h && (st || t3v_now() - kept >= h->every)) {
            h->keep(h->user, i, x, st);
            kept = t3v_now();
        }
        if (st) return t3v_ctx_fail(ctx, st);
        size_t layer = t3v_arena_mark(ctx->arena);
        t3v_dit_stream_here(ctx, dit, i);
        t3v_dit_by_time m = t3v_dit_modulation(ctx, &dit->block[i], e0);
        x = t3v_dit_block_run(ctx, dit, i, x, &m, rope, call, range, x);
        t3v_dit_stream_next(ctx, dit, i);
        if (!ctx->tape) t3v_arena_back(ctx->arena, layer);
    }
    return x;
}

t3v_tensor *t3v_dit_forward(t3v_ctx *ctx, const t3v_dit *dit, t3v_tensor *latent, const t3v_dit_call *call)
{
    const t3v_dit_config *c = &dit->config;
    if (ctx->status) return NULL;
    int64_t grid[3];
    t3v_status st = t3v_dit_check(dit, latent, call, grid);
    if (st) return t3v_ctx_fail(ctx, st);
    bool record = ctx->tape != NULL;
    T3V_ASSERT(!record || !call->residual);
    int64_t n = grid[0] * grid[1] * grid[2], range = t3v_dit_range(ctx, call, record, n);

    t3v_tensor *velocity = t3v_new(ctx, T3V_F32,
                                   T3V_SHAPE(c->out_dim, grid[0], latent->shape[2], latent->shape[3]));
    size_t whole = t3v_arena_mark(ctx->arena);
    t3v_rope *rope = t3v_dit_rope(ctx, dit, grid);
    t3v_dit_by_time e, e0;
    t3v_dit_times(ctx, dit, call, grid, &e, &e0);
    t3v_tensor *x = t3v_dit_embed_all(ctx, dit, latent, n, range);
    if (!call->reuse && !ctx->status) {
        t3v_dit_graph *graph = t3v_dit_graph_find(ctx, dit, call, x, &e0, rope, range);
        if (!t3v_dit_graph_replay(ctx, call, graph)) {
            bool recording = t3v_dit_graph_begin(ctx, call, graph);
            t3v_tensor *y = run_blocks(ctx, dit, x, &e0, rope, call, range);
            if (recording && !t3v_dit_graph_end(ctx, call, graph))
                y = run_blocks(ctx, dit, x, &e0, rope, call, range);
            x = y;
        }
    }
    if (call->reuse) {
        if (t3v_runs(ctx))
            t3v_k(ctx)->rows_lincomb(x->data, T3V_F32, 1.0f, x->data, T3V_F32, 1.0f, call->residual,
                                     ctx->compute, n * c->dim);
    } else if (call->residual) {
        keep_residual(ctx, dit, latent, x, call->residual, range);
    }
    t3v_dit_head_all(ctx, dit, x, &e, range, velocity);
    if (!record) t3v_arena_back(ctx->arena, whole);
    return ctx->status ? NULL : velocity;
}
