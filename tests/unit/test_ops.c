/* SPDX-License-Identifier: Apache-2.0 */
/* The gradient of every differentiable op against central differences; memory measured equals memory used. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "attn/attend_op.h"
#include "base/rng.h"
#include "io/params.h"
#include "ops/conv_op.h"
#include "pipe/model.h"
#include "tensor/randomise.h"

enum { INPUTS = 48 };

/* What a function is differentiated by: activations (their own gradients) and parameters (the trainer's buffers). */
typedef struct inputs {
    t3v_tensor t[INPUTS];
    t3v_tensor *at[INPUTS]; /* &t[i], or a tensor of a model */
    bool param[INPUTS];
    int n;
} inputs;

typedef t3v_tensor *function(t3v_ctx *ctx, t3v_tensor **in);

static t3v_arena arena;

static void add(inputs *in, bool param, int ndim, const int64_t *shape)
{
    t3v_tensor *t = &in->t[in->n];
    *t = (t3v_tensor){.type = T3V_F32, .ndim = ndim};
    memcpy(t->shape, shape, (size_t)ndim * sizeof *shape);
    int64_t n = t3v_numel(t);
    t->data = calloc((size_t)n, sizeof(float));
    t3v_normal_fill(t->data, n, 7, (uint64_t)in->n, 0);
    in->at[in->n] = t;
    in->param[in->n++] = param;
}
#define X(...) add(&in, false, T3V_SHAPE(__VA_ARGS__))
#define P(...) add(&in, true, T3V_SHAPE(__VA_ARGS__))

/* sum of weight * f in double; `grad` (NULL, or a buffer per input) gets the op's gradients. */
static double loss_of(function *f, inputs *in, float *const *grad)
{
    t3v_arena_back(&arena, 0);
    t3v_tape tape = {0};
    t3v_ctx ctx = {.arena = &arena, .compute = T3V_F32, .tape = grad ? &tape : NULL, .param_grad = grad};
    for (int i = 0; i < in->n; i++) {
        in->at[i]->grad = NULL;
        in->at[i]->needs_grad = grad != NULL;
        in->at[i]->param = in->param[i] ? i + 1 : 0;
    }
    t3v_tensor *y = f(&ctx, in->at);
    if (!y) fail_msg("%s", t3v_error_text());
    int64_t n = t3v_numel(y);
    float *w = malloc((size_t)n * sizeof *w);
    double sum = 0;
    t3v_normal_fill(w, n, 8, 0, 0);
    for (int64_t i = 0; i < n; i++) sum += (double)w[i] * ((const float *)y->data)[i];
    if (grad) {
        assert_int_equal(t3v_backward(&ctx, y, w), T3V_OK);
        for (int i = 0; i < in->n; i++)
            if (!in->param[i] && in->at[i]->grad)
                memcpy(grad[i], in->at[i]->grad, (size_t)t3v_numel(in->at[i]) * sizeof(float));
    }
    free(w);
    return sum;
}

/* Derivative along the unit vector u of input k, from steps h and h/2 (errors of order h^4). */
static double difference(function *f, inputs *in, int k, const float *u, double h)
{
    int64_t n = t3v_numel(in->at[k]);
    float *x = in->at[k]->data, *keep = malloc((size_t)n * sizeof *keep);
    memcpy(keep, x, (size_t)n * sizeof *keep);
    double d[2];
    for (int j = 0; j < 2; j++) {
        double s = j ? h / 2 : h, l[2];
        for (int side = 0; side < 2; side++) {
            for (int64_t i = 0; i < n; i++) x[i] = (float)(keep[i] + (side ? s : -s) * u[i]);
            l[side] = loss_of(f, in, NULL);
        }
        d[j] = (l[1] - l[0]) / (2 * s);
    }
    memcpy(x, keep, (size_t)n * sizeof *keep);
    free(keep);
    return (4 * d[1] - d[0]) / 3;
}

/* The worst disagreement over all inputs and a few directions, in units of what rounding to F32 explains: about
 * 1e-7 * |loss weights| / h with h = 0.04, and 1e-3 of the gradient for what is left of the step's error. */
