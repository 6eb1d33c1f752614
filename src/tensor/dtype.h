/* SPDX-License-Identifier: Apache-2.0 */
/* Conversions between element types. */
#ifndef T3V_TENSOR_DTYPE_H
#define T3V_TENSOR_DTYPE_H

#include <stdint.h>
#include <string.h>

#include "base/status.h"
#include "t3v/dtype.h"

typedef uint16_t t3v_bf16;

static inline float t3v_bf16_to_f32(t3v_bf16 h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* Round to nearest even; NaN stays NaN. */
static inline t3v_bf16 t3v_f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (t3v_bf16)(u >> 16 | 0x40);
    return (t3v_bf16)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

float t3v_f16_to_f32(uint16_t h);
uint16_t t3v_f32_to_f16(float f);
float t3v_f8_e4m3_to_f32(uint8_t b);

/* dst[i] = src[i] for n elements, any alignment of src (files); float types among each other and from
 * integers to floats. E_DTYPE when the pair is not supported. Not for dst overlapping src. */
t3v_status t3v_convert(void *dst, t3v_dtype to, const void *src, t3v_dtype from, int64_t n);

#endif
