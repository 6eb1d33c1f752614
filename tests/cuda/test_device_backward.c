/* SPDX-License-Identifier: Apache-2.0 */
/* Gradients of the GPU's attention under the emulator against the CPU's definition: every pattern, random sites, both kinds
 * of numbers; the same bytes whatever the order in which threads run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "attn/pattern.h"
#include "cuda/device_case.h"
#include "device.h"
#include "random_site.h"

typedef struct gradients {
    float *d[3]; /* q, k, v; dense */
} gradients;

static int64_t rows_of(const inputs *x, int which) { return which ? x->n_k : x->n_q; }

static gradients make_gradients(const inputs *x)
{
    gradients g;
    for (int i = 0; i < 3; i++) {
        size_t n = (size_t)(rows_of(x, i) * x->heads * x->dim);
        g.d[i] = must(malloc(n * sizeof(float)));
        for (size_t j = 0; j < n; j++) g.d[i][j] = 1; /* what is added to */
    }
    return g;
}

static void free_gradients(gradients *g)
{
    for (int i = 0; i < 3; i++) free(g->d[i]);
}

/* By the CPU's definition; out [n_q, width] and lse are its forward pass. */
static void backward_on_cpu(const t3v_site *site, const inputs *x, const t3v_moment *m, float *out,
                            float *lse, bool accumulate, gradients *grad)
{
    t3v_attend_args a = args_of(x, m);
    int64_t width = x->heads * x->dim;
    void *rows[3];
    const float *from[3] = {x->q, x->k, x->v};
    for (int i = 0; i < 3; i++) {
        size_t n = (size_t)(rows_of(x, i) * width);
        rows[i] = must(malloc(n * sizeof(float)));
        for (size_t j = 0; j < n; j++)
            if (a.type == T3V_F32) ((float *)rows[i])[j] = from[i][j];
            else ((t3v_bf16 *)rows[i])[j] = t3v_f32_to_bf16(from[i][j]);
    }
    a.q = rows[0], a.k = rows[1], a.v = rows[2], a.key_log_weight = x->log_weight, a.lse = lse;
    t3v_attend_grad g = {.out = out,
                         .dout = x->dout,
                         .dout_type = T3V_F32,
                         .dout_stride = width,
                         .dq = grad->d[0],
                         .dk = grad->d[1],
                         .dv = grad->d[2],
                         .dq_stride = width,
                         .dk_stride = width,
                         .dv_stride = width,
                         .accumulate = accumulate};
    t3v_isa before = t3v_cpu();
    t3v_cpu_mask(T3V_ISA_REF);
    a.scratch_bytes = t3v_attend_backward_scratch(site, &a, &g);
    a.scratch = must(malloc(a.scratch_bytes));
    if (t3v_attend_backward(site, &a, &g)) fail_msg("%s", t3v_error_text());
    t3v_cpu_mask(before);
    free(a.scratch);
    for (int i = 0; i < 3; i++) free(rows[i]);
}

typedef struct options {
    int gap; /* elements between rows of gradients */
    bool accumulate, without_out;
    t3v_dtype dout_type;
} options;

