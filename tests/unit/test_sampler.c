/* SPDX-License-Identifier: Apache-2.0 */
/* Samplers: published grids, exactness on a straight path, order of convergence, resuming, refusals. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "sched/sampler.h"

static t3v_sampler *open_ok(const char *name, int steps, double shift)
{
    t3v_sampler *s = NULL;
    assert_int_equal(t3v_sampler_open(&s, name, steps, shift), T3V_OK);
    assert_int_equal(t3v_sampler_steps(s), steps);
    assert_true(t3v_sampler_sigma(s, steps) == 0);
    return s;
}

/* The official classes, 50 steps at shift 5 and 40 steps at shift 12. */
static void grids_are_the_published_ones(void **state)
{
    (void)state;
    t3v_sampler *s = open_ok("unipc", 50, 5);
    const int first[6] = {999, 995, 991, 987, 982, 978}, last[3] = {241, 172, 92};
    for (int i = 0; i < 6; i++) assert_true(t3v_sampler_timestep(s, i) == first[i]);
    for (int i = 0; i < 3; i++) assert_true(t3v_sampler_timestep(s, 47 + i) == last[i]);
    assert_true(fabs(t3v_sampler_sigma(s, 0) - 0.999800) < 1e-6);
    assert_true(fabs(t3v_sampler_sigma(s, 1) - 0.995732) < 1e-6);
    assert_true(fabs(t3v_sampler_sigma(s, 49) - 0.092507) < 1e-6);
    t3v_sampler_close(&s);

    s = open_ok("unipc", 40, 12);
    const int early[3] = {999, 997, 995}, late[3] = {492, 386, 235};
    for (int i = 0; i < 3; i++) assert_true(t3v_sampler_timestep(s, i) == early[i]);
    for (int i = 0; i < 3; i++) assert_true(t3v_sampler_timestep(s, 37 + i) == late[i]);
    t3v_sampler_close(&s);

    s = open_ok("dpm++", 50, 5);
    assert_true(t3v_sampler_sigma(s, 0) == 1 && t3v_sampler_timestep(s, 0) == 1000);
    assert_true(t3v_sampler_timestep(s, 1) == 995);
    t3v_sampler_close(&s);

    s = open_ok("euler", 50, 5);
    const double grid[5] = {1000, 995.935, 991.7355, 987.395, 982.906};
    for (int i = 0; i < 5; i++) assert_true(fabs(t3v_sampler_timestep(s, i) - grid[i]) < 1e-3);
    assert_true(fabs(t3v_sampler_sigma(s, 49) - 0.0925926) < 1e-7);
    t3v_sampler_close(&s);
}

enum { N = 1000 };

/* Where v is the same everywhere and always, the path is straight and each method is exact. */
static void a_straight_path_is_exact(void **state)
{
    (void)state;
    float start[N], v[N], x[N];
    t3v_normal_fill(start, N, 3, 0, 0);
    t3v_normal_fill(v, N, 3, 1, 0);
    for (int k = 0; t3v_sampler_name(k); k++)
        for (int steps = 1; steps <= 25; steps += 4) {
            t3v_sampler *s = open_ok(t3v_sampler_name(k), steps, 5);
            memcpy(x, start, sizeof x);
            for (int i = 0; i < steps; i++) assert_int_equal(t3v_sampler_step(s, i, x, v, N), T3V_OK);
            const double top = t3v_sampler_sigma(s, 0);
            for (int i = 0; i < N; i++) assert_true(fabs(x[i] - (start[i] - top * v[i])) < 4e-6);
            t3v_sampler_close(&s);
        }
}

/* dx/dsigma = v = x has the solution x(0) = x(top) e^-top; the error must fall with the steps. */
static double error_of(const char *name, int steps)
{
    t3v_sampler *s = open_ok(name, steps, 1);
    float x = 1;
    for (int i = 0; i < steps; i++) {
        const float v = x;
        assert_int_equal(t3v_sampler_step(s, i, &x, &v, 1), T3V_OK);
    }
    const double want = exp(-t3v_sampler_sigma(s, 0));
    t3v_sampler_close(&s);
    return fabs(x - want) / want;
}

static void errors_fall_with_the_steps(void **state)
{
    (void)state;
    const double first = error_of("euler", 80) / error_of("euler", 160);
    assert_true(first > 1.8 && first < 2.2);
    const char *const second[] = {"unipc", "dpm++"};
    for (int k = 0; k < 2; k++) {
        assert_true(error_of(second[k], 80) / error_of(second[k], 160) > 2.5);
        assert_true(error_of(second[k], 80) * 20 < error_of("euler", 80));
    }
}

static void model(float *v, const float *x, double t)
{
    for (int i = 0; i < N; i++) v[i] = 0.8f * x[i] - sinf(3 * x[i] + (float)t / 200);
}

