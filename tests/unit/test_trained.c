/* SPDX-License-Identifier: Apache-2.0 */
/* What of a DiT is trained: the list, gradients of low-rank updates, files that come back, the loss's weighting, teachers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/rng.h"
#include "base/status.h"
#include "pipe/lora_attach.h"
#include "pipe/model.h"
#include "tensor/dtype.h"
#include "tensor/randomise.h"
#include "train/flow.h"
#include "train/trained.h"

#define TINY "tests/golden/wan/tiny"
#define OK(x)                                    \
    do {                                         \
        if (x) fail_msg("%s", t3v_error_text()); \
    } while (0)

static const int64_t shape[4] = {16, 2, 6, 4};
enum { LATENT = 16 * 2 * 6 * 4, ROWS = 5 };

typedef struct fixture {
    t3v_model *model;
    t3v_plan *plan;
    t3v_trained trained;
    t3v_arena arena;
    float **grad; /* by trained parameter */
    uint16_t latent[LATENT];
    float *context;
} fixture;

static t3v_plan *plan_of(const t3v_model *m, const char *text)
{
    t3v_plan *plan = NULL;
    const t3v_dit_config *c = &m->config;
    OK(t3v_plan_make_for(&plan, text, (t3v_grid){2, 3, 2}, (int)c->layers, c->dim, c->heads));
    return plan;
}

static void open_fixture(fixture *f, const char *plan, t3v_trained_kind kind, const t3v_trained_lora *lora)
{
    *f = (fixture){0};
    t3v_model_paths paths = {.model = TINY};
    OK(t3v_model_open(&f->model, &paths, T3V_PART_DIT, T3V_F32, true));
    f->plan = plan_of(f->model, plan);
    OK(t3v_model_adopt(f->model, f->plan));
    OK(t3v_trained_open(&f->trained, &f->model->dit, kind, lora, f->model->compute));
    OK(t3v_arena_open(&f->arena, (size_t)1 << 30));
    const t3v_params *p = &f->trained.params;
    f->grad = calloc((size_t)p->count, sizeof *f->grad);
    for (int64_t i = 0; i < p->count; i++) {
        f->grad[i] = calloc((size_t)t3v_numel(p->item[i].tensor), sizeof(float));
        p->item[i].tensor->needs_grad = true;
        p->item[i].tensor->param = (int32_t)i + 1;
    }
    float normal[LATENT];
    t3v_normal_fill(normal, LATENT, 3, 0, 0);
    for (int i = 0; i < LATENT; i++) f->latent[i] = t3v_f32_to_bf16(normal[i]);
    int64_t n = ROWS * f->model->config.text_dim;
    f->context = calloc((size_t)n, sizeof *f->context);
    t3v_normal_fill(f->context, n, 4, 0, 0);
}

static void close_fixture(fixture *f)
{
    for (int64_t i = 0; i < f->trained.params.count; i++) free(f->grad[i]);
    free(f->grad);
    free(f->context);
    t3v_arena_close(&f->arena);
    t3v_trained_close(&f->trained);
    t3v_plan_free(f->plan);
    t3v_model_close(f->model);
}

static t3v_flow_told told; /* of the last sample */

/* The loss of one fixed sample, its gradients added to f->grad. */
static double loss_of(fixture *f, const t3v_flow *flow)
{
    t3v_tape tape = {0};
    t3v_ctx ctx = {.arena = &f->arena, .tape = &tape, .compute = T3V_F32, .param_grad = f->grad};
    t3v_arena_back(&f->arena, 0);
    t3v_tensor context = {.data = f->context,
                          .type = T3V_F32,
                          .ndim = 2,
                          .shape = {ROWS, f->model->config.text_dim}};
    t3v_flow_noise noise = {0.4, 7, 1, true, false};
    double loss = 0;
    OK(t3v_flow_sample(flow, &ctx, t3v_wrap(&ctx, f->latent, T3V_BF16, 4, shape), &context, &noise, 1.0,
                       &loss, &told));
    return loss;
}

