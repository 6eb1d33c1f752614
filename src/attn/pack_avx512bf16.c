/* SPDX-License-Identifier: Apache-2.0 */
/* AVX-512-BF16: packing of keys and values, and O += P V in tiles of 12 rows x 32 columns. */
#include <immintrin.h>
#include <string.h>

#include "attn/bf16_avx512.h"

/* 16 x 16 dwords: lane j of r[i] becomes lane i of r[j]. */
static inline __attribute__((always_inline)) void transpose(__m512i r[16])
{
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

uint32_t t3v_bf16_pack_k(t3v_bf16 *dst, const t3v_bf16 *const rows[T3V_STRIP], int64_t width, int dim)
{
    __m512i top = _mm512_setzero_si512();
    for (int64_t g = 0; g < width; g += 16) {
        __m512 norm = _mm512_setzero_ps();
        for (int d = 0; d < dim; d += 32) {
            __m512i r[16];
            __mmask16 m = dim - d >= 32 ? 0xffff : 0x00ff;
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                r[i] = rows[g + i] ? _mm512_maskz_loadu_epi32(m, rows[g + i] + d) : _mm512_setzero_si512();
            transpose(r);
            int pairs = dim - d >= 32 ? 16 : 8;
            t3v_bf16 *to = dst + (d / 2) * width * 2 + g * 2;
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) {
                if (i < pairs) _mm512_store_si512(to + i * width * 2, r[i]);
                norm = _mm512_dpbf16_ps(norm, (__m512bh)r[i], (__m512bh)r[i]);
            }
        }
        top = _mm512_max_epu32(top, _mm512_castps_si512(norm));
    }
    return _mm512_reduce_max_epu32(top);
}

uint32_t t3v_bf16_pack_v(t3v_bf16 *dst, const t3v_bf16 *const rows[T3V_STRIP], int64_t width, int dim)
{
    static const uint16_t low[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                     8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    __m512i lo = _mm512_loadu_si512(low), hi = _mm512_add_epi16(lo, _mm512_set1_epi16(16)),
            zero = _mm512_setzero_si512();
    __m512i top = zero, magnitude = _mm512_set1_epi16(0x7fff);
    int64_t panel_size = width * T3V_PANEL;
    for (int64_t j = 0; j < width / 2; j++) {
        const t3v_bf16 *ra = rows[32 * (j / 16) + j % 16], *rb = rows[32 * (j / 16) + j % 16 + 16];
        t3v_bf16 *to = dst + j * 64;
        for (int d = 0; d < dim; d += 32, to += panel_size) {
            __mmask16 m = dim - d >= 32 ? 0xffff : 0x00ff;
            __m512i a = ra ? _mm512_maskz_loadu_epi32(m, ra + d) : zero,
                    b = rb ? _mm512_maskz_loadu_epi32(m, rb + d) : zero;
            top = _mm512_max_epu16(top, _mm512_max_epu16(_mm512_and_si512(a, magnitude),
                                                         _mm512_and_si512(b, magnitude)));
            _mm512_store_si512(to, _mm512_permutex2var_epi16(a, lo, b));
            _mm512_store_si512(to + 32, _mm512_permutex2var_epi16(a, hi, b));
        }
    }
    top = _mm512_max_epu32(_mm512_and_si512(top, _mm512_set1_epi32(0xffff)), _mm512_srli_epi32(top, 16));
    return _mm512_reduce_max_epu32(top);
}

void t3v_bf16_pack_rows(t3v_bf16 *dst, int64_t stride, const t3v_bf16 *rows, int64_t count, int dim)
{
    static const uint16_t low[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                     8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    __m512i lo = _mm512_loadu_si512(low), zero = _mm512_setzero_si512();
    for (int64_t g = 0; g < count; g += 32)
        for (int d = 0; d < dim; d += 16) {
            __m512i r[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) {
                int64_t a = g + 2 * i;
                const t3v_bf16 *from = rows + a * dim + d;
                __m512i x = a < count ? _mm512_maskz_loadu_epi32(0xff, from) : zero;
                __m512i y = a + 1 < count ? _mm512_maskz_loadu_epi32(0xff, from + dim) : zero;
                r[i] = _mm512_permutex2var_epi16(x, lo, y);
            }
            transpose(r);
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) _mm512_store_si512(dst + (d + i) * stride + g, r[i]);
        }
}

void t3v_f32_transpose(float *dst, const float *src, int dim)
{
    for (int d = 0; d < dim; d += 16)
        for (int q = 0; q < T3V_STRIP; q += 16) {
            __m512i r[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) r[i] = _mm512_load_si512(src + (d + i) * T3V_STRIP + q);
            transpose(r);
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) _mm512_store_si512(dst + (q + i) * dim + d, r[i]);
        }
}

