/* SPDX-License-Identifier: Apache-2.0 */
/* Products with packed weights: tiles of B are expanded to A's type, then multiplied like any others. */
#include <stdatomic.h>

#include "ops/gemm/gemm.h"
#include "ops/gemm/gemm_impl.h"
#include "ops/scratch.h"
#include "tensor/dtype.h"
#include "tensor/unpack.h"

enum { TILE_BYTES = 8 << 20, STEP = 256 /* whole blocks of every type */ };

static atomic_int_fast64_t expanded;

int64_t t3v_gemm_expanded(void) { return atomic_load_explicit(&expanded, memory_order_relaxed); }

/* dst [rows, cols] without gaps <- columns [first, first + cols) of rows of `ld` packed elements. */
static void expand(void *dst, t3v_dtype to, const void *src, t3v_dtype from, float scale, int64_t rows,
                   int64_t first, int64_t cols, int64_t ld)
{
    int64_t block = t3v_dtype_block(from);
    size_t bytes = t3v_dtype_block_bytes(from), size = t3v_dtype_size(to);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++)
        t3v_unpack((char *)dst + (size_t)(i * cols) * size, to,
                   (const char *)src + (size_t)((i * ld + first) / block) * bytes, from, scale, cols);
    atomic_fetch_add_explicit(&expanded, rows * cols, memory_order_relaxed);
}

t3v_status t3v__gemm_packed(const t3v_gemm_args *g)
{
    int64_t size = (int64_t)t3v_dtype_size(g->a_type), fit = TILE_BYTES / (g->k * size) / STEP * STEP;
    int64_t step = fit < STEP ? STEP : fit;
    float scale = g->b_scale ? *g->b_scale : 1;
    for (int64_t j0 = 0; j0 < g->n; j0 += step) {
        int64_t cols = g->n - j0 < step ? g->n - j0 : step;
        void *b = t3v_thread_scratch(T3V_SCRATCH_GEMM_PACKED, (size_t)(cols * g->k) * (size_t)size);
        if (!b) return t3v_fail(T3V_E_NOMEM, "gemm: no memory for a tile of weights");
        if (g->b_trans) {
            const char *rows = (const char *)g->b + (size_t)(j0 * g->ldb / t3v_dtype_block(g->b_type)) *
                                                        t3v_dtype_block_bytes(g->b_type);
            expand(b, g->a_type, rows, g->b_type, scale, cols, 0, g->k, g->ldb);
        } else {
            expand(b, g->a_type, g->b, g->b_type, scale, g->k, j0, cols, g->ldb);
        }
        t3v_gemm_args tile = *g;
        tile.n = cols;
        tile.b = b;
        tile.b_type = g->a_type;
        tile.b_scale = NULL;
        tile.ldb = g->b_trans ? g->k : cols;
        tile.bias = g->bias ? g->bias + j0 : NULL;
        tile.c = (char *)g->c + (size_t)j0 * t3v_dtype_size(g->c_type);
        if (g->before) tile.before = (char *)g->before + (size_t)j0 * t3v_dtype_size(g->c_type);
        T3V_TRY(t3v_gemm(&tile));
    }
    return T3V_OK;
}