static t3v_flow flow_of(const fixture *f)
{
    t3v_flow flow = {.dit = &f->model->dit, .plan = f->plan, .shift = 3, .steps = 20};
    t3v_flow_open(&flow);
    return flow;
}

static void randomise_b(fixture *f)
{
    for (int64_t i = 1; i < f->trained.params.count; i += 2) {
        t3v_tensor *b = f->trained.params.item[i].tensor;
        t3v_normal_fill(b->data, t3v_numel(b), 11, (uint64_t)i, 0);
        for (int64_t k = 0; k < t3v_numel(b); k++) ((float *)b->data)[k] *= 0.05f;
    }
}

/* Central differences along the gradient of each parameter: the slope is the gradient's norm. */
static void expect_slopes(fixture *f, const t3v_flow *flow)
{
    const t3v_params *p = &f->trained.params;
    (void)loss_of(f, flow);
    float **kept = f->grad, **spare = calloc((size_t)p->count, sizeof *spare);
    for (int64_t i = 0; i < p->count; i++)
        spare[i] = calloc((size_t)t3v_numel(p->item[i].tensor), sizeof(float));
    f->grad = spare;
    int checked = 0;
    for (int64_t i = 0; i < p->count; i++) {
        t3v_tensor *t = p->item[i].tensor;
        int64_t n = t3v_numel(t);
        double norm = 0, size = 0;
        for (int64_t k = 0; k < n; k++)
            norm += (double)kept[i][k] * kept[i][k], size += pow(((float *)t->data)[k], 2);
        norm = sqrt(norm);
        if (norm < 1e-4) continue;
        /* F32 losses near 1 have errors near 1e-7 * sqrt(layers): a step that moves the loss by 1e-2 */
        double h = fmin(5e-3 / norm, 0.01 * fmax(sqrt(size), 0.1)), at[2];
        float *was = malloc((size_t)n * sizeof *was);
        memcpy(was, t->data, (size_t)n * sizeof *was);
        for (int side = 0; side < 2; side++) {
            for (int64_t k = 0; k < n; k++)
                ((float *)t->data)[k] = was[k] + (float)((side ? h : -h) * kept[i][k] / norm);
            at[side] = loss_of(f, flow);
        }
        memcpy(t->data, was, (size_t)n * sizeof *was);
        free(was);
        double slope = (at[1] - at[0]) / (2 * h);
        if (fabs(slope - norm) > 0.02 * norm + 4e-6 / h)
            fail_msg("%s: slope %g, gradient's norm %g", p->item[i].name, slope, norm);
        checked++;
    }
    assert_true(checked * 2 > p->count);
    f->grad = kept;
    for (int64_t i = 0; i < p->count; i++) free(spare[i]);
    free(spare);
}

static void slopes_of_updates_and_of_a_plans_own(void **state)
{
    (void)state;
    static const struct {
        const char *plan;
        t3v_trained_kind kind;
    } row[] = {{"full", T3V_TRAIN_LORA},
               {"t3:blocks=1x3x2/2x1x1", T3V_TRAIN_LORA},
               {"hybrid", T3V_TRAIN_OWN},
               {"full", T3V_TRAIN_SELF}};
    t3v_trained_lora lora = {.rank = 3, .alpha = 6, .seed = 5};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        fixture f;
        open_fixture(&f, row[i].plan, row[i].kind, &lora);
        if (row[i].kind == T3V_TRAIN_LORA) randomise_b(&f);
        t3v_flow flow = flow_of(&f);
        expect_slopes(&f, &flow);
        close_fixture(&f);
    }
}

