/* SPDX-License-Identifier: Apache-2.0 */
/* Conversions between element types. */
#ifndef T3V_TENSOR_DTYPE_H
#define T3V_TENSOR_DTYPE_H

#include <stdbool.h>
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

/* `bits` hold exponent and mantissa of a narrow float, placed where F32 has them; 2^-bias of F32's exponent is made good
 * by a product, which is exact for its subnormals too. */
static inline float t3v_narrow_to_f32(uint32_t bits, float bias, bool special, uint32_t sign)
{
    float f;
    memcpy(&f, &bits, 4);
    f *= bias;
    memcpy(&bits, &f, 4);
    bits |= (special ? 0x7f800000u : 0) | sign;
    memcpy(&f, &bits, 4);
    return f;
}

static inline float t3v_f16_to_f32(uint16_t h)
{
    return t3v_narrow_to_f32((h & 0x7fffu) << 13, 0x1p112f, (h & 0x7c00) == 0x7c00, (h & 0x8000u) << 16);
}

/* The "fn" variant: no infinities, S.1111.111 is NaN. */
static inline float t3v_f8_e4m3_to_f32(uint8_t b)
{
    return t3v_narrow_to_f32((b & 0x7fu) << 20, 0x1p120f, (b & 0x7f) == 0x7f, (b & 0x80u) << 24);
}

static inline float t3v_f8_e5m2_to_f32(uint8_t b) { return t3v_f16_to_f32((uint16_t)(b << 8)); }

uint16_t t3v_f32_to_f16(float f);

/* Whether values are stored with fewer than 16 bits, to be expanded where they are used (tensor/unpack.h). */
bool t3v_dtype_packed(t3v_dtype t);

/* dst[i] = src[i] for n elements, any alignment of src (files); float types among each other and from
 * integers and quantised blocks (n: whole blocks) to floats. E_DTYPE when the pair is not supported, E_ARG when n is
 * not whole blocks. Not for dst overlapping src. */
t3v_status t3v_convert(void *dst, t3v_dtype to, const void *src, t3v_dtype from, int64_t n);
/* The same; values of 8-bit floats are `scale` times the stored ones, but a copy of the same type stays as stored. */
t3v_status t3v_convert_scaled(void *dst, t3v_dtype to, const void *src, t3v_dtype from, float scale,
                              int64_t n);

#endif
