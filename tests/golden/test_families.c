/* SPDX-License-Identifier: Apache-2.0 */
/* Image-to-video DiTs against the official code (tests/golden/README.md): CLIP features beside the text, and two
 * timesteps in one pass, which ranges of tokens may straddle; forward and gradients. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "golden.h"
#include "base/rng.h"
#include "pipe/model.h"
#include "tensor/dtype.h"
#include "train/flow.h"

static t3v_arena arena;

typedef struct family {
    t3v_model *m;
    t3v_tensor_file *f;
    t3v_plan *plan;
    t3v_ctx ctx;
    t3v_tensor *x, *context, *clip;
    t3v_dit_prompt prompt;
    t3v_dit_image image;
} family;

static void open_family(family *k, const char *name, const char *latent, t3v_dtype compute, bool writable)
{
    char path[256];
    snprintf(path, sizeof path, "tests/golden/families/%s", name);
    t3v_model_paths paths = {.model = path};
    *k = (family){.ctx = {.arena = &arena, .compute = compute}};
    if (t3v_model_open(&k->m, &paths, T3V_PART_DIT, compute, writable)) fail_msg("%s", t3v_error_text());
    strcat(path, ".safetensors");
    if (t3v_tensors_open(&k->f, path)) fail_msg("%s", t3v_error_text());
    t3v_arena_back(&arena, 0);
    k->x = input(&k->ctx, k->f, latent);
    k->context = input(&k->ctx, k->f, "context");
    const t3v_dit_config *c = &k->m->config;
    if (c->in_dim > c->out_dim) { /* the image's channels after the latent's */
        const int64_t *s = k->x->shape;
        t3v_tensor *all = t3v_new(&k->ctx, T3V_F32, T3V_SHAPE(c->in_dim, s[1], s[2], s[3]));
        t3v_put(&k->ctx, all, 0, k->x);
        t3v_put(&k->ctx, all, c->out_dim, input(&k->ctx, k->f, "y"));
        k->x = all;
    }
    if (c->clip_dim) k->clip = input(&k->ctx, k->f, "clip");
    t3v_grid grid = {k->x->shape[1], k->x->shape[2] / 2, k->x->shape[3] / 2};
    assert_int_equal(t3v_plan_make(&k->plan, "full", grid, 2), T3V_OK);
}

static void close_family(family *k)
{
    t3v_plan_free(k->plan);
    t3v_tensors_close(k->f);
    t3v_model_close(k->m);
}

static void velocity(const char *name, const char *latent, const char *want, double timestep, bool first,
                     t3v_dtype compute, int64_t range)
{
    family k;
    open_family(&k, name, latent, compute, false);
    assert_int_equal(t3v_dit_prompt_make(&k.ctx, &k.m->dit, k.context, &k.prompt), T3V_OK);
    if (k.clip) assert_int_equal(t3v_dit_image_make(&k.ctx, &k.m->dit, k.clip, &k.image), T3V_OK);
    t3v_dit_call call = {.plan = k.plan,
                         .prompt = &k.prompt,
                         .image = k.clip ? &k.image : NULL,
                         .timestep = timestep,
                         .first_given = first,
                         .range = range};
    t3v_tensor *v = t3v_dit_forward(&k.ctx, &k.m->dit, k.x, &call);
    if (!v) fail_msg("%s", t3v_error_text());
    expect_close(v->data, k.f, want, compute == T3V_F32 ? 1e-5 : 2e-2);
    close_family(&k);
}

static void forward(void **state)
{
    (void)state;
    for (int t = 0; t < 2; t++) {
        t3v_dtype compute = t ? T3V_BF16 : T3V_F32;
        /* 18 tokens, 6 of them of the first frame: 4 and 7 straddle its end, 6 does not */
        for (int64_t range = 0; range < 8; range += range ? 1 : 4) {
            velocity("i2v", "latent", "velocity", 731, false, compute, range);
            velocity("ti2v", "latent", "velocity", 731, true, compute, range);
        }
        velocity("ti2v", "latent", "velocity_t2v", 731, false, compute, 0);
        velocity("ti2v", "latent_one", "velocity_one", 500, true, compute, 3); /* no token has the timestep */
    }
}

enum { TENSORS = 128 };
static float *plain[TENSORS]; /* gradients of the plain tape in one range */

