/* SPDX-License-Identifier: Apache-2.0 */
/* The GPU's attention, kernels and all that leads to them, under the emulator against the CPU's definition: every pattern
 * with its examples, random sites with tails, both kinds of numbers. The emulated card is a Hopper; with T3V_CARD=sm_80
 * in the environment it has no wgmma, and forward.cu does what forward_hopper.cu does here. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "attn/device_attend.h"
#include "attn/device_job.h"
#include "attn/pattern.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "cuda/device_case.h"
#include "device.h"
#include "random_site.h"

typedef struct options {
    t3v_dtype out_type;
    int64_t gap; /* elements between rows */
    bool out_is_q;
    const t3v_seg_kernels *kernels; /* NULL: ours */
    bool may_fail;                  /* a launch may be stopped */
} options;

/* The worst error of a device's forward pass in tolerances; 1e30 for a NaN, a stopped launch, another choice of blocks. */
static double forward_error(const t3v_site *site, const inputs *x, const t3v_moment *moment, const options *o)
{
    int64_t width = x->heads * x->dim, rows = site->terms * x->heads;
    float *want = must(malloc((size_t)(x->n_q * width) * sizeof *want)),
          *size = must(malloc((size_t)(x->n_q * width) * sizeof *size)),
          *want_lse = must(malloc((size_t)(rows * x->n_q) * sizeof *want_lse)),
          *absolute = must(malloc((size_t)(x->n_k * width) * sizeof *absolute));
    size_t words = t3v_attend_chosen_words(site, x->heads);
    uint64_t *want_chosen = must(calloc(words + 1, sizeof *want_chosen));
    for (int64_t i = 0; i < x->n_k * width; i++) absolute[i] = fabsf(x->v[i]);
    on_cpu(site, x, moment, absolute, size, want_lse, want_chosen);
    on_cpu(site, x, moment, x->v, want, want_lse, want_chosen);

    t3v_device_site *s = site_on_device(site, false);
    t3v_attend_args a = args_of(x, moment);
    a.q_stride = a.k_stride = a.v_stride = a.out_stride = width + o->gap;
    a.q = on_device(x->q, x->n_q, width, a.q_stride, x->type, "q");
    a.k = on_device(x->k, x->n_k, width, a.k_stride, x->type, "k");
    a.v = on_device(x->v, x->n_k, width, a.v_stride, x->type, "v");
    if (x->log_weight) a.key_log_weight = on_device(x->log_weight, x->n_k, 1, 1, T3V_F32, "log weights");
    a.out_type = o->out_is_q ? x->type : o->out_type;
    size_t out_bytes = (size_t)((x->n_q - 1) * a.out_stride + width) * t3v_dtype_size(a.out_type);
    void *out = o->out_is_q ? NULL : t3v_emulate_alloc(out_bytes, "out");
    a.out = o->out_is_q ? (void *)a.q : out;
    a.lse = t3v_emulate_alloc((size_t)(rows * x->n_q) * sizeof(float), "lse");
    a.chosen = t3v_emulate_alloc(words * sizeof(uint64_t) + 8, "chosen");
    memset(a.chosen, 0, words * sizeof(uint64_t));
    a.scratch_bytes = t3v_device_attend_scratch(site, &a);
    a.scratch = t3v_emulate_alloc(a.scratch_bytes, "scratch");
    t3v_device device = *t3v_emulated_device();
    if (o->kernels) device.segments = o->kernels;
    t3v_status st = t3v_device_attend(s, &a, &device);
    if (st && !o->may_fail) fail_msg("%s: %s", t3v_error_text(), t3v_emulate_text());

    double worst = st ? 1e30 : 0, eps = x->type == T3V_BF16 ? 2.0 / 256 : 64.0 / (1 << 23);
    if (a.out_type == T3V_BF16 && eps < 2.0 / 256) eps = 2.0 / 256;
    for (int64_t i = 0; i < x->n_q * width && !st; i++) {
        double got = at_row(a.out, a.out_type, i / width * a.out_stride + i % width),
               e = fabs(got - (double)want[i]) / (eps * ((double)size[i] + 1e-3));
        if (!(e <= worst)) worst = isnan(e) ? 1e30 : e;
    }
    for (int64_t i = 0; i < rows * x->n_q && !st; i++) {
        double w = (double)want_lse[i], e = fabs((double)a.lse[i] - w) / ((1 + fabs(w)) * eps);
        if (w == -INFINITY && a.lse[i] == -INFINITY) e = 0;
        if (!(e <= worst)) worst = isnan(e) ? 1e30 : e;
    }
    if (!st && memcmp(a.chosen, want_chosen, words * sizeof(uint64_t)) != 0) worst = 1e30;
    t3v_emulate_free((void *)a.q), t3v_emulate_free((void *)a.k);
    t3v_emulate_free((void *)a.v), t3v_emulate_free((void *)a.key_log_weight), t3v_emulate_free(out);
    t3v_emulate_free(a.lse), t3v_emulate_free(a.chosen), t3v_emulate_free(a.scratch);
    free_on_device(s);
    free(want), free(size), free(want_lse), free(absolute), free(want_chosen);
    return worst;
}