static void the_list_is_what_was_asked_for(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, "full", T3V_TRAIN_ALL, NULL);
    int64_t all = f.model->dit.params.count, layers = f.model->config.layers;
    assert_int_equal(f.trained.params.count, all);
    close_fixture(&f);
    open_fixture(&f, "full", T3V_TRAIN_SELF, NULL);
    assert_int_equal(f.trained.params.count, layers * 10);
    close_fixture(&f);
    t3v_trained_lora lora = {.rank = 2, .targets = "self_attn.q,ffn.2,head.head"};
    open_fixture(&f, "full", T3V_TRAIN_LORA, &lora);
    assert_int_equal(f.trained.params.count, 2 * (2 * layers + 1));
    assert_string_equal(f.trained.params.item[0].name, "blocks.0.self_attn.q.lora_A.weight");
    close_fixture(&f);
    lora.targets = NULL; /* q, k, v, o twice, both layers of the FFN */
    open_fixture(&f, "full", T3V_TRAIN_LORA, &lora);
    assert_int_equal(f.trained.params.count, 2 * 10 * layers);
    close_fixture(&f);
}

static void what_cannot_be_trained_is_named(void **state)
{
    (void)state;
    static const struct {
        t3v_trained_kind kind;
        t3v_trained_lora lora;
        const char *says;
    } row[] = {{T3V_TRAIN_OWN, {0}, "no parameters of its own"},
               {T3V_TRAIN_LORA, {.rank = 2, .targets = "q,wq"}, "\"wq\""},
               {T3V_TRAIN_LORA, {.rank = 2, .targets = ""}, "no targets"},
               {T3V_TRAIN_LORA, {.rank = 4000}, "rank 4000"}};
    t3v_model *m = NULL;
    t3v_model_paths paths = {.model = TINY};
    OK(t3v_model_open(&m, &paths, T3V_PART_DIT, T3V_F32, true));
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        t3v_trained t;
        assert_int_equal(t3v_trained_open(&t, &m->dit, row[i].kind, &row[i].lora, m->compute), T3V_E_ARG);
        if (!strstr(t3v_error_text(), row[i].says))
            fail_msg("'%s' does not say %s", t3v_error_text(), row[i].says);
        t3v_trained_close(&t);
    }
    t3v_model_close(m);
}

/* The velocity of the fixed sample, as a copy. */
static float *velocity(t3v_model *m, const t3v_plan *plan, fixture *f)
{
    t3v_ctx ctx = {.arena = &f->arena, .compute = T3V_F32};
    t3v_arena_back(&f->arena, 0);
    t3v_tensor *x = t3v_new(&ctx, T3V_F32, 4, shape);
    OK(t3v_convert(x->data, T3V_F32, f->latent, T3V_BF16, LATENT));
    t3v_tensor context = {.data = f->context,
                          .type = T3V_F32,
                          .ndim = 2,
                          .shape = {ROWS, m->config.text_dim}};
    t3v_dit_prompt prompt = {0};
    OK(t3v_dit_prompt_make(&ctx, &m->dit, &context, &prompt));
    t3v_dit_call call = {.plan = plan,
                         .prompt = &prompt,
                         .timestep = 400,
                         .moment = {0, 1, 0.4, T3V_BRANCH_COND}};
    t3v_tensor *v = t3v_dit_forward(&ctx, &m->dit, x, &call);
    OK(ctx.status);
    float *out = malloc(LATENT * sizeof *out);
    memcpy(out, v->data, LATENT * sizeof *out);
    return out;
}

static double distance(const float *a, const float *b)
{
    double d = 0, n = 0;
    for (int i = 0; i < LATENT; i++) d += pow(a[i] - b[i], 2), n += pow(b[i], 2);
    return sqrt(d / n);
}

