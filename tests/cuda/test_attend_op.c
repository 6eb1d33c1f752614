/* SPDX-License-Identifier: Apache-2.0 */
/* The attention op on a device against the CPU, as a DiT block calls it: steps of a generation with what they keep, gradients
 * of inputs and parameters, what the device declines, and lists that stay on the device while their plan lives. */
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
#include "attn/device_job.h"
#include "attn/device_run.h"
#include "attn/pattern.h"
#include "base/rng.h"
#include "cuda/emulate.h"
#include "device.h"
#include "tensor/dtype.h"

enum { HEADS = 2, DIM = 32, WIDTH = HEADS * DIM, STEPS = 4, PARAMS = T3V_SITE_PARAMS_MAX };

/* What one side computes: outputs of some steps, then gradients of q, k, v and the parameters. */
typedef struct results {
    float *x[STEPS + 3 + PARAMS];
    int64_t n[STEPS + 3 + PARAMS];
    int count;
    t3v_attend_met met;
} results;

static t3v_tensor *random_tensor(t3v_ctx *ctx, t3v_dtype type, int ndim, const int64_t *shape,
                                 uint64_t stream, float scale)
{
    t3v_tensor *t = t3v_new(ctx, type, ndim, shape);
    assert_non_null(t);
    int64_t n = t3v_numel(t);
    float *f = malloc((size_t)n * sizeof *f);
    assert_non_null(f);
    t3v_normal_fill(f, n, 11, stream, 0);
    void *host = t3v_host(ctx, t);
    for (int64_t i = 0; i < n; i++) {
        float x = scale > 0 ? f[i] * scale : 0; /* not -0, whose bits are no zero of a counter */
        if (type == T3V_F32) ((float *)host)[i] = x;
        else ((t3v_bf16 *)host)[i] = t3v_f32_to_bf16(x);
    }
    t3v_give(ctx, t);
    free(f);
    return t;
}

static void keep(results *r, const float *x, t3v_dtype type, int64_t n)
{
    float *f = malloc((size_t)n * sizeof *f);
    assert_non_null(f);
    for (int64_t i = 0; i < n; i++)
        f[i] = type == T3V_F32 ? x[i] : t3v_bf16_to_f32(((const t3v_bf16 *)(const void *)x)[i]);
    r->x[r->count] = f, r->n[r->count++] = n;
}

static void keep_gradient(results *r, const t3v_device *d, const float *grad, int64_t n)
{
    float *f = malloc((size_t)n * sizeof *f);
    assert_non_null(f);
    if (d) assert_int_equal(d->pull(f, grad, (size_t)n * sizeof *f), T3V_OK);
    else memcpy(f, grad, (size_t)n * sizeof *f);
    r->x[r->count] = f, r->n[r->count++] = n;
}

static results run(const t3v_device *d, const t3v_site *site, int64_t tokens, t3v_dtype type, int steps,
                   bool state, bool backward)
{
    results r = {.count = 0};
    t3v_arena arena;
    assert_int_equal(t3v_arena_open_in(&arena, (size_t)1 << 28, t3v_device_space(d)), T3V_OK);
    t3v_ctx ctx = {.arena = &arena, .compute = type};
    t3v_site_param info[PARAMS];
    t3v_tensor param[PARAMS];
    int params = t3v_site_params(site, HEADS, DIM, info);
    for (int i = 0; i < params; i++)
        param[i] = *random_tensor(&ctx, T3V_F32, info[i].ndim, info[i].shape, 20 + (uint64_t)i,
                                  info[i].spread > 0 ? (float)info[i].spread : 0.1f);
    size_t bytes = t3v_site_state(site, tokens, HEADS, DIM, (int)t3v_dtype_size(type));
    t3v_attend_own own = {.param = params ? param : NULL, .met = &r.met};
    if (state && bytes) {
        t3v_tensor *zero = random_tensor(&ctx, T3V_F32, T3V_SHAPE((int64_t)(bytes / 4 + 1)), 0, 0);
        own.state = zero->data;
    }
    const int64_t shape[] = {tokens, WIDTH};
    for (int s = 0; s < steps; s++) {
        size_t mark = t3v_arena_mark(&arena);
        t3v_tensor *q = random_tensor(&ctx, type, 2, shape, 1 + 3 * (uint64_t)s, 1.5f),
                   *k = random_tensor(&ctx, type, 2, shape, 2 + 3 * (uint64_t)s, 1),
                   *v = random_tensor(&ctx, type, 2, shape, 3 + 3 * (uint64_t)s, 1);
        t3v_moment m = {.step = s, .steps = STEPS};
        t3v_tensor *out = t3v_attend(&ctx, site, HEADS, q, k, v, NULL, &m, &own);
        if (!out) fail_msg("%s %s", t3v_error_text(), t3v_emulate_text());
        keep(&r, t3v_take(&ctx, out), type, tokens * WIDTH);
        t3v_arena_back(&arena, mark);
    }
    if (backward) {
        t3v_tensor *in[3];
        t3v_tape tape = {0};
        for (int i = 0; i < 3; i++) {
            in[i] = random_tensor(&ctx, type, 2, shape, 1 + (uint64_t)i, i ? 1 : 1.5f);
            in[i]->needs_grad = true;
        }
        for (int i = 0; i < params; i++) param[i].needs_grad = true;
        t3v_tensor *dout = random_tensor(&ctx, T3V_F32, 2, shape, 50, 1);
        ctx.tape = &tape;
        own.state = NULL;
        t3v_tensor *out = t3v_attend(&ctx, site, HEADS, in[0], in[1], in[2], NULL, NULL, &own);
        if (!out || t3v_backward(&ctx, out, dout->data))
            fail_msg("%s %s", t3v_error_text(), t3v_emulate_text());
        for (int i = 0; i < 3; i++) keep_gradient(&r, d, t3v_grad(&ctx, in[i]), tokens * WIDTH);
        for (int i = 0; i < params; i++)
            keep_gradient(&r, d, t3v_grad(&ctx, &param[i]), t3v_numel(&param[i]));
    }
    if (ctx.status) fail_msg("%s %s", t3v_error_text(), t3v_emulate_text());
    t3v_arena_close(&arena);
    return r;
}