static double disagreement(function *f, inputs *in)
{
    float *grad[INPUTS];
    double worst = 0;
    for (int i = 0; i < in->n; i++) grad[i] = calloc((size_t)t3v_numel(in->at[i]), sizeof(float));
    loss_of(f, in, grad);
    for (int k = 0; k < in->n; k++) {
        int64_t n = t3v_numel(in->at[k]);
        float *u = malloc((size_t)n * sizeof *u);
        double g2 = 0;
        for (int64_t i = 0; i < n; i++) g2 += (double)grad[k][i] * grad[k][i];
        for (uint64_t dir = 0; dir < 4; dir++) {
            double norm = 0, want = 0;
            t3v_normal_fill(u, n, 9, dir, 0);
            for (int64_t i = 0; i < n; i++) norm += (double)u[i] * u[i];
            for (int64_t i = 0; i < n; i++) {
                u[i] = (float)(u[i] / sqrt(norm));
                want += (double)u[i] * grad[k][i];
            }
            double off = fabs(difference(f, in, k, u, 0.04) - want) / (1e-3 * sqrt(g2) + 1e-4);
            if (!(off <= worst)) worst = off;
        }
        free(u);
    }
    for (int i = 0; i < in->n; i++) free(grad[i]);
    return worst;
}

static void clear(inputs *in)
{
    for (int i = 0; i < in->n; i++)
        if (in->at[i] == &in->t[i]) free(in->t[i].data);
    *in = (inputs){0};
}

static void expect_gradient(const char *name, function *f, inputs *in)
{
    double off = disagreement(f, in);
    if (!(off < 1)) fail_msg("%s: the gradient is off by %.3g of the limit", name, off);
    clear(in);
}

/* ---- functions ------------------------------------------------------------------------------------- */

static t3v_weight w0;
static t3v_lora_pair pairs[2];
static const int32_t ids[] = {4, 0, 4, 2};

