/* SPDX-License-Identifier: Apache-2.0 */
/* Row kernels on 16 floats at a time (AVX-512 F BW VL DQ). */
#include <immintrin.h>

#include "ops/rows/rows_impl.h"

#define INLINE static inline __attribute__((always_inline))
#define VL 16
#define V_ISA T3V_ISA_AVX512
#define V_TABLE t3v__rows_avx512
typedef __m512 vf;
typedef __m512d vd;

INLINE __mmask16 lanes(int n) { return (__mmask16)((1u << n) - 1); }

INLINE vf v_set(float x) { return _mm512_set1_ps(x); }
INLINE vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
INLINE vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a*b */
INLINE vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }              /* b when either is NaN */
INLINE vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf v_sqrt(vf a) { return _mm512_sqrt_ps(a); }
INLINE vf v_abs(vf a) { return _mm512_abs_ps(a); }
INLINE vf v_sign_of(vf a, vf s)
{
    return _mm512_or_ps(a, _mm512_and_ps(s, _mm512_set1_ps(-0.0f)));
} /* a >= 0 */
INLINE vf v_select_lt(vf a, vf b, vf yes, vf no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
INLINE vf v_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vf v_ldexp(vf a, vf n) { return _mm512_scalef_ps(a, n); }
INLINE vf v_swap_pairs(vf a) { return _mm512_permute_ps(a, 0xb1); }
INLINE vf v_first(vf a, int n) { return n == VL ? a : _mm512_maskz_mov_ps(lanes(n), a); } /* others 0 */
INLINE vf v_first_or(vf a, int n, float other)
{
    return n == VL ? a : _mm512_mask_mov_ps(_mm512_set1_ps(other), lanes(n), a);
}
INLINE float v_hsum(vf a) { return _mm512_reduce_add_ps(a); }
INLINE float v_hmax(vf a) { return _mm512_reduce_max_ps(a); }

INLINE vf v_load(const float *p, int n)
{
    return n == VL ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(lanes(n), p);
}
INLINE void v_store(float *p, int n, vf a)
{
    if (n == VL) _mm512_storeu_ps(p, a);
    else _mm512_mask_storeu_ps(p, lanes(n), a);
}
INLINE vf v_load_bf16(const t3v_bf16 *p, int n)
{
    __m256i h = n == VL ? _mm256_loadu_si256((const __m256i *)p) : _mm256_maskz_loadu_epi16(lanes(n), p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
/* Not vcvtneps2bf16: it flushes denormals, and then the levels would disagree. */
INLINE void v_store_bf16(t3v_bf16 *p, int n, vf a)
{
    __m512i u = _mm512_castps_si512(a), hi = _mm512_srli_epi32(u, 16);
    __m512i odd = _mm512_and_si512(hi, _mm512_set1_epi32(1));
    __m512i r = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
    r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), hi, _mm512_set1_epi32(0x40));
    __m256i h = _mm512_cvtepi32_epi16(r);
    if (n == VL) _mm256_storeu_si256((__m256i *)p, h);
    else _mm256_mask_storeu_epi16(p, lanes(n), h);
}

INLINE vd vd_zero(void) { return _mm512_setzero_pd(); }
INLINE vd vd_add_squares(vd s, vf a)
{
    vd lo = _mm512_cvtps_pd(_mm512_castps512_ps256(a)), hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
    return _mm512_fmadd_pd(hi, hi, _mm512_fmadd_pd(lo, lo, s));
}
INLINE double vd_hsum(vd a) { return _mm512_reduce_add_pd(a); }

INLINE void v_transpose(vf r[VL])
{
    vf t[VL];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        __m512d a = _mm512_castps_pd(t[i]), b = _mm512_castps_pd(t[i + 1]);
        __m512d c = _mm512_castps_pd(t[i + 2]), e = _mm512_castps_pd(t[i + 3]);
        r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, e));
        r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, e));
    }
    for (int k = 0; k < 4; k++) {
        vf ab0 = _mm512_shuffle_f32x4(r[k], r[4 + k], 0x88), ab1 = _mm512_shuffle_f32x4(r[k], r[4 + k], 0xdd);
        vf ce0 = _mm512_shuffle_f32x4(r[8 + k], r[12 + k], 0x88),
           ce1 = _mm512_shuffle_f32x4(r[8 + k], r[12 + k], 0xdd);
        t[k] = _mm512_shuffle_f32x4(ab0, ce0, 0x88);
        t[4 + k] = _mm512_shuffle_f32x4(ab1, ce1, 0x88);
        t[8 + k] = _mm512_shuffle_f32x4(ab0, ce0, 0xdd);
        t[12 + k] = _mm512_shuffle_f32x4(ab1, ce1, 0xdd);
    }
    for (int i = 0; i < VL; i++) r[i] = t[i];
}

#include "ops/rows/rows_simd.h"
