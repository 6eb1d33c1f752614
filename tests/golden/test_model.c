/* SPDX-License-Identifier: Apache-2.0 */
/* DiT, text encoder and VAE against numbers of the official code (tests/golden/README.md), forward and gradients. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/cpu.h"
#include "golden.h"
#include "pipe/model.h"

static t3v_arena arena, caches;

static t3v_model *open_model(t3v_dtype compute, bool writable)
{
    t3v_model *m = NULL;
    t3v_model_paths paths = {.model = "tests/golden/wan/tiny"};
    t3v_status st = t3v_model_open(&m, &paths, T3V_PART_ALL, compute, writable);
    if (st) fail_msg("%s", t3v_error_text());
    return m;
}

static t3v_tensor_file *open_file(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "tests/golden/wan/%s.safetensors", name);
    t3v_tensor_file *f = NULL;
    if (t3v_tensors_open(&f, path)) fail_msg("%s", t3v_error_text());
    return f;
}

static double limit_of(t3v_dtype t, double f32) { return t == T3V_F32 ? f32 : 2e-2; }

/* How near the velocity must be to the official one, and, with 8-bit integers, how near it cannot be. */
typedef struct nearness {
    bool int8;
    double most, least;
} nearness;

static void velocity(t3v_dtype compute, nearness near, const char *latent, const char *context,
                     double timestep, const char *want, int64_t range)
{
    t3v_model *m = open_model(compute, false);
    t3v_tensor_file *f = open_file("dit");
    t3v_arena_back(&arena, 0);
    t3v_ctx ctx = {.arena = &arena, .compute = compute, .int8 = near.int8};
    t3v_tensor *x = input(&ctx, f, latent), *c = input(&ctx, f, context);
    t3v_dit_prompt prompt;
    t3v_plan *plan = NULL;
    assert_int_equal(t3v_plan_make(&plan, "full", (t3v_grid){x->shape[1], x->shape[2] / 2, x->shape[3] / 2},
                                   5),
                     T3V_OK);
    assert_int_equal(t3v_dit_prompt_make(&ctx, &m->dit, c, &prompt), T3V_OK);
    t3v_dit_call call = {.plan = plan, .prompt = &prompt, .timestep = timestep, .range = range};
    t3v_tensor *v = t3v_dit_forward(&ctx, &m->dit, x, &call);
    if (!v) fail_msg("%s", t3v_error_text());
    expect_close(v->data, f, want, near.most);
    assert_true(distance(v->data, f, want) >= near.least);
    t3v_plan_free(plan);
    t3v_tensors_close(f);
    t3v_model_close(m);
}

static void velocities(t3v_dtype t, nearness near)
{
    velocity(t, near, "latent", "context", 731, "velocity_t731", 0);
    velocity(t, near, "latent", "context", 500.25, "velocity_t500.25", 7);
    velocity(t, near, "latent_one", "context", 3, "velocity_one_t3", 0);
    velocity(t, near, "latent_odd", "context_full", 999, "velocity_odd_t999", 11);
}

static void dit_forward(void **state)
{
    (void)state;
    velocities(T3V_F32, (nearness){false, limit_of(T3V_F32, 1e-5), 0});
    velocities(T3V_BF16, (nearness){false, limit_of(T3V_BF16, 0), 0});
}

/* Of 8-bit integers every product is about 0.7 % off (tests/unit/test_int8.c); five layers and the residual stream make
 * of it what docs/generate.md states. */
static void dit_forward_int8(void **state)
{
    (void)state;
    velocities(T3V_F32, (nearness){true, 2e-2, 1e-4});
    velocities(T3V_BF16, (nearness){true, 2e-2, 1e-4});
}

static float **train_params(t3v_params *p)
{
    float **grads = calloc((size_t)p->count, sizeof *grads);
    for (int64_t i = 0; i < p->count; i++) {
        p->item[i].tensor->needs_grad = true;
        p->item[i].tensor->param = (int32_t)i + 1;
        grads[i] = calloc((size_t)t3v_numel(p->item[i].tensor), sizeof(float));
    }
    return grads;
}

