/* SPDX-License-Identifier: Apache-2.0 */
/* From floats to the block types of GGUF and to 8-bit floats. */
#ifndef T3V_TENSOR_QUANTISE_H
#define T3V_TENSOR_QUANTISE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/status.h"
#include "t3v/dtype.h"

/* The types that t3v_quantise writes: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q3_K, Q4_K, Q5_K, Q6_K. */
bool t3v_quantises(t3v_dtype type);

/* Blocks of `type` from n finite F32 values; n is a multiple of the type's block. The types of 32 values follow the
 * format's definition: the scale comes from the largest value. The K types look for the scales and offsets of least
 * squared error. Plain C, one order of sums: the same bytes on every CPU. E_ARG: not one of the types above, or part of a
 * block. */
t3v_status t3v_quantise(void *dst, t3v_dtype type, const float *src, int64_t n);

/* The nearest E4M3 number, ties to even; beyond +-448 the largest, NaN stays NaN. Without branches, for loops. */
static inline uint8_t t3v_f32_to_f8_e4m3(float v)
{
    uint32_t u, small;
    memcpy(&u, &v, sizeof u);
    const uint32_t sign = u >> 24 & 0x80, a = u & 0x7fffffffu;
    float f;
    memcpy(&f, &a, sizeof f);
    f += 0x1p14f; /* whose last bit is 2^-9, the step below 2^-6 */
    memcpy(&small, &f, sizeof small);
    uint32_t q = ((a + 0x7ffff + (a >> 20 & 1)) >> 20) - 120 * 8;
    q = a < 0x3c800000u ? small - 0x46800000u : q;
    q = q > 0x7e ? 0x7e : q;
    return (uint8_t)(sign | (a > 0x7f800000u ? 0x7f : q));
}

#endif
