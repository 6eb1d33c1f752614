/* SPDX-License-Identifier: Apache-2.0 */
/* Our own products on a GPU: on tensor cores for rows by rows of bf16, else one number by one. They take over where
 * cuBLASLt has nothing, and they are what the emulator runs. Contract: ops/gemm/gemm.h. */
#include "cuda/module.h"
#include "ops/gemm/tile.cuh"

namespace
{
struct plain_args {
    rows_in a, b;
    int64_t m, n, k, a_row, a_column, a_batch, b_row, b_column, b_batch, c_batch;
    tile_out out;
};

__global__ void __launch_bounds__(ROWS_THREADS) plain(const plain_args g)
{
    const int64_t i = (int64_t)blockIdx.x * ROWS_THREADS + threadIdx.x, row = i / g.n, column = i % g.n;
    if (row >= g.m) return;
    float sum = 0;
    const int64_t a0 = blockIdx.y * g.a_batch + row * g.a_row,
                  b0 = blockIdx.y * g.b_batch + column * g.b_column;
    for (int64_t t = 0; t < g.k; t++)
        sum += rows_get(g.a, a0 + t * g.a_column) * rows_get(g.b, b0 + t * g.b_row);
    tile_out out = g.out;
    const int64_t skip = blockIdx.y * g.c_batch * (out.type == T3V_F32 ? 4 : 2);
    out.c = (char *)out.c + skip;
    if (out.before) out.before = (char *)out.before + skip;
    tile_put(out, row, column, sum);
}

/* Rows of a matrix. */
struct matrix_rows {
    const uint16_t *a;
    int64_t m, lda;
    struct cursor {
        const uint16_t *p;
        __device__ void step()
        {
            if (p) p += TILE_K;
        }
        __device__ const void *get() const { return p; }
    };
    __device__ cursor at(int64_t row, int chunk) const
    {
        return {row < m ? a + row * lda + 8 * chunk : nullptr};
    }
};
} // namespace

t3v_status t3v_cuda_gemm_own(const t3v_gemm_args *g)
{
    const bool gelu = g->act == T3V_ACT_GELU_TANH;
    const tile_out out = {g->c, g->c_type, g->m, g->n, g->ldc, g->bias, g->accumulate, gelu, g->before};
    if (g->m == 0 || g->n == 0) return T3V_OK;
    if (g->batch == 1 && g->a_type == T3V_BF16 && g->b_type == T3V_BF16 && !g->a_trans && g->b_trans &&
        g->k > 0 && g->k % 8 == 0 && g->lda % 8 == 0 && g->ldb % 8 == 0 && rows_aligned(g->a) &&
        rows_aligned(g->b))
        return t3v_cuda_status(tile_run(matrix_rows{(const uint16_t *)g->a, g->m, g->lda}, g->b, g->ldb, g->k,
                                        out, t3v_cuda_stream),
                               "a product");
    plain_args p = {{g->a, g->a_type},
                    {g->b, g->b_type},
                    g->m,
                    g->n,
                    g->k,
                    g->a_trans ? 1 : g->lda,
                    g->a_trans ? g->lda : 1,
                    g->a_batch,
                    g->b_trans ? 1 : g->ldb,
                    g->b_trans ? g->ldb : 1,
                    g->b_batch,
                    g->c_batch,
                    out};
    return t3v_cuda_status(t3v_launch(plain, dim3(rows_blocks(g->m * g->n, ROWS_THREADS), (unsigned)g->batch),
                                      dim3(ROWS_THREADS), 0, t3v_cuda_stream, p),
                           "a product");
}
