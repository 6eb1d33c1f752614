/* SPDX-License-Identifier: Apache-2.0 */
/* Dense products: checks, and tiles that bring every operand into the form oneDNN's kernels are fast and exact on. */
#include "ops/gemm/gemm.h"

#include <string.h>

#include "base/checked.h"
#include "base/cpu.h"
#include "ops/gemm/gemm_impl.h"
#include "ops/onednn.h"
#include "ops/scratch.h"
#include "tensor/dtype.h"

enum { TILE_BYTES = 8 << 20, PARALLEL_ELEMENTS = 1 << 17 };

/* One product, cut into tiles of mb x nb. */
typedef struct plan {
    const t3v_gemm_args *g;
    const char *a, *b;
    char *c;
    t3v_dtype in, tmp_type;
    bool copy_a, copy_b, tmp_c;
    bool turn_a; /* A is transposed while it is copied */
    int64_t mb, nb;
} plan;

static t3v_status check(const t3v_gemm_args *g)
{
    if (g->batch < 1 || g->m < 0 || g->n < 0 || g->k < 0)
        return t3v_fail(T3V_E_ARG, "gemm: batch %lld, sizes %lld x %lld x %lld", (long long)g->batch,
                        (long long)g->m, (long long)g->n, (long long)g->k);
    bool a16 = g->a_type == T3V_BF16, b16 = g->b_type == T3V_BF16;
    bool packed = t3v_dtype_packed(g->b_type);
    if ((!a16 && g->a_type != T3V_F32) || (!b16 && !packed && g->b_type != T3V_F32) ||
        (a16 && !b16 && !packed) || (g->c_type != T3V_F32 && g->c_type != T3V_BF16))
        return t3v_fail(T3V_E_DTYPE, "gemm: no product %s x %s -> %s", t3v_dtype_name(g->a_type),
                        t3v_dtype_name(g->b_type), t3v_dtype_name(g->c_type));
    if (g->accumulate && g->c_type != T3V_F32)
        return t3v_fail(T3V_E_DTYPE, "gemm: accumulating needs an F32 result");
    if (g->m == 0 || g->n == 0) return T3V_OK;
    if (!g->c || (g->k && (!g->a || !g->b))) return t3v_fail(T3V_E_ARG, "gemm: an operand is NULL");
    int64_t a_row = g->a_trans ? g->m : g->k, b_row = g->b_trans ? g->k : g->n, size;
    if (g->lda < a_row || g->ldb < b_row || g->ldc < g->n)
        return t3v_fail(T3V_E_ARG,
                        "gemm: leading dimensions %lld, %lld, %lld, at least %lld, %lld, %lld expected",
                        (long long)g->lda, (long long)g->ldb, (long long)g->ldc, (long long)a_row,
                        (long long)b_row, (long long)g->n);
    if (packed && (g->batch > 1 || g->ldb % t3v_dtype_block(g->b_type) || b_row % t3v_dtype_block(g->b_type)))
        return t3v_fail(
            T3V_E_ARG,
            "gemm: %lld products with rows of %lld of %lld %s, expected one and whole blocks of %lld",
            (long long)g->batch, (long long)b_row, (long long)g->ldb, t3v_dtype_name(g->b_type),
            (long long)t3v_dtype_block(g->b_type));
    if (!t3v_mul3(g->a_trans ? g->k : g->m, g->lda, 8, &size) ||
        !t3v_mul3(g->b_trans ? g->n : g->k, g->ldb, 8, &size) || !t3v_mul3(g->m, g->ldc, 8, &size))
        return t3v_fail(T3V_E_TOO_BIG, "gemm: %lld x %lld x %lld", (long long)g->m, (long long)g->n,
                        (long long)g->k);
    return T3V_OK;
}

/* How many of `all` lines of `bytes` each fit a tile: all, or a multiple of 64. */
static int64_t lines(int64_t all, int64_t bytes)
{
    int64_t fit = TILE_BYTES / bytes / 64 * 64;
    if (fit < 64) fit = 64;
    return fit < all ? fit : all;
}