/* ---- forward ---- */

static void random_sites(void **state)
{
    (void)state;
    static const int dims[] = {64, 128, 16, 96, 256, 80, 40, 128};
    for (uint64_t seed = 0; seed < 16; seed++) {
        t3v_rng r = t3v_rng_make(seed, 7);
        t3v_emulate_seed(seed);
        int dim = dims[seed % 8];
        int64_t n = 1 + t3v_rng_below(&r, dim > 128 ? 150 : 300);
        t3v_site site;
        random_site(&site, &r, n, 1 + (int)t3v_rng_below(&r, 3));
        inputs x = make_inputs(seed, n, n, 1 + (int)t3v_rng_below(&r, 2), dim, T3V_BF16,
                               seed % 3 == 0 ? 40 : 6, seed % 4 == 1);
        options o = {.out_type = seed % 2 ? T3V_BF16 : T3V_F32,
                     .gap = seed % 3 * 8,
                     .out_is_q = seed % 5 == 2};
        double e = forward_error(&site, &x, NULL, &o);
        if (!(e <= 1)) fail_msg("seed %d, %d tokens, dim %d: %g tolerances", (int)seed, (int)n, dim, e);
        free_inputs(&x);
        t3v_site_free(&site);
    }
    assert_int_equal(t3v_emulate_count().conflicts, 0);
}

/* Heads one after the other, where the terms' rows would take too much memory; the output takes the place of q. */
static void groups_of_heads(void **state)
{
    (void)state;
    size_t before = t3v_device_parts_most;
    t3v_device_parts_most = 1;
    for (uint64_t seed = 0; seed < 3; seed++) {
        t3v_plan *plan;
        static const char *const texts[] = {"jenga:block=16", "t3:blocks=1x2x2",
                                            "heads 0-1 -> t3:blocks=1x2x2; jenga:block=16"};
        if (t3v_plan_make_for(&plan, texts[seed], (t3v_grid){2, 6, 7}, 1, 0, 3))
            fail_msg("%s", t3v_error_text());
        inputs x = make_inputs(seed, plan->tokens, plan->tokens, 3, 64, T3V_BF16, 6, false);
        options o = {.out_is_q = true};
        double e = forward_error(&plan->layer[0].site[T3V_SITE_SELF], &x, NULL, &o);
        if (!(e <= 1)) fail_msg("%s: %g tolerances", texts[seed], e);
        free_inputs(&x);
        t3v_plan_free(plan);
    }
    t3v_device_parts_most = before;
}

