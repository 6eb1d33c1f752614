/* SPDX-License-Identifier: Apache-2.0 */
/* Products in 8-bit integers: AVX-512 VNNI. VPDPBUSD takes bytes without sign from one side, so x is stored as q + 128. */
#include <immintrin.h>

#define V __m512i
#define VF __m512
#define LANES 16
#define VLOAD(p) _mm512_loadu_si512(p)
#define VSPREAD(u) _mm512_set1_epi32((int)(u))
#define VSTORE(p, v) _mm512_storeu_si512(p, v)
#define VROUND(v) _mm512_cvtps_epi32(v)
#define VFLOAT(v) _mm512_cvtepi32_ps(v)
#define FLOAD(p) _mm512_loadu_ps(p)
#define FSTORE(p, v) _mm512_storeu_ps(p, v)
#define FSET(x) _mm512_set1_ps(x)
#define FMUL(a, b) _mm512_mul_ps(a, b)
#define FFMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define PER 4
#define X_ELEM uint8_t
#define W_ELEM int8_t
#define X_ZERO 128
#define VDOT(c, x, w) ((c) = _mm512_dpbusd_epi32(c, x, w))
#define IMPL t3v__int8_vnni
#define IMPL_NAME "vnni"
#include "ops/int8/int8_simd.h"