static t3v_tensor *linear(t3v_ctx *ctx, t3v_tensor **in)
{
    w0 = (t3v_weight){.w = *in[1], .bias = *in[2]};
    return t3v_linear(ctx, &w0, in[0], T3V_F32);
}
static t3v_tensor *lora(t3v_ctx *ctx, t3v_tensor **in)
{
    pairs[0] = (t3v_lora_pair){*in[3], *in[4], 0.7f};
    pairs[1] = (t3v_lora_pair){*in[5], *in[6], -0.4f};
    w0 = (t3v_weight){.w = *in[1], .bias = *in[2], .lora = pairs, .loras = 2};
    return t3v_linear(ctx, &w0, in[0], T3V_F32);
}
static t3v_tensor *embed(t3v_ctx *ctx, t3v_tensor **in) { return t3v_embed(ctx, in[0], ids, 4); }
static t3v_tensor *modulated(t3v_ctx *ctx, t3v_tensor **in)
{
    return t3v_layernorm(ctx, in[0], in[1], in[2], true, 1e-6, T3V_F32);
}
static t3v_tensor *affine(t3v_ctx *ctx, t3v_tensor **in)
{
    return t3v_layernorm(ctx, in[0], in[1], in[2], false, 1e-6, T3V_F32);
}
static t3v_tensor *rmsnorm(t3v_ctx *ctx, t3v_tensor **in)
{
    return t3v_rmsnorm(ctx, in[0], in[1], 1e-6, T3V_F32);
}
static t3v_tensor *qk(t3v_ctx *ctx, t3v_tensor **in)
{
    static float tables[4096];
    static t3v_rope rope;
    int64_t floats = 0;
    assert_int_equal(t3v_rope_tables_size(&floats, 2, 3, 2, 8), T3V_OK);
    assert_true(floats <= 4096);
    t3v_rope_tables_make(&rope, tables, 2, 3, 2, 8, 10000.0);
    t3v_tensor *a = t3v_qk_norm_rope(ctx, in[0], in[1], 2, 1e-6, &rope, 5, T3V_F32);
    return t3v_qk_norm_rope(ctx, a, in[2], 2, 1e-6, NULL, 0, T3V_F32);
}
static t3v_tensor *gelu(t3v_ctx *ctx, t3v_tensor **in) { return t3v_gelu(ctx, in[0], T3V_F32); }
static t3v_tensor *gelu_erf(t3v_ctx *ctx, t3v_tensor **in) { return t3v_gelu_erf(ctx, in[0], T3V_F32); }
static t3v_tensor *silu(t3v_ctx *ctx, t3v_tensor **in) { return t3v_silu(ctx, in[0], T3V_F32); }
static t3v_tensor *geglu(t3v_ctx *ctx, t3v_tensor **in) { return t3v_geglu(ctx, in[0], in[1], T3V_F32); }
static t3v_tensor *add_scaled(t3v_ctx *ctx, t3v_tensor **in)
{
    return t3v_add_scaled(ctx, in[0], in[1], -0.3f);
}
/* The stream is used again, before and after, as in a block. */
static t3v_tensor *gated(t3v_ctx *ctx, t3v_tensor **in)
{
    t3v_tensor *x = t3v_gate_residual(ctx, in[0], t3v_silu(ctx, in[0], T3V_F32), in[2]);
    x = t3v_gate_residual(ctx, x, in[1], NULL);
    return t3v_gate_residual(ctx, x, t3v_gelu(ctx, x, T3V_F32), in[2]);
}
static t3v_tensor *rows(t3v_ctx *ctx, t3v_tensor **in)
{
    t3v_tensor *y = t3v_new(ctx, T3V_F32, T3V_SHAPE(5, 4));
    t3v_put(ctx, y, 3, t3v_view(ctx, in[0], 1, 2));
    t3v_put(ctx, y, 0, t3v_silu(ctx, t3v_view(ctx, in[0], 0, 3), T3V_F32));
    t3v_tensor *again = t3v_reshape(ctx, t3v_view(ctx, y, 1, 4), T3V_SHAPE(2, 8));
    return t3v_add_scaled(ctx, t3v_gelu(ctx, again, T3V_F32),
                          t3v_reshape(ctx, t3v_view(ctx, y, 0, 4), T3V_SHAPE(2, 8)), 2);
}
static t3v_tensor *biased(t3v_ctx *ctx, t3v_tensor **in)
{
    return t3v_sdpa(ctx, in[0], in[1], in[2], 2, 0.6, in[3]);
}
static t3v_tensor *unbiased(t3v_ctx *ctx, t3v_tensor **in)
{
    return t3v_sdpa(ctx, in[0], in[1], in[2], 2, 0.6, NULL);
}
static t3v_tensor *attend(t3v_ctx *ctx, t3v_tensor **in)
{
    static const float log_weight[] = {0, 0, 1.5f, -0.5f, 0};
    /* attention may write over q when nothing is recorded */
    t3v_tensor *q = t3v_add_scaled(ctx, in[0], in[0], 0);
    return t3v_attend(ctx, t3v_site_full(), 2, q, in[1], in[2], log_weight, NULL, NULL);
}
static t3v_tensor *patches(t3v_ctx *ctx, t3v_tensor **in)
{
    t3v_tensor *z = t3v_new(ctx, T3V_F32, T3V_SHAPE(3, 2, 4, 4));
    t3v_unpatchify(ctx, z, 0, t3v_silu(ctx, t3v_patchify(ctx, in[0], 0, 5), T3V_F32));
    t3v_unpatchify(ctx, z, 5, t3v_gelu(ctx, t3v_patchify(ctx, in[0], 5, 3), T3V_F32));
    return z;
}
static t3v_conv_geom geom;
static t3v_conv_weight cw;
static t3v_tensor *conv(t3v_ctx *ctx, t3v_tensor **in)
{
    cw = (t3v_conv_weight){.w = *in[1], .bias = *in[2]};
    return t3v_conv(ctx, &cw, in[0], &geom, T3V_F32);
}
static t3v_tensor *cat_norm(t3v_ctx *ctx, t3v_tensor **in)
{
    return t3v_cat_norm(ctx, in[0], in[1], in[2], true);
}
static t3v_tensor *cat_plain(t3v_ctx *ctx, t3v_tensor **in)
{
    return t3v_cat_norm(ctx, in[0], in[1], NULL, false);
}
static t3v_tensor *channel_norm(t3v_ctx *ctx, t3v_tensor **in)
{
    return t3v_cat_norm(ctx, NULL, in[0], in[1], false);
}
/* Means over blocks and copies back, with a first block that lacks a frame; patches by columns. */
static t3v_tensor *blocks(t3v_ctx *ctx, t3v_tensor **in)
{
    static const t3v_block_geom whole = {2, 2, false}, flat = {1, 2, true};
    t3v_tensor *y = t3v_block_mean(ctx, in[0], &whole, 4);
    y = t3v_block_spread(ctx, y, &whole, 2, 3);
    return t3v_block_spread(ctx, t3v_block_mean(ctx, y, &flat, 8), &flat, 4, 3);
}