static void backward_on_device(const t3v_site *site, const inputs *x, const t3v_moment *m, const float *out,
                               const float *lse, const options *o, gradients *grad)
{
    int64_t width = x->heads * x->dim, stride = width + o->gap;
    t3v_device_site *s = site_on_device(site, true);
    t3v_attend_args a = args_of(x, m);
    a.q = on_device(x->q, x->n_q, width, width, x->type, "q");
    a.k = on_device(x->k, x->n_k, width, width, x->type, "k");
    a.v = on_device(x->v, x->n_k, width, width, x->type, "v");
    if (x->log_weight) a.key_log_weight = on_device(x->log_weight, x->n_k, 1, 1, T3V_F32, "log weights");
    a.lse = on_device(lse, site->terms * x->heads * x->n_q, 1, 1, T3V_F32, "lse");
    float *d[3];
    for (int i = 0; i < 3; i++)
        d[i] = on_device(grad->d[i], rows_of(x, i), width, stride, T3V_F32, "gradients");
    t3v_attend_grad g = {.out = o->without_out ? NULL : on_device(out, x->n_q, width, width, T3V_F32, "out"),
                         .dout = on_device(x->dout, x->n_q, width, width, o->dout_type, "dout"),
                         .dout_type = o->dout_type,
                         .dout_stride = width,
                         .dq = d[0],
                         .dk = d[1],
                         .dv = d[2],
                         .dq_stride = stride,
                         .dk_stride = stride,
                         .dv_stride = stride,
                         .accumulate = o->accumulate};
    a.scratch_bytes = t3v_device_backward_scratch(site, &a, &g);
    a.scratch = t3v_emulate_alloc(a.scratch_bytes, "scratch");
    if (t3v_device_backward(s, &a, &g, t3v_emulated_device()))
        fail_msg("%s: %s", t3v_error_text(), t3v_emulate_text());
    for (int i = 0; i < 3; i++) {
        for (int64_t r = 0; r < rows_of(x, i); r++)
            memcpy(grad->d[i] + r * width, d[i] + r * stride, (size_t)width * sizeof(float));
        t3v_emulate_free(d[i]);
    }
    t3v_emulate_free((void *)a.q), t3v_emulate_free((void *)a.k), t3v_emulate_free((void *)a.v);
    t3v_emulate_free((void *)a.key_log_weight), t3v_emulate_free(a.lse), t3v_emulate_free(a.scratch);
    t3v_emulate_free((void *)g.out), t3v_emulate_free((void *)g.dout);
    free_on_device(s);
}

/* The largest error in tolerances. dv: eps times the sum of |products|, which is the gradient of |dout|; dq and dk: eps
 * (|it| + root mean square of all + 0.02). bf16: P, dS and dout are rounded to 2^-9 of themselves; what dS loses where it cancels
 * is of the size of the largest. */
static double backward_error(const t3v_site *site, const inputs *x, const t3v_moment *m, const options *o)
{
    int64_t width = x->heads * x->dim;
    float *out = must(malloc((size_t)(x->n_q * width) * sizeof *out)),
          *lse = must(malloc((size_t)(site->terms * x->heads * x->n_q) * sizeof *lse));
    uint64_t *chosen = must(calloc(t3v_attend_chosen_words(site, x->heads) + 1, sizeof *chosen));
    on_cpu(site, x, m, x->v, out, lse, chosen);
    gradients want = make_gradients(x), got = make_gradients(x), again = make_gradients(x);
    backward_on_cpu(site, x, m, out, lse, o->accumulate, &want);
    inputs sizes = *x;
    sizes.dout = must(malloc((size_t)(x->n_q * width) * sizeof *sizes.dout));
    for (int64_t j = 0; j < x->n_q * width; j++) sizes.dout[j] = fabsf(x->dout[j]);
    gradients size = make_gradients(x);
    backward_on_cpu(site, &sizes, m, out, lse, false, &size);
    free(sizes.dout);
    backward_on_device(site, x, m, out, lse, o, &got);
    double worst = 0, eps = x->type == T3V_BF16 ? 8.0 / 256 : 1e-4;
    for (int i = 0; i < 3; i++) {
        int64_t n = rows_of(x, i) * width;
        double square = 1e-12, base = o->accumulate ? 1 : 0;
        for (int64_t j = 0; j < n; j++)
            square += ((double)want.d[i][j] - base) * ((double)want.d[i][j] - base) / (double)n;
        for (int64_t j = 0; j < n; j++) {
            double w = (double)want.d[i][j] - base, most = fabs(w) + sqrt(square) + 0.02;
            if (i == 2) most = ((double)size.d[2][j] + 1e-3) / 4;
            double e = fabs((double)got.d[i][j] - (double)want.d[i][j]) / (eps * most);
            if (!(e <= worst)) worst = isnan(e) ? 1e30 : e;
        }
    }
    t3v_emulate_seed(99);
    backward_on_device(site, x, m, out, lse, o, &again);
    for (int i = 0; i < 3; i++)
        assert_memory_equal(got.d[i], again.d[i], (size_t)(rows_of(x, i) * width) * sizeof(float));
    free_gradients(&want), free_gradients(&got), free_gradients(&again), free_gradients(&size);
    free(out), free(lse), free(chosen);
    return worst;
}