/* What the tensor-core kernel declines: f32, odd dimensions and strides. */
static void plain(void **state)
{
    (void)state;
    static const int dims[] = {64, 5, 33, 256, 128, 1};
    for (uint64_t seed = 0; seed < 12; seed++) {
        t3v_rng r = t3v_rng_make(seed, 8);
        t3v_emulate_seed(seed);
        int64_t n = 1 + t3v_rng_below(&r, 90);
        t3v_site site;
        random_site(&site, &r, n, 1 + (int)t3v_rng_below(&r, 2));
        t3v_dtype type = seed % 3 == 2 ? T3V_BF16 : T3V_F32;
        inputs x = make_inputs(seed, n, n, 2, dims[seed % 6], type, 6, seed % 2);
        options o = {.out_type = T3V_F32, .gap = seed % 4};
        t3v_attend_args a = args_of(&x, NULL);
        a.q_stride += o.gap;
        char why[128];
        if (type == T3V_F32 || o.gap) {
            assert_string_equal(t3v_device_attend_impl(&site, &a, why, sizeof why), "plain");
            assert_true(strlen(why) > 10);
        }
        double e = forward_error(&site, &x, NULL, &o);
        if (!(e <= 1)) fail_msg("seed %d, %d tokens, dim %d: %g tolerances", (int)seed, (int)n, x.dim, e);
        free_inputs(&x);
        t3v_site_free(&site);
    }
}

/* Cross-attention: sizes that the plan does not know. */
static void full_sizes(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{1, 1}, {130, 7}, {64, 64}, {129, 65}, {40, 200}, {300, 130}};
    for (uint64_t i = 0; i < 6; i++)
        for (int type = 0; type < 2; type++) {
            t3v_emulate_seed(i);
            inputs x = make_inputs(i, sizes[i][0], sizes[i][1], 2, i % 2 ? 128 : 64,
                                   type ? T3V_BF16 : T3V_F32, 8, i % 2);
            options o = {.out_type = T3V_F32};
            double e = forward_error(t3v_site_full(), &x, NULL, &o);
            if (!(e <= 1)) fail_msg("%d x %d: %g tolerances", (int)x.n_q, (int)x.n_k, e);
            free_inputs(&x);
        }
}

/* Scores of inf, NaN and none above -inf, in rows and keys of their own: attn/attend.h says what they give. */
static void special_scores(void **state)
{
    (void)state;
    for (int type = 0; type < 2; type++) {
        const int64_t n = 150;
        const int dim = 64;
        inputs x = make_inputs(3, n, n, 1, dim, type ? T3V_BF16 : T3V_F32, 4, true);
        for (int d = 0; d < dim; d++) x.k[5 * dim + d] = x.q[20 * dim + d] = x.q[130 * dim + d] = 0;
        x.q[20 * dim] = NAN;
        x.q[130 * dim] = INFINITY, x.k[5 * dim] = 0; /* inf * 0 */
        for (int d = 0; d < dim; d++) x.q[7 * dim + d] = 0;
        x.q[7 * dim] = INFINITY;
        for (int64_t i = 0; i < n; i++) x.k[i * dim] = x.k[i * dim] < 0 ? -1 : 1; /* row 7: inf and -inf */
        x.k[5 * dim] = 0;
        x.log_weight[3] = x.log_weight[70] = -INFINITY;
        float *want = must(malloc((size_t)(n * dim) * sizeof *want)),
              *lse = must(malloc((size_t)n * sizeof *lse));
        on_cpu(t3v_site_full(), &x, NULL, x.v, want, lse, NULL);
        t3v_device_site *s = site_on_device(t3v_site_full(), false);
        for (int all = 0; all < 2; all++) { /* then no key has a score above -inf, but for rows of NaN */
            t3v_attend_args a = args_of(&x, NULL);
            if (all)
                for (int64_t i = 0; i < n; i++) x.log_weight[i] = -INFINITY;
            a.q = on_device(x.q, n, dim, dim, x.type, "q"), a.k = on_device(x.k, n, dim, dim, x.type, "k");
            a.v = on_device(x.v, n, dim, dim, x.type, "v");
            a.key_log_weight = on_device(x.log_weight, n, 1, 1, T3V_F32, "log weights");
            a.out = t3v_emulate_alloc((size_t)(n * dim) * sizeof(float), "out");
            a.lse = t3v_emulate_alloc((size_t)n * sizeof(float), "lse");
            a.scratch_bytes = t3v_device_attend_scratch(t3v_site_full(), &a);
            a.scratch = t3v_emulate_alloc(a.scratch_bytes, "scratch");
            if (all) on_cpu(t3v_site_full(), &x, NULL, x.v, want, lse, NULL);
            if (t3v_device_attend(s, &a, t3v_emulated_device())) fail_msg("%s", t3v_emulate_text());
            for (int64_t i = 0; i < n; i++) {
                assert_true(isnan(lse[i])   ? isnan(a.lse[i])
                            : isinf(lse[i]) ? a.lse[i] == lse[i]
                                            : fabsf(a.lse[i] - lse[i]) < 0.05f);
                for (int d = 0; d < dim; d++)
                    assert_int_equal(isnan(want[i * dim + d]) != 0,
                                     isnan(((float *)a.out)[i * dim + d]) != 0);
            }
            t3v_emulate_free((void *)a.q), t3v_emulate_free((void *)a.k), t3v_emulate_free((void *)a.v);
            t3v_emulate_free((void *)a.key_log_weight), t3v_emulate_free(a.out), t3v_emulate_free(a.lse);
            t3v_emulate_free(a.scratch);
        }
        free_on_device(s);
        free(want), free(lse);
        free_inputs(&x);
    }
}