/* Gradients of all parameters in `grads`, for ctx->param_grad. */
static void ask_gradients(family *k, float **grads)
{
    t3v_params *p = &k->m->dit.params;
    assert_true(p->count <= TENSORS);
    for (int64_t i = 0; i < p->count; i++) {
        p->item[i].tensor->needs_grad = true;
        p->item[i].tensor->param = (int32_t)i + 1;
        grads[i] = calloc((size_t)t3v_numel(p->item[i].tensor), sizeof(float));
        assert_non_null(grads[i]);
    }
    k->ctx.param_grad = grads;
}

static void gradients(const char *name, bool first, t3v_dtype compute, int64_t range, bool recompute)
{
    double most = compute == T3V_BF16 ? 0.1 : 1e-4;
    family k;
    open_family(&k, name, "latent", compute, true);
    t3v_params *p = &k.m->dit.params;
    float *grads[TENSORS];
    ask_gradients(&k, grads);
    t3v_tape tape = {0};
    k.ctx.tape = &tape;
    k.x->needs_grad = k.context->needs_grad = true;
    if (k.clip) {
        k.clip->needs_grad = true;
        assert_int_equal(t3v_dit_image_make(&k.ctx, &k.m->dit, k.clip, &k.image), T3V_OK);
    }
    t3v_tensor *target = input(&k.ctx, k.f, "target");
    t3v_dit_call call = {.plan = k.plan,
                         .image = k.clip ? &k.image : NULL,
                         .timestep = 731,
                         .first_given = first,
                         .range = range};
    double mean;
    if (t3v_dit_loss(&k.ctx, &k.m->dit, k.x, k.context, target->data, 1, &call, recompute, &mean))
        fail_msg("%s", t3v_error_text());
    float loss = (float)mean;
    expect_close(&loss, k.f, "loss", compute == T3V_F32 ? 1e-5 : 1.0 / 256);
    expect_close(k.x->grad, k.f, "grad_latent", most);
    expect_close(k.context->grad, k.f, "grad_context", most);
    if (k.clip) expect_close(k.clip->grad, k.f, "grad_clip", most);
    for (int64_t i = 0; i < p->count; i++) {
        char text[200];
        int64_t n = t3v_numel(p->item[i].tensor);
        double d, sum = 0, off = 0;
        for (int64_t j = 0; j < n; j++) sum += (double)grads[i][j] * grads[i][j];
        float norm = (float)sqrt(sum);
        snprintf(text, sizeof text, "norm.%s", p->item[i].name);
        if (!((d = distance(&norm, k.f, text)) < most)) fail_msg("%s: off by %.3g of it", text, d);
        snprintf(text, sizeof text, "grad.%s", p->item[i].name);
        if (t3v_tensors_find(k.f, text) && !((d = distance(grads[i], k.f, text)) < most))
            fail_msg("%s: relative L2 %.3g, limit %.3g", text, d, most);
        if (compute == T3V_F32 && !plain[i]) {
            plain[i] = grads[i];
            continue;
        }
        for (int64_t j = 0; j < n && plain[i]; j++)
            off += ((double)grads[i][j] - plain[i][j]) * ((double)grads[i][j] - plain[i][j]);
        if (compute == T3V_F32 && !(sqrt(off) <= 1e-5 * sqrt(sum) + 1e-12))
            fail_msg("%s: %.3g from the plain tape's", text, sqrt(off / sum));
        free(grads[i]);
    }
    if (compute == T3V_BF16)
        for (int i = 0; i < TENSORS; i++) {
            free(plain[i]);
            plain[i] = NULL;
        }
    close_family(&k);
}

static void backward(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "ti2v" : "i2v";
        gradients(name, i, T3V_F32, 0, false); /* the plain tape first: the others are held against it */
        gradients(name, i, T3V_F32, 4, false);
        gradients(name, i, T3V_F32, 0, true);
        gradients(name, i, T3V_F32, 7, true);
        gradients(name, i, T3V_BF16, 4, true);
    }
}

