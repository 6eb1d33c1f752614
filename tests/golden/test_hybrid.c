/* SPDX-License-Identifier: Apache-2.0 */
/* Hybrid attention against PyTorch (tests/golden/make_hybrid.py), and as part of a DiT: gradients, saving and loading. */
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

#include "attn/attend.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "io/safetensors.h"
#include "pipe/model.h"

static t3v_tensor_file *fixture;

static float *load(const char *name_of_case, const char *name)
{
    char full[128];
    const t3v_tensor_entry *e;
    snprintf(full, sizeof full, "%s/%s", name_of_case, name);
    if (t3v_tensors_get(fixture, full, &e)) fail_msg("%s", t3v_error_text());
    float *x = malloc((size_t)e->nbytes);
    assert_non_null(x);
    assert_int_equal(t3v_tensor_copy(e, x, T3V_F32), T3V_OK);
    return x;
}

static double distance(const float *a, const float *b, int64_t n)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++)
        d += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]), s += (double)b[i] * (double)b[i];
    return sqrt(d / (s + 1e-30));
}

static void expect(const float *got, const char *name_of_case, const char *name, int64_t n, double limit)
{
    float *want = load(name_of_case, name);
    double d = distance(got, want, n);
    if (!(d <= limit))
        fail_msg("%s %s/%s: relative L2 %.3g, limit %.3g", t3v_isa_name(t3v_cpu()), name_of_case, name, d,
                 limit);
    free(want);
}

/* Output and all gradients, on every CPU level. */
static void one_case(const char *name, const char *text)
{
    enum { N = 30, HEADS = 2, DIM = 8, COUNT = N * HEADS * DIM };
    static const char *const inputs[] = {"q", "k", "v", "dout"};
    t3v_plan *plan;
    if (t3v_plan_make(&plan, text, (t3v_grid){2, 3, 5}, 1)) fail_msg("%s", t3v_error_text());
    const t3v_site *site = &plan->layer[0].site[T3V_SITE_SELF];
    float *in[4], out[COUNT], lse[2 * HEADS * N], grad[3][COUNT], *param[T3V_SITE_PARAMS_MAX],
        *dparam[T3V_SITE_PARAMS_MAX];
    int64_t size[T3V_SITE_PARAMS_MAX];
    t3v_site_param info[T3V_SITE_PARAMS_MAX];
    int params = t3v_site_params(site, HEADS, DIM, info);
    for (int i = 0; i < 4; i++) in[i] = load(name, inputs[i]);
    for (int i = 0; i < params; i++) {
        size[i] = 1;
        for (int j = 0; j < info[i].ndim; j++) size[i] *= info[i].shape[j];
        param[i] = load(name, info[i].name);
        assert_non_null(dparam[i] = calloc((size_t)size[i], sizeof(float)));
    }
    t3v_attend_args a = {.n_q = N,
                         .n_k = N,
                         .heads = HEADS,
                         .dim = DIM,
                         .q = in[0],
                         .k = in[1],
                         .v = in[2],
                         .type = T3V_F32,
                         .q_stride = HEADS * DIM,
                         .k_stride = HEADS * DIM,
                         .v_stride = HEADS * DIM,
                         .out = out,
                         .out_type = T3V_F32,
                         .out_stride = HEADS * DIM,
                         .lse = lse,
                         .params = (const float *const *)param};
    t3v_attend_grad g = {.out = out,
                         .dout = in[3],
                         .dout_type = T3V_F32,
                         .dout_stride = HEADS * DIM,
                         .dq = grad[0],
                         .dk = grad[1],
                         .dv = grad[2],
                         .dq_stride = HEADS * DIM,
                         .dk_stride = HEADS * DIM,
                         .dv_stride = HEADS * DIM,
                         .dparams = dparam};
    size_t need = t3v_attend_scratch(site, &a), back = t3v_attend_backward_scratch(site, &a, &g);
    a.scratch_bytes = need > back ? need : back;
    assert_non_null(a.scratch = malloc(a.scratch_bytes));
    if (t3v_attend_run(site, &a) || t3v_attend_backward(site, &a, &g)) fail_msg("%s", t3v_error_text());
    expect(out, name, "out", COUNT, 1e-6);
    for (int i = 0; i < 3; i++) {
        char d[3] = {'d', inputs[i][0], 0};
        expect(grad[i], name, d, COUNT, 5e-6);
    }
    for (int i = 0; i < params; i++) {
        char d[40];
        snprintf(d, sizeof d, "d%.31s", info[i].name);
        expect(dparam[i], name, d, size[i], 1e-5);
        free(param[i]), free(dparam[i]);
    }
    for (int i = 0; i < 4; i++) free(in[i]);
    free(a.scratch);
    t3v_plan_free(plan);
}

