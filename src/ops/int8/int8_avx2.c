/* SPDX-License-Identifier: Apache-2.0 */
/* Products in 8-bit integers: AVX2. The integers are widened to 16 bits in the panels: VPMADDWD then takes as many steps as
 * VPMADDUBSW, which would need signs moved from x to w and a second step to 32 bits, and has no sum that saturates. */
#include <immintrin.h>

#define V __m256i
#define VF __m256
#define LANES 8
#define VLOAD(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define VSPREAD(u) _mm256_set1_epi32((int)(u))
#define VSTORE(p, v) _mm256_storeu_si256((__m256i *)(void *)(p), v)
#define VROUND(v) _mm256_cvtps_epi32(v)
#define VFLOAT(v) _mm256_cvtepi32_ps(v)
#define FLOAD(p) _mm256_loadu_ps(p)
#define FSTORE(p, v) _mm256_storeu_ps(p, v)
#define FSET(x) _mm256_set1_ps(x)
#define FMUL(a, b) _mm256_mul_ps(a, b)
#define FFMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define PER 2
#define X_ELEM int16_t
#define W_ELEM int16_t
#define X_ZERO 0
/* The sum is written as the instruction: else compilers spread all rows of x at once, and sums leave the registers. */
#define VDOT(c, x, w)                                                \
    do {                                                             \
        __m256i both = _mm256_madd_epi16(x, w);                      \
        __asm__ volatile("vpaddd %1, %0, %0" : "+x"(c) : "x"(both)); \
    } while (0)
#define IMPL t3v__int8_avx2
#define IMPL_NAME "avx2"
#include "ops/int8/int8_simd.h"