/* Every pattern with each of its examples, at some steps of a generation; those with parameters are in test_attend_op. */
static void patterns(void **state)
{
    (void)state;
    enum { HEADS = 2, LAYERS = 3 };
    int run = 0, declined = 0;
    t3v_site_param info[T3V_SITE_PARAMS_MAX];
    for (const t3v_pattern *const *p = t3v_patterns; *p; p++)
        for (int e = -1; e < 0 || ((*p)->examples && (*p)->examples[e]); e++) {
            char text[256];
            snprintf(text, sizeof text, "%s%s%s", (*p)->name, e < 0 ? "" : ":",
                     e < 0 ? "" : (*p)->examples[e]);
            static const t3v_grid grids[] = {{3, 6, 10}, {2, 7, 11}, {4, 8, 8}, {9, 4, 5}};
            bool any = false;
            for (int g = 0; g < 4 && !any; g++) {
                t3v_plan *plan;
                if (t3v_plan_make_for(&plan, text, grids[(g + e + 1) % 4], LAYERS, 0, HEADS)) continue;
                for (int layer = 0; layer < LAYERS; layer += 2) {
                    const t3v_site *site = &plan->layer[layer].site[T3V_SITE_SELF];
                    t3v_moment m = {.step = layer * 10, .steps = 30};
                    t3v_emulate_seed((uint64_t)run);
                    run++;
                    inputs x = make_inputs((uint64_t)run, plan->tokens, plan->tokens, HEADS,
                                           run % 2 ? 64 : 128, T3V_BF16, 8, false);
                    t3v_attend_args a = args_of(&x, &m);
                    options o = {.out_type = run % 3 ? T3V_BF16 : T3V_F32};
                    if (t3v_device_attend_declines(site, &a) || t3v_site_params(site, HEADS, x.dim, info)) {
                        declined++;
                    } else {
                        double worst = forward_error(site, &x, &m, &o);
                        if (!(worst <= 1)) fail_msg("%s, layer %d: %g tolerances", text, layer, worst);
                    }
                    free_inputs(&x);
                }
                any = true;
                t3v_plan_free(plan);
            }
            if (!any) fail_msg("%s suits no grid", text);
        }
    printf("%d runs, of which %d are elsewhere\n", run, declined);
    assert_int_equal(t3v_emulate_count().conflicts, 0);
}

