/* SPDX-License-Identifier: Apache-2.0 */
/* Row kernels on 8 floats at a time (AVX2, FMA). */
#include <immintrin.h>

#include "ops/rows/rows_impl.h"

#define INLINE static inline __attribute__((always_inline))
#define VL 8
#define V_ISA T3V_ISA_AVX2
#define V_TABLE t3v__rows_avx2
typedef __m256 vf;
typedef __m256d vd;

INLINE __m256i lanes(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE vf v_set(float x) { return _mm256_set1_ps(x); }
INLINE vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
INLINE vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
INLINE vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
INLINE vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
INLINE vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf v_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); } /* c - a*b */
INLINE vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }              /* b when either is NaN */
INLINE vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
INLINE vf v_sqrt(vf a) { return _mm256_sqrt_ps(a); }
INLINE vf v_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INLINE vf v_sign_of(vf a, vf s)
{
    return _mm256_or_ps(a, _mm256_and_ps(s, _mm256_set1_ps(-0.0f)));
} /* a >= 0 */
INLINE vf v_select_lt(vf a, vf b, vf yes, vf no)
{
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
INLINE vf v_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* In two steps, so that each power of two is a normal number; |n| <= 252. */
INLINE vf v_ldexp(vf a, vf n)
{
    __m256i i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
    vf p = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    vf q = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, half), bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(a, p), q);
}
INLINE vf v_swap_pairs(vf a) { return _mm256_permute_ps(a, 0xb1); }
INLINE vf v_first(vf a, int n)
{
    return n == VL ? a : _mm256_and_ps(a, _mm256_castsi256_ps(lanes(n)));
} /* others 0 */
INLINE vf v_first_or(vf a, int n, float other)
{
    return n == VL ? a : _mm256_blendv_ps(_mm256_set1_ps(other), a, _mm256_castsi256_ps(lanes(n)));
}
INLINE float v_hsum(vf a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE float v_hmax(vf a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

INLINE vf v_load(const float *p, int n)
{
    return n == VL ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, lanes(n));
}
INLINE void v_store(float *p, int n, vf a)
{
    if (n == VL) _mm256_storeu_ps(p, a);
    else _mm256_maskstore_ps(p, lanes(n), a);
}
INLINE vf v_load_bf16(const t3v_bf16 *p, int n)
{
    __m128i h;
    if (n == VL) {
        h = _mm_loadu_si128((const __m128i *)p);
    } else {
        t3v_bf16 part[VL] = {0};
        memcpy(part, p, (size_t)n * sizeof *p);
        h = _mm_loadu_si128((const __m128i *)part);
    }
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
INLINE void v_store_bf16(t3v_bf16 *p, int n, vf a)
{
    __m256i u = _mm256_castps_si256(a), hi = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(hi, _mm256_set1_epi32(1));
    __m256i r = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    r = _mm256_blendv_epi8(r, _mm256_or_si256(hi, _mm256_set1_epi32(0x40)), nan);
    __m128i h = _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08));
    if (n == VL) {
        _mm_storeu_si128((__m128i *)p, h);
    } else {
        t3v_bf16 part[VL];
        _mm_storeu_si128((__m128i *)part, h);
        memcpy(p, part, (size_t)n * sizeof *p);
    }
}

INLINE vd vd_zero(void) { return _mm256_setzero_pd(); }
INLINE vd vd_add_squares(vd s, vf a)
{
    vd lo = _mm256_cvtps_pd(_mm256_castps256_ps128(a)), hi = _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
    return _mm256_fmadd_pd(hi, hi, _mm256_fmadd_pd(lo, lo, s));
}
INLINE double vd_hsum(vd a)
{
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}

INLINE void v_transpose(vf r[VL])
{
    vf t[VL];
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        __m256d a = _mm256_castps_pd(t[i]), b = _mm256_castps_pd(t[i + 1]);
        __m256d c = _mm256_castps_pd(t[i + 2]), e = _mm256_castps_pd(t[i + 3]);
        r[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
        r[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
        r[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, e));
        r[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, e));
    }
    for (int k = 0; k < 4; k++) {
        t[k] = _mm256_permute2f128_ps(r[k], r[4 + k], 0x20);
        t[4 + k] = _mm256_permute2f128_ps(r[k], r[4 + k], 0x31);
    }
    for (int i = 0; i < VL; i++) r[i] = t[i];
}

#include "ops/rows/rows_simd.h"
