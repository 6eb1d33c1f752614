/* SPDX-License-Identifier: Apache-2.0 */
/* Initial noise: PyTorch's sequence against its own numbers; ours against the positional generator. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "base/rng.h"
#include "base/threads.h"
#include "pipe/noise.h"

/* float32 Box-Muller: log, sqrt, sin and cos each to about an ulp, the angle up to 2 pi: 2e-6 of the value,
 * and near a zero of sin or cos 1e-7 of the angle times the radius (at most 5.8). */
static void torch_sequence(void **state)
{
    (void)state;
    json_error_t error;
    json_t *cases = json_load_file("tests/golden/noise.json", 0, &error), *c;
    size_t k, i;
    double worst = 0;
    int64_t same = 0, all = 0;
    if (!cases) fail_msg("tests/golden/noise.json: %s", error.text);
    assert_true(json_array_size(cases) >= 10);
    json_array_foreach(cases, k, c)
    {
        int64_t n = json_integer_value(json_object_get(c, "n"));
        uint64_t seed = (uint64_t)json_integer_value(json_object_get(c, "seed"));
        json_t *index = json_object_get(c, "index"), *value = json_object_get(c, "value");
        float *x = malloc((size_t)n * sizeof *x);
        double sum = 0, sum_abs = 0;
        t3v_noise_fill(x, n, T3V_NOISE_TORCH, seed);
        for (i = 0; i < json_array_size(index); i++) {
            float want = (float)json_real_value(json_array_get(value, i));
            float got = x[json_integer_value(json_array_get(index, i))];
            double off = fabs((double)got - want);
            if (n < 16 ? got != want : off > 2e-6 * fabs(want) + 6e-7)
                fail_msg("seed %llu, n %lld, number %zu: %.9g, PyTorch %.9g", (unsigned long long)seed,
                         (long long)n, i, got, want);
            if (off > worst) worst = off;
            same += got == want;
            all++;
        }
        for (int64_t j = 0; j < n; j++) sum += x[j], sum_abs += fabs((double)x[j]);
        assert_true(fabs(sum - json_real_value(json_object_get(c, "sum"))) < 1e-6 * (double)n);
        assert_true(fabs(sum_abs - json_real_value(json_object_get(c, "sum_abs"))) < 1e-6 * (double)n);
        free(x);
    }
    print_message("%lld of %lld numbers bit-equal to PyTorch's, worst difference %.2g\n", (long long)same,
                  (long long)all, worst);
    json_decref(cases);
}

static void positional(void **state)
{
    (void)state;
    enum { N = 50003 };
    float *one = malloc(N * sizeof *one), *two = malloc(N * sizeof *two);
    t3v_threads_set(1);
    t3v_noise_fill(one, N, T3V_NOISE_PHILOX, 42);
    t3v_threads_set(2);
    t3v_noise_fill(two, N, T3V_NOISE_PHILOX, 42);
    assert_memory_equal(one, two, N * sizeof *one);
    t3v_normal_fill(two, N, 42, 0, 0);
    assert_memory_equal(one, two, N * sizeof *one);
    t3v_noise_fill(two, N, T3V_NOISE_PHILOX, 43);
    assert_true(memcmp(one, two, N * sizeof *one) != 0);
    t3v_noise_fill(one, N, T3V_NOISE_TORCH, 42);
    t3v_threads_set(1);
    t3v_noise_fill(two, N, T3V_NOISE_TORCH, 42);
    assert_memory_equal(one, two, N * sizeof *one);
    t3v_noise_rng rng;
    assert_int_equal(t3v_noise_parse("torch", &rng), T3V_OK);
    assert_int_equal(rng, T3V_NOISE_TORCH);
    assert_int_equal(t3v_noise_parse("Torch", &rng), T3V_E_ARG);
    free(one);
    free(two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(torch_sequence), cmocka_unit_test(positional)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
