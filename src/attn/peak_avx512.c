/* SPDX-License-Identifier: Apache-2.0 */
/* Peak loop: 20 independent f32 multiply-adds. */
#include <immintrin.h>

#include "attn/peak.h"

#define ALL(X) \
    X(0)       \
    X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19)

int64_t t3v_peak_f32_avx512(int64_t n, float *out)
{
    __m512 x = _mm512_set1_ps(0.5f), y = _mm512_set1_ps(0.25f), sum = _mm512_setzero_ps();
    /* Opaque to the compiler, which else finds that all of them are equal and keeps one. */
#define DECLARE(r)     \
    __m512 a##r = sum; \
    __asm__ volatile("" : "+v"(a##r));
    ALL(DECLARE)
    for (int64_t i = 0; i < n; i++) {
        __asm__ volatile("" : "+v"(x), "+v"(y));
#define STEP(r) a##r = _mm512_fmadd_ps(x, y, a##r);
        ALL(STEP)
    }
#define SUM(r) sum = _mm512_add_ps(sum, a##r);
    ALL(SUM)
    _mm512_storeu_ps(out, sum);
    return 20 * 16;
}