static void make_plan(plan *p, const t3v_gemm_args *g)
{
    bool bf16 = g->a_type == T3V_BF16 && g->b_type == T3V_BF16 && t3v_cpu() >= T3V_ISA_AVX512BF16;
    *p = (plan){.g = g, .in = bf16 ? T3V_BF16 : T3V_F32, .mb = g->m, .nb = g->n};
    int64_t size = bf16 ? 2 : 4;
    p->tmp_type = bf16 ? g->c_type : T3V_F32;
    /* The kernel is the same for every row only on operands without gaps; with gaps oneDNN takes another one that
     * chooses its summation order by m and by threads. */
    p->copy_a = g->a_type != p->in || g->lda != (g->a_trans ? g->m : g->k);
    p->copy_b = g->b_type != p->in || g->ldb != (g->b_trans ? g->k : g->n);
    p->tmp_c = g->ldc != g->n || p->tmp_type != g->c_type;
    /* The f32 kernel for a transposed A sums in an order that depends on m and on threads. */
    p->turn_a = g->a_trans && !bf16;
    if (p->turn_a) p->copy_a = true;
    if (p->copy_b) p->nb = lines(g->n, g->k * size);
    if (p->nb < g->n) p->tmp_c = true;
    if (p->tmp_c) p->mb = lines(g->m, p->nb * 4);
    if (p->mb < g->m && g->a_trans) p->copy_a = true;
    if (p->copy_a) {
        int64_t mb = lines(g->m, g->k * size);
        if (mb < p->mb) p->mb = mb;
    }
}

static void widen(float *dst, const t3v_bf16 *src, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dst[i] = t3v_bf16_to_f32(src[i]);
}

/* dst [rows, cols] of `to` without gaps <- src rows `ld` apart; F32 or BF16, never narrowing. */
static void gather(void *dst, t3v_dtype to, const void *src, t3v_dtype from, int64_t rows, int64_t cols,
                   int64_t ld)
{
    size_t size = t3v_dtype_size(to);
#pragma omp parallel for schedule(static) if (rows * cols > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < rows; i++) {
        char *d = (char *)dst + (size_t)(i * cols) * size;
        const char *s = (const char *)src + (size_t)(i * ld) * t3v_dtype_size(from);
        if (to == from) memcpy(d, s, (size_t)cols * size);
        else widen((float *)(void *)d, (const t3v_bf16 *)(const void *)s, cols);
    }
}

/* dst [rows, cols] f32 <- the transpose of src, whose rows are `ld` apart. */
static void turn(float *dst, const void *src, t3v_dtype from, int64_t rows, int64_t cols, int64_t ld)
{
    enum { SIDE = 16 };
#pragma omp parallel for schedule(static) if (rows * cols > PARALLEL_ELEMENTS)
    for (int64_t i0 = 0; i0 < rows; i0 += SIDE)
        for (int64_t j0 = 0; j0 < cols; j0 += SIDE) {
            int64_t i1 = i0 + SIDE < rows ? i0 + SIDE : rows, j1 = j0 + SIDE < cols ? j0 + SIDE : cols;
            if (from == T3V_BF16) {
                const t3v_bf16 *s = src;
                for (int64_t i = i0; i < i1; i++)
                    for (int64_t j = j0; j < j1; j++) dst[i * cols + j] = t3v_bf16_to_f32(s[j * ld + i]);
            } else {
                const float *s = src;
                for (int64_t i = i0; i < i1; i++)
                    for (int64_t j = j0; j < j1; j++) dst[i * cols + j] = s[j * ld + i];
            }
        }
}

static void scatter(const plan *p, const void *tmp, int64_t i0, int64_t rows, int64_t j0, int64_t cols)
{
    const t3v_gemm_args *g = p->g;
#pragma omp parallel for schedule(static) if (rows * cols > PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < rows; i++) {
        int64_t at = (i0 + i) * g->ldc + j0;
        const float *s = (const float *)tmp + i * cols;
        if (p->tmp_type == T3V_BF16) {
            memcpy(p->c + 2 * at, (const char *)tmp + 2 * i * cols, (size_t)cols * 2);
        } else if (g->c_type == T3V_BF16) {
            t3v_bf16 *d = (t3v_bf16 *)(void *)p->c + at;
            for (int64_t j = 0; j < cols; j++) d[j] = t3v_f32_to_bf16(s[j]);
        } else {
            float *d = (float *)(void *)p->c + at;
            if (g->accumulate)
                for (int64_t j = 0; j < cols; j++) d[j] += s[j];
            else memcpy(d, s, (size_t)cols * 4);
        }
    }
}

