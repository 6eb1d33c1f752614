/* SPDX-License-Identifier: Apache-2.0 */
/* f32 attention with AVX2 and FMA: tiles of 6 x 16. */
#include <immintrin.h>

#define V __m256
#define LANES 8
#define VLOAD(p) _mm256_loadu_ps(p)
#define VSTORE(p, x) _mm256_storeu_ps(p, x)
#define VSET(x) _mm256_set1_ps(x)
#define VZERO() _mm256_setzero_ps()
#define VADD(a, b) _mm256_add_ps(a, b)
#define VSUB(a, b) _mm256_sub_ps(a, b)
#define VMUL(a, b) _mm256_mul_ps(a, b)
#define VFMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define VMAX(a, b) _mm256_max_ps(a, b)
#define VSUM(x) sum_of(x)
#define VTOP(x) top_of(x)
#define VEXP2(x) exp2_of(x)
#define WIDE 0
#define PV_ROWS 6
#define IMPL t3v_attn_avx2
#define IMPL_NAME "avx2"
#define IMPL_ISA T3V_ISA_AVX2

static inline float sum_of(__m256 x)
{
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

static inline float top_of(__m256 x)
{
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

/* Degree 5 on [-1/2, 1/2], 7.5e-8 relative; at most 2^127, so that a sum shows an overflow as a large number. */
static inline __attribute__((always_inline)) __m256 exp2_of(__m256 x)
{
    __m256 low = _mm256_set1_ps(-126);
    __m256 alive = _mm256_cmp_ps(x, low, _CMP_NLE_UQ);             /* NaN is alive */
    x = _mm256_min_ps(_mm256_set1_ps(126), _mm256_max_ps(low, x)); /* second operand: NaN stays */
    __m256 n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm256_sub_ps(x, n);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(0.001327645263f), f, _mm256_set1_ps(0.009675541729f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0.05550713338f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0.2402211972f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0.693146967f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.000000072f));
    __m256 scale = _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
    return _mm256_and_ps(_mm256_mul_ps(p, scale), alive);
}

#include "attn/tile_f32.h"
