/* SPDX-License-Identifier: Apache-2.0 */
/* Element types: sizes, names, conversions. */
#include "tensor/dtype.h"

#include <math.h>

#include "base/checked.h"
#include "tensor/unpack.h"

static const struct {
    int64_t elements;
    size_t bytes;
    const char *name;
} types[] = {
#define T3V_DTYPE_ROW(name, elements, bytes, text) {elements, bytes, text},
    T3V_DTYPE_MAP(T3V_DTYPE_ROW)
#undef T3V_DTYPE_ROW
};

const char *t3v_dtype_name(t3v_dtype t) { return types[t].name; }
int64_t t3v_dtype_block(t3v_dtype t) { return types[t].elements; }
size_t t3v_dtype_block_bytes(t3v_dtype t) { return types[t].bytes; }

size_t t3v_dtype_size(t3v_dtype t)
{
    T3V_ASSERT(types[t].elements == 1);
    return types[t].bytes;
}

bool t3v_dtype_bytes(t3v_dtype t, int64_t n, int64_t *bytes)
{
    return n >= 0 && n % types[t].elements == 0 &&
           t3v_mul(n / types[t].elements, (int64_t)types[t].bytes, bytes);
}

bool t3v_dtype_packed(t3v_dtype t) { return types[t].elements > 1 || t == T3V_F8_E4M3 || t == T3V_F8_E5M2; }

uint16_t t3v_f32_to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return sign | 0x7e00;
    if (u >= 0x477ff000u) return sign | 0x7c00; /* rounds to 65536 or more */
    if (u < 0x38800000u) {                      /* subnormal half: scale and round in float */
        float a;
        memcpy(&a, &u, 4);
        return sign | (uint16_t)lrintf(a * 0x1p24f);
    }
    u += 0xfffu + (u >> 13 & 1);
    return sign | (uint16_t)((u - 0x38000000u) >> 13);
}

/* Reads element i of a type without blocks as a double. */
static double load(const unsigned char *p, t3v_dtype t, int64_t i)
{
    p += (size_t)i * types[t].bytes;
#define AS(type)                 \
    {                            \
        type v;                  \
        memcpy(&v, p, sizeof v); \
        return (double)v;        \
    }
    switch (t) {
    case T3V_F32: AS(float)
    case T3V_F64: AS(double)
    case T3V_BF16: {
        uint16_t v;
        memcpy(&v, p, 2);
        return t3v_bf16_to_f32(v);
    }
    case T3V_F16: {
        uint16_t v;
        memcpy(&v, p, 2);
        return t3v_f16_to_f32(v);
    }
    case T3V_F8_E4M3: return t3v_f8_e4m3_to_f32(*p);
    case T3V_F8_E5M2: return t3v_f8_e5m2_to_f32(*p);
    case T3V_I8: AS(int8_t)
    case T3V_U8:
    case T3V_BOOL: AS(uint8_t)
    case T3V_I16: AS(int16_t)
    case T3V_U16: AS(uint16_t)
    case T3V_I32: AS(int32_t)
    case T3V_U32: AS(uint32_t)
    case T3V_I64: AS(int64_t)
    case T3V_U64: AS(uint64_t)
    default: break;
    }
#undef AS
    return NAN;
}

/* Packed values to F16 or F64, by way of F32. */
static t3v_status convert_packed(void *dst, t3v_dtype to, const void *src, t3v_dtype from, float scale,
                                 int64_t n)
{
    float values[1024]; /* whole blocks of every type */
    int64_t block = types[from].elements, step = (int64_t)(sizeof values / sizeof *values);
    for (int64_t i = 0; i < n; i += step) {
        int64_t count = n - i < step ? n - i : step;
        t3v_unpack(values, T3V_F32, (const char *)src + (size_t)(i / block) * types[from].bytes, from, scale,
                   count);
        T3V_TRY(t3v_convert((char *)dst + (size_t)i * types[to].bytes, to, values, T3V_F32, count));
    }
    return T3V_OK;
}

t3v_status t3v_convert(void *dst, t3v_dtype to, const void *src, t3v_dtype from, int64_t n)
{
    return t3v_convert_scaled(dst, to, src, from, 1, n);
}

t3v_status t3v_convert_scaled(void *dst, t3v_dtype to, const void *src, t3v_dtype from, float scale,
                              int64_t n)
{
    int64_t bytes;
    if (!t3v_dtype_bytes(from, n, &bytes))
        return t3v_fail(T3V_E_ARG, "%lld elements of %s are not whole blocks of %lld", (long long)n,
                        types[from].name, (long long)types[from].elements);
    if (to == from) {
        memcpy(dst, src, (size_t)bytes);
        return T3V_OK;
    }
    if (to != T3V_F32 && to != T3V_BF16 && to != T3V_F16 && to != T3V_F64)
        return t3v_fail(T3V_E_DTYPE, "cannot convert %s to %s", types[from].name, types[to].name);
    if ((to == T3V_F32 || to == T3V_BF16) && (t3v_dtype_packed(from) || from == T3V_F16)) {
        t3v_unpack(dst, to, src, from, scale, n);
        return T3V_OK;
    }
    if (t3v_dtype_packed(from)) return convert_packed(dst, to, src, from, scale, n);
    if (to == T3V_BF16 && from == T3V_F32) { /* the common case; auto-vectorised */
        const unsigned char *s = src;
        t3v_bf16 *d = dst;
        for (int64_t i = 0; i < n; i++) {
            float f;
            memcpy(&f, s + 4 * i, 4);
            d[i] = t3v_f32_to_bf16(f);
        }
        return T3V_OK;
    }
    if (to == T3V_F32 && from == T3V_BF16) {
        const unsigned char *s = src;
        uint32_t *d = dst;
        for (int64_t i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, s + 2 * i, 2);
            d[i] = (uint32_t)h << 16;
        }
        return T3V_OK;
    }
    for (int64_t i = 0; i < n; i++) {
        double v = load(src, from, i);
        switch (to) {
        case T3V_F32: ((float *)dst)[i] = (float)v; break;
        case T3V_F64: ((double *)dst)[i] = v; break;
        case T3V_BF16: ((uint16_t *)dst)[i] = t3v_f32_to_bf16((float)v); break;
        default: ((uint16_t *)dst)[i] = t3v_f32_to_f16((float)v); break;
        }
    }
    return T3V_OK;
}
