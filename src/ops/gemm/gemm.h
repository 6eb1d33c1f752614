/* SPDX-License-Identifier: Apache-2.0 */
/* Dense products: C = act(A B + bias) (+ C). */
#ifndef T3V_OPS_GEMM_H
#define T3V_OPS_GEMM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "t3v/dtype.h"

typedef enum t3v_act {
    T3V_ACT_NONE,
    T3V_ACT_GELU_TANH, /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
} t3v_act;

/* C[m,n] = act(A[m,k] * B[k,n] + bias[n]) (+ C when accumulate), `batch` independent products.
 *
 * Types (A, B -> C): F32,F32 -> F32 | BF16;  BF16,BF16 -> F32 | BF16;  F32,BF16 -> F32 | BF16 (B is widened, the
 * product is done in f32). B may be packed (t3v_dtype_packed; batch 1, rows of whole blocks): its values are expanded to
 * A's type, tile by tile. Sums are in f32. C overlaps neither A nor B. Rows are stored ld* elements apart.
 * A row of the result depends on that row of A alone: not on m, nor on the number of threads.
 * m or n = 0: nothing happens; k = 0: C = act(bias) (+ C). Called inside a parallel region: one thread; else
 * the whole pool. Nothing is allocated but per-thread scratch, at most max(8 MiB, 256 bytes * k) an operand. */
typedef struct t3v_gemm_args {
    int64_t batch; /* >= 1 */
    int64_t m, n, k;
    const void *a;
    t3v_dtype a_type;
    int64_t lda, a_batch; /* elements from row to row, from product to product */
    bool a_trans;         /* A is stored [m,k], or [k,m] when true */
    const void *b;
    t3v_dtype b_type;
    const float *b_scale; /* packed 8-bit floats: B is *b_scale times what is stored; NULL: 1 */
    int64_t ldb, b_batch;
    bool b_trans;      /* B is stored [k,n], or [n,k] when true (a weight [out,in]) */
    const float *bias; /* [n], or NULL */
    void *c;
    t3v_dtype c_type;
    int64_t ldc, c_batch;
    bool accumulate; /* only with c_type F32 */
    t3v_act act;
    void *before; /* NULL, or laid out like C: gets A B + bias, for the gradient of the activation */
} t3v_gemm_args;

/* E_ARG: a negative size, a leading dimension shorter than a row, NULL data. E_DTYPE: a triple not listed. */
t3v_status t3v_gemm(const t3v_gemm_args *g);

/* Elements of packed operands expanded so far by this process, for benchmarks and tests. */
int64_t t3v_gemm_expanded(void);

/* The definition: sums in double, one thread. Same contract; arguments already checked by t3v_gemm, no packed B. */
void t3v_gemm_ref(const t3v_gemm_args *g);

#endif
