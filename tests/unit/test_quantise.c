/* SPDX-License-Identifier: Apache-2.0 */
/* Quantisers against the formats' definitions: exact where a block can hold its values, close where it cannot. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "base/threads.h"
#include "tensor/dtype.h"
#include "tensor/fp8.h"
#include "tensor/quantise.h"

enum { N = 64 * 256 };

static float x[N], y[N];
static unsigned char packed[4 * N];

static void round_trip(t3v_dtype type, int64_t n)
{
    assert_int_equal(t3v_quantise(packed, type, x, n), T3V_OK);
    assert_int_equal(t3v_convert(y, T3V_F32, packed, type, n), T3V_OK);
}

static double error(void)
{
    double d = 0, s = 0;
    for (int i = 0; i < N; i++) {
        d += ((double)y[i] - x[i]) * ((double)y[i] - x[i]);
        s += (double)x[i] * x[i];
    }
    return s > 0 ? sqrt(d / s) : sqrt(d);
}

static void blocks_hold_their_own_values(void **state)
{
    (void)state;
    static const struct {
        t3v_dtype type;
        int low, high; /* levels */
        bool offset;
    } types[] = {{T3V_Q8_0, -127, 127, false}, {T3V_Q4_0, -8, 7, false}, {T3V_Q5_0, -16, 15, false},
                 {T3V_Q4_1, 0, 15, true},      {T3V_Q5_1, 0, 31, true},  {T3V_Q3_K, -4, 3, false},
                 {T3V_Q4_K, 0, 15, true},      {T3V_Q5_K, 0, 31, true},  {T3V_Q6_K, -32, 31, false}};
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        int run = types[t].type == T3V_Q3_K || types[t].type == T3V_Q6_K ? 16 : 32;
        int span = types[t].high - types[t].low + 1;
        bool k = t3v_dtype_block(types[t].type) == 256;
        for (int i = 0; i < N; i++) {
            uint32_t r[4];
            t3v_philox(5, t, (uint64_t)i, r);
            int level = types[t].low + (int)(r[0] % (uint32_t)span);
            if (i % run == 0) level = types[t].low; /* the ends of the range are there */
            if (i % run == 1) level = types[t].high;
            int block = i / (int)t3v_dtype_block(types[t].type);
            float d = ldexpf(1, block % 7 - 9);
            if (k) d *= (float)(8 + i / run % 8 * 3); /* scales of runs: whole multiples of one step, ... */
            if (k && i % 256 / run == 3) d = ldexpf(1, block % 7 - 9) * (types[t].offset ? 63 : 32);
            x[i] = d * (float)level - (types[t].offset ? (k ? ldexpf(1, block % 7 - 9) * 63 : 3 * d) : 0);
        }
        round_trip(types[t].type, N);
        double e = error();
        print_message("    %-5s %.1e\n", t3v_dtype_name(types[t].type), e);
        if (!(e <= (k ? 1e-3 : 0))) fail_msg("%s: relative error %g", t3v_dtype_name(types[t].type), e);
    }
}

/* ---- the K types against the simplest scales ----------------------------------------------------------- */

static float f16(float v) { return t3v_f16_to_f32(t3v_f32_to_f16(v)); }

static float clamp(float v, float low, float high) { return v < low ? low : v > high ? high : v; }

/* What blocks of 256 hold whose scales come from the least and the largest value of each run, in y. */
static void simple(t3v_dtype type)
{
    bool offset = type == T3V_Q4_K || type == T3V_Q5_K;
    int run = offset ? 32 : 16, levels = type == T3V_Q4_K   ? 15
                                         : type == T3V_Q5_K ? 31
                                         : type == T3V_Q3_K ? 3
                                                            : 31;
    float steps = offset ? 63 : type == T3V_Q3_K ? 31 : 127;
    for (int b = 0; b < N; b += 256) {
        float scale[16], low[16], most = 0, deepest = 0;
        for (int j = 0; j < 256 / run; j++) {
            float high = 0;
            low[j] = 0;
            for (int i = 0; i < run; i++) {
                float v = x[b + j * run + i];
                if (!offset) v = fabsf(v);
                low[j] = fminf(low[j], v);
                high = fmaxf(high, v);
            }
            scale[j] = (high - low[j]) / (float)levels;
            most = fmaxf(most, scale[j]);
            deepest = fmaxf(deepest, -low[j]);
        }
        float d = f16(most / steps), dmin = f16(deepest / 63);
        for (int i = 0; i < 256; i++) {
            int j = i / run;
            float s = d > 0 ? d * roundf(scale[j] / d) : 0, m = dmin > 0 ? dmin * roundf(-low[j] / dmin) : 0;
            float q = s > 0 ? roundf((x[b + i] + m) / s) : 0;
            y[b + i] = s * clamp(q, offset ? 0 : (float)(-levels - 1), (float)levels) - m;
        }
    }
}

