/* SPDX-License-Identifier: Apache-2.0 */
/* Products of a dense layer in 8-bit floats, on a GPU: y = act(x w^T + bias) with x and w as E4M3. */
#ifndef T3V_OPS_FP8_H
#define T3V_OPS_FP8_H

#include "ops/gemm/gemm.h"
#include "tensor/fp8.h"

/* Rows of x become what t3v_fp8_rows makes of them, rows of w are that already, or a file's with its one factor. Then
 *
 *     y = act((sum over k of q_x q_w) s_x s_w + bias)
 *
 * Products of two such numbers are exact in F32. y is off that by the sums' order, 2 roundings to F32, one of the bias to BF16,
 * and with y of BF16 two roundings to it (sums are kept there where the factors come later). */
typedef struct t3v_fp8_args {
    int64_t m, n, k; /* n, k: multiples of T3V_FP8_STEP */
    const void *x;   /* [m, k], F32 or BF16 */
    t3v_dtype x_type;
    const uint8_t *w;     /* [n, k] */
    const float *w_scale; /* [n] */
    const float *bias;    /* [n], or NULL */
    void *y;              /* [m, n], F32 or BF16 */
    t3v_dtype y_type;
    t3v_act act;
    uint8_t *q;   /* [m, k]: gets x as 8-bit floats */
    float *scale; /* [m]: gets their factors */
} t3v_fp8_args;

/* All pointers are the device's, of 16-byte alignment. m = 0: nothing happens. E_ARG: sizes or addresses; E_DTYPE: other types;
 * E_NOMEM, E_INTERNAL: the device's. */
typedef t3v_status t3v_fp8_linear(const t3v_fp8_args *g);

#endif