static t3v_tensor *layout(t3v_ctx *ctx, t3v_tensor **in)
{
    t3v_tensor *x = t3v_upsample2x(ctx, t3v_interleave_frames(ctx, in[0]));
    t3v_tensor *planes = t3v_silu(ctx, t3v_channels_first(ctx, x), T3V_F32);
    t3v_tensor *last = t3v_channels_last(ctx, planes, T3V_F32);
    return t3v_columns(ctx, t3v_reshape(ctx, last, T3V_SHAPE(t3v_rows(last), t3v_cols(last))), 1, 2);
}
static t3v_umt5 text;
static t3v_tensor *encode(t3v_ctx *ctx, t3v_tensor **in)
{
    (void)in;
    return t3v_umt5_encode(ctx, &text, ids, 4);
}

static void gradients(void **state)
{
    (void)state;
    inputs in = {0};
    X(5, 7), P(4, 7), P(4);
    expect_gradient("linear", linear, &in);
    X(5, 7), P(4, 7), P(4), P(2, 7), P(4, 2), P(3, 7), P(4, 3);
    expect_gradient("linear with two low-rank updates", lora, &in);
    P(6, 5);
    expect_gradient("embed", embed, &in);
    X(4, 24), X(1, 24), X(1, 24);
    expect_gradient("layernorm, modulated", modulated, &in);
    X(4, 24), P(24), P(24);
    expect_gradient("layernorm, affine", affine, &in);
    X(4, 24), P(24);
    expect_gradient("rmsnorm", rmsnorm, &in);
    X(7, 16), P(16), P(16);
    expect_gradient("qk_norm_rope", qk, &in);
    X(3, 9);
    expect_gradient("gelu", gelu, &in);
    X(3, 9);
    expect_gradient("gelu_erf", gelu_erf, &in);
    X(3, 9);
    expect_gradient("silu", silu, &in);
    X(3, 9), X(3, 9);
    expect_gradient("geglu", geglu, &in);
    X(3, 9), X(3, 9);
    expect_gradient("add_scaled", add_scaled, &in);
    X(4, 6), X(4, 6), X(1, 6);
    expect_gradient("gate_residual", gated, &in);
    X(5, 4);
    expect_gradient("view, put, reshape", rows, &in);
    X(6, 8), X(5, 8), X(5, 8), X(2, 6, 5);
    expect_gradient("sdpa with bias", biased, &in);
    X(6, 8), X(5, 8), X(5, 8);
    expect_gradient("sdpa", unbiased, &in);
    X(6, 32), X(5, 32), X(5, 32);
    expect_gradient("attend with log-weights", attend, &in);
    X(3, 2, 4, 4);
    expect_gradient("patchify, unpatchify", patches, &in);
    geom = (t3v_conv_geom){1, 1, 2, 1, 1};
    X(3, 4, 5, 3), P(4, 3, 3, 3, 3), P(4);
    expect_gradient("causal convolution", conv, &in);
    geom = (t3v_conv_geom){2, 1, 0, 0, 0};
    X(5, 2, 3, 3), P(4, 3, 3, 1, 1), P(4);
    expect_gradient("convolution, stride 2 in time", conv, &in);
    geom = (t3v_conv_geom){1, 2, 0, 0, 1};
    X(2, 4, 6, 3), P(4, 3, 3, 3), P(4);
    expect_gradient("convolution, stride 2 in space", conv, &in);
    X(1, 2, 2, 6), X(2, 2, 2, 6), P(6);
    expect_gradient("cat_norm with front", cat_norm, &in);
    X(1, 2, 2, 6), X(2, 2, 2, 6);
    expect_gradient("cat_norm, copies", cat_plain, &in);
    X(2, 2, 2, 6), P(6);
    expect_gradient("cat_norm without front", channel_norm, &in);
    X(2, 2, 3, 8);
    expect_gradient("interleave, upsample, layouts, columns", layout, &in);
    X(3, 4, 2, 2);
    expect_gradient("block_mean, block_spread", blocks, &in);
}