/* What decides between the kernels. */
static void choices(void **state)
{
    (void)state;
    t3v_seg_item item = {0};
    uint16_t row[16];
    t3v_seg_forward f = {.in = {.q = row, .k = row, .v = row, .type = T3V_BF16, .dim = 128},
                         .lists = {.item = &item, .most = 65},
                         .out_type = T3V_BF16};
    f.in.q = f.in.k = f.in.v = (void *)(((uintptr_t)row + 15) / 16 * 16);
    t3v_device_hopper_few = 64;
    assert_null(t3v_seg_hopper_declines(&f));
    f.lists.most = 64;
    assert_string_equal(t3v_seg_hopper_declines(&f), "few rows of an item");
    f.lists.item = NULL, f.lists.rows = 64;
    assert_string_equal(t3v_seg_hopper_declines(&f), "few rows of an item");
    f.lists.rows = 65;
    assert_null(t3v_seg_hopper_declines(&f));
    f.in.dim = 136;
    assert_string_equal(t3v_seg_hopper_declines(&f), "the head dimension is above 128");
    assert_null(t3v_seg_forward_declines(&f));
    f.in.type = T3V_F32;
    assert_string_equal(t3v_seg_hopper_declines(&f), "not bf16");
    assert_string_equal(t3v_seg_forward_declines(&f), "not bf16");
    t3v_device_hopper_few = 0;
    const char *as = getenv("T3V_CARD");
    assert_int_equal(t3v_seg_device_for(9, 0).forward_hopper != NULL, !as || strcmp(as, "sm_80") != 0);
    assert_null(t3v_seg_device_for(8, 0).forward_hopper);
    assert_null(t3v_seg_device_for(10, 0).forward_hopper);
    assert_null(t3v_seg_device_for(12, 0).forward_hopper);
    assert_ptr_equal(t3v_seg_device_for(12, 0).forward, t3v_seg_device.forward);
}

/* Kernels without their barriers, without waiting for their copies, with a wrong layout of their operands; of those with wgmma
 * also without the proxy fence, with sums that are used too early, with tiles that are filled too early. */
typedef int forward_kernel(const t3v_seg_forward *f, void *stream);
forward_kernel t3v_broken_barrier, t3v_broken_wait, t3v_broken_lanes, t3v_broken_fence, t3v_broken_full,
    t3v_broken_free, t3v_broken_lead, t3v_broken_sums;

static void broken_kernels_are_found(void **state)
{
    (void)state;
    forward_kernel *const broken[2][6] = {{t3v_seg_device.forward, t3v_broken_barrier, t3v_broken_wait,
                                           t3v_broken_lanes},
                                          {t3v_seg_device.forward_hopper, t3v_broken_fence, t3v_broken_full,
                                           t3v_broken_free, t3v_broken_lead, t3v_broken_sums}};
    for (int hopper = 0; hopper < 2; hopper++) {
        const int64_t n = hopper ? 700 : 200; /* more tiles than there are places for */
        t3v_site site;
        t3v_rng r = t3v_rng_make(5, 5);
        random_site(&site, &r, 200, 2);
        inputs x = make_inputs(5, hopper ? 130 : 200, n, 1, hopper ? 128 : 64, T3V_BF16, 6, false);
        for (int i = 0; i < 6 && broken[hopper][i]; i++) {
            t3v_seg_kernels kernels = t3v_seg_device;
            if (hopper) kernels.forward_hopper = broken[1][i];
            else kernels.forward_hopper = NULL, kernels.forward = broken[0][i];
            options o = {.out_type = T3V_F32, .kernels = &kernels, .may_fail = i > 0};
            t3v_emulate_seed(5);
            double e = forward_error(hopper ? t3v_site_full() : &site, &x, NULL, &o);
            if (i ? e < 10 : e > 1) fail_msg("%s, defect %d: %g tolerances", hopper ? "wgmma" : "mma", i, e);
        }
        free_inputs(&x);
        t3v_site_free(&site);
    }
}

int main(void)
{
    t3v_device_hopper_few = 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_sites),   cmocka_unit_test(groups_of_heads),
        cmocka_unit_test(plain),          cmocka_unit_test(full_sizes),
        cmocka_unit_test(special_scores), cmocka_unit_test(patterns),
        cmocka_unit_test(choices),        cmocka_unit_test(broken_kernels_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