/* A training sample with its first frame given is the loss over all frames where that frame's target is met already. */
static void first_frame_in_training(void **state)
{
    (void)state;
    const t3v_flow_noise noise = {.u = 0.4, .seed = 7, .stream = 1, .cond = true, .first = true};
    float *want[TENSORS], *got[TENSORS];
    double whole = 0, loss = 0;
    family k;
    open_family(&k, "ti2v", "latent", T3V_F32, true);
    ask_gradients(&k, want);
    int64_t n = t3v_numel(k.x), frames = n / k.x->shape[0], frame = frames / k.x->shape[1];
    double over = (double)k.x->shape[1] / (double)(k.x->shape[1] - 1), shift = 3,
           s = shift * noise.u / (1 + (shift - 1) * noise.u);
    t3v_tensor *x0 = t3v_new_like(&k.ctx, k.x, T3V_BF16), *clean = t3v_new_like(&k.ctx, k.x, T3V_F32),
               *target = t3v_new_like(&k.ctx, k.x, T3V_F32);
    assert_int_equal(t3v_convert(x0->data, T3V_BF16, k.x->data, T3V_F32, n), T3V_OK);
    assert_int_equal(t3v_convert(clean->data, T3V_F32, x0->data, T3V_BF16, n), T3V_OK);
    float *x = k.x->data, *c = clean->data, *t = target->data;
    t3v_normal_fill(t, n, noise.seed, noise.stream, 0);
    for (int64_t i = 0; i < n; i++) {
        x[i] = i % frames < frame ? c[i] : (float)((1 - s) * (double)c[i] + s * (double)t[i]);
        t[i] -= c[i];
    }
    t3v_dit_call call = {.plan = k.plan, .prompt = &k.prompt, .timestep = 1000 * s, .first_given = true};
    assert_int_equal(t3v_dit_prompt_make(&k.ctx, &k.m->dit, k.context, &k.prompt), T3V_OK);
    const float *v = t3v_dit_forward(&k.ctx, &k.m->dit, k.x, &call)->data;
    for (int64_t i = 0; i < n; i++)
        if (i % frames < frame) t[i] = v[i];
    t3v_tape tape = {0};
    k.ctx.tape = &tape;
    if (t3v_dit_loss(&k.ctx, &k.m->dit, k.x, k.context, t, over, &call, false, &whole))
        fail_msg("%s", t3v_error_text());
    int64_t count = k.m->dit.params.count;
    for (int recompute = 0; recompute < 2; recompute++) {
        t3v_flow flow = {
            .dit = &k.m->dit, .plan = k.plan, .shift = shift, .steps = 50, .recompute = recompute};
        t3v_flow_told told;
        t3v_tape mine = {0};
        ask_gradients(&k, got);
        k.ctx.tape = &mine;
        t3v_flow_open(&flow);
        if (t3v_flow_sample(&flow, &k.ctx, x0, k.context, &noise, 1, &loss, &told))
            fail_msg("%s", t3v_error_text());
        if (!(fabs(loss - over * whole) <= 1e-5 * loss))
            fail_msg("loss %.9g, wanted %.9g", loss, over * whole);
        for (int64_t i = 0; i < count; i++) {
            const t3v_param *p = &k.m->dit.params.item[i];
            double off = 0, sum = 0;
            for (int64_t j = 0; j < t3v_numel(p->tensor); j++) {
                off += pow((double)got[i][j] - (double)want[i][j], 2);
                sum += pow((double)want[i][j], 2);
            }
            if (!(sqrt(off) <= 1e-4 * sqrt(sum) + 1e-12))
                fail_msg("%s: gradient %.3g from the one over all frames", p->name, sqrt(off / sum));
            free(got[i]);
        }
    }
    for (int64_t i = 0; i < count; i++) free(want[i]);
    close_family(&k);
}

static void an_image_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    family k;
    open_family(&k, "i2v", "latent", T3V_F32, false);
    t3v_dit_prompt_make(&k.ctx, &k.m->dit, k.context, &k.prompt);
    t3v_dit_call call = {.plan = k.plan, .prompt = &k.prompt, .timestep = 731};
    assert_null(t3v_dit_forward(&k.ctx, &k.m->dit, k.x, &call));
    assert_non_null(strstr(t3v_error_text(), "an image's features"));
    k.ctx.status = T3V_OK;
    assert_int_equal(t3v_dit_image_make(&k.ctx, &k.m->dit, k.context, &k.image), T3V_E_SHAPE);
    assert_non_null(strstr(t3v_error_text(), "[rows, 24]"));
    close_family(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward),
        cmocka_unit_test(backward),
        cmocka_unit_test(first_frame_in_training),
        cmocka_unit_test(an_image_that_does_not_fit_is_refused),
    };
    if (t3v_arena_open(&arena, (size_t)1 << 30)) return 1;
    return cmocka_run_group_tests_name("families", tests, NULL, NULL);
}
