/* SPDX-License-Identifier: Apache-2.0 */
/* f32 attention with AVX-512: tiles of 6 x 64 and 12 x 32. */
#include <immintrin.h>

#define V __m512
#define LANES 16
#define VLOAD(p) _mm512_loadu_ps(p)
#define VSTORE(p, x) _mm512_storeu_ps(p, x)
#define VSET(x) _mm512_set1_ps(x)
#define VZERO() _mm512_setzero_ps()
#define VADD(a, b) _mm512_add_ps(a, b)
#define VSUB(a, b) _mm512_sub_ps(a, b)
#define VMUL(a, b) _mm512_mul_ps(a, b)
#define VFMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define VMAX(a, b) _mm512_max_ps(a, b)
#define VSUM(x) _mm512_reduce_add_ps(x)
#define VTOP(x) _mm512_reduce_max_ps(x)
#define VEXP2(x) exp2_of(x)
#define WIDE 1
#define PV_ROWS 12
#define IMPL t3v_attn_avx512
#define IMPL_NAME "avx512"
#define IMPL_ISA T3V_ISA_AVX512

/* Degree 5 on [-1/2, 1/2], 7.5e-8 relative; at most 2^127, so that a sum shows an overflow as a large number. */
static inline __attribute__((always_inline)) __m512 exp2_of(__m512 x)
{
    /* second operand: NaN stays */
    x = _mm512_min_ps(_mm512_set1_ps(126), _mm512_max_ps(_mm512_set1_ps(-200), x));
    __m512 n = _mm512_roundscale_ps(x, 0), f = _mm512_sub_ps(x, n);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.001327645263f), f, _mm512_set1_ps(0.009675541729f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.05550713338f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.2402211972f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693146967f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.000000072f));
    return _mm512_scalef_ps(p, n);
}

#include "attn/tile_f32.h"