/* Rows i0.. of columns j0..j0+cols; b: that part of B as the kernel wants it. */
static t3v_status tile(const plan *p, int64_t i0, int64_t j0, int64_t cols, const void *b)
{
    const t3v_gemm_args *g = p->g;
    int64_t rows = g->m - i0 < p->mb ? g->m - i0 : p->mb, kernel_rows = rows;
    bool a_trans = g->a_trans && !p->turn_a;
    /* One column of a transposed A looks like a row, and would get the other kernel. */
    if (a_trans && rows == 1) kernel_rows = 2;
    bool copy_a = p->copy_a || kernel_rows > rows, tmp_c = p->tmp_c || kernel_rows > rows;
    size_t in_size = t3v_dtype_size(p->in), a_size = t3v_dtype_size(g->a_type);
    const void *a = p->a + (size_t)(g->a_trans ? i0 : i0 * g->lda) * a_size;
    if (copy_a) {
        char *copy = t3v_thread_scratch(T3V_SCRATCH_GEMM_A, (size_t)(kernel_rows * g->k) * in_size);
        if (!copy) return t3v_fail(T3V_E_NOMEM, "gemm: no memory for a tile");
        if (kernel_rows > rows) {
            memset(copy, 0, (size_t)(kernel_rows * g->k) * in_size);
            for (int64_t l = 0; l < g->k; l++)
                gather(copy + (size_t)(l * kernel_rows) * in_size, p->in,
                       (const char *)a + (size_t)(l * g->lda) * a_size, g->a_type, 1, rows, rows);
        } else if (p->turn_a) {
            turn((float *)(void *)copy, a, g->a_type, rows, g->k, g->lda);
        } else if (a_trans) {
            gather(copy, p->in, a, g->a_type, g->k, rows, g->lda);
        } else {
            gather(copy, p->in, a, g->a_type, rows, g->k, g->lda);
        }
        a = copy;
    }
    void *c = p->c + (size_t)(i0 * g->ldc + j0) * t3v_dtype_size(g->c_type);
    if (tmp_c) c = t3v_thread_scratch(T3V_SCRATCH_GEMM_C, (size_t)(kernel_rows * cols) * 4);
    if (!c) return t3v_fail(T3V_E_NOMEM, "gemm: no memory for a tile");
    t3v_dnn_matmul mm = {.m = kernel_rows,
                         .n = cols,
                         .k = g->k,
                         .in = p->in,
                         .out = p->tmp_type,
                         .a_trans = a_trans,
                         .b_trans = g->b_trans,
                         .accumulate = g->accumulate && !tmp_c,
                         .act = g->act};
    T3V_TRY(t3v_dnn_gemm(&mm, a, b, g->bias ? g->bias + j0 : NULL, c));
    if (tmp_c) scatter(p, c, i0, rows, j0, cols);
    return T3V_OK;
}

static t3v_status run(const plan *p)
{
    const t3v_gemm_args *g = p->g;
    for (int64_t j0 = 0; j0 < g->n; j0 += p->nb) {
        int64_t cols = g->n - j0 < p->nb ? g->n - j0 : p->nb;
        const void *b = p->b;
        if (p->copy_b) {
            void *copy = t3v_thread_scratch(T3V_SCRATCH_GEMM_B,
                                            (size_t)(cols * g->k) * t3v_dtype_size(p->in));
            if (!copy) return t3v_fail(T3V_E_NOMEM, "gemm: no memory for a tile");
            const char *from = p->b + (size_t)(g->b_trans ? j0 * g->ldb : j0) * t3v_dtype_size(g->b_type);
            if (g->b_trans) gather(copy, p->in, from, g->b_type, cols, g->k, g->ldb);
            else gather(copy, p->in, from, g->b_type, g->k, cols, g->ldb);
            b = copy;
        }
        for (int64_t i0 = 0; i0 < g->m; i0 += p->mb) T3V_TRY(tile(p, i0, j0, cols, b));
    }
    return T3V_OK;
}

t3v_status t3v_gemm(const t3v_gemm_args *g)
{
    T3V_TRY(check(g));
    if (g->m == 0 || g->n == 0) return T3V_OK;
    if (g->k && t3v_dtype_packed(g->b_type)) return t3v__gemm_packed(g);
    if (g->k && t3v_cpu() == T3V_ISA_AVX2) return t3v__gemm_avx2(g);
    if (g->before) {
        t3v_gemm_args plain = *g, last = *g;
        plain.c = g->before, plain.act = T3V_ACT_NONE, plain.accumulate = false;
        plain.before = last.before = NULL;
        T3V_TRY(t3v_gemm(&plain));
        return t3v_gemm(&last);
    }
    if (g->k == 0 || t3v_cpu() == T3V_ISA_REF) {
        t3v_gemm_ref(g);
        return T3V_OK;
    }
    plan p;
    make_plan(&p, g);
    for (int64_t i = 0; i < g->batch; i++) {
        p.a = (const char *)g->a + (size_t)(i * g->a_batch) * t3v_dtype_size(g->a_type);
        p.b = (const char *)g->b + (size_t)(i * g->b_batch) * t3v_dtype_size(g->b_type);
        p.c = (char *)g->c + (size_t)(i * g->c_batch) * t3v_dtype_size(g->c_type);
        T3V_TRY(run(&p));
    }
    return T3V_OK;
}
