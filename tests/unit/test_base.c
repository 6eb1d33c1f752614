/* SPDX-License-Identifier: Apache-2.0 */
/* base and dtype: known answers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/arena.h"
#include "base/rng.h"
#include "base/status.h"
#include "tensor/dtype.h"

/* Known answers of Philox4x32-10 from the Random123 distribution. */
static void philox_known_answers(void **state)
{
    (void)state;
    uint32_t out[4];
    t3v_philox(0, 0, 0, out);
    assert_int_equal(out[0], 0x6627e8d5);
    assert_int_equal(out[1], 0xe169c58d);
    assert_int_equal(out[2], 0xbc57ac4c);
    assert_int_equal(out[3], 0x9b00dbd8);
    t3v_philox(UINT64_MAX, UINT64_MAX, UINT64_MAX, out);
    assert_int_equal(out[0], 0x408f276d);
}

static void normal_is_positional(void **state)
{
    (void)state;
    float all[103], part[50];
    t3v_normal_fill(all, 103, 7, 1, 0);
    t3v_normal_fill(part, 50, 7, 1, 33);
    assert_memory_equal(part, all + 33, sizeof part);
    double sum = 0, sq = 0;
    enum { N = 40000 };
    static float many[N];
    t3v_normal_fill(many, N, 1, 2, 0);
    for (int i = 0; i < N; i++) sum += many[i], sq += (double)many[i] * many[i];
    assert_true(fabs(sum / N) < 0.025 && fabs(sq / N - 1) < 0.05);
}

static void half_types_round_trip(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        if ((h & 0x7c00) != 0x7c00) assert_int_equal(t3v_f32_to_f16(t3v_f16_to_f32((uint16_t)h)), h);
        if ((h & 0x7f80) != 0x7f80) assert_int_equal(t3v_f32_to_bf16(t3v_bf16_to_f32((uint16_t)h)), h);
    }
    assert_true(t3v_f16_to_f32(0x7bff) == 65504.0f);
    assert_int_equal(t3v_f32_to_f16(65520.0f), 0x7c00);
    assert_true(t3v_f8_e4m3_to_f32(0x7e) == 448.0f && isnan(t3v_f8_e4m3_to_f32(0xff)));
}

static void arena_counts_what_it_uses(void **state)
{
    (void)state;
    t3v_arena count, real;
    assert_int_equal(t3v_arena_count(&count), T3V_OK);
    assert_int_equal(t3v_arena_open(&real, 1 << 20), T3V_OK);
    for (t3v_arena *a = &count; a; a = a == &count ? &real : NULL) {
        assert_non_null(t3v_arena_take(a, 1000, 4));
        size_t mark = t3v_arena_mark(a);
        assert_non_null(t3v_arena_take(a, 3, 7));
        t3v_arena_back(a, mark);
        assert_non_null(t3v_arena_take(a, 10, 1));
    }
    assert_int_equal(count.peak, real.peak);
    assert_null(t3v_arena_take(&real, 1 << 20, 2));
    assert_null(t3v_arena_take(&real, SIZE_MAX / 2, 4));
    assert_non_null(t3v_arena_take(&count, (size_t)1 << 40, 1));
    t3v_arena_close(&real);
    t3v_arena_close(&count);
}

static void error_text_names_the_context(void **state)
{
    (void)state;
    assert_int_equal(t3v_fail(T3V_E_SHAPE, "x is %d", 3), T3V_E_SHAPE);
    t3v_fail_in(T3V_E_SHAPE, "file %s", "a");
    assert_string_equal(t3v_error_text(), "file a: x is 3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),         cmocka_unit_test(normal_is_positional),
        cmocka_unit_test(half_types_round_trip),        cmocka_unit_test(arena_counts_what_it_uses),
        cmocka_unit_test(error_text_names_the_context),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
