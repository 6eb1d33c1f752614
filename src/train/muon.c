/* SPDX-License-Identifier: Apache-2.0 */
/* Muon's step. */
#include "train/muon.h"

#include <math.h>
#include <string.h>

#include "ops/gemm/gemm.h"
#include "ops/rows/rows.h"
#include "tensor/dtype.h"

bool t3v_muon_takes(const t3v_param *p)
{
    const t3v_tensor *t = p->tensor;
    return p->matrix && t->ndim == 2 && t->shape[0] >= 64 && t->shape[1] >= 64 &&
           strncmp(p->name, "blocks.", 7) == 0;
}

/* C[m,n] F32 = A[m,k] B, B stored [k,n], or [n,k] when b_trans. */
static t3v_status product(float *c, const t3v_bf16 *a, const t3v_bf16 *b, bool b_trans, int64_t m, int64_t n,
                          int64_t k)
{
    return t3v_gemm(&(t3v_gemm_args){.batch = 1,
                                     .m = m,
                                     .n = n,
                                     .k = k,
                                     .a = a,
                                     .a_type = T3V_BF16,
                                     .lda = k,
                                     .b = b,
                                     .b_type = T3V_BF16,
                                     .ldb = b_trans ? k : n,
                                     .b_trans = b_trans,
                                     .c = c,
                                     .c_type = T3V_F32,
                                     .ldc = n});
}

t3v_status t3v_muon_step(float *m, const float *g, double scale, double beta, int64_t rows, int64_t cols,
                         float *out, t3v_arena *scratch)
{
    /* X <- a X + (b A + c A A) X with A = X X', on the matrix lying down: r <= n */
    const float a = 3.4445f, b = -4.7750f, c = 2.0315f;
    bool stand = rows > cols;
    int64_t r = stand ? cols : rows, n = stand ? rows : cols;
    size_t mark = t3v_arena_mark(scratch);
    float *x = t3v_arena_take(scratch, (size_t)(r * n), sizeof *x),
          *y = t3v_arena_take(scratch, (size_t)(r * n), sizeof *y);
    float *s = t3v_arena_take(scratch, (size_t)(r * r), sizeof *s),
          *t = t3v_arena_take(scratch, (size_t)(r * r), sizeof *t);
    t3v_bf16 *x16 = t3v_arena_take(scratch, (size_t)(r * n), sizeof *x16);
    t3v_bf16 *s16 = t3v_arena_take(scratch, (size_t)(r * r), sizeof *s16);
    if (!x || !y || !s || !t || !x16 || !s16)
        return t3v_fail(T3V_E_NOMEM, "no memory for a step of [%lld, %lld] weights", (long long)rows,
                        (long long)cols);

    float new = (float)((1 - beta) * scale), keep = (float)beta;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            float *k = m + i * cols + j, e = new *g[i * cols + j];
            *k = keep * *k + e;
            x[stand ? j * n + i : i * n + j] = keep * *k + e;
        }
    float size = (float)sqrt(t3v_rows_sumsq(x, T3V_F32, r * n));
    if (size > 0)
        for (int64_t i = 0; i < r * n; i++) x[i] /= size;

    t3v_status st = T3V_OK;
    for (int step = 0; step < 5 && !st; step++) {
        t3v_rows_convert(x16, T3V_BF16, x, T3V_F32, r * n);
        st = product(s, x16, x16, true, r, r, n);
        t3v_rows_convert(s16, T3V_BF16, s, T3V_F32, r * r);
        if (!st) st = product(t, s16, s16, true, r, r, r); /* A is symmetric */
        t3v_rows_lincomb(s16, T3V_BF16, b, s, T3V_F32, c, t, T3V_F32, r * r);
        if (!st) st = product(y, s16, x16, false, r, n, r);
        t3v_rows_lincomb(x, T3V_F32, a, x, T3V_F32, 1.0f, y, T3V_F32, r * n);
    }
    float gain = (float)(0.2 * sqrt((double)n));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) out[i * cols + j] = gain * x[stand ? j * n + i : i * n + j];
    t3v_arena_back(scratch, mark);
    return st;
}
