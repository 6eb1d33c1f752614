/* SPDX-License-Identifier: Apache-2.0 */
/* Products of a dense layer in 8-bit integers: y = x w^T + bias with x and w rounded to int8. */
#ifndef T3V_OPS_INT8_H
#define T3V_OPS_INT8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "t3v/dtype.h"

/* Rows of x and w are cut into groups of 32 along k (the last one is filled up with zeros), each with a factor:
 *
 *     s = max |x| / 127,  q = round(x * (127 / max |x|)) to nearest even,  x ~ s q,  |x - s q| <= s / 2 (1 + 2^-20)
 *
 * A group whose largest number is below 2^-100 is zero, one with a number that is not finite makes NaN of the results
 * it meets. Rows of Q8_0 are used as they are stored; other types of w are rounded on the fly from their F32 values. Then
 *
 *     y = bias + sum over groups of s_x s_w (sum of q_x q_w)
 *
 * The inner sum is exact; the outer one is F32 in the order of the groups, so y is off what the integers give by at most
 * (groups + 2) 2^-24 times the sum of magnitudes, and off x w^T by at most that and
 *
 *     sum over k of |w| s_x / 2 + |x| s_w / 2 + s_x s_w / 4.
 *
 * A row of y depends on that row of x alone; the same integers on every CPU. */
enum { T3V_INT8_GROUP = 32 };

typedef struct t3v_int8_args {
    int64_t m, n, k;
    const void *x; /* [m, k], F32 or BF16 */
    t3v_dtype x_type;
    const void *w; /* [n, k], F32, BF16 or packed */
    t3v_dtype w_type;
    const float *w_scale; /* of 8-bit floats, as in gemm.h; NULL: 1 */
    const float *bias;    /* [n], or NULL */
    void *y;              /* [m, n], F32 or BF16 */
    t3v_dtype y_type;
    void *work; /* t3v_int8_work(m, k) bytes, 64-byte aligned */
} t3v_int8_args;

/* Bytes that a product of m rows of k numbers holds x in; they depend on the CPU. 0: they cannot be counted. */
size_t t3v_int8_work(int64_t m, int64_t k);

/* Which implementation this CPU runs: "vnni", "avx2", "ref". */
const char *t3v_int8_isa(void);

/* E_ARG: sizes, NULL data, packed rows that are not whole blocks; E_DTYPE: other types; E_NOMEM. Beside `work` each thread
 * takes some ten kilobytes of scratch, and the caller at most max(4 MiB, 50 bytes * k) for a tile of weights. */
t3v_status t3v_int8_linear(const t3v_int8_args *g);

#endif
