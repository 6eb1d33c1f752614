/* SPDX-License-Identifier: Apache-2.0 */
/* Samplers against the official classes: grids, and every point of the paths through a fake model. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "io/tensors.h"
#include "sched/sampler.h"

enum { N = 60, MAX_STEPS = 50 };

static void read_or_fail(const t3v_tensor_file *f, const char *name, int64_t n, void *out, t3v_dtype type)
{
    const t3v_tensor_entry *t = t3v_tensors_find(f, name);
    if (!t) fail_msg("%s is missing", name);
    assert_int_equal(t->numel, n);
    assert_int_equal(t->dtype, type);
    assert_int_equal(t3v_tensor_copy(t, out, type), T3V_OK);
}

/* One case; `name` is SAMPLER/STEPS/SHIFT. Returns the largest relative distance of a point. */
static double follow(const t3v_tensor_file *f, const char *name, const float *noise)
{
    char sampler[8], key[96];
    int steps;
    double shift, worst = 0, time[MAX_STEPS];
    float sigma[MAX_STEPS], x[N], v[N];
    static float path[MAX_STEPS * N];
    assert_int_equal(sscanf(name, "%7[^/]/%d/%lf", sampler, &steps, &shift), 3);
    assert_in_range(steps, 1, MAX_STEPS);
    snprintf(key, sizeof key, "%s/sigma", name);
    read_or_fail(f, key, steps, sigma, T3V_F32);
    snprintf(key, sizeof key, "%s/timestep", name);
    read_or_fail(f, key, steps, time, T3V_F64);
    snprintf(key, sizeof key, "%s/x", name);
    read_or_fail(f, key, (int64_t)steps * N, path, T3V_F32);

    t3v_sampler *s = NULL;
    assert_int_equal(t3v_sampler_open(&s, sampler, steps, shift), T3V_OK);
    memcpy(x, noise, sizeof x);
    for (int i = 0; i < steps; i++) {
        const double t = t3v_sampler_timestep(s, i);
        if (strcmp(sampler, "euler")) {
            assert_true(t3v_sampler_sigma(s, i) == sigma[i] && t == time[i]);
        } else { /* torch.linspace varies by two bits with the width of its vectors */
            assert_true(fabs(t3v_sampler_sigma(s, i) - sigma[i]) <= 1.2e-7 && fabs(t - time[i]) <= 1.3e-4);
        }
        for (int k = 0; k < N; k++) v[k] = 0.8f * x[k] - sinf(3 * x[k] + (float)(t / 200));
        assert_int_equal(t3v_sampler_step(s, i, x, v, N), T3V_OK);
        double off = 0, all = 0;
        for (int k = 0; k < N; k++) {
            const double want = path[i * N + k];
            off += (x[k] - want) * (x[k] - want);
            all += want * want;
        }
        worst = fmax(worst, sqrt(off / all));
    }
    t3v_sampler_close(&s);
    return worst;
}

static void paths_are_the_official_ones(void **state)
{
    (void)state;
    t3v_tensor_file *f = NULL;
    float noise[N];
    int cases = 0;
    assert_int_equal(t3v_tensors_open(&f, "tests/golden/wan/samplers.safetensors"), T3V_OK);
    read_or_fail(f, "noise", N, noise, T3V_F32);
    for (int64_t i = 0; i < f->count; i++) {
        char name[64];
        const char *slash = strrchr(f->tensors[i].name, '/');
        if (!slash || strcmp(slash, "/x")) continue;
        snprintf(name, sizeof name, "%.*s", (int)(slash - f->tensors[i].name), f->tensors[i].name);
        const double off = follow(f, name, noise);
        print_message("%-12s %.1e\n", name, off);
        assert_true(off <= 5e-6); /* 50 steps of f32 rounding, both ways: about 1e-6 */
        cases++;
    }
    assert_int_equal(cases, 21);
    t3v_tensors_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(paths_are_the_official_ones)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
