/* SPDX-License-Identifier: Apache-2.0 */
/* Timing the peak loops. */
#include "attn/peak.h"

#include <omp.h>
#include <stddef.h>

#include "base/cpu.h"

double t3v_peak_gflops(t3v_dtype type, int threads)
{
    int64_t (*loop)(int64_t, float *) = NULL;
    if (type == T3V_BF16) loop = t3v_cpu() >= T3V_ISA_AVX512BF16 ? t3v_peak_bf16_avx512bf16 : NULL;
    else if (type == T3V_F32)
        loop = t3v_cpu() >= T3V_ISA_AVX512 ? t3v_peak_f32_avx512
               : t3v_cpu() >= T3V_ISA_AVX2 ? t3v_peak_f32_avx2
                                           : NULL;
    if (!loop || threads < 1) return 0;
    float sink[16];
    int64_t rounds = 1000;
    double took = 0;
    while (took < 1e-3) { /* how many rounds are 10 ms */
        rounds *= 2;
        took = omp_get_wtime();
        loop(rounds, sink);
        took = omp_get_wtime() - took;
    }
    rounds = (int64_t)((double)rounds * 0.01 / took) + 1;
    int64_t macs = 0;
    double start = 0;
#pragma omp parallel num_threads(threads)
    {
        float mine[16];
#pragma omp barrier
#pragma omp master
        start = omp_get_wtime();
        int64_t m = loop(rounds, mine);
#pragma omp barrier
#pragma omp master
        {
            took = omp_get_wtime() - start;
            macs = m;
        }
    }
    return 2e-9 * (double)(macs * rounds * threads) / took;
}
