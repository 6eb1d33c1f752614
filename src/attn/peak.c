/* SPDX-License-Identifier: Apache-2.0 */
/* Timing the peak loops. */
#include "attn/peak.h"

#include <omp.h>
#include <stddef.h>
#include <time.h>

#include "base/cpu.h"

static double thread_time(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double t3v_peak_by_cpu(t3v_dtype type, int threads, double *by_cpu)
{
    int64_t (*loop)(int64_t, float *) = NULL;
    *by_cpu = 0;
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
        took = thread_time();
        loop(rounds, sink);
        took = thread_time() - took;
    }
    rounds = (int64_t)((double)rounds * 0.01 / took) + 1;
    int64_t macs = 0;
    double start = 0, used = 0;
#pragma omp parallel num_threads(threads)
    {
        float mine[16];
#pragma omp barrier
#pragma omp master
        start = omp_get_wtime();
        double cpu = thread_time();
        int64_t m = loop(rounds, mine);
        cpu = thread_time() - cpu;
#pragma omp critical
        used += cpu;
#pragma omp barrier
#pragma omp master
        {
            took = omp_get_wtime() - start;
            macs = m;
        }
    }
    double flop = 2e-9 * (double)(macs * rounds * threads);
    *by_cpu = flop / used * threads;
    return flop / took;
}

double t3v_peak_gflops(t3v_dtype type, int threads)
{
    double by_cpu;
    return t3v_peak_by_cpu(type, threads, &by_cpu);
}