static void compare_on(t3v_grid grid, const char *text, t3v_dtype type, bool state, bool backward)
{
    t3v_plan *plan;
    if (t3v_plan_make_for(&plan, text, grid, 2, 0, HEADS)) fail_msg("%s: %s", text, t3v_error_text());
    const t3v_site *site = &plan->layer[1].site[T3V_SITE_SELF];
    results want = run(NULL, site, plan->tokens, type, state ? STEPS : 2, state, backward),
            got = run(t3v_emulated_device(), site, plan->tokens, type, state ? STEPS : 2, state, backward);
    assert_int_equal(got.count, want.count);
    assert_true(got.met.met == want.met.met && got.met.all == want.met.all);
    for (int i = 0; i < want.count; i++) {
        double most = 1e-3;
        for (int64_t j = 0; j < want.n[i]; j++) most = fmax(most, fabs((double)want.x[i][j]));
        for (int64_t j = 0; j < want.n[i]; j++) {
            double e = fabs((double)got.x[i][j] - (double)want.x[i][j]);
            if (!(e <= (type == T3V_F32 ? 1e-4 : 8.0 / 256) * most))
                fail_msg("%s: result %d, %d: got %g, expected %g", text, i, (int)j, (double)got.x[i][j],
                         (double)want.x[i][j]);
        }
        free(want.x[i]), free(got.x[i]);
    }
    t3v_plan_free(plan);
}

static void compare(const char *text, t3v_dtype type, bool state, bool backward)
{
    compare_on((t3v_grid){2, 4, 6}, text, type, state, backward);
}

static void steps_and_gradients(void **state)
{
    (void)state;
    for (int type = 0; type < 2; type++) {
        t3v_dtype t = type ? T3V_BF16 : T3V_F32;
        compare("t3:blocks=1x2x2", t, false, true);
        compare("jenga:block=16", T3V_F32, false, true);
        compare("heads 1 -> full; steps 0 -> t3:blocks=1x2x2; tile:k=1", t, false, true);
    }
}

/* Linear terms of every depth, degree, non-linearity and weight, alone and beside softmax terms, over one chunk of rows or
 * several. */
static void linear_terms(void **state)
{
    (void)state;
    static const char *const texts[] = {"hybrid",
                                        "hybrid:rate=3,shift=none",
                                        "hybrid:rate=0,last=elu",
                                        "hybrid:rate=5,depth=3,degree=1,last=relu",
                                        "hybrid:rate=2,depth=0,degree=3,shift=none",
                                        "hybrid:rate=7,depth=1,last=none,degree=2,shift=none"};
    size_t before = t3v_device_linear_buffer, parts = t3v_device_parts_most;
    for (int i = 0; i < 6; i++) {
        compare(texts[i], T3V_F32, false, true);
        if (i < 3) compare(texts[i], T3V_BF16, false, true);
    }
    t3v_device_linear_buffer = t3v_device_parts_most = 1; /* 128 rows and a head at a time */
    for (int i = 0; i < 3; i++) compare_on((t3v_grid){3, 5, 9}, texts[i], T3V_F32, false, i == 0);
    t3v_device_linear_buffer = before, t3v_device_parts_most = parts;
}

