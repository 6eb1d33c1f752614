/* SPDX-License-Identifier: Apache-2.0 */
/* The gradient of whole tuning steps against PyTorch's (make_tune.py): all weights and a LoRA under a T3 plan, and what
 * hybrid attention has of its own; noise, weighting and teacher included. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "golden.h"
#include "pipe/model.h"
#include "tensor/dtype.h"
#include "train/flow.h"
#include "train/trained.h"

#define LIMIT 1e-3
#define OK(x)                                    \
    do {                                         \
        if (x) fail_msg("%s", t3v_error_text()); \
    } while (0)

static t3v_arena arena;

static const char *meta(const t3v_tensor_file *f, const char *key)
{
    for (int64_t i = 0; i < f->meta_count; i++)
        if (strcmp(f->meta[i].key, key) == 0) return f->meta[i].value;
    fail_msg("no %s in the fixture", key);
    return NULL;
}

/* The mean loss of the fixture's samples, gradients added to `grad`. */
static double step(const t3v_flow *flow, const t3v_tensor_file *f, float **grad)
{
    double mean = 0;
    const char *at = meta(f, "samples");
    for (int i = 0; i < 2; i++) {
        char name[32], *end;
        t3v_flow_noise noise = {.cond = true};
        noise.u = strtod(at, &end);
        noise.seed = strtoull(end, &end, 10);
        noise.stream = strtoull(end, &end, 10);
        at = end;
        t3v_tape tape = {0};
        t3v_arena_back(&arena, 0);
        t3v_ctx ctx = {.arena = &arena, .tape = &tape, .compute = T3V_F32, .param_grad = grad};
        snprintf(name, sizeof name, "x0/%d", i);
        t3v_tensor *x0 = input(&ctx, f, name), *half = t3v_new_like(&ctx, x0, T3V_BF16);
        OK(t3v_convert(half->data, T3V_BF16, x0->data, T3V_F32, t3v_numel(x0)));
        snprintf(name, sizeof name, "context/%d", i);
        double loss;
        t3v_flow_told told;
        OK(t3v_flow_sample(flow, &ctx, half, input(&ctx, f, name), &noise, 0.5, &loss, &told));
        mean += 0.5 * loss;
    }
    return mean;
}

static void expect_gradients(const char *name, t3v_trained_kind kind, int64_t count, bool recompute,
                             int64_t range)
{
    t3v_tensor_file *f = NULL;
    t3v_model *m = NULL, *teacher = NULL;
    t3v_plan *plan = NULL, *full = NULL;
    t3v_model_paths paths = {.model = "tests/golden/wan/tiny"};
    OK(t3v_tensors_open(&f, "tests/golden/tune.safetensors"));
    OK(t3v_model_open(&m, &paths, T3V_PART_DIT, T3V_F32, true));
    OK(t3v_model_open(&teacher, &paths, T3V_PART_DIT, T3V_F32, false));
    const t3v_dit_config *c = &m->config;
    t3v_grid grid = {2, 3, 4};
    OK(t3v_plan_make_for(&plan, meta(f, name), grid, (int)c->layers, c->dim, c->heads));
    OK(t3v_plan_make_for(&full, "full", grid, (int)c->layers, c->dim, c->heads));
    OK(t3v_model_adopt(m, plan));
    t3v_trained trained;
    t3v_trained_lora lora = {.rank = atoll(meta(f, "rank")),
                             .alpha = atof(meta(f, "alpha")),
                             .targets = meta(f, "targets")};
    OK(t3v_trained_open(&trained, &m->dit, kind, &lora, m->compute));
    assert_int_equal(trained.params.count, count);
    float **grad = calloc((size_t)count, sizeof *grad);
    for (int64_t i = 0; i < count; i++) {
        t3v_tensor *t = trained.params.item[i].tensor;
        char value[256];
        snprintf(value, sizeof value, "%s/value/%s", name, trained.params.item[i].name);
        if (kind != T3V_TRAIN_ALL) OK(t3v_tensors_read(f, value, t->ndim, t->shape, t->data, T3V_F32));
        grad[i] = calloc((size_t)t3v_numel(t), sizeof **grad);
        t->needs_grad = true;
        t->param = (int32_t)i + 1;
    }
    t3v_flow flow = {.dit = &m->dit,
                     .plan = plan,
                     .shift = atof(meta(f, "shift")),
                     .weighting = T3V_WEIGHT_DIFFSYNTH,
                     .steps = 50,
                     .recompute = recompute,
                     .range = range,
                     .teacher = &teacher->dit,
                     .teacher_plan = full,
                     .teach = atof(meta(f, "teach")),
                     .teach_layers = atof(meta(f, "teach_layers"))};
    t3v_flow_open(&flow);
    float loss = (float)step(&flow, f, grad);
    char of[256];
    snprintf(of, sizeof of, "%s/loss", name);
    expect_close(&loss, f, of, 1e-5);
    double worst = 0;
    int whole = 0;
    for (int64_t i = 0; i < count; i++) {
        const t3v_param *p = &trained.params.item[i];
        snprintf(of, sizeof of, "%s/grad/%s", name, p->name);
        double d;
        if (t3v_tensors_find(f, of)) {
            d = distance(grad[i], f, of);
            whole++;
        } else {
            float norm = (float)sqrt(t3v_rows_sumsq(grad[i], T3V_F32, t3v_numel(p->tensor)));
            snprintf(of, sizeof of, "%s/norm/%s", name, p->name);
            d = distance(&norm, f, of);
        }
        if (!(d <= LIMIT)) fail_msg("%s: relative difference %.3g, limit %.3g", of, d, LIMIT);
        worst = d > worst ? d : worst;
        free(grad[i]);
    }
    print_message("    %s, recompute %d, range %d: worst of %d gradients (%d whole) %.2e\n", name, recompute,
                  (int)range, (int)count, whole, worst);
    free(grad);
    t3v_trained_close(&trained);
    t3v_plan_free(plan);
    t3v_plan_free(full);
    t3v_model_close(m);
    t3v_model_close(teacher);
    t3v_tensors_close(f);
}

static void all_weights(void **state)
{
    (void)state;
    expect_gradients("full", T3V_TRAIN_ALL, 150, false, 0);
    expect_gradients("full", T3V_TRAIN_ALL, 150, true, 7);
}

static void low_rank_updates(void **state)
{
    (void)state;
    expect_gradients("lora", T3V_TRAIN_LORA, 40, false, 0);
    expect_gradients("lora", T3V_TRAIN_LORA, 40, true, 7);
}

static void feature_maps(void **state)
{
    (void)state;
    expect_gradients("own", T3V_TRAIN_OWN, 20, false, 0);
    expect_gradients("own", T3V_TRAIN_OWN, 20, true, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_weights), cmocka_unit_test(low_rank_updates),
                                       cmocka_unit_test(feature_maps)};
    if (t3v_arena_open(&arena, (size_t)1 << 30)) return 1;
    return cmocka_run_group_tests_name("tune", tests, NULL, NULL);
}