static void against_pytorch(void **state)
{
    (void)state;
    t3v_isa best = t3v_cpu();
    if (t3v_tensors_open(&fixture, "tests/golden/hybrid.safetensors")) fail_msg("%s", t3v_error_text());
    assert_int_equal(fixture->meta_count, 4);
    for (int isa = 0; isa <= (int)best; isa++) {
        t3v_cpu_mask((t3v_isa)isa);
        for (int64_t i = 0; i < fixture->meta_count; i++)
            one_case(fixture->meta[i].key, fixture->meta[i].value);
    }
    t3v_cpu_mask(best);
    t3v_tensors_close(fixture);
}

/* ---- in a model ------------------------------------------------------------------------------------- */

static t3v_arena arena;
enum { T = 2, H = 3, W = 4 };

static t3v_model *open_model(const char *dir, bool writable, const t3v_plan *plan)
{
    t3v_model *m;
    t3v_model_paths paths = {.model = dir};
    if (t3v_model_open(&m, &paths, T3V_PART_DIT, T3V_F32, writable) || (plan && t3v_model_adopt(m, plan)))
        fail_msg("%s", t3v_error_text());
    return m;
}

static t3v_tensor *normal(t3v_ctx *ctx, int ndim, const int64_t *shape, uint64_t stream)
{
    t3v_tensor *t = t3v_new(ctx, T3V_F32, ndim, shape);
    assert_non_null(t);
    t3v_normal_fill(t->data, t3v_numel(t), 77, stream, 0);
    return t;
}

/* The loss of the model and, with grads, its gradients. */
static double loss_of(t3v_model *m, const t3v_plan *plan, float **grads, bool recompute)
{
    t3v_arena_back(&arena, 0);
    t3v_tape tape = {0};
    t3v_ctx ctx = {.arena = &arena, .compute = T3V_F32, .tape = &tape, .param_grad = grads};
    t3v_tensor *x = normal(&ctx, T3V_SHAPE(16, T, 2 * H, 2 * W), 1),
               *target = normal(&ctx, T3V_SHAPE(16, T, 2 * H, 2 * W), 2);
    t3v_tensor *c = normal(&ctx, T3V_SHAPE(5, m->config.text_dim), 3);
    t3v_dit_call call = {.plan = plan, .timestep = 500, .range = recompute ? 7 : 0};
    double loss;
    if (t3v_dit_loss(&ctx, &m->dit, x, c, target->data, 1, &call, recompute, &loss))
        fail_msg("%s", t3v_error_text());
    return loss;
}

static float **track(t3v_params *p)
{
    float **grads = calloc((size_t)p->count, sizeof *grads);
    assert_non_null(grads);
    for (int64_t i = 0; i < p->count; i++) {
        p->item[i].tensor->needs_grad = true;
        p->item[i].tensor->param = (int32_t)i + 1;
        assert_non_null(grads[i] = calloc((size_t)t3v_numel(p->item[i].tensor), sizeof(float)));
    }
    return grads;
}

/* The plan's parameters are the model's: they get gradients (plain and recomputed ones agree, and one is the slope of
 * the loss), are written with the weights and read from them, and do not disturb a plan that has none. */