static void a_saved_update_gives_the_same_velocity(void **state)
{
    (void)state;
    char dir[] = "/tmp/t3v-test-trained-XXXXXX", path[128];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/lora.safetensors", dir);
    fixture f;
    t3v_trained_lora lora = {.rank = 3, .alpha = 12, .seed = 5};
    open_fixture(&f, "full", T3V_TRAIN_LORA, &lora);
    int64_t n = f.trained.params.count;
    float **values = calloc((size_t)n, sizeof *values);
    for (int64_t i = 0; i < n; i++) values[i] = f.trained.params.item[i].tensor->data;

    t3v_model *plain = NULL;
    t3v_model_paths paths = {.model = TINY};
    OK(t3v_model_open(&plain, &paths, T3V_PART_DIT, T3V_F32, true));
    float *base = velocity(plain, f.plan, &f), *zero = velocity(f.model, f.plan, &f);
    assert_true(distance(zero, base) == 0); /* B is zero: the model is what it was */
    randomise_b(&f);
    OK(t3v_trained_save(&f.trained, dir, values));
    float *trained = velocity(f.model, f.plan, &f);
    t3v_loras on = {0};
    t3v_lora_use use = {.path = path, .strength = 1.0};
    t3v_loras_how how = {.compute = T3V_F32};
    OK(t3v_loras_attach(&on, &use, 1, &how, &plain->dit));
    float *loaded = velocity(plain, f.plan, &f);
    assert_true(distance(trained, base) > 1e-2);
    assert_true(distance(loaded, trained) < 1e-5);
    t3v_loras_detach(&on, &plain->dit);
    t3v_model_close(plain);
    free(base), free(zero), free(trained), free(loaded), free(values);
    close_fixture(&f);
    unlink(path);
    rmdir(dir);
}

/* The sum over DiffSynth's timesteps is 1,000, the least weight 0, the largest at 500. */
static void weights_are_diffsynths(void **state)
{
    (void)state;
    t3v_flow f = {.shift = 5, .weighting = T3V_WEIGHT_DIFFSYNTH};
    t3v_flow_open(&f);
    double sum = 0, least = 1e9;
    for (int i = 0; i < 1000; i++) {
        double s = 1 - i / 1000.0, w = t3v_flow_weight(&f, 1000 * 5 * s / (1 + 4 * s));
        sum += w;
        if (w < least) least = w;
    }
    assert_true(fabs(sum - 1000) < 1e-6 && fabs(least) < 1e-12);
    /* exp(-2 (x - 1/2)^2) is symmetric: 400 and 600 weigh the same, 500 the most */
    assert_true(fabs(t3v_flow_weight(&f, 400) - t3v_flow_weight(&f, 600)) < 1e-12);
    assert_true(t3v_flow_weight(&f, 500) > t3v_flow_weight(&f, 400));
    f.weighting = T3V_WEIGHT_NONE;
    assert_true(t3v_flow_weight(&f, 123) == 1);
}

/* The model as its own teacher: with all weight on it the loss is 0; and half of it is half of the distance. */
static void a_teacher_moves_the_target(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, "full", T3V_TRAIN_SELF, NULL);
    t3v_flow flow = flow_of(&f);
    double alone = loss_of(&f, &flow);
    flow.teacher = flow.dit;
    flow.teacher_plan = f.plan;
    flow.teach = 1;
    assert_true(loss_of(&f, &flow) < 1e-12 && alone > 1e-3);
    flow.teach = 0.5;
    assert_true(fabs(loss_of(&f, &flow) - alone / 4) < 1e-5 * alone);
    close_fixture(&f);
}