/* Saved after any step and loaded into a new sampler, a run ends in the same bytes. */
static void resumes_to_the_same_bytes(void **state)
{
    (void)state;
    enum { STEPS = 7 };
    float v[N], x[N], want[N], middle[N];
    for (int k = 0; t3v_sampler_name(k); k++)
        for (int cut = 1; cut < STEPS; cut++) {
            t3v_sampler *s = open_ok(t3v_sampler_name(k), STEPS, 3);
            t3v_sampler *r = open_ok(t3v_sampler_name(k), STEPS, 3);
            const size_t size = t3v_sampler_state_size(s, N);
            void *saved = malloc(size);
            assert_non_null(saved);
            t3v_normal_fill(x, N, 5, 0, 0);
            for (int i = 0; i < STEPS; i++) {
                if (i == cut) {
                    assert_int_equal(t3v_sampler_state_save(s, saved, size), T3V_OK);
                    memcpy(middle, x, sizeof x);
                }
                model(v, x, t3v_sampler_timestep(s, i));
                assert_int_equal(t3v_sampler_step(s, i, x, v, N), T3V_OK);
            }
            memcpy(want, x, sizeof x);
            assert_int_equal(t3v_sampler_state_load(r, saved, size), T3V_OK);
            assert_int_equal(t3v_sampler_next(r), cut);
            for (int i = cut; i < STEPS; i++) {
                model(v, middle, t3v_sampler_timestep(r, i));
                assert_int_equal(t3v_sampler_step(r, i, middle, v, N), T3V_OK);
            }
            assert_memory_equal(middle, want, sizeof want);
            free(saved);
            t3v_sampler_close(&s);
            t3v_sampler_close(&r);
        }
}

static void damaged_states_are_refused(void **state)
{
    (void)state;
    float v[N] = {0}, x[N] = {0};
    t3v_sampler *s = open_ok("unipc", 5, 3), *other = open_ok("unipc", 6, 3);
    const size_t size = t3v_sampler_state_size(s, N);
    unsigned char *saved = malloc(size);
    assert_non_null(saved);
    assert_int_equal(t3v_sampler_state_save(s, saved, size), T3V_E_ARG); /* nothing to save yet */
    assert_int_equal(t3v_sampler_step(s, 0, x, v, N), T3V_OK);
    assert_int_equal(t3v_sampler_state_save(s, saved, size), T3V_OK);
    assert_int_equal(t3v_sampler_state_load(other, saved, size), T3V_E_FORMAT);
    assert_int_equal(t3v_sampler_state_load(s, saved, size - 1), T3V_E_FORMAT);
    assert_int_equal(t3v_sampler_state_load(s, saved, 3), T3V_E_FORMAT);
    for (size_t at = 0; at < 56; at++) { /* every byte of the head counts */
        saved[at] ^= 0x40;
        assert_int_equal(t3v_sampler_state_load(s, saved, size), T3V_E_FORMAT);
        saved[at] ^= 0x40;
    }
    free(saved);
    t3v_sampler_close(&s);
    t3v_sampler_close(&other);
}

static void wrong_use_is_refused(void **state)
{
    (void)state;
    t3v_sampler *s = NULL;
    assert_int_equal(t3v_sampler_open(&s, "heun", 5, 3), T3V_E_ARG);
    assert_non_null(strstr(t3v_error_text(), "heun"));
    assert_null(s);
    assert_int_equal(t3v_sampler_open(&s, "euler", 0, 3), T3V_E_ARG);
    assert_int_equal(t3v_sampler_open(&s, "euler", 10001, 3), T3V_E_ARG);
    assert_int_equal(t3v_sampler_open(&s, "euler", 5, 0), T3V_E_ARG);
    assert_int_equal(t3v_sampler_open(&s, "euler", 5, NAN), T3V_E_ARG);
    assert_int_equal(t3v_sampler_open(&s, "euler", 5, INFINITY), T3V_E_ARG);
    assert_int_equal(t3v_sampler_open(&s, "euler", 50, 1e30), T3V_E_ARG); /* every level rounds to 1 */
    assert_int_equal(t3v_sampler_open(&s, "unipc", 100, 16), T3V_E_ARG);
    assert_non_null(strstr(t3v_error_text(), "first two timesteps"));
    assert_null(s);

    float x[4] = {0}, v[4] = {0};
    s = open_ok("dpm++", 3, 3);
    assert_int_equal(t3v_sampler_step(s, 1, x, v, 4), T3V_E_ARG);
    assert_int_equal(t3v_sampler_step(s, 0, x, v, 0), T3V_E_ARG);
    assert_int_equal(t3v_sampler_step(s, 0, x, v, 4), T3V_OK);
    assert_int_equal(t3v_sampler_step(s, 1, x, v, 3), T3V_E_ARG);
    assert_int_equal(t3v_sampler_step(s, 2, x, v, 4), T3V_E_ARG);
    assert_int_equal(t3v_sampler_step(s, 1, x, v, 4), T3V_OK);
    assert_int_equal(t3v_sampler_step(s, 0, x, v, 3), T3V_OK);
    t3v_sampler_close(&s);
    t3v_sampler_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grids_are_the_published_ones), cmocka_unit_test(a_straight_path_is_exact),
        cmocka_unit_test(errors_fall_with_the_steps),   cmocka_unit_test(resumes_to_the_same_bytes),
        cmocka_unit_test(damaged_states_are_refused),   cmocka_unit_test(wrong_use_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
