/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes of block types, narrow floats over all their values, and expanded blocks: the same bits on every CPU. ggml's own
 * values are held in tests/golden/test_quants.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/cpu.h"
#include "base/rng.h"
#include "tensor/dtype.h"
#include "tensor/unpack.h"

static void block_sizes(void **state)
{
    (void)state;
    int64_t bytes;
    assert_int_equal(t3v_dtype_block(T3V_F32), 1);
    assert_int_equal(t3v_dtype_block(T3V_Q5_1), 32);
    assert_true(t3v_dtype_bytes(T3V_Q6_K, 512, &bytes));
    assert_int_equal(bytes, 420);
    assert_true(t3v_dtype_bytes(T3V_Q8_0, 0, &bytes));
    assert_int_equal(bytes, 0);
    assert_true(t3v_dtype_bytes(T3V_BF16, 5, &bytes));
    assert_int_equal(bytes, 10);
    assert_false(t3v_dtype_bytes(T3V_Q6_K, 255, &bytes));
    assert_false(t3v_dtype_bytes(T3V_F32, -1, &bytes));
    assert_false(t3v_dtype_bytes(T3V_F32, INT64_MAX / 2, &bytes));
    assert_false(t3v_dtype_bytes(T3V_Q8_0, INT64_MAX / 32 * 32, &bytes));
    float x[32];
    unsigned char block[34] = {0};
    assert_int_equal(t3v_convert(x, T3V_F32, block, T3V_Q8_0, 31), T3V_E_ARG);
    assert_int_equal(t3v_convert(block, T3V_Q8_0, x, T3V_F32, 32), T3V_E_DTYPE);
}

/* sign * mantissa * 2^(e - bias), from the fields. */
static float narrow(unsigned bits, int mantissa_bits, int bias)
{
    int m = (int)(bits & ((1u << mantissa_bits) - 1)), e = (int)(bits >> mantissa_bits);
    return e ? ldexpf((float)(m + (1 << mantissa_bits)), e - bias - mantissa_bits)
             : ldexpf((float)m, 1 - bias - mantissa_bits);
}

static void same_bits(float a, float b)
{
    if (isnan(b)) assert_true(isnan(a));
    else assert_memory_equal(&a, &b, 4);
}

static void narrow_floats(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 0x8000; i++) {
        float v = i < 0x7c00 ? narrow(i, 10, 15) : i == 0x7c00 ? INFINITY : NAN;
        same_bits(t3v_f16_to_f32((uint16_t)i), v);
        same_bits(t3v_f16_to_f32((uint16_t)(i | 0x8000)), -v);
    }
    for (unsigned i = 0; i < 0x80; i++) {
        float v = i == 0x7f ? NAN : narrow(i, 3, 7);
        same_bits(t3v_f8_e4m3_to_f32((uint8_t)i), v);
        same_bits(t3v_f8_e4m3_to_f32((uint8_t)(i | 0x80)), -v);
        v = i < 0x7c ? narrow(i, 2, 15) : i == 0x7c ? INFINITY : NAN;
        same_bits(t3v_f8_e5m2_to_f32((uint8_t)i), v);
        same_bits(t3v_f8_e5m2_to_f32((uint8_t)(i | 0x80)), -v);
    }
}

static const t3v_dtype kinds[] = {T3V_Q8_0, T3V_Q4_0, T3V_Q4_1, T3V_Q5_0, T3V_Q5_1,    T3V_Q2_K,   T3V_Q3_K,
                                  T3V_Q4_K, T3V_Q5_K, T3V_Q6_K, T3V_F16,  T3V_F8_E4M3, T3V_F8_E5M2};
enum { KINDS = sizeof kinds / sizeof *kinds, COUNT = 3 * 256 };

static void every_version_gives_the_same_bits(void **state)
{
    (void)state;
    t3v_rng r = t3v_rng_make(7, 0);
    for (int k = 0; k < KINDS; k++) {
        unsigned char src[1 + 2 * COUNT];
        for (size_t i = 0; i < sizeof src; i++) src[i] = (unsigned char)t3v_rng_below(&r, 256);
        float want[COUNT], got[COUNT + 1];
        t3v_bf16 short_got[COUNT + 1];
        t3v_cpu_mask(T3V_ISA_REF);
        t3v_unpack(want, T3V_F32, src + 1, kinds[k], 0.75f, COUNT);
        for (int isa = T3V_ISA_REF; isa <= T3V_ISA_AVX512BF16; isa++) {
            t3v_cpu_mask((t3v_isa)isa);
            got[COUNT] = 42;
            short_got[COUNT] = 42;
            t3v_unpack(got, T3V_F32, src + 1, kinds[k], 0.75f, COUNT);
            t3v_unpack(short_got, T3V_BF16, src + 1, kinds[k], 0.75f, COUNT);
            for (int i = 0; i < COUNT; i++) {
                same_bits(got[i], want[i]);
                same_bits(t3v_bf16_to_f32(short_got[i]), t3v_bf16_to_f32(t3v_f32_to_bf16(want[i])));
            }
            assert_true(got[COUNT] == 42 && short_got[COUNT] == 42);
        }
        double wide[COUNT];
        assert_int_equal(t3v_convert(wide, T3V_F64, src + 1, kinds[k], COUNT), T3V_OK);
        t3v_unpack(want, T3V_F32, src + 1, kinds[k], 1, COUNT);
        for (int i = 0; i < COUNT; i++) same_bits((float)wide[i], want[i]);
    }
}

/* One block by hand: d = 0.5, all quants q. */
static void values_of_a_block(void **state)
{
    (void)state;
    unsigned char q8[34] = {0x00, 0x38}, q4[20] = {0x00, 0x38, 0x00, 0x3c};
    float x[32];
    for (int i = 0; i < 32; i++) q8[2 + i] = (unsigned char)(i - 16);
    assert_int_equal(t3v_convert(x, T3V_F32, q8, T3V_Q8_0, 32), T3V_OK);
    for (int i = 0; i < 32; i++) assert_true(x[i] == 0.5f * (float)(i - 16));
    for (int i = 0; i < 16; i++) q4[4 + i] = (unsigned char)(i | (15 - i) << 4);
    assert_int_equal(t3v_convert(x, T3V_F32, q4, T3V_Q4_1, 32), T3V_OK); /* m = 1 */
    for (int i = 0; i < 16; i++)
        assert_true(x[i] == 0.5f * (float)i + 1 && x[16 + i] == 0.5f * (float)(15 - i) + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(block_sizes),
        cmocka_unit_test(narrow_floats),
        cmocka_unit_test(every_version_gives_the_same_bits),
        cmocka_unit_test(values_of_a_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