/* Self-attention of all layers for the sample of loss_of, as it is before the output projection. */
static t3v_tensor **attention_of(fixture *f, t3v_ctx *ctx, const t3v_plan *plan)
{
    const t3v_dit_config *c = &f->model->config;
    float eps[LATENT], x0[LATENT];
    double s = 3 * 0.4 / (1 + 2 * 0.4);
    t3v_normal_fill(eps, LATENT, 7, 1, 0);
    OK(t3v_convert(x0, T3V_F32, f->latent, T3V_BF16, LATENT));
    t3v_tensor *x = t3v_new(ctx, T3V_F32, 4, shape), **out = t3v_temp(ctx, c->layers, sizeof *out);
    for (int i = 0; i < LATENT; i++) ((float *)x->data)[i] = (float)((1 - s) * x0[i] + s * eps[i]);
    for (int64_t i = 0; i < c->layers; i++) out[i] = t3v_new(ctx, T3V_F32, T3V_SHAPE(12, c->dim));
    t3v_tensor *context = t3v_wrap(ctx, f->context, T3V_F32, T3V_SHAPE(ROWS, c->text_dim));
    t3v_dit_prompt prompt;
    OK(t3v_dit_prompt_make(ctx, &f->model->dit, context, &prompt));
    t3v_dit_call call = {.plan = plan,
                         .prompt = &prompt,
                         .timestep = 1000 * s,
                         .attention = out,
                         .moment = {12, 20, s, T3V_BRANCH_COND}};
    assert_non_null(t3v_dit_forward(ctx, &f->model->dit, x, &call));
    return out;
}

/* The term's value is what it says, nothing for a student that is the teacher, and its slope is that of the loss: on the
 * plain tape and with blocks run again, in one range and in ragged ones. */
static void attention_of_a_teacher_pulls(void **state)
{
    (void)state;
    fixture f;
    t3v_model *teacher = NULL;
    t3v_model_paths paths = {.model = TINY};
    OK(t3v_model_open(&teacher, &paths, T3V_PART_DIT, T3V_F32, false));
    open_fixture(&f, "t3:blocks=2x1x1/1x3x2", T3V_TRAIN_SELF, NULL);
    t3v_plan *full = plan_of(f.model, "full");
    t3v_flow flow = flow_of(&f);
    double alone = loss_of(&f, &flow);
    flow.teacher = &teacher->dit;
    flow.teacher_plan = full;
    flow.teach_layers = 3;
    double both = loss_of(&f, &flow), far = 0;
    t3v_ctx ctx = {.arena = &f.arena, .compute = T3V_F32};
    t3v_arena_back(&f.arena, 0);
    t3v_tensor **own = attention_of(&f, &ctx, f.plan), **theirs = attention_of(&f, &ctx, full);
    int64_t layers = f.model->config.layers, n = t3v_numel(own[0]);
    for (int64_t i = 0; i < layers; i++)
        for (int64_t k = 0; k < n; k++)
            far += pow(((float *)own[i]->data)[k] - ((float *)theirs[i]->data)[k], 2) / (double)(n * layers);
    if (!(far > 1e-4 && fabs(told.attention - far) < 1e-4 * far &&
          fabs(both - alone - 3 * far) < 1e-5 * both))
        fail_msg("attention %g from the teacher's, told %g; loss %g, alone %g", far, told.attention, both,
                 alone);
    flow.plan = full;
    (void)loss_of(&f, &flow);
    assert_true(told.attention < 1e-12);
    flow.plan = f.plan;
    flow.teach_layers = 3 / far; /* so that it is most of the loss */
    for (int i = 0; i < 3; i++) {
        flow.recompute = i > 0;
        flow.range = i == 2 ? 5 : 0;
        for (int64_t k = 0; k < f.trained.params.count; k++)
            memset(f.grad[k], 0, (size_t)t3v_numel(f.trained.params.item[k].tensor) * sizeof(float));
        expect_slopes(&f, &flow);
    }
    t3v_plan_free(full);
    close_fixture(&f);
    t3v_model_close(teacher);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_list_is_what_was_asked_for),
                                       cmocka_unit_test(what_cannot_be_trained_is_named),
                                       cmocka_unit_test(slopes_of_updates_and_of_a_plans_own),
                                       cmocka_unit_test(a_saved_update_gives_the_same_velocity),
                                       cmocka_unit_test(weights_are_diffsynths),
                                       cmocka_unit_test(a_teacher_moves_the_target),
                                       cmocka_unit_test(attention_of_a_teacher_pulls)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