static void random_sites(void **state)
{
    (void)state;
    static const int dims[] = {64, 128, 48, 256, 80, 33};
    for (uint64_t seed = 0; seed < 12; seed++) {
        t3v_rng r = t3v_rng_make(seed, 17);
        t3v_emulate_seed(seed);
        int dim = dims[seed % 6];
        bool slow = dim > 128 || dim == 33 || seed % 4 == 3;
        int64_t n = 1 + t3v_rng_below(&r, slow ? 40 : 180);
        t3v_site site;
        random_site(&site, &r, n, 1 + (int)t3v_rng_below(&r, 3));
        inputs x = make_inputs(seed, n, n, 1 + (int)t3v_rng_below(&r, 2), dim,
                               seed % 4 == 3 ? T3V_F32 : T3V_BF16, 5, seed % 4 == 1);
        options o = {.gap = (int)(seed % 3),
                     .accumulate = seed % 2,
                     .without_out = seed % 5 == 1,
                     .dout_type = seed % 3 == 1 ? T3V_BF16 : T3V_F32};
        double e = backward_error(&site, &x, NULL, &o);
        if (!(e <= 1)) fail_msg("seed %d, %d tokens, dim %d: %g tolerances", (int)seed, (int)n, dim, e);
        free_inputs(&x);
        t3v_site_free(&site);
    }
}

static void full_sizes(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{130, 7}, {65, 129}, {1, 1}, {40, 70}};
    for (uint64_t i = 0; i < 4; i++) {
        t3v_emulate_seed(i);
        inputs x = make_inputs(i, sizes[i][0], sizes[i][1], 2, i % 2 ? 128 : 64, i == 3 ? T3V_F32 : T3V_BF16,
                               6, i % 2);
        options o = {.dout_type = T3V_F32};
        double e = backward_error(t3v_site_full(), &x, NULL, &o);
        if (!(e <= 1)) fail_msg("%d x %d: %g tolerances", (int)x.n_q, (int)x.n_k, e);
        free_inputs(&x);
    }
}

static void patterns(void **state)
{
    (void)state;
    enum { HEADS = 2 };
    int run = 0, declined = 0;
    t3v_site_param info[T3V_SITE_PARAMS_MAX];
    for (const t3v_pattern *const *p = t3v_patterns; *p; p++)
        for (int e = -1; e < 0 || ((*p)->examples && (*p)->examples[e]); e++) {
            char text[256];
            snprintf(text, sizeof text, "%s%s%s", (*p)->name, e < 0 ? "" : ":",
                     e < 0 ? "" : (*p)->examples[e]);
            static const t3v_grid grids[] = {{3, 5, 7}, {2, 6, 9}, {9, 4, 4}};
            t3v_plan *plan = NULL;
            for (int g = 0; g < 3 && !plan; g++)
                if (t3v_plan_make_for(&plan, text, grids[(g + e + 1) % 3], 1, 0, HEADS)) plan = NULL;
            if (!plan) fail_msg("%s suits no grid", text);
            const t3v_site *site = &plan->layer[0].site[T3V_SITE_SELF];
            t3v_emulate_seed((uint64_t)run);
            run++;
            inputs x = make_inputs((uint64_t)run, plan->tokens, plan->tokens, HEADS, run % 3 ? 64 : 128,
                                   T3V_BF16, 6, false);
            t3v_attend_args a = args_of(&x, NULL);
            options o = {.dout_type = T3V_F32};
            if (t3v_device_attend_declines(site, &a) || t3v_site_params(site, HEADS, x.dim, info)) {
                declined++;
            } else {
                double worst = backward_error(site, &x, NULL, &o);
                if (!(worst <= 1)) fail_msg("%s: %g tolerances", text, worst);
            }
            free_inputs(&x);
            t3v_plan_free(plan);
        }
    printf("%d runs, of which %d are elsewhere\n", run, declined);
    assert_int_equal(t3v_emulate_count().conflicts, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_sites),
        cmocka_unit_test(full_sizes),
        cmocka_unit_test(patterns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