enum { FIRST_MAX = 256 };
static float *first[FIRST_MAX]; /* gradients of the plain tape in one range */

/* Keeps the first gradient of parameter i; later ones must equal it up to the order of sums. */
static void keep_or_compare(int64_t i, const float *grad, int64_t n, const char *name)
{
    assert_true(i < FIRST_MAX);
    if (!first[i]) {
        first[i] = malloc((size_t)n * sizeof(float));
        memcpy(first[i], grad, (size_t)n * sizeof(float));
        return;
    }
    double d = 0, all = 0;
    for (int64_t j = 0; j < n; j++) {
        d += ((double)grad[j] - first[i][j]) * ((double)grad[j] - first[i][j]);
        all += (double)first[i][j] * first[i][j];
    }
    if (!(sqrt(d) <= 1e-5 * sqrt(all) + 1e-12))
        fail_msg("%s: %.3g from the plain tape's, limit 1e-5", name, sqrt(d / all));
}

/* The loss and every gradient, with the plain tape or recomputed. BF16 has 8 bits: a product of two rounded operands
 * is off by 2^-8, and a weight's gradient has passed some ten of them; those of key biases also nearly cancel (softmax
 * does not see a shift of all scores): a tenth. */
static void dit_gradients(t3v_dtype compute, int64_t range, bool recompute)
{
    double most = compute == T3V_BF16 ? 0.1 : 1e-3, inputs = compute == T3V_BF16 ? 10.0 / 256 : 1e-4;
    t3v_model *m = open_model(compute, true);
    t3v_tensor_file *f = open_file("dit"), *g = open_file("dit_grad");
    float **grads = train_params(&m->dit.params);
    t3v_arena_back(&arena, 0);
    t3v_tape tape = {0};
    t3v_ctx ctx = {.arena = &arena, .compute = compute, .tape = &tape, .param_grad = grads};
    t3v_tensor *x = input(&ctx, f, "latent"), *c = input(&ctx, f, "context"),
               *target = input(&ctx, f, "target");
    x->needs_grad = c->needs_grad = true;
    t3v_plan *plan = NULL;
    assert_int_equal(t3v_plan_make(&plan, "full", (t3v_grid){x->shape[1], x->shape[2] / 2, x->shape[3] / 2},
                                   5),
                     T3V_OK);
    t3v_dit_call call = {.plan = plan, .timestep = 731, .range = range};
    double mean = 0;
    size_t before = t3v_arena_mark(&arena);
    arena.peak = before;
    if (t3v_dit_loss(&ctx, &m->dit, x, c, target->data, 1, &call, recompute, &mean))
        fail_msg("%s", t3v_error_text());
    float loss = (float)mean;
    expect_close(&loss, g, "loss", compute == T3V_BF16 ? 1.0 / 256 : 1e-5);
    expect_close(x->grad, g, "grad_latent", inputs);
    expect_close(c->grad, g, "grad_context", inputs);
    double worst = 0;
    for (int64_t i = 0; i < m->dit.params.count; i++) {
        char name[200];
        snprintf(name, sizeof name, "grad.%s", m->dit.params.item[i].name);
        double d = distance(grads[i], g, name);
        if (!(d < most)) fail_msg("%s: relative L2 %.3g, limit %.3g", name, d, most);
        if (d > worst) worst = d;
        if (compute == T3V_F32) keep_or_compare(i, grads[i], t3v_numel(m->dit.params.item[i].tensor), name);
        free(grads[i]);
    }
    print_message("    worst of %d weight gradients: %.2e; %zu KiB\n", (int)m->dit.params.count, worst,
                  (arena.peak - before) >> 10);
    free(grads);
    t3v_plan_free(plan);
    t3v_tensors_close(f);
    t3v_tensors_close(g);
    t3v_model_close(m);
}

static void dit_backward(void **state)
{
    (void)state;
    dit_gradients(T3V_F32, 0, false);
    dit_gradients(T3V_F32, 13, false); /* seven ragged ranges */
    dit_gradients(T3V_F32, 0, true);
    dit_gradients(T3V_F32, 13, true);
    dit_gradients(T3V_BF16, 0, false);
    dit_gradients(T3V_BF16, 13, true);
    for (int i = 0; i < FIRST_MAX; i++) free(first[i]);
}