static void in_a_model(void **state)
{
    (void)state;
    assert_int_equal(t3v_arena_open(&arena, (size_t)1 << 30), T3V_OK);
    t3v_plan *plan, *full;
    assert_int_equal(t3v_plan_make(&plan, "layers 0-1 -> full; hybrid:rate=3", (t3v_grid){T, H, W}, 5),
                     T3V_OK);
    assert_int_equal(t3v_plan_make(&full, "full", (t3v_grid){T, H, W}, 5), T3V_OK);
    t3v_model *m = open_model("tests/golden/wan/tiny", true, NULL);
    t3v_params *p = &m->dit.params;
    int64_t before = p->count;
    assert_int_equal(t3v_model_adopt(m, plan), T3V_OK);
    assert_int_equal(p->count, before + 3 * 8);
    assert_int_equal(t3v_model_adopt(m, plan), T3V_OK); /* again: nothing new */
    assert_int_equal(p->count, before + 3 * 8);
    assert_string_equal(p->item[before].name, "blocks.2.self_attn.phi_q.0.weight");

    float **plain = track(p), **again = track(p);
    double loss = loss_of(m, plan, plain, false);
    assert_true(fabs(loss_of(m, plan, again, true) - loss) <= 1e-6 * loss);
    for (int64_t i = before; i < p->count; i++) {
        double size = 0;
        for (int64_t j = 0; j < t3v_numel(p->item[i].tensor); j++) size += fabs((double)plain[i][j]);
        assert_true(size > 0);
        double d = distance(again[i], plain[i], t3v_numel(p->item[i].tensor));
        if (!(d <= 1e-4)) fail_msg("%s: %.3g from the plain tape's", p->item[i].name, d);
    }
    int64_t most = 0; /* the largest slope of one tensor against a difference of losses */
    float *w = p->item[before + 4].tensor->data, *dw = plain[before + 4];
    for (int64_t j = 0; j < t3v_numel(p->item[before + 4].tensor); j++)
        most = fabsf(dw[j]) > fabsf(dw[most]) ? j : most;
    float keep = w[most], h = 0.05f;
    double side[2];
    for (int s = 0; s < 2; s++) {
        w[most] = s ? keep + h : keep - h;
        for (int64_t i = 0; i < p->count; i++)
            memset(again[i], 0, (size_t)t3v_numel(p->item[i].tensor) * sizeof(float));
        side[s] = loss_of(m, plan, again, false);
    }
    w[most] = keep;
    double slope = (side[1] - side[0]) / (2 * (double)h);
    if (!(fabs(slope - (double)dw[most]) <= 0.03 * fabs(slope) + 2e-6))
        fail_msg("slope %.4g, gradient %.4g", slope, (double)dw[most]);

    char dir[] = "/tmp/t3v_hybrid_XXXXXX", path[128], config[128];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/diffusion_pytorch_model.safetensors", dir);
    snprintf(config, sizeof config, "%s/config.json", dir);
    t3v_tensor_entry *e;
    for (int64_t i = before; i < p->count; i++) /* other values than those at the start */
        t3v_normal_fill(p->item[i].tensor->data, t3v_numel(p->item[i].tensor), 5, (uint64_t)i, 0);
    assert_int_equal(t3v_params_entries(p, NULL, T3V_F32, &arena, &e), T3V_OK);
    assert_int_equal(t3v_safetensors_write(path, e, p->count, NULL, 0), T3V_OK);
    assert_int_equal(t3v_dit_config_write(config, &m->config), T3V_OK);
    t3v_model *without = open_model(dir, false, full), *with = open_model(dir, false, plan);
    assert_int_equal(without->dit.params.count, before);
    assert_int_equal(with->dit.params.count, p->count);
    for (int64_t i = before; i < p->count; i++)
        assert_memory_equal(with->dit.params.item[i].tensor->data, p->item[i].tensor->data,
                            (size_t)t3v_numel(p->item[i].tensor) * sizeof(float));
    for (int64_t i = 0; i < p->count; i++) free(plain[i]), free(again[i]);
    free(plain), free(again);
    t3v_model_close(without), t3v_model_close(with), t3v_model_close(m);
    unlink(path), unlink(config), rmdir(dir);
    t3v_plan_free(plan), t3v_plan_free(full);
    t3v_arena_close(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(against_pytorch), cmocka_unit_test(in_a_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