/* Kinds of data: as weights are; with few large values; positive; of very different sizes; constant; nearly nothing. */
static const char *fill(int kind)
{
    t3v_normal_fill(x, N, 77, (uint64_t)kind, 0);
    for (int i = 0; i < N; i++) switch (kind) {
        case 0: x[i] *= 0.02f; break;
        case 1: x[i] *= i % 61 == 0 ? 0.5f : 0.01f; break;
        case 2: x[i] = 0.5f + 0.1f * x[i]; break;
        case 3: x[i] *= ldexpf(1, i / 16 % 12 - 6); break;
        case 4: x[i] = -0.25f; break;
        default: x[i] *= 1e-3f; break;
        }
    static const char *const names[] = {"weights", "outliers", "positive", "uneven", "constant", "tiny"};
    return names[kind];
}

static void k_types_are_better_than_simple_scales(void **state)
{
    (void)state;
    static const t3v_dtype types[] = {T3V_Q3_K, T3V_Q4_K, T3V_Q5_K, T3V_Q6_K};
    for (size_t t = 0; t < 4; t++)
        for (int kind = 0; kind < 6; kind++) {
            const char *what = fill(kind);
            simple(types[t]);
            double plain = error();
            round_trip(types[t], N);
            double own = error();
            print_message("    %-5s %-9s %.2e, simple scales %.2e\n", t3v_dtype_name(types[t]), what, own,
                          plain);
            if (!(own <= plain * (kind == 5 ? 1.01 : 1.0000001))) /* the scales are subnormal in F16 */
                fail_msg("%s of %s: %g, simple scales %g", t3v_dtype_name(types[t]), what, own, plain);
        }
}

/* Relative error of normal numbers: a uniform step of 2 range / levels, over sqrt(12), and some for the rounded scales. */
static void errors_are_those_of_the_number_of_levels(void **state)
{
    (void)state;
    static const struct {
        t3v_dtype type;
        double limit;
    } types[] = {{T3V_Q8_0, 0.0066}, {T3V_Q4_0, 0.090},  {T3V_Q4_1, 0.081},
                 {T3V_Q5_0, 0.044},  {T3V_Q5_1, 0.0395}, {T3V_Q3_K, 0.149},
                 {T3V_Q4_K, 0.0745}, {T3V_Q5_K, 0.0378}, {T3V_Q6_K, 0.0182}};
    fill(0);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        round_trip(types[t].type, N);
        double e = error();
        print_message("    %-5s %.4f\n", t3v_dtype_name(types[t].type), e);
        if (!(e <= types[t].limit && e > types[t].limit / 3))
            fail_msg("%s: %g, limit %g", t3v_dtype_name(types[t].type), e, types[t].limit);
    }
}

static void zeros_and_parts_of_blocks(void **state)
{
    (void)state;
    memset(x, 0, sizeof x);
    for (int t = 0; t < T3V_DTYPE_COUNT; t++) {
        if (!t3v_quantises((t3v_dtype)t)) {
            assert_int_equal(t3v_quantise(packed, (t3v_dtype)t, x, 256), T3V_E_ARG);
            continue;
        }
        round_trip((t3v_dtype)t, 256);
        for (int i = 0; i < 256; i++) assert_true(y[i] == 0);
        assert_int_equal(t3v_quantise(packed, (t3v_dtype)t, x, t3v_dtype_block((t3v_dtype)t) + 1), T3V_E_ARG);
    }
}

static void threads_do_not_change_bytes(void **state)
{
    (void)state;
    static unsigned char one[4 * N];
    fill(1);
    for (int t = 0; t < T3V_DTYPE_COUNT; t++) {
        if (!t3v_quantises((t3v_dtype)t)) continue;
        int64_t bytes = 0;
        assert_true(t3v_dtype_bytes((t3v_dtype)t, N, &bytes));
        t3v_threads_set(1);
        assert_int_equal(t3v_quantise(one, (t3v_dtype)t, x, N), T3V_OK);
        t3v_threads_set(2);
        assert_int_equal(t3v_quantise(packed, (t3v_dtype)t, x, N), T3V_OK);
        assert_memory_equal(one, packed, (size_t)bytes);
    }
}