static void text_encoder(void **state)
{
    (void)state;
    static const char *const prompts[] = {"short", "long", "cut", "empty"};
    t3v_tensor_file *f = open_file("text");
    for (int k = 0; k < 2; k++) {
        t3v_dtype t = k ? T3V_BF16 : T3V_F32;
        t3v_model *m = open_model(t, false);
        for (int i = 0; i < 4; i++) {
            char name[64];
            int32_t ids[512];
            const t3v_tensor_entry *e;
            snprintf(name, sizeof name, "ids_%s", prompts[i]);
            assert_int_equal(t3v_tensors_get(f, name, &e), T3V_OK);
            float as_float[512];
            assert_int_equal(t3v_tensor_copy(e, as_float, T3V_F32), T3V_OK);
            for (int64_t j = 0; j < e->numel; j++) ids[j] = (int32_t)as_float[j];
            t3v_arena_back(&arena, 0);
            t3v_ctx ctx = {.arena = &arena, .compute = t};
            t3v_tensor *y = t3v_umt5_encode(&ctx, &m->text, ids, e->numel);
            if (!y) fail_msg("%s", t3v_error_text());
            snprintf(name, sizeof name, "context_%s", prompts[i]);
            expect_close(y->data, f, name, limit_of(t, 1e-5));
        }
        t3v_model_close(m);
    }
    t3v_tensors_close(f);
}

/* Streams a clip [3,F,H,W] through the encoder; returns the normalised latent [16,T,h,w]. */
static t3v_tensor *encode(t3v_ctx *ctx, const t3v_vae *vae, t3v_tensor *video)
{
    t3v_vae_stream s = {.arena = &caches};
    t3v_arena_back(&caches, 0);
    t3v_tensor *x = t3v_channels_last(ctx, video, ctx->compute);
    int64_t T = (video->shape[1] - 1) / 4 + 1, h = video->shape[2] / 8, w = video->shape[3] / 8;
    t3v_tensor *z = t3v_new(ctx, T3V_F32, T3V_SHAPE(16, T, h, w));
    for (int64_t i = 0; i < T; i++) {
        t3v_tensor *m = t3v_vae_encode_chunk(ctx, vae, &s, t3v_view(ctx, x, i ? 4 * i - 3 : 0, i ? 4 : 1));
        if (!m) fail_msg("%s", t3v_error_text());
        for (int64_t p = 0; p < h * w; p++)
            for (int64_t c = 0; c < 16; c++)
                ((float *)z->data)[(c * T + i) * h * w + p] =
                    (((const float *)m->data)[p * 32 + c] - vae->mean[c]) / vae->std[c];
    }
    return z;
}

static t3v_tensor *decode(t3v_ctx *ctx, const t3v_vae *vae, t3v_tensor *z)
{
    t3v_vae_stream s = {.arena = &caches};
    t3v_arena_back(&caches, 0);
    t3v_tensor *x = t3v_channels_last(ctx, z, T3V_F32);
    t3v_rows_affine(x->data, T3V_F32, x->data, T3V_F32, vae->std, vae->mean, t3v_rows(x), 16);
    int64_t T = z->shape[1];
    t3v_tensor *out = t3v_new(ctx, T3V_F32, T3V_SHAPE(4 * T - 3, 8 * z->shape[2], 8 * z->shape[3], 3));
    for (int64_t i = 0; i < T; i++)
        t3v_put(ctx, out, i ? 4 * i - 3 : 0, t3v_vae_decode_chunk(ctx, vae, &s, t3v_view(ctx, x, i, 1)));
    t3v_tensor *y = t3v_channels_first(ctx, out);
    if (!y) fail_msg("%s", t3v_error_text());
    for (int64_t i = 0; i < t3v_numel(y); i++) {
        float *p = (float *)y->data + i;
        *p = *p < -1 ? -1 : *p > 1 ? 1 : *p;
    }
    return y;
}