/* What is kept from step to step, of all heads together and one by one. */
static void states(void **state)
{
    (void)state;
    size_t parts = t3v_device_parts_most;
    for (int one = 0; one < 2; one++) {
        compare("rettention:window=2,period=3", T3V_F32, true, false);
        compare("rettention:window=2,period=4,lambda=-0.2,warm=0", T3V_BF16, true, false);
        compare("rettention:of=t3:blocks=1x2x2+branch=close,period=2,warm=0", T3V_F32, true, true);
        compare_on((t3v_grid){3, 5, 7}, "rettention:of=tile,warm=20,lambda=0", T3V_F32, true, false);
        t3v_device_parts_most = 1;
    }
    t3v_device_parts_most = parts;
}

/* Selections by content, which must be the same blocks. */
static void selections(void **state)
{
    (void)state;
    for (int type = 0; type < 2; type++) {
        t3v_dtype t = type ? T3V_BF16 : T3V_F32;
        compare_on((t3v_grid){2, 5, 7}, "jenga:block=16", t, false, true);
        compare_on((t3v_grid){2, 6, 5}, "rainfusion2:block=8", t, false, true);
    }
}

/* Only a function of the host is left to it, and what a device's lists cannot say. */
static int64_t first_block(const void *user, const float *score, int64_t row, int64_t blocks, int32_t *list)
{
    (void)user, (void)score, (void)row, (void)blocks;
    list[0] = 0;
    return 1;
}

static void declined(void **state)
{
    (void)state;
    for (const t3v_pattern *const *p = t3v_patterns; *p; p++) {
        t3v_plan *plan;
        if (t3v_plan_make_for(&plan, (*p)->name, (t3v_grid){4, 8, 8}, 1, 0, HEADS))
            fail_msg("%s", t3v_error_text());
        uint64_t some;
        t3v_attend_args a = {.state = &some};
        const char *why = t3v_device_attend_declines(&plan->layer[0].site[T3V_SITE_SELF], &a);
        if (why) fail_msg("%s: %s", (*p)->name, why);
        t3v_plan_free(plan);
    }
    t3v_plan *plan;
    assert_int_equal(t3v_plan_make_for(&plan, "jenga:block=16", (t3v_grid){2, 4, 6}, 1, 0, HEADS), T3V_OK);
    t3v_site site = plan->layer[0].site[T3V_SITE_SELF];
    t3v_term term = site.term[0];
    t3v_select select = *term.select;
    assert_int_equal(site.terms, 1);
    select.choose = first_block, select.min = 1, select.max = 1;
    term.select = &select, site.term = &term;
    const t3v_attend_args a = {0};
    assert_non_null(strstr(t3v_device_attend_declines(&site, &a), "function of the CPU"));
    results want = run(NULL, &site, 48, T3V_F32, 1, false, true),
            got = run(t3v_emulated_device(), &site, 48, T3V_F32, 1, false, true);
    for (int i = 0; i < want.count; i++) {
        for (int64_t j = 0; j < want.n[i]; j++) assert_true(fabsf(want.x[i][j] - got.x[i][j]) < 1e-4f);
        free(want.x[i]), free(got.x[i]);
    }
    t3v_device_run_forget(&site);
    t3v_plan_free(plan);
}

/* Plans that come and go, often at the same addresses: lists of one that went must not be used for another. */
static void plans_come_and_go(void **state)
{
    (void)state;
    for (int i = 0; i < 12; i++) {
        t3v_plan *plan;
        char text[64];
        snprintf(text, sizeof text, "t3:blocks=1x%dx%d", 1 + i % 2, 1 + i % 3);
        assert_int_equal(t3v_plan_make_for(&plan, text, (t3v_grid){1, 4, 6}, 3, 0, HEADS), T3V_OK);
        for (int layer = 0; layer < 3; layer++) {
            const t3v_site *site = &plan->layer[layer].site[T3V_SITE_SELF];
            results want = run(NULL, site, 24, T3V_F32, 1, false, false),
                    got = run(t3v_emulated_device(), site, 24, T3V_F32, 1, false, false);
            for (int64_t j = 0; j < want.n[0]; j++) assert_true(fabsf(want.x[0][j] - got.x[0][j]) < 1e-3f);
            free(want.x[0]), free(got.x[0]);
        }
        t3v_plan_free(plan);
    }
}

int main(void)
{
    t3v_device_hopper_few = 0; /* wgmma, but where T3V_CARD says otherwise */
    const struct CMUnitTest tests[] = {cmocka_unit_test(steps_and_gradients),
                                       cmocka_unit_test(linear_terms),
                                       cmocka_unit_test(states),
                                       cmocka_unit_test(selections),
                                       cmocka_unit_test(declined),
                                       cmocka_unit_test(plans_come_and_go)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