static void e4m3_is_the_nearest_number(void **state)
{
    (void)state;
    for (int b = 0; b < 256; b++) {
        float v = t3v_f8_e4m3_to_f32((uint8_t)b);
        if (isnan(v)) assert_int_equal(t3v_f32_to_f8_e4m3(v) & 0x7f, 0x7f);
        else assert_int_equal(t3v_f32_to_f8_e4m3(v), b);
    }
    for (int b = 0; b < 126; b++) { /* between two neighbours: the nearer one, the even code in the middle */
        float low = t3v_f8_e4m3_to_f32((uint8_t)b), high = t3v_f8_e4m3_to_f32((uint8_t)(b + 1)),
              mid = (low + high) / 2;
        assert_int_equal(t3v_f32_to_f8_e4m3(mid), b % 2 ? b + 1 : b);
        assert_int_equal(t3v_f32_to_f8_e4m3(nextafterf(mid, 0)), b);
        assert_int_equal(t3v_f32_to_f8_e4m3(-nextafterf(mid, 1000)), (b + 1) | 0x80);
    }
    assert_int_equal(t3v_f32_to_f8_e4m3(1e9f), 0x7e);
    assert_int_equal(t3v_f32_to_f8_e4m3(-INFINITY), 0xfe);
}

/* Each number is off its own by half a step of its size or of the smallest, for every type that rows come from; factors come
 * from the largest number; what is 8 bits wide already stays. */
static void rows_of_8_bit_floats(void **state)
{
    (void)state;
    enum { ROWS = 7, D = 1280 }; /* more than a piece, part of one; whole blocks */
    static const t3v_dtype types[] = {T3V_F32, T3V_BF16, T3V_F16, T3V_F8_E5M2, T3V_Q8_0, T3V_Q4_K};
    static uint8_t q[ROWS * D], stored[ROWS * D * 4];
    static float values[ROWS * D];
    float scale[ROWS];
    t3v_normal_fill(x, ROWS * D, 4, 0, 0);
    for (int i = 0; i < ROWS * D; i++) x[i] *= ldexpf(1, i / D % 3 - 1);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        t3v_dtype type = types[t];
        float by = type == T3V_F8_E5M2 ? 0.3f : 1;
        if (t3v_quantises(type)) assert_int_equal(t3v_quantise(stored, type, x, ROWS * D), T3V_OK);
        else if (type == T3V_F8_E5M2)
            for (int i = 0; i < ROWS * D; i++) stored[i] = (uint8_t)(t3v_f32_to_f16(x[i]) >> 8);
        else assert_int_equal(t3v_convert(stored, type, x, T3V_F32, ROWS * D), T3V_OK);
        assert_int_equal(t3v_convert_scaled(values, T3V_F32, stored, type, by, ROWS * D), T3V_OK);
        assert_int_equal(t3v_fp8_rows(q, scale, stored, type, by, ROWS, D), T3V_OK);
        for (int r = 0; r < ROWS; r++) {
            float most = 0;
            for (int i = r * D; i < (r + 1) * D; i++) most = fmaxf(most, fabsf(values[i]));
            assert_true(scale[r] == most / 448);
            for (int i = r * D; i < (r + 1) * D; i++) {
                double v = (double)values[i], off = fabs((double)scale[r] * t3v_f8_e4m3_to_f32(q[i]) - v);
                if (!(off <= fmax(fabs(v) / 16, (double)scale[r] / 1024) * (1 + 0x1p-21)))
                    fail_msg("%s, row %d: %g is off by %g", t3v_dtype_name(type), r, v, off);
            }
        }
    }
    for (int i = 0; i < ROWS * D; i++) stored[i] = (uint8_t)(i * 37);
    assert_int_equal(t3v_fp8_rows(q, scale, stored, T3V_F8_E4M3, 0.7f, ROWS, D), T3V_OK);
    assert_memory_equal(q, stored, ROWS * D);
    for (int r = 0; r < ROWS; r++) assert_true(scale[r] == 0.7f);

    float odd[4 * 16] = {0};
    odd[16] = 0x1p-101f, odd[2 * 16 + 15] = NAN, odd[3 * 16] = -INFINITY;
    assert_int_equal(t3v_fp8_rows(q, scale, odd, T3V_F32, 1, 4, 16), T3V_OK);
    for (int i = 0; i < 4 * 16; i++) assert_int_equal(q[i], 0);
    assert_true(scale[0] == 0 && scale[1] == 0 && isnan(scale[2]) && isnan(scale[3]));
    assert_int_equal(t3v_fp8_rows(q, scale, odd, T3V_Q8_0, 1, 2, 16), T3V_E_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(blocks_hold_their_own_values),
                                       cmocka_unit_test(k_types_are_better_than_simple_scales),
                                       cmocka_unit_test(errors_are_those_of_the_number_of_levels),
                                       cmocka_unit_test(zeros_and_parts_of_blocks),
                                       cmocka_unit_test(threads_do_not_change_bytes),
                                       cmocka_unit_test(e4m3_is_the_nearest_number),
                                       cmocka_unit_test(rows_of_8_bit_floats)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
