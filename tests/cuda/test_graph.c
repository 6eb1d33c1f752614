/* SPDX-License-Identifier: Apache-2.0 */
/* Passes of a DiT that are recorded and replayed give what they give when every launch is made: other timesteps, latents and
 * prompts, memory to work in that grows meanwhile; and what cannot be recorded says why and runs as ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "cuda/emulate.h"
#include "device.h"
#include "dit/configs.h"
#include "dit/graph.h"
#include "io/params.h"
#include "ops/kernels.h"
#include "pipe/place.h"
#include "tensor/randomise.h"

enum { T = 2, H = 4, W = 4, PASSES = 5 };

typedef struct model {
    const t3v_device *device;
    t3v_dit dit;
    t3v_arena weights, placed, own;
    t3v_plan *plan;
} model;

static void open_model(model *m, const char *plan, bool fp8)
{
    t3v_dit_config c;
    t3v_params_options o = {.matrix = T3V_F32};
    *m = (model){.device = t3v_emulated_device()};
    assert_int_equal(t3v_dit_config_named("tiny", &c), T3V_OK);
    assert_int_equal(t3v_dit_open(&m->dit, &c), T3V_OK);
    t3v_grid grid = {T, H / 2, W / 2};
    assert_int_equal(t3v_plan_make_for(&m->plan, plan, grid, (int)c.layers, c.dim, c.heads), T3V_OK);
    int64_t known = m->dit.params.count;
    assert_int_equal(t3v_dit_adopt(&m->dit, m->plan), T3V_OK);
    assert_int_equal(t3v_arena_open(&m->weights, t3v_params_bytes(&m->dit.params, NULL, &o)), T3V_OK);
    assert_int_equal(t3v_params_alloc(&m->dit.params, &o, &m->weights), T3V_OK);
    t3v_params_randomise(&m->dit.params, 1);
    for (int64_t i = known; i < m->dit.params.count; i++) /* of the plan */
        t3v_normal_fill(m->dit.params.item[i].tensor->data, t3v_numel(m->dit.params.item[i].tensor), 2, 0, 0);
    m->dit.device = m->device;
    assert_int_equal(t3v_weights_place(&m->dit.params, T3V_F32, m->device, &m->placed, NULL,
                                       fp8 ? t3v_dit_fp8 : NULL),
                     T3V_OK);
}

static void close_model(model *m)
{
    t3v_plan_free(m->plan);
    t3v_dit_close(&m->dit);
    t3v_arena_close(&m->placed);
    t3v_arena_close(&m->weights);
}

static t3v_tensor *noise(t3v_ctx *ctx, uint64_t stream, int ndim, const int64_t *shape)
{
    t3v_tensor *t = t3v_new(ctx, T3V_F32, ndim, shape);
    assert_non_null(t);
    t3v_normal_fill(t3v_host(ctx, t), t3v_numel(t), 5, stream, 0);
    t3v_give(ctx, t);
    return t;
}

/* Passes of two prompts in turn, as a generation with guidance makes them; out [PASSES][numel]. */
static void run(const model *m, t3v_dit_graphs *graphs, const t3v_progress *progress, float *out)
{
    t3v_arena arena;
    assert_int_equal(t3v_arena_open_in(&arena, (size_t)1 << 28, &m->device->space), T3V_OK);
    t3v_ctx ctx = {.arena = &arena, .compute = T3V_F32};
    const t3v_dit_config *c = &m->dit.config;
    int64_t n = c->out_dim * T * H * W;
    t3v_dit_prompt prompt[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(t3v_dit_prompt_make(&ctx, &m->dit,
                                             noise(&ctx, 10 + (uint64_t)i, T3V_SHAPE(3 + i, c->text_dim)),
                                             &prompt[i]),
                         T3V_OK);
    for (int i = 0; i < PASSES; i++) {
        size_t mark = t3v_arena_mark(&arena);
        t3v_dit_call call = {.plan = m->plan,
                             .prompt = &prompt[i % 2],
                             .timestep = 900 - 150 * i,
                             .moment = {i, PASSES, 0.5, 0},
                             .range = 5,
                             .progress = progress,
                             .graphs = graphs};
        t3v_tensor *x = noise(&ctx, (uint64_t)i, T3V_SHAPE(c->in_dim, T, H, W));
        t3v_tensor *v = t3v_dit_forward(&ctx, &m->dit, x, &call);
        const float *got = t3v_take(&ctx, v);
        assert_non_null(got);
        memcpy(out + i * n, got, (size_t)n * sizeof *out);
        t3v_arena_back(&arena, mark);
    }
    t3v_arena_close(&arena);
}

static void replayed(const char *plan, bool fp8)
{
    model m;
    open_model(&m, plan, fp8);
    int64_t n = PASSES * m.dit.config.out_dim * T * H * W;
    float *want = malloc((size_t)n * sizeof *want), *got = malloc((size_t)n * sizeof *got);
    assert_true(want && got);
    t3v_dit_graphs graphs = {0};
    run(&m, NULL, NULL, want);
    int64_t before = t3v_emulate_count().launches;
    run(&m, &graphs, NULL, got);
    assert_true(t3v_emulate_count().launches > before);
    /* Of each prompt the first pass runs, the second is recorded, the third replayed: passes 0 to 4 are a b a b a. */
    assert_int_equal(graphs.replayed, 1);
    assert_string_equal(graphs.why, "");
    assert_int_equal((graphs.of[0].graph != NULL) + (graphs.of[1].graph != NULL), 2);
    assert_memory_equal(got, want, (size_t)n * sizeof *got);
    t3v_dit_graphs_close(&graphs);
    free(want), free(got);
    close_model(&m);
}

static void test_replayed(void **state)
{
    (void)state;
    replayed("t3:blocks=1x2x1/2x1x1", false);
    replayed("hybrid", false); /* has a linear term, and parameters */
    replayed("full", true);
}

/* A caller that waits for the device between blocks. */
static bool wait(void *user, const char *phase, int64_t done, int64_t total)
{
    const t3v_device *device = user;
    (void)phase, (void)done, (void)total;
    return device->finish() == T3V_OK;
}

static void test_refused(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        model m;
        open_model(&m, i ? "rettention" : "full", false);
        const t3v_progress waits = {wait, (void *)(uintptr_t)m.device};
        int64_t n = PASSES * m.dit.config.out_dim * T * H * W;
        float *want = malloc((size_t)n * sizeof *want), *got = malloc((size_t)n * sizeof *got);
        assert_true(want && got);
        t3v_dit_graphs graphs = {0};
        run(&m, NULL, NULL, want);
        run(&m, &graphs, i ? NULL : &waits, got);
        assert_int_equal(graphs.replayed, 0);
        if (!i) assert_true(graphs.of[0].refused && graphs.of[1].refused && graphs.next == 2);
        assert_string_equal(graphs.why, i ? "attention depends on the step or on content" : "the host waits");
        assert_memory_equal(got, want, (size_t)n * sizeof *got);
        t3v_dit_graphs_close(&graphs);
        free(want), free(got);
        close_model(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_replayed), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