static void text_gradient(void **state)
{
    (void)state;
    inputs in = {0};
    t3v_arena memory;
    t3v_params_options o = {.matrix = T3V_F32};
    assert_int_equal(t3v_arena_open(&memory, (size_t)64 << 20), T3V_OK);
    t3v_umt5_config c = {
        .vocab = 6, .dim = 8, .dim_attn = 8, .heads = 2, .dim_ffn = 12, .layers = 2, .buckets = 8};
    assert_int_equal(t3v_umt5_open(&text, &c), T3V_OK);
    assert_int_equal(t3v_params_alloc(&text.params, &o, &memory), T3V_OK);
    t3v_params_randomise(&text.params, 3);
    for (int64_t i = 0; i < text.params.count; i++) {
        assert_true(in.n < INPUTS);
        in.at[in.n] = text.params.item[i].tensor;
        in.param[in.n++] = true;
    }
    expect_gradient("text encoder with position bias", encode, &in);
    t3v_umt5_close(&text);
    t3v_arena_close(&memory);
}

/* ---- the test itself --------------------------------------------------------------------------------- */

static void wrong_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const float *dy = t3v_grad(ctx, r->out[0]), *x = r->in[0]->data;
    float *dx = t3v_grad(ctx, r->in[0]);
    for (int64_t i = 0; i < t3v_numel(r->in[0]); i++) dx[i] += 2.04f * x[i] * dy[i];
}
static const t3v_op wrong_op = {"wrong", wrong_backward};
static t3v_tensor *wrong(t3v_ctx *ctx, t3v_tensor **in)
{
    t3v_tensor *y = t3v_new_like(ctx, in[0], T3V_F32);
    t3v_tape_add(ctx, &wrong_op, T3V_INS(in[0]), y, NULL, 0);
    for (int64_t i = 0; i < t3v_numel(y); i++)
        ((float *)y->data)[i] = ((float *)in[0]->data)[i] * ((float *)in[0]->data)[i];
    return y;
}

static void a_wrong_gradient_is_caught(void **state)
{
    (void)state;
    inputs in = {0};
    X(3, 4);
    double off = disagreement(wrong, &in);
    if (!(off > 2)) fail_msg("a gradient wrong by 2 %% is only %.3g of the limit", off);
    clear(&in);
}

/* ---- memory ------------------------------------------------------------------------------------------ */

