/* SPDX-License-Identifier: Apache-2.0 */
/* What the machine could do: multiply-adds in registers only, as the yardstick of the kernels. */
#ifndef T3V_ATTN_PEAK_H
#define T3V_ATTN_PEAK_H

#include <stdint.h>

#include "t3v/dtype.h"

/* Gflop/s (a multiply-add counts 2) of `threads` threads, each running about 10 ms of independent
 * multiply-adds of type BF16 or F32 at the present CPU level; 0 where the level has no such instruction. */
double t3v_peak_gflops(t3v_dtype type, int threads);
/* That, and in *by_cpu the same per second of the threads' processor time, which other programs disturb less. */
double t3v_peak_by_cpu(t3v_dtype type, int threads, double *by_cpu);

/* `n` rounds; each returns the multiply-adds of a round. */
int64_t t3v_peak_bf16_avx512bf16(int64_t n, float *out);
int64_t t3v_peak_f32_avx512(int64_t n, float *out);
int64_t t3v_peak_f32_avx2(int64_t n, float *out);

#endif
