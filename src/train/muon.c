/* SPDX-License-Identifier: Apache-2.0 */
/* Muon's step. */
#include "train/muon.h"

#include <math.h>
#include <string.h>

#include "ops/kernels.h"

bool t3v_muon_takes(const t3v_param *p)
{
    const t3v_tensor *t = p->tensor;
    return p->matrix && t->ndim == 2 && t->shape[0] >= 64 && t->shape[1] >= 64 &&
           strncmp(p->name, "blocks.", 7) == 0;
}

/* C[m,n] F32 = A[m,k] B, B stored [k,n], or [n,k] when b_trans. */
static t3v_status product(const t3v_kernels *k, float *c, const t3v_bf16 *a, const t3v_bf16 *b, bool b_trans,
                          int64_t rows, int64_t columns, int64_t inner)
{
    return k->gemm(&(t3v_gemm_args){.batch = 1,
                                    .m = rows,
                                    .n = columns,
                                    .k = inner,
                                    .a = a,
                                    .a_type = T3V_BF16,
                                    .lda = inner,
                                    .b = b,
                                    .b_type = T3V_BF16,
                                    .ldb = b_trans ? inner : columns,
                                    .b_trans = b_trans,
                                    .c = c,
                                    .c_type = T3V_F32,
                                    .ldc = columns});
}

static void *take(t3v_arena *a, int64_t n, size_t size)
{
    return t3v_arena_twin(a, t3v_arena_take(a, (size_t)n, size));
}

t3v_status t3v_muon_step(float *m, const float *g, double scale, double beta, int64_t rows, int64_t cols,
                         float *out, t3v_arena *scratch)
{
    /* X <- a X + (b A + c A A) X with A = X X', on the matrix lying down: r <= n */
    const float a = 3.4445f, b = -4.7750f, c = 2.0315f;
    const t3v_device *device = t3v_arena_device(scratch);
    const t3v_kernels *k = device ? device->kernels : &t3v_kernels_cpu;
    bool stand = rows > cols;
    int64_t r = stand ? cols : rows, n = stand ? rows : cols, all = r * n;
    size_t mark = t3v_arena_mark(scratch);
    float *x = take(scratch, all, sizeof *x), *y = take(scratch, all, sizeof *y);
    float *s = take(scratch, r * r, sizeof *s), *t = take(scratch, r * r, sizeof *t);
    t3v_bf16 *x16 = take(scratch, all, sizeof *x16), *s16 = take(scratch, r * r, sizeof *s16);
    if (!x || !y || !s || !t || !x16 || !s16)
        return t3v_fail(T3V_E_NOMEM, "no memory for a step of [%lld, %lld] weights", (long long)rows,
                        (long long)cols);

    float new = (float)((1 - beta) * scale), keep = (float)beta;
    k->rows_lincomb(m, T3V_F32, keep, m, T3V_F32, new, g, T3V_F32, all);
    k->rows_lincomb(stand ? y : x, T3V_F32, keep, m, T3V_F32, new, g, T3V_F32, all);
    if (stand) k->rows_transpose(x, T3V_F32, y, T3V_F32, rows, cols);
    double size = sqrt(k->rows_sumsq(x, T3V_F32, all));
    if (size > 0) k->rows_lincomb(x, T3V_F32, (float)(1 / size), x, T3V_F32, 0, NULL, T3V_F32, all);

    t3v_status st = T3V_OK;
    for (int step = 0; step < 5 && !st; step++) {
        k->rows_convert(x16, T3V_BF16, x, T3V_F32, all);
        st = product(k, s, x16, x16, true, r, r, n);
        k->rows_convert(s16, T3V_BF16, s, T3V_F32, r * r);
        if (!st) st = product(k, t, s16, s16, true, r, r, r); /* A is symmetric */
        k->rows_lincomb(s16, T3V_BF16, b, s, T3V_F32, c, t, T3V_F32, r * r);
        if (!st) st = product(k, y, s16, x16, false, r, n, r);
        k->rows_lincomb(x, T3V_F32, a, x, T3V_F32, 1.0f, y, T3V_F32, all);
    }
    float gain = (float)(0.2 * sqrt((double)n));
    if (stand) k->rows_transpose(y, T3V_F32, x, T3V_F32, r, n);
    k->rows_lincomb(out, T3V_F32, gain, stand ? y : x, T3V_F32, 0, NULL, T3V_F32, all);
    t3v_arena_back(scratch, mark);
    return st;
}