/* Peak of a job on the golden tiny model. */
static size_t peak_of(t3v_model *m, bool counting, int job, float *const *grads)
{
    t3v_arena a, caches;
    assert_int_equal(counting ? t3v_arena_count(&a) : t3v_arena_open(&a, (size_t)1 << 30), T3V_OK);
    assert_int_equal(counting ? t3v_arena_count(&caches) : t3v_arena_open(&caches, (size_t)1 << 30), T3V_OK);
    t3v_tape tape = {0};
    t3v_ctx ctx = {.arena = &a,
                   .compute = T3V_F32,
                   .tape = job == 1 || job == 2 ? &tape : NULL,
                   .param_grad = grads};
    if (job < 3) {
        t3v_tensor *z = t3v_new(&ctx, T3V_F32, T3V_SHAPE(16, 2, 6, 4));
        t3v_tensor *c = t3v_new(&ctx, T3V_F32, T3V_SHAPE(5, m->config.text_dim));
        float *target = t3v_temp(&ctx, t3v_numel(z), sizeof *target);
        if (!counting) {
            t3v_normal_fill(z->data, t3v_numel(z), 1, 0, 0);
            t3v_normal_fill(c->data, t3v_numel(c), 1, 1, 0);
            t3v_normal_fill(target, t3v_numel(z), 1, 2, 0);
        }
        t3v_plan *plan = NULL;
        assert_int_equal(t3v_plan_make(&plan, "full", (t3v_grid){2, 3, 2}, (int)m->config.layers), T3V_OK);
        t3v_dit_prompt prompt;
        t3v_dit_call call = {.plan = plan, .prompt = &prompt, .timestep = 400, .range = 5};
        double loss;
        if (job == 0) {
            t3v_dit_prompt_make(&ctx, &m->dit, c, &prompt);
            t3v_dit_forward(&ctx, &m->dit, z, &call);
        } else {
            t3v_dit_loss(&ctx, &m->dit, z, c, target, 1, &call, job == 2, &loss);
        }
        t3v_plan_free(plan);
    } else {
        t3v_vae_stream s = {.arena = &caches};
        for (int i = 0; i < 2; i++) {
            t3v_tensor *x = job == 3 ? t3v_new(&ctx, T3V_F32, T3V_SHAPE(1, 4, 2, 16))
                                     : t3v_new(&ctx, T3V_F32, T3V_SHAPE(i ? 4 : 1, 32, 16, 3));
            if (!counting) t3v_normal_fill(x->data, t3v_numel(x), 2, (uint64_t)i, 0);
            if (job == 3) t3v_vae_decode_chunk(&ctx, &m->vae, &s, x);
            else t3v_vae_encode_chunk(&ctx, &m->vae, &s, x);
        }
    }
    if (ctx.status) fail_msg("%s", t3v_error_text());
    size_t peak = a.peak + caches.peak;
    t3v_arena_close(&a);
    t3v_arena_close(&caches);
    return peak;
}

static void measured_memory_is_used_memory(void **state)
{
    (void)state;
    static const char *const jobs[] = {"dit", "dit, taped", "dit, recomputed", "vae decoder", "vae encoder"};
    t3v_model *m = NULL;
    t3v_model_paths paths = {.model = "tests/golden/wan/tiny"};
    if (t3v_model_open(&m, &paths, T3V_PART_DIT | T3V_PART_VAE, T3V_F32, true))
        fail_msg("%s", t3v_error_text());
    const t3v_params *p = &m->dit.params;
    float **grads = calloc((size_t)p->count, sizeof *grads);
    for (int64_t i = 0; i < p->count; i++) {
        p->item[i].tensor->needs_grad = true;
        p->item[i].tensor->param = (int32_t)i + 1;
        grads[i] = calloc((size_t)t3v_numel(p->item[i].tensor), sizeof(float));
    }
    for (int job = 0; job < 5; job++) {
        size_t counted = peak_of(m, true, job, grads), used = peak_of(m, false, job, grads);
        if (counted != used || used == 0)
            fail_msg("%s: measured %zu bytes, used %zu", jobs[job], counted, used);
    }
    for (int64_t i = 0; i < p->count; i++) free(grads[i]);
    free(grads);
    t3v_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients),
        cmocka_unit_test(text_gradient),
        cmocka_unit_test(a_wrong_gradient_is_caught),
        cmocka_unit_test(measured_memory_is_used_memory),
    };
    if (t3v_arena_open(&arena, (size_t)1 << 30)) return 1;
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    t3v_arena_close(&arena);
    return rc;
}
