/* SPDX-License-Identifier: Apache-2.0 */
/* Matrices as 8-bit floats (E4M3) with a factor for each row. */
#ifndef T3V_TENSOR_FP8_H
#define T3V_TENSOR_FP8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "t3v/dtype.h"

/* What a row is made of, by the CPU and by a GPU's kernel, to the bit:
 *
 *     s = max |x| / 448,  q = e4m3(x * (448 / max |x|)) to nearest even,
 *     |x - s q| <= max(2^-4 |x|, 2^-10 s) (1 + 2^-21)
 *
 * A row whose largest number is below 2^-100 is zero, with s = 0; one with a number that is not finite has q = 0 and
 * s = NaN, so that all results that it meets are NaN. Sizes of matrices are multiples of T3V_FP8_STEP. */
enum { T3V_FP8_STEP = 16 };

static inline bool t3v_fp8_fits(int64_t n, int64_t d)
{
    return n > 0 && d > 0 && n % T3V_FP8_STEP == 0 && d % T3V_FP8_STEP == 0;
}

/* Bytes of n rows of d numbers with their factors. */
static inline size_t t3v_fp8_bytes(int64_t n, int64_t d) { return (size_t)n * ((size_t)d + sizeof(float)); }

/* q [n,d], scale [n] of the rows of src [n,d] (rows of whole blocks where `from` has blocks); values of 8-bit floats are
 * `from_scale` times the stored ones. F8_E4M3 stays as it is stored, all factors are from_scale. OpenMP over rows unless called
 * inside a parallel region. E_DTYPE, E_ARG: as t3v_convert. */
t3v_status t3v_fp8_rows(uint8_t *q, float *scale, const void *src, t3v_dtype from, float from_scale,
                        int64_t n, int64_t d);

#endif