static void vae_round_trip(void **state)
{
    (void)state;
    t3v_tensor_file *f = open_file("vae");
    for (int k = 0; k < 2; k++) {
        t3v_dtype t = k ? T3V_BF16 : T3V_F32;
        t3v_model *m = open_model(t, false);
        t3v_arena_back(&arena, 0);
        t3v_ctx ctx = {.arena = &arena, .compute = t};
        expect_close(encode(&ctx, &m->vae, input(&ctx, f, "video"))->data, f, "latent", limit_of(t, 1e-5));
        expect_close(encode(&ctx, &m->vae, input(&ctx, f, "video_one"))->data, f, "latent_one",
                     limit_of(t, 1e-5));
        expect_close(decode(&ctx, &m->vae, input(&ctx, f, "latent"))->data, f, "decoded", limit_of(t, 1e-5));
        expect_close(decode(&ctx, &m->vae, input(&ctx, f, "random_latent"))->data, f, "random_decoded",
                     limit_of(t, 1e-5));
        t3v_model_close(m);
    }
    t3v_tensors_close(f);
}

static void vae_backward(void **state)
{
    (void)state;
    t3v_model *m = open_model(T3V_F32, true);
    t3v_tensor_file *f = open_file("vae_grad");
    float **grads = train_params(&m->vae.params);
    t3v_arena_back(&arena, 0);
    t3v_tape tape = {0};
    t3v_ctx ctx = {.arena = &arena, .compute = T3V_F32, .tape = &tape, .param_grad = grads};
    t3v_tensor *x = t3v_channels_last(&ctx, input(&ctx, f, "video"), T3V_F32);
    t3v_tensor *out = t3v_new_like(&ctx, x, T3V_F32), *dv = t3v_new_like(&ctx, x, T3V_F32);
    t3v_vae_stream es = {0}, ds = {0};
    for (int64_t i = 0; i < (x->shape[0] - 1) / 4 + 1; i++) {
        t3v_tensor *mo = t3v_vae_encode_chunk(&ctx, &m->vae, &es,
                                              t3v_view(&ctx, x, i ? 4 * i - 3 : 0, i ? 4 : 1));
        t3v_put(&ctx, out, i ? 4 * i - 3 : 0,
                t3v_vae_decode_chunk(&ctx, &m->vae, &ds, t3v_columns(&ctx, mo, 0, 16)));
    }
    if (ctx.status) fail_msg("%s", t3v_error_text());
    float loss = (float)t3v_rows_mse(dv->data, 1.0f, out->data, x->data, t3v_numel(x));
    expect_close(&loss, f, "loss", 1e-5);
    if (t3v_backward(&ctx, out, dv->data)) fail_msg("%s", t3v_error_text());
    double worst = 0;
    int whole = 0;
    for (int64_t i = 0; i < m->vae.params.count; i++) {
        char name[200];
        snprintf(name, sizeof name, "grad.%s", m->vae.params.item[i].name);
        double d = 0;
        if (t3v_tensors_find(f, name)) {
            d = distance(grads[i], f, name);
            whole++;
        } else {
            snprintf(name, sizeof name, "norm.%s", m->vae.params.item[i].name);
            float norm = (float)sqrt(
                t3v_rows_sumsq(grads[i], T3V_F32, t3v_numel(m->vae.params.item[i].tensor)));
            d = distance(&norm, f, name);
        }
        if (!(d < 1e-3)) fail_msg("%s: relative difference %.3g, limit 1e-3", name, d);
        if (d > worst) worst = d;
        free(grads[i]);
    }
    print_message("    worst of %d gradients (%d whole): %.2e\n", (int)m->vae.params.count, whole, worst);
    free(grads);
    t3v_tensors_close(f);
    t3v_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dit_forward),  cmocka_unit_test(dit_forward_int8), cmocka_unit_test(dit_backward),
        cmocka_unit_test(text_encoder), cmocka_unit_test(vae_round_trip),   cmocka_unit_test(vae_backward),
    };
    if (t3v_arena_open(&arena, (size_t)4 << 30) || t3v_arena_open(&caches, (size_t)1 << 30)) return 1;
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