/* MR rows x one panel over all strips of the block. */
static inline __attribute__((always_inline)) void pv(const int MR, const t3v_pv_args *x, int64_t panel)
{
    const int64_t ps = T3V_P_STRIDE, os = x->o_stride;
    float *restrict o = x->o + panel * T3V_PANEL;
#define DECLARE(r) __m512 a##r = _mm512_setzero_ps(), b##r = a##r;
    T3V_ROWS12(DECLARE)
#undef DECLARE
    if (!x->first) {
#define LOAD(r) \
    if (MR > r) a##r = _mm512_load_ps(o + r * os), b##r = _mm512_load_ps(o + r * os + 16);
        T3V_ROWS12(LOAD)
#undef LOAD
    }
    const t3v_bf16 *p = x->p;
    for (int64_t s = 0; s < x->strips; s++) {
        int64_t pairs = s + 1 == x->strips ? x->last_pairs : x->pairs;
        const t3v_bf16 *v = x->v + (x->strip ? x->strip[s] : s) * x->strip_size + panel * pairs * 64;
        /* The rows of the next tile come from the second-level cache: some in each panel. */
        if (MR == 12)
            for (int64_t r = panel; r < 12; r += x->panels)
                for (int64_t j = 0; j < 2 * pairs; j += 32)
                    _mm_prefetch((const char *)(p + (12 + r) * ps + j), _MM_HINT_T0);
        for (int64_t j = 0; j < pairs; j++) {
            __m512bh v0 = (__m512bh)_mm512_load_si512(v), v1 = (__m512bh)_mm512_load_si512(v + 32);
#define STEP(r)                                         \
    if (MR > r) {                                       \
        int32_t w;                                      \
        memcpy(&w, p + r * ps, 4);                      \
        __m512bh w##r = (__m512bh)_mm512_set1_epi32(w); \
        a##r = _mm512_dpbf16_ps(a##r, w##r, v0);        \
        b##r = _mm512_dpbf16_ps(b##r, w##r, v1);        \
    }
            T3V_ROWS12(STEP)
#undef STEP
            v += 64;
            p += 2;
        }
    }
#define STORE(r) \
    if (MR > r) _mm512_store_ps(o + r * os, a##r), _mm512_store_ps(o + r * os + 16, b##r);
    T3V_ROWS12(STORE)
#undef STORE
}

#define INSTANCE(n)                                          \
    static void pv_##n(const t3v_pv_args *x)                 \
    {                                                        \
        for (int64_t i = 0; i < x->panels; i++) pv(n, x, i); \
    }
#define INSTANCES(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)
INSTANCES(INSTANCE)
#undef INSTANCES
#undef INSTANCE

void t3v_bf16_pv(int rows, const t3v_pv_args *x)
{
    static void (*const table[])(const t3v_pv_args *) = {pv_1, pv_2, pv_3, pv_4,  pv_5,  pv_6,
                                                         pv_7, pv_8, pv_9, pv_10, pv_11, pv_12};
    table[rows - 1](x);
}
